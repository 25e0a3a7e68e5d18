"""Memories as numbers, and back: the same answers; what fp16 cannot hold is refused by its row."""

import pytest
import torch

from trainers.backbone import model_from_backbone
from trainers.encoding.encoder import Encoder
from trainers.encoding.memory_rows import MemoryForm


@pytest.mark.parametrize("kind", ["cache", "states"])
def test_answers_from_the_numbers_are_those_of_the_memory(kind, make_backbone, mixed_inputs) -> None:
    model, processor = model_from_backbone(str(make_backbone()), 4, memory=kind)
    encoder = Encoder(model.eval(), processor, batch_tokens=200, num_vectors=2, keeps_memory=True)
    form = encoder.memory_form
    assert form.kind == kind and form == MemoryForm(kind, [[4, 64]] if kind == "states" else [[2, 4, 16]] * 6)
    plain = Encoder(model, processor, batch_tokens=200, num_vectors=2)
    items, asked = [*mixed_inputs, " ", mixed_inputs[0]], []
    dialogue = torch.tensor(processor.process_dialogues([[{"role": "user", "content": "it?"}]], True)["input_ids"])
    for batch, without in zip(encoder.batches(items), plain.batches(items), strict=True):
        assert batch.rows == without.rows and batch.failures == without.failures and without.memory is None
        assert (batch.vectors - without.vectors).abs().max() < 1e-6
        asked += batch.rows
        if not batch.rows:
            continue
        ids = dialogue.expand(len(batch.rows), -1)
        direct = model.compress(**processor.process([items[row] for row in batch.rows]))
        answers = [
            model.generate_from_memory(memory, ids, torch.ones_like(ids), max_new_tokens=6, do_sample=False)
            for memory in (direct, form.unpack(batch.memory, model.device, model.dtype))
        ]
        assert torch.equal(*answers)
    assert sorted(asked) == [0, 1, 2, 3, 4, 5, 6, 8]


def test_what_is_beyond_fp16_is_refused_by_its_row(make_coma) -> None:
    model, processor = make_coma()
    encoder = Encoder(model.eval(), processor, keeps_memory=True)
    with torch.no_grad():
        model.backbone.get_decoder().layers[1].self_attn.v_proj.weight[0] = 1e6
    (batch,) = encoder.batches(["a red apple"], names="Photo {}".format)
    assert not batch.rows and "its memory has numbers beyond float16" in batch.failures[0]
