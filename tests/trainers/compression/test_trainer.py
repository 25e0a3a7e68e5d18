"""Stage 1 in the real HF `Trainer`: steps, losses and gradients are what the paper's formula says they are."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload, disk_offload
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from transformers import Trainer, TrainingArguments

from tests.checkpointing import CHECKPOINTING
from trainers.adapters import lora_config, merge_adapter
from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.config import ComaCompressionConfig


CLOSE = {"atol": 2e-6, "rtol": 2e-5}
SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": 0.5, "max_grad_norm": 0.0}


def trained(trainer, **kwargs):
    """Parameters that a run has changed or could have changed, and the losses that it logged."""
    trainer.train(**kwargs)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return weights, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same(weights, others, **close):
    assert weights.keys() == others.keys() and weights
    for name, weight in weights.items():
        torch.testing.assert_close(
            weight, others[name], **(close or CLOSE), msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="ce"), pytest.param({"kl_weight": 0.7}, id="ce+kl", marks=pytest.mark.slow)]
)
def test_accumulated_steps_are_one_big_step(make_coma, compression_trainer, compression_rows, settings):
    """Rows have one to three turns, so a mean of the means of small batches would be another loss."""
    runs = []
    for batch_size, accumulation in ((8, 1), (2, 4), (3, 3)):
        model, processor = make_coma()
        trainer = compression_trainer(
            (model, processor),
            compression_rows(8),
            **SGD,
            **settings,
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            peft_config=lora_config(model, lora_dropout=0.0),
        )
        weights, losses = trained(trainer)
        kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
        runs.append((weights, torch.tensor(losses + kl)))
    for weights, losses in runs[1:]:
        torch.testing.assert_close(losses, runs[0][1], **CLOSE)
        assert_same(weights, runs[0][0])
    tokens = next(weight for name, weight in weights.items() if "trainable_tokens" in name)
    model = make_coma()[0]
    assert (tokens - model.get_input_embeddings().weight[model.config.compression_token_ids]).abs().max() > 1e-3


def test_the_step_is_the_gradient_of_the_mean_over_answer_tokens(make_coma, compression_trainer, compression_rows):
    model, processor = make_coma()
    oracle = copy.deepcopy(model)
    oracle.backbone.model.visual.requires_grad_(False)
    batch = ComaCompressionCollator(processor)(compression_rows(6))
    output = oracle(**batch)
    loss = F.cross_entropy(
        oracle.get_output_embeddings()(output.answer_states), batch["labels"][batch["labels"] != -100]
    )
    loss.backward()
    settings = {**SGD, "max_steps": 1, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    weights, losses = trained(compression_trainer((model, processor), compression_rows(6), **settings))
    assert losses == [pytest.approx(loss.item(), abs=1e-5)]
    expected = {n: p.detach() - 0.5 * p.grad for n, p in oracle.named_parameters() if p.requires_grad}
    assert_same(weights, expected)
    for name, p in model.named_parameters():
        assert p.requires_grad is ("visual" not in name)


def test_gradient_checkpointing_takes_the_same_steps(make_coma, compression_trainer, compression_rows):
    results = []
    for checkpointing in (False, True):
        model, processor = make_coma()
        settings = {**SGD, "learning_rate": 0.05, CHECKPOINTING: checkpointing, "kl_weight": 0.5}
        peft_config = lora_config(model, lora_dropout=0.0)
        trainer = compression_trainer((model, processor), compression_rows(8), peft_config=peft_config, **settings)
        results.append(trained(trainer))
        assert model.backbone.model.language_model.gradient_checkpointing is checkpointing
    torch.testing.assert_close(torch.tensor(results[1][1]), torch.tensor(results[0][1]), atol=1e-5, rtol=1e-5)
    assert_same(results[1][0], results[0][0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_half_precision_trains(make_coma, compression_trainer, compression_rows):
    model, processor = make_coma()
    weights, losses = trained(compression_trainer((model, processor), compression_rows(8), bf16=True, max_steps=4))
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())
    expected = trained(compression_trainer(make_coma(), compression_rows(8), max_steps=4))[1]
    assert losses == pytest.approx(expected, rel=0.02) and losses[-1] < losses[0]


def test_a_plain_trainer_with_our_collator_trains(make_coma, compression_trainer, compression_rows, tmp_path):
    """The model's own forward is enough; our trainer takes the same steps."""
    model, processor = make_coma()
    model.backbone.model.visual.requires_grad_(False)
    settings = {"output_dir": tmp_path, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 3}
    settings |= {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "logging_steps": 1, **SGD}
    settings |= {"remove_unused_columns": False, "save_strategy": "no", "learning_rate": 0.1}
    collator = ComaCompressionCollator(processor)
    rows = compression_rows(8)
    plain = Trainer(model, TrainingArguments(**settings), collator, train_dataset=rows, eval_dataset=rows)
    weights, losses = trained(plain)
    assert losses[-1] < losses[0]
    ours, our_losses = trained(compression_trainer(make_coma(), rows, **{**settings, "output_dir": str(tmp_path)}))
    assert_same(ours, weights)
    assert our_losses == pytest.approx(losses, abs=1e-5)
    plain.args.prediction_loss_only = True
    assert plain.evaluate()["eval_loss"] < losses[0]


def test_a_step_without_answer_tokens_is_no_nan(make_coma, compression_trainer, compression_rows):
    model, processor = make_coma()

    class NoAnswers(ComaCompressionCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    settings = {"kl_weight": 1.0, "data_collator": NoAnswers(processor), "weight_decay": 0.0}
    trainer = compression_trainer(
        (model, processor),
        compression_rows(4),
        peft_config=lora_config(model),
        logging_nan_inf_filter=False,
        **settings,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    weights, losses = trained(trainer)
    assert losses == [0.0, 0.0]
    assert_same(weights, before, atol=0, rtol=0)


def test_the_kl_is_from_the_model_without_its_adapter(make_coma, compression_trainer, compression_rows):
    """By hand: full softmax of both, over the answer tokens; the teacher is the model as it was, seeing everything."""
    model, processor = make_coma()
    teacher, rows = copy.deepcopy(model), compression_rows(8)
    settings = {**SGD, "kl_weight": 0.6, "cross_entropy_weight": 0.3, "kl_temperature": 2.0, "learning_rate": 0.3}
    settings |= {"per_device_train_batch_size": 8, "peft_config": lora_config(model, lora_dropout=0.0)}
    trainer = compression_trainer((model, processor), rows, **settings)
    trainer.train()  # the adapter is not zero any more
    batch = ComaCompressionCollator(processor)(rows)
    with torch.no_grad():
        p = teacher.get_output_embeddings()(teacher(**batch, dialogue_view="full").answer_states) / 2
    trainer.model.zero_grad()
    student = trainer.model(**batch)
    q = merged_head(trainer.model)(student.answer_states) / 2
    kl = 4 * F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")
    expected = 0.6 * kl + 0.3 * student.loss
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=(batch["labels"] != -100).sum())
    loss.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(trainer.model.get_parameter(name).grad, gradient, atol=1e-6, rtol=1e-4)
    assert kl > 1e-3


@pytest.mark.slow
def test_the_kl_knows_an_adapter_of_the_head(make_coma, compression_trainer, compression_rows):
    """The head is a module like others: with its adapter for the student, without for the teacher, backward too."""
    model, processor = make_coma(tie_word_embeddings=False)
    teacher, rows = copy.deepcopy(model), compression_rows(8)
    target = r".*language_model.*\.(q|v)_proj|.*lm_head"
    peft_config = lora_config(model, lora_dropout=0.0, target_modules=target, trainable_token_indices=None)
    settings = {**SGD, "kl_weight": 0.6, "cross_entropy_weight": 0.3, "per_device_train_batch_size": 8}
    trainer = compression_trainer((model, processor), rows, peft_config=peft_config, max_steps=3, **settings)
    trainer.train()
    batch = ComaCompressionCollator(processor)(rows)
    labels = batch["labels"][batch["labels"] != -100]
    with torch.no_grad():
        p = teacher.get_output_embeddings()(teacher(**batch, dialogue_view="full").answer_states)
    trainer.model.zero_grad()
    logits = model.get_output_embeddings()(trainer.model(**batch).answer_states)
    plain = model.get_output_embeddings().base_layer(trainer.model(**batch).answer_states)
    assert (logits - plain).abs().max() > 1e-3  # the adapter of the head is not zero any more
    kl = F.kl_div(logits.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")
    expected = 0.6 * kl + 0.3 * F.cross_entropy(logits, labels)
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert any("lm_head" in name and gradient.abs().max() > 0 for name, gradient in gradients.items())
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=len(labels))
    loss.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(trainer.model.get_parameter(name).grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_kl_thaws_nothing(make_coma, compression_trainer, compression_rows):
    """The adapter is switched off for the teacher and on again; what of it is frozen stays so."""
    model, processor = make_coma()
    adapted = get_peft_model(model, lora_config(model, r=2, modules_to_save=["visual.merger"]))
    trainer = compression_trainer((adapted, processor), compression_rows(4), kl_weight=0.5, max_steps=1)
    before = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    trainer.train()
    assert {name for name, weight in adapted.named_parameters() if weight.requires_grad} == before
    assert before and not any("visual" in name for name in before)


@pytest.mark.parametrize("offload", [cpu_offload, pytest.param(disk_offload, marks=pytest.mark.slow)])
def test_a_teacher_may_be_offloaded(make_coma, compression_trainer, compression_rows, offload, tmp_path):
    results, where = [], {"offload_dir": str(tmp_path / "offloaded")} if offload is disk_offload else {}
    for is_offloaded in (False, True):
        model, processor = make_coma()
        teacher = copy.deepcopy(model).eval()
        teacher = offload(teacher, **where) if is_offloaded else teacher
        settings = {**SGD, "kl_weight": 1.0, "cross_entropy_weight": 0.5, "teacher": teacher}
        results.append(trained(compression_trainer((model, processor), compression_rows(8), **settings)))
    torch.testing.assert_close(torch.tensor(results[1][1]), torch.tensor(results[0][1]), **CLOSE)
    assert_same(results[1][0], results[0][0])


def merged_head(adapted):
    """The output embeddings with the trained rows of the compression tokens, made by hand."""
    coma = adapted.get_base_model()
    tokens = coma.get_input_embeddings().token_adapter
    weight, ids = tokens.base_layer.weight.detach(), coma.config.compression_token_ids
    rows = tokens.trainable_tokens_delta["default"]
    return lambda states: F.linear(states, weight).index_copy(1, torch.tensor(ids), F.linear(states, rows))


def test_full_fine_tuning_takes_a_teacher(make_coma, compression_trainer, compression_rows):
    model, processor = make_coma()
    with pytest.raises(ValueError, match="kl_weight > 0 needs a teacher"):
        compression_trainer((model, processor), compression_rows(4), kl_weight=1.0)
    teacher = copy.deepcopy(model)
    before = copy.deepcopy(teacher.state_dict())
    settings = {"kl_weight": 1.0, "cross_entropy_weight": 0.0, "max_steps": 5, "teacher": teacher.train()}
    trainer = compression_trainer((model, processor), compression_rows(4), **settings)
    _, losses = trained(trainer)
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    with pytest.raises(ValueError, match="Nothing to train"):
        ComaCompressionConfig(output_dir="x", cross_entropy_weight=0.0)


@pytest.mark.parametrize("use_dora", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_adapters_are_small_and_exact_when_reloaded_and_merged(
    make_coma, compression_trainer, compression_rows, use_dora
):
    base, processor = make_coma()
    model = copy.deepcopy(base)
    peft_config = lora_config(model, r=4, use_dora=use_dora)
    trainer = compression_trainer(
        (model, processor), compression_rows(8), peft_config=peft_config, save_strategy="steps", save_steps=2
    )
    trainer.train()
    batch = ComaCompressionCollator(processor)(compression_rows(8))
    folder = Path(trainer.args.output_dir, "checkpoint-2")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    vocabulary, hidden = base.get_input_embeddings().weight.shape
    assert [4, hidden] in [shape for name, shape in shapes.items() if "embed_tokens" in name]
    assert all(vocabulary not in shape for shape in shapes.values())
    with torch.no_grad():
        expected = trainer.model.eval()(**batch)
        start = base(**batch)
        reloaded = PeftModel.from_pretrained(base, folder).eval()
        again = reloaded(**batch)
        merged = merge_adapter(reloaded).eval()(**batch)
    assert (expected.embeddings - start.embeddings).abs().max() > 1e-3
    assert torch.equal(again.embeddings, expected.embeddings) and torch.equal(again.loss, expected.loss)
    torch.testing.assert_close(merged.embeddings, expected.embeddings, **CLOSE)
    torch.testing.assert_close(merged.loss, expected.loss, **CLOSE)


@pytest.mark.slow
def test_batches_of_similar_length_go_through_the_data_once(make_coma, compression_trainer, compression_rows):
    from datasets import Dataset

    rows = compression_rows(20)
    dataset = Dataset.from_list([{"number": n, "tokens": [10 + n, 5 + n % 7]} for n in range(20)])
    model, processor = make_coma()
    seen = []

    def collate(numbered):
        seen.append([row["number"] for row in numbered])
        return ComaCompressionCollator(processor)([rows[row["number"]] for row in numbered])

    grouped = {"train_sampling_strategy": "group_by_length"}
    settings = {**grouped, "length_column_name": "tokens", "max_tokens_per_batch": 200, "num_train_epochs": 2}
    trainer = compression_trainer((model, processor), dataset, data_collator=collate, max_steps=-1, **settings)
    trainer.train()
    half = len(seen) // 2
    assert sorted(sum(seen[:half], [])) == sorted(sum(seen[half:], [])) == list(range(20))
    assert seen[:half] != seen[half:]
    with pytest.raises(ValueError, match="no column 'length'; trainers.compression.lengths.add_lengths makes one"):
        compression_trainer(make_coma(), dataset, **grouped).train()
    with pytest.raises(ValueError, match="max_tokens_per_batch needs train_sampling_strategy=group_by_length"):
        ComaCompressionConfig(output_dir="x", max_tokens_per_batch=5)


def test_the_log_tells_what_happened(make_coma, compression_trainer, compression_rows):
    model, processor = make_coma()
    rows = compression_rows(8)
    rows[2] = {**rows[2], "images": [b"no image"]}
    settings = {"on_bad_row": "skip", "dialogue_max_length": 60, "per_device_train_batch_size": 8, "max_steps": 1}
    trainer = compression_trainer((model, processor), rows, **settings)
    trainer.train()
    collator = ComaCompressionCollator(processor, dialogue_max_length=60)
    batch = collator([row for n, row in enumerate(rows) if n != 2])
    log = trainer.state.log_history[0]
    tokens = int(batch["attention_mask"].sum() + batch["dialogue_attention_mask"].sum())
    assert (log["images_seen"], log["tokens_seen"]) == (len(batch["image_grid_thw"]), tokens)
    assert (log["rows_skipped"], log["turns_cut"]) == (1, collator.bad_rows.cut) and collator.bad_rows.cut > 0
    assert log["tokens_per_second"] > log["images_per_second"] > 0 and 0 <= log["answer_accuracy"] <= 1
