"""The adapter of the recipe on any family: trained, saved, reloaded by both libraries and merged it is one model."""

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_coma import ComaForEmbedding
from tests.trainers.families import FAMILIES, VOCAB_SIZE, make_family, wrap
from trainers.adapters import WEIGHTS, add_adapter, complete_adapter, lora_config, merge_adapter
from trainers.token_rows import make_rows, token_tables
from trainers.vision_side import merger_parts


NEW = list(range(VOCAB_SIZE, VOCAB_SIZE + 4))
IDS = torch.tensor([[5, 6, 7, *NEW], [9, 8, 7, *NEW]])


OFTEN = ("llava", "gemma4", "qwen3_5")  # what the others only vary is a slow test
EACH = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(params=EACH)
def saved(request, tmp_path) -> ComaForEmbedding:
    """A model of every family, saved in `base`, whose compression tokens have rows of their own."""
    backbone = make_family(request.param)
    make_rows(backbone, VOCAB_SIZE, VOCAB_SIZE + 4)
    wrap(backbone, NEW).save_pretrained(tmp_path / "base")
    return ComaForEmbedding.from_pretrained(tmp_path / "base").eval()


def states(model) -> torch.Tensor:
    """Last hidden states of texts that end with the compression tokens, and their logits."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = base.backbone.model(input_ids=IDS, use_cache=False).last_hidden_state
    return torch.cat([hidden, base.get_output_embeddings()(hidden)], dim=-1)


def train(model: PeftModel) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(2):
        states(model.train())[..., ::3].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def test_the_recipe_is_the_same_from_a_folder_and_can_be_replaced(saved, tmp_path):
    recipe = lora_config(saved).to_dict()
    assert recipe == lora_config(str(tmp_path / "base")).to_dict()
    assert recipe["trainable_token_indices"] == {f"backbone.{table}": NEW for table in token_tables(saved.backbone)}
    assert lora_config(saved, target_modules=["q_proj"]).target_modules == {"q_proj"}


def test_every_weight_of_the_adapter_gets_a_gradient(saved):
    model = add_adapter(saved, lora_config(saved, r=2, lora_dropout=0.0))
    states(model.train()).square().mean().backward()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(weights) > 20 and [name for name, weight in weights.items() if weight.grad is None] == []


@torch.no_grad()
def test_saved_reloaded_and_merged_are_one_model(saved, tmp_path):
    before = copy.deepcopy(saved)
    model = add_adapter(saved, lora_config(saved, r=2, lora_dropout=0.0), train_merger=True)
    with torch.enable_grad():
        train(model)
    for name, weight in model.named_parameters():  # texts train no merger
        if weight.requires_grad and ".modules_to_save." in name:
            weight += 0.01
    expected = states(model)
    assert (expected - states(before)).abs().max() > 1.0
    model.save_pretrained(tmp_path / "adapter")
    complete_adapter(tmp_path / "adapter")
    by_peft = PeftModel.from_pretrained(copy.deepcopy(before), tmp_path / "adapter").eval()
    by_transformers = AutoModel.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(states(by_peft), expected) and torch.equal(states(by_transformers), expected)

    rows = {name: w.shape for name, w in load_file(tmp_path / "adapter" / WEIGHTS).items() if "embed_tokens" in name}
    widths = [before.backbone.get_submodule(table).weight.shape[1] for table in token_tables(before.backbone)]
    assert sorted(rows.values()) == sorted((4, width) for width in widths)  # K rows, never the table

    merged = merge_adapter(model)
    # Merged weights round otherwise. Gemma's norms on both sides of a layer enlarge that a hundredfold (1.5e-4 in 25
    # trainings, 1e-6 in other families), and how a machine rounds decides what Adam makes of gradients near 0.
    is_gemma = saved.backbone.config.model_type.startswith("gemma")
    torch.testing.assert_close(states(merged), expected, atol=1e-3 if is_gemma else 1e-5, rtol=0.0)
    merged.save_pretrained(tmp_path / "merged")
    again = ComaForEmbedding.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(states(again), states(merged))
    for table in token_tables(before.backbone):
        pair = (of.backbone.get_submodule(table).weight for of in (before, again))
        assert torch.ne(*pair).any(dim=1).nonzero()[:, 0].tolist() == NEW
    changed = {
        name for name, weight in before.named_parameters() if not torch.equal(weight, again.get_parameter(name))
    }
    vision = {name for name in changed if ".language_model." not in name and "lm_head" not in name}
    assert vision and all(name.startswith(tuple(merger_parts(before))) for name in vision)
