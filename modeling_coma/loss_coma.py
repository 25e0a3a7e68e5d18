"""Cross-entropy at answer positions, without ever holding the logits of a whole batch."""

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


IGNORE_INDEX = -100
CHUNK = 1024  # positions whose logits are alive at one time


def answer_cross_entropy(
    hidden_states: Tensor, weight: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    r"""
    $L = -\frac{1}{N} \sum_i \log \mathrm{softmax}(W h_i)_{y_i}$ (paper, section 3.1), with the logits in fp32.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): what predicts each answer token.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): the output embedding matrix W.
        labels (`torch.LongTensor` of shape `(num_labels,)`): the answer tokens. Without any, the loss is 0.
        num_items_in_batch (`int` or scalar `torch.Tensor`, *optional*): N, by default the number of labels.
    """
    denominator = (labels.numel() if num_items_in_batch is None else num_items_in_batch) or 1
    if labels.numel() <= CHUNK:
        return _summed(hidden_states, weight, labels) / denominator
    chunks = zip(hidden_states.split(CHUNK), labels.split(CHUNK), strict=True)  # backward makes their logits again
    losses = (checkpoint(_summed, hidden, weight, label, use_reentrant=False) for hidden, label in chunks)
    return sum(losses) / denominator


def _summed(hidden_states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_states, weight).float(), labels, reduction="sum")


__all__ = ["IGNORE_INDEX", "answer_cross_entropy"]
