"""The answer loss is plain cross-entropy in value and gradients, however many chunks it takes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from modeling_coma import loss_coma
from modeling_coma.loss_coma import answer_cross_entropy


def head(weight: torch.Tensor):
    return partial(F.linear, weight=weight)


def tensors(num_labels: int = 11, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(num_labels, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(13, 5, generator=generator, dtype=dtype).requires_grad_()
    return hidden_states, weight, torch.randint(0, 13, (num_labels,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 10, 11, 12])
def test_chunks_change_neither_value_nor_gradients(monkeypatch, chunk):
    hidden_states, weight, labels = tensors(dtype=torch.float32)
    expected = F.cross_entropy(hidden_states @ weight.T, labels)
    gradients = torch.autograd.grad(expected, (hidden_states, weight))
    monkeypatch.setattr(loss_coma, "CHUNK", chunk)
    loss = answer_cross_entropy(hidden_states, head(weight), labels)
    torch.testing.assert_close(loss, expected)
    for gradient, reference in zip(torch.autograd.grad(loss, (hidden_states, weight)), gradients, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_more_labels_than_a_chunk_as_it_is():
    hidden_states, weight, labels = tensors(2 * loss_coma.CHUNK + 1, torch.float32)
    expected = F.cross_entropy(hidden_states @ weight.T, labels)
    torch.testing.assert_close(answer_cross_entropy(hidden_states, head(weight), labels), expected)


def test_logits_of_one_chunk_at_a_time_are_kept(monkeypatch):
    """What autograd stores must not grow with the number of labels times the vocabulary."""
    hidden_states, weight, labels = tensors(40)

    def stored_logits(chunk: int) -> int:
        shapes = []
        monkeypatch.setattr(loss_coma, "CHUNK", chunk)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: shapes.append(x.shape) or x, lambda x: x):
            answer_cross_entropy(hidden_states, head(weight), labels)
        return sum(shape[0] for shape in shapes if shape[1:] == (len(weight),))

    assert stored_logits(40) >= 40  # at once
    assert stored_logits(4) <= 4


@pytest.mark.parametrize("items", [7, 0.25, torch.tensor(7), torch.tensor(0.25)])
@pytest.mark.parametrize("chunk", [4, 100])
def test_num_items_in_batch_divides_the_sum(monkeypatch, items, chunk):
    monkeypatch.setattr(loss_coma, "CHUNK", chunk)
    hidden_states, weight, labels = tensors(dtype=torch.float32)
    expected = F.cross_entropy(hidden_states @ weight.T, labels, reduction="sum") / float(items)
    torch.testing.assert_close(answer_cross_entropy(hidden_states, head(weight), labels, items), expected)


@pytest.mark.parametrize("items", [None, 5, 0])
def test_no_labels_give_zero_with_a_gradient(items):
    hidden_states, weight, labels = tensors(0)
    loss = answer_cross_entropy(hidden_states, head(weight), labels, items)
    loss.backward()
    assert loss.item() == 0.0
    assert weight.grad.eq(0).all() and hidden_states.grad.shape == (0, 5)


def test_no_labels_give_zero_where_half_precision_sums_overflow():
    loss = answer_cross_entropy(
        torch.ones(0, 5).half(), head(torch.ones(2**16, 5).half()), torch.ones(0, dtype=torch.long)
    )
    assert loss.item() == 0.0


def test_logits_are_taken_in_single_precision():
    """In bfloat16 the logits 256 and 257 are one number."""
    hidden_states = torch.tensor([[256.0, 1.0]], dtype=torch.bfloat16)
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.bfloat16)
    loss = answer_cross_entropy(hidden_states, head(weight), torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("items", [None, 5, torch.tensor(5, device="meta")])
@pytest.mark.parametrize("number", [0, 11])
def test_no_number_is_asked_back_from_its_device(items, number):
    """On `meta` there is nothing to be asked; on a GPU the asking would wait for all that it has to do."""
    hidden_states, weight, labels = (tensor.to("meta") for tensor in tensors(number, torch.float32))
    loss = answer_cross_entropy(hidden_states, head(weight), labels, items)
    assert loss.shape == () and loss.device.type == "meta"
