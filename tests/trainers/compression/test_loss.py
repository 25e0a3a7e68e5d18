"""The chunked stage-1 losses are their formulas, whatever the chunk."""

import math

import pytest
import torch
from torch import nn

from trainers.compression.loss import answer_hits, answer_kl


DOUBLE = {"dtype": torch.float64}


def answers(positions: int = 11, vocabulary: int = 13, **kwargs):
    """Hidden states and heads of a student and of a wider teacher."""
    torch.manual_seed(0)
    student, teacher = torch.randn(positions, 5, **kwargs), torch.randn(positions, 7, **kwargs)
    heads = nn.Linear(5, vocabulary, bias=False, **kwargs), nn.Linear(7, vocabulary, bias=False, **kwargs)
    return student.requires_grad_(), teacher.requires_grad_(), *heads


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_kl_is_the_formula_in_value_and_gradients(chunk_size, temperature):
    student, teacher, student_head, teacher_head = answers(**DOUBLE)
    p = (teacher_head(teacher).detach() / temperature).softmax(-1)
    q = (student_head(student) / temperature).softmax(-1)
    expected = temperature**2 * (p * (p / q).log()).sum() / 11
    inputs = (student, student_head.weight)
    references = torch.autograd.grad(expected, inputs, retain_graph=True)
    loss = answer_kl(student, teacher, student_head, teacher_head, temperature, chunk_size=chunk_size)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for tensor, reference in zip(inputs, references, strict=True):
        torch.testing.assert_close(tensor.grad, reference)
    assert teacher.grad is None and teacher_head.weight.grad is None


def test_kl_in_closed_form():
    """A teacher that is certain and a student that knows nothing: log of the vocabulary."""
    certain, clueless = 1e4 * torch.eye(6)[:4], torch.zeros(4, 6)
    assert answer_kl(clueless, certain, nn.Identity(), nn.Identity()).item() == pytest.approx(math.log(6))
    assert answer_kl(certain, certain, nn.Identity(), nn.Identity()) == 0


def test_kl_of_accumulated_steps_is_that_of_one_step():
    student, teacher, *heads = answers()
    whole = answer_kl(student, teacher, *heads)
    parts = [
        answer_kl(student[rows], teacher[rows], *heads, num_items_in_batch=11) for rows in (slice(3), slice(3, 11))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("num_items_in_batch", [None, 5])
def test_kl_without_answers_is_a_zero_with_a_gradient(num_items_in_batch):
    student, teacher, *heads = answers(positions=0)
    loss = answer_kl(student, teacher, *heads, num_items_in_batch=num_items_in_batch)
    loss.backward()
    assert loss == 0 and student.grad.shape == (0, 5) and not heads[0].weight.grad.any()


def test_kl_of_half_precision_is_taken_in_fp32():
    student, teacher, *heads = answers(dtype=torch.bfloat16)
    logits = [head(states).float() for head, states in zip(heads, (student, teacher), strict=True)]
    expected = torch.nn.functional.kl_div(
        logits[0].log_softmax(-1), logits[1].log_softmax(-1), reduction="batchmean", log_target=True
    )
    loss = answer_kl(student, teacher, *heads)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_kl_never_holds_the_logits_of_all_positions():
    """One chunk forward and its recomputation backward: the head never sees more than a chunk."""
    student, teacher, student_head, teacher_head = answers()
    seen = []
    student_head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    loss = answer_kl(student, teacher, student_head, teacher_head, chunk_size=4)
    assert seen == [4, 4, 3]
    loss.backward()
    assert sorted(seen) == [3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_hidden": torch.zeros(3, 6)}, "got 4 and 3 positions"),
        ({"teacher_hidden": torch.zeros(4, 7)}, "6 and 7 logits"),
        ({"temperature": 0.0}, "got 0.0"),
    ],
)
def test_kl_refuses_what_does_not_fit(change, message):
    arguments = {"student_hidden": torch.zeros(4, 6), "teacher_hidden": torch.zeros(4, 6)} | change
    with pytest.raises(ValueError, match=message):
        answer_kl(**arguments, student_head=nn.Identity(), teacher_head=nn.Identity())


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_hits_are_the_greedy_tokens(chunk_size):
    student, _, head, _ = answers()
    labels = head(student).argmax(-1)
    labels[3] = (labels[3] + 1) % 13
    hits = answer_hits(student, head, labels, chunk_size=chunk_size)
    assert hits.tolist() == [row != 3 for row in range(11)] and not hits.requires_grad
    assert answer_hits(student[:0], head, labels[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"), [([1, 2], r"3 hidden states .* \(2,\)"), ([1, -100, 2], "Label -100 at row 1")]
)
def test_hits_refuse_labels_that_are_no_answers(labels, message):
    with pytest.raises(ValueError, match=message):
        answer_hits(torch.zeros(3, 4), nn.Identity(), torch.tensor(labels))
