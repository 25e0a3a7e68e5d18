"""A model whose weights wait elsewhere until a module is called: embeddings, losses and answers stay what they are.

Outside of its module's forward an offloaded weight is an empty tensor on `meta`; arithmetic with it need not raise.
"""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from transformers import DynamicCache

from hub_scripts.tiny.backbone import MODEL_TYPES
from modeling_coma import ComaForEmbedding, CompressionMemory, loss_coma
from modeling_coma.memory_coma import gather_columns
from tests.checkpointing import set_checkpointing


EXACT = {"atol": 1e-6, "rtol": 1e-6}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new
ON_DISK = ("language_model.embed_tokens", "language_model.layers.1", "visual.blocks", "lm_head")


def spread(model) -> dict[str, str]:
    """Some modules on the disk, what is between them in memory."""
    language_model, visual = "backbone.model.language_model.", "backbone.model.visual."
    names = [visual + name for name, _ in model.backbone.model.visual.named_children()]
    names += [language_model + name for name, _ in model.backbone.model.language_model.named_children()]
    names += [f"{language_model}layers.{n}" for n in range(len(model.backbone.model.language_model.layers))]
    names = [*(name for name in names if not name.endswith("language_model.layers")), "backbone.lm_head"]
    return {name: "disk" if name.endswith(ON_DISK) else "cpu" for name in names}


def offloaded(model, way: str, tmp_path) -> ComaForEmbedding:
    if way in ("cpu", "disk"):
        copied = copy.deepcopy(model)
        return cpu_offload(copied) if way == "cpu" else disk_offload(copied, str(tmp_path / "offloaded"))
    model.save_pretrained(tmp_path / "saved")
    options = (
        {"device_map": spread(model)} if way == "spread" else {"device_map": "auto", "max_memory": {"cpu": "600KB"}}
    )
    return ComaForEmbedding.from_pretrained(tmp_path / "saved", offload_folder=str(tmp_path / "offloaded"), **options)


@torch.no_grad()
def everything(model, batch: dict, prompt: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of both passes, of the one behind a mask, of the full view, and an answer from a memory."""
    encoder = {name: value for name, value in batch.items() if "dialogue" not in name and name != "labels"}
    found = {"embeddings": model.eval()(**encoder).embeddings, "loss": model(**batch).loss}
    found["full view"] = model(**batch, dialogue_view="full").loss
    memory = model.compress(**encoder)
    prompt = prompt.expand(len(memory), -1)
    options = {"max_new_tokens": 4, "do_sample": False}
    found["answer"] = model.generate_from_memory(memory, prompt, torch.ones_like(prompt), **options)
    found["beams"] = model.generate_from_memory(memory, prompt, torch.ones_like(prompt), num_beams=2, **options)
    set_checkpointing(model.train())
    found["loss with checkpointing"] = model(**batch).loss
    set_checkpointing(model.eval(), False)
    return found


# Where weights wait is accelerate's business; what a backbone does with them is its own, and is seen with a mixture.
@pytest.mark.parametrize(
    ("way", "model_type"),
    [
        *(pytest.param("spread", name, marks=pytest.mark.slow) for name in MODEL_TYPES),
        *(pytest.param(way, "qwen3_vl", marks=pytest.mark.slow) for way in ("cpu", "disk", "auto")),
    ],
)
def test_offloaded_is_what_it_is_in_memory(make_coma, model_type, batch, tmp_path, way, monkeypatch):
    # Older versions of accelerate mix up tied weights of which both are on the disk; the other ways have them tied.
    model, _ = make_coma(model_type, tie_word_embeddings=way in ("cpu", "disk"))
    other = offloaded(model.eval(), way, tmp_path)
    assert any(parameter.is_meta for parameter in other.parameters())
    assert other.get_output_embeddings().weight.is_meta or way == "auto"
    prompt = torch.arange(3, 9)[None]
    for chunk in (loss_coma.CHUNK, 5):  # at once, and in parts that are computed again
        monkeypatch.setattr(loss_coma, "CHUNK", chunk)
        expected, found = everything(model, batch(), prompt), everything(other, batch(), prompt)
        assert 1 < expected["loss"] < 20
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **EXACT, msg=f"{way}: {name}")


@one_backbone
def test_columns_meet_the_states_where_these_are(coma):
    """Of a model that is spread over devices the last states are on another than the ids: here, on `meta`."""
    model, _ = coma
    columns = torch.tensor([[1, 3], [0, 2]])
    states = torch.empty(2, 5, 8, device="meta")
    assert gather_columns(states, columns).device.type == "meta"

    cache = DynamicCache([(torch.empty(2, 1, 5, 4, device="meta"), states[:, None])])
    memory = CompressionMemory.from_cache(cache, columns, torch.tensor([4, 5]), gather_columns(states, columns))
    assert memory.layers[0][0].shape == (2, 1, 2, 4) and memory.num_columns == 2
    twice = memory.select(torch.tensor([0, 0, 1]))
    assert {twice.layers[0][0].device.type, twice.compression_states.device.type} == {"meta"}
