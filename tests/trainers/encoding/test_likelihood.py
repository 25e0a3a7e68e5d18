"""The likelihood of an answer is minus its loss, from a memory and in full view, alone and in a batch."""

import pytest
import torch

from trainers.encoding.likelihood import answer_log_likelihoods, as_answer, likelihoods_from_memory


def test_it_is_minus_the_loss_of_each_row(make_coma, mixed_inputs) -> None:
    model, processor = make_coma()
    inputs = processor.process(mixed_inputs)
    dialogue = as_answer(processor, "an apple and leaves", "what is this?")
    assert (
        processor.tokenizer.decode(dialogue["labels"][dialogue["labels"] != -100]) == "an apple and leaves<|im_end|>"
    )
    with torch.no_grad():
        memory = model.eval().compress(**inputs)
        found = likelihoods_from_memory(model, memory, dialogue)
        for row, item in enumerate(mixed_inputs):
            loss = model(**processor.process([item]), **dialogue).loss
            assert found[row].item() == pytest.approx(-loss.item(), abs=1e-5)
        several = {name: rows.expand(len(mixed_inputs), -1) for name, rows in dialogue.items()}
        output = model(**inputs, **several, dialogue_view="full")
        found = answer_log_likelihoods(model, output, several["labels"])
    assert found.mean().item() == pytest.approx(-output.loss.item(), abs=1e-5) and found.unique().numel() > 1
