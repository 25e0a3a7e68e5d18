"""The loss of stage 1: which positions it is taken at, what it is divided by, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F


CLOSE = {"atol": 1e-5, "rtol": 1e-5}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


@one_backbone
@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_can_be_split_over_steps(coma, mixed_inputs, mixed_dialogues, pad, checkpointing, run):
    """Accumulation: two halves, each divided by the labels of both, are the whole."""
    model, processor = coma
    halves = []
    for part in (slice(0, 3), slice(3, None)):
        dialogues = pad(processor.process_dialogues(mixed_dialogues[part]))
        halves.append({**processor.process(mixed_inputs[part]), **dialogues})
    items = sum(int((half["labels"] != -100).sum()) for half in halves)
    whole = {**processor.process(mixed_inputs), **pad(processor.process_dialogues(mixed_dialogues))}
    losses = [run(model, {**half, "num_items_in_batch": items}, checkpointing).loss for half in halves]
    torch.testing.assert_close(sum(losses), run(model, whole, checkpointing).loss, **CLOSE)


@one_backbone
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_answers_give_zero_with_a_gradient(coma, batch, checkpointing, run):
    model, _ = coma
    output = run(model, {**batch(), "labels": torch.full_like(batch()["labels"], -100)}, checkpointing)
    assert output.loss.item() == 0.0 and len(output.answer_states) == 0
    output.loss.backward()
    assert model.get_output_embeddings().weight.grad.eq(0).all()


@one_backbone
def test_answer_states_are_row_major_and_predict_the_labels(coma, batch):
    model, _ = coma
    inputs = batch()
    output = model(**inputs)
    targets = inputs["labels"][inputs["labels"] != -100]
    logits = model.get_output_embeddings()(output.answer_states)
    assert len(logits) == len(targets)
    torch.testing.assert_close(F.cross_entropy(logits, targets), output.loss, **CLOSE)
    assert 0.3 * math.log(logits.shape[1]) < output.loss < 3 * math.log(logits.shape[1])


@one_backbone
def test_labels_that_nothing_predicts_are_refused(coma, batch, run):
    model, _ = coma
    for side in ("right", "left"):
        inputs = batch("left", side)
        mask = inputs["dialogue_attention_mask"]
        first = int(mask[1].argmax())
        last_of_row = 0 if side == "left" else -1
        for row, place in ((1, first), (0, last_of_row)):  # the first token; padding
            assert (row, place) == (1, first) or mask[row, place] == 0
            labels = inputs["labels"].clone()
            labels[row, place] = 5
            for checkpointing in (False, True):
                with pytest.raises(ValueError, match="Nothing predicts padding, or the first token of a dialogue"):
                    run(model, {**inputs, "labels": labels}, checkpointing)


@one_backbone
def test_a_dialogue_without_a_mask_is_all_there(coma, batch):
    model, _ = coma
    row = {name: value[1:2] for name, value in batch().items() if name.endswith(("_ids", "_mask", "labels"))}
    row |= {
        name: batch()[name][: 4 * 6 if name == "pixel_values" else 1] for name in ("pixel_values", "image_grid_thw")
    }
    assert row["dialogue_attention_mask"].all()
    expected = model(**row).loss
    row.pop("dialogue_attention_mask")
    assert torch.equal(model(**row).loss, expected)


@one_backbone
def test_what_makes_no_sense_is_refused(coma, batch):
    model, _ = coma
    inputs = batch()
    with pytest.raises(ValueError, match="dialogue_view='none' does not exist; choose 'compressed' or 'full'"):
        model(**inputs, dialogue_view="none")
    with pytest.raises(ValueError, match="`labels` belong to a dialogue"):
        model(input_ids=inputs["input_ids"], labels=inputs["labels"])


@one_backbone
def test_without_labels_there_is_no_loss(coma, batch):
    model, _ = coma
    inputs = batch()
    expected = model(**inputs)
    inputs.pop("labels")
    output = model(**inputs)
    assert output.loss is None and output.answer_states is None
    torch.testing.assert_close(output.embeddings, expected.embeddings, **CLOSE)


@one_backbone
def test_half_precision_paths_agree(coma, batch, run):
    model, _ = coma
    expected = model(**batch()).loss
    model.to(torch.bfloat16)
    for checkpointing in (False, True):
        loss = run(model, batch(), checkpointing).loss
        assert loss.dtype == torch.float32
        assert abs(loss - expected) < 0.05
