"""The gradient cache gives the gradients of plain autograd over the same mini-batches, and computes nothing twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.adapters import lora_config
from trainers.contrastive.grad_cache import cached_embeddings, plan_mini_batches
from trainers.contrastive.targets import PairIds
from trainers.contrastive.trainer import ComaContrastiveTrainer


BUDGET = 40  # tokens of a mini-batch: several of them for six rows


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def plain_loss(trainer: ComaContrastiveTrainer, batch: dict[str, Any]) -> torch.Tensor:
    """The loss with everything in one graph: no cache, no shared features of images."""
    packed, pad = batch["inputs"], trainer.processing_class.tokenizer.pad_token_id
    mini_batches = plan_mini_batches(packed.lengths, trainer.args.mini_batch_tokens)
    outputs = [trainer.model(**packed.batch(rows, pad)) for rows in mini_batches]
    states = trainer.objective.num_states
    parts = [torch.cat([out.embeddings[:, None], out.compression_states[:, :states]], dim=1) for out in outputs]
    embeddings = torch.cat(parts)[torch.cat(mini_batches).argsort()]
    queries, documents = embeddings[batch["queries"]], embeddings[batch["documents"]]
    return trainer._loss_of_batch(queries, documents, PairIds.of(batch)).loss


def both(trainer: ComaContrastiveTrainer, rows: list[dict]) -> tuple[dict, dict]:
    """Gradients of the trainer and of the plain loss, from the same random state, and the losses beside them."""
    batch, results = trainer.data_collator(rows), []
    trainer.model.train()
    for compute in (trainer.compute_loss, lambda model, batch: plain_loss(trainer, batch)):
        torch.manual_seed(0)
        loss = compute(trainer.model, batch)
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(trainer.model)})
    return tuple(results)


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    assert sum(gradient.any().item() for gradient in expected.values()) > 3
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / max(gradient.norm(), 1e-4)
        assert difference < 1e-5, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("vision", ["frozen", "trained"])
@pytest.mark.parametrize(
    ("adapter", "model_type", "modality"),
    [
        ("full", "qwen2_vl", "text"),
        pytest.param("full", "qwen2_vl", "mixed", marks=pytest.mark.slow),
        pytest.param("full", "qwen3_vl", "image", marks=pytest.mark.slow),
        ("full", "qwen3_vl", "several"),
        pytest.param("dora", "qwen2_vl", "several", marks=pytest.mark.slow),
        pytest.param("dora", "qwen3_vl", "text", marks=pytest.mark.slow),
        ("dora", "qwen3_vl", "mixed"),
    ],
)
def test_equals_plain_autograd(
    make_coma: Callable,
    contrastive_rows: Callable,
    contrastive_trainer: Callable,
    adapter: str,
    model_type: str,
    modality: str,
    vision: str,
) -> None:
    model, processor = make_coma(model_type)
    model.config.get_text_config().attention_dropout = 0.1
    for layer in model.backbone.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.1
    peft = {} if adapter == "full" else {"peft_config": lora_config(model, init_lora_weights=False)}
    if adapter == "dora" and vision == "trained":  # an adapter in both towers
        peft["peft_config"].target_modules = r".*\.(q_proj|v_proj|qkv)"
    trainer = contrastive_trainer(
        (model, processor),
        mini_batch_tokens=BUDGET,
        freeze_vision=vision == "frozen",
        bidirectional=True,
        late_interaction_budgets=["1x2", "2x3"] if modality == "mixed" else None,
        **peft,
    )
    rows = contrastive_rows(modality)
    assert len(plan_mini_batches(trainer.data_collator(rows)["inputs"].lengths, BUDGET)) > 2
    found, expected = both(trainer, rows)
    assert_equal(found, expected)
    trained = any("visual" in name for name in expected)
    assert trained == (vision == "trained" and modality != "text")


def test_the_comparison_can_fail(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """Without the same random numbers in both passes, dropout makes other gradients."""
    model, processor = make_coma()
    trainer = contrastive_trainer((model, processor), mini_batch_tokens=BUDGET, peft_config=lora_config(model))
    batch = trainer.data_collator(contrastive_rows())
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    first = gradients(trainer.model)
    trainer.compute_loss(trainer.model, batch).backward()
    with pytest.raises(AssertionError):
        assert_equal(gradients(trainer.model), first)


class Counted:
    """Counts calls of a module and the rows of what it is given."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls, self.rows = 0, 0
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.calls += 1
        self.rows += len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])


@pytest.mark.parametrize(("budget", "passes"), [(10000, 1), (BUDGET, 2)])
@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_what_is_computed(
    make_coma: Callable,
    contrastive_rows: Callable,
    contrastive_trainer: Callable,
    budget: int,
    passes: int,
    vision: str,
) -> None:
    """Two passes, but for the last mini-batch; a frozen tower sees each image once; equal inputs are one."""
    coma = make_coma()
    trainer = contrastive_trainer(coma, mini_batch_tokens=budget, freeze_vision=vision == "frozen")
    rows = contrastive_rows("image", 6)
    rows += [{**rows[0], "query": rows[1]["query"]}]  # no input that is not there already
    batch = trainer.data_collator(rows)
    assert len(batch["inputs"].lengths) == 16 and len(batch["queries"]) == 7
    whole, tower = Counted(trainer.model), Counted(coma[0].backbone.model.visual)
    trainer.compute_loss(trainer.model.train(), batch).backward()
    mini_batches = plan_mini_batches(batch["inputs"].lengths, budget)
    again = mini_batches[:-1] if passes == 2 else []
    assert whole.calls == len(mini_batches) + len(again)
    assert whole.rows == 16 + sum(map(len, again))
    if vision == "frozen":
        assert tower.rows == len(batch["inputs"].images.tensors["pixel_values"])
    else:
        assert tower.calls == whole.calls


def test_random_numbers_go_on_as_without_a_second_pass() -> None:
    """After the backward the state is what the first pass has left, so that what follows is the same."""
    weight = torch.ones(3, requires_grad=True)
    mini_batches = [torch.tensor([1, 2]), torch.tensor([0])]
    torch.manual_seed(0)
    drawn = cached_embeddings(lambda rows: weight * torch.rand(len(rows), 1), mini_batches)
    after = torch.get_rng_state()
    drawn.sum().backward()
    assert torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(weight.grad, drawn.detach().sum(dim=0))


@pytest.mark.parametrize("mini_batches", [[[2, 0, 1]], [[2], [], [0, 1]], [[], [1, 0], [2]]])
def test_rows_come_back_in_their_order_and_parts_may_be_empty(mini_batches: list[list[int]]) -> None:
    weight = torch.ones(2, requires_grad=True)
    mini_batches = [torch.tensor(rows, dtype=torch.long) for rows in mini_batches]
    embeddings = cached_embeddings(lambda rows: weight * (rows[:, None] + 1.0), mini_batches)
    assert embeddings.tolist() == [[1, 1], [2, 2], [3, 3]]
    embeddings.backward(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
    assert weight.grad.tolist() == [4, 5]


def test_plan_begins_with_the_longest_inputs_and_names_one_that_is_too_long() -> None:
    lengths = torch.tensor([3, 9, 4, 8, 9])
    assert [rows.tolist() for rows in plan_mini_batches(lengths, 20)] == [[1, 4], [3, 2], [0]]
    with pytest.raises(ValueError, match="Input 1 has 9 tokens, more than mini_batch_tokens=8"):
        plan_mini_batches(lengths, 8)


def test_mixed_precision_trains_the_same_parameters(
    make_coma: Callable, contrastive_rows: Callable, contrastive_trainer: Callable
) -> None:
    """Under autocast the pass without gradients must not leave casts of the weights that the other would reuse."""
    results = []
    for budget in (BUDGET, 10000):
        trainer = contrastive_trainer(make_coma(), contrastive_rows(), mini_batch_tokens=budget, bf16=True)
        batch = trainer.data_collator(contrastive_rows())
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(trainer.accelerator.prepare_model(trainer.model), batch)
        results.append(gradients(trainer.model))
    assert results[0].keys() == results[1].keys()
    cosines = [
        torch.cosine_similarity(a.flatten(), results[1][n].flatten(), 0) for n, a in results[0].items() if a.any()
    ]
    assert len(cosines) > 10 and min(cosines) > 0.95
