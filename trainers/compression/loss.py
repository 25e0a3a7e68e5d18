"""The KL from a teacher, and which answer tokens are hit: what stage 1 computes at answer positions.

The cross-entropy is not here: the model computes it in its own forward (modeling_coma/loss_coma.py), so that a plain
HF `Trainer` trains stage 1 as well. The logits of one position are as wide as the vocabulary, so they exist for a few
positions at a time and are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


__all__ = ["Head", "answer_hits", "answer_kl"]

Head = Callable[[torch.Tensor], torch.Tensor]  # (positions, hidden_size) -> logits (positions, vocab_size)


def answer_kl(
    student_hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    student_head: Head,
    teacher_head: Head,
    temperature: float = 1.0,
    num_items_in_batch: int | torch.Tensor | None = None,
    chunk_size: int = 256,
) -> torch.Tensor:
    r"""
    Distillation of the uncompressed model into the compressed one (paper, ablation "multi-turn KL"; temperature as in
    Hinton et al. 2015). With teacher $p_i = \mathrm{softmax}(z^T_i / T)$, student $q_i = \mathrm{softmax}(z^S_i / T)$:

    $$L = \frac{T^2}{N} \sum_i \mathrm{KL}(p_i \,\|\, q_i)$$

    The softmax is taken in fp32. The teacher receives no gradient.

    Args:
        student_hidden (`torch.Tensor` of shape `(num_answer_tokens, hidden_size)`):
            Hidden states that predict the answer tokens from the compression tokens.
        teacher_hidden (`torch.Tensor` of shape `(num_answer_tokens, teacher_hidden_size)`):
            Those of the same tokens, predicted from the whole input.
        student_head (`Callable`):
            Hidden states -> logits. Its parameters receive gradients.
        teacher_head (`Callable`):
            Hidden states -> logits over the same vocabulary.
        temperature (`float`, *optional*, defaults to 1.0):
            T.
        num_items_in_batch (`int` or scalar `torch.Tensor`, *optional*):
            N. Answer tokens of the whole optimizer step, over all accumulation steps and processes; the rows of
            `student_hidden` by default. Without rows the loss is a zero that still has a gradient.
        chunk_size (`int`, *optional*, defaults to 256):
            Positions whose logits exist at one time. Changes memory, not results.

    Returns:
        `torch.Tensor`: scalar, fp32 (fp64 if the logits are).

    Raises:
        `ValueError`: different numbers of positions or vocabularies, or a temperature that is not positive.
    """
    if len(student_hidden) != len(teacher_hidden):
        raise ValueError(
            f"Student and teacher must predict the same answer tokens, got {len(student_hidden)} and "
            f"{len(teacher_hidden)} positions."
        )
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    num_items = len(student_hidden) if num_items_in_batch is None else num_items_in_batch

    def chunk_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = _log_softmax(teacher_head(teacher), temperature)
        prediction = _log_softmax(student_head(student), temperature)
        if prediction.shape != target.shape:
            raise ValueError(
                f"Student and teacher must share a vocabulary, got {prediction.shape[-1]} and {target.shape[-1]} "
                "logits per position."
            )
        return F.kl_div(prediction, target, reduction="sum", log_target=True)

    # `split` gives one empty chunk for no rows, so that the head has a (zero) gradient in that case too.
    chunks = zip(student_hidden.split(chunk_size), teacher_hidden.split(chunk_size), strict=True)
    losses = [checkpoint(chunk_loss, student, teacher, use_reentrant=False) for student, teacher in chunks]
    # A step without answer tokens has nothing to divide by; clamped, a tensor need not leave its device to be asked.
    return torch.stack(losses).sum() * temperature**2 / torch.as_tensor(num_items).clamp(min=1)


@torch.no_grad()
def answer_hits(hidden: torch.Tensor, head: Head, labels: torch.Tensor, chunk_size: int = 256) -> torch.Tensor:
    """
    Which answer tokens greedy decoding would have produced, given the true tokens before them. The mean is the answer
    accuracy; the sum and the count can be added up over steps and processes.

    Args:
        hidden (`torch.Tensor` of shape `(num_answer_tokens, hidden_size)`):
            The hidden state that predicts each answer token.
        head (`Callable`):
            Hidden states -> logits.
        labels (`torch.LongTensor` of shape `(num_answer_tokens,)`):
            The answer tokens.
        chunk_size (`int`, *optional*, defaults to 256):
            Positions whose logits exist at one time.

    Returns:
        `torch.BoolTensor` of shape `(num_answer_tokens,)`.

    Raises:
        `ValueError`: labels that do not fit the hidden states, or an ignored (negative) label.
    """
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"{len(hidden)} hidden states need as many labels, got shape {tuple(labels.shape)}.")
    ignored = (labels < 0).nonzero()
    if len(ignored):
        row = ignored[0].item()
        raise ValueError(f"Label {labels[row].item()} at row {row} is no answer token: pass answer positions only.")
    chunks = zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True)
    return torch.cat([head(states).argmax(-1) == tokens for states, tokens in chunks])


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits / temperature, dim=-1)
