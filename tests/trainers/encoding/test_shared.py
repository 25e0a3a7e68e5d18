"""One process embeds all; what two do together is in test_evaluate_distributed.py."""

import torch

from trainers.encoding.encode import embed_items
from trainers.encoding.shared import embed_shared


def test_on_one_process_it_is_embed_items(make_coma, mixed_inputs):
    model, processor = make_coma()
    assert torch.equal(embed_shared(model, processor, mixed_inputs), embed_items(model, processor, mixed_inputs))
