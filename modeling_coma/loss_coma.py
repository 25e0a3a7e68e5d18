"""Cross-entropy at answer positions, without ever holding the logits of a whole batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


IGNORE_INDEX = -100
CHUNK = 1024  # positions whose logits are alive at one time


def answer_cross_entropy(
    hidden_states: Tensor,
    head: Callable[[Tensor], Tensor],
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    r"""
    $L = -\frac{1}{N} \sum_i \log \mathrm{softmax}(W h_i)_{y_i}$ (paper, section 3.1), with the logits in fp32.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): what predicts each answer token.
        head (`Callable`): hidden states to logits, W. The module itself: its weights may be elsewhere until it is
            called (offloaded, sharded, adapted).
        labels (`torch.LongTensor` of shape `(num_labels,)`): the answer tokens. Without any, the loss is 0.
        num_items_in_batch (`int` or scalar `torch.Tensor`, *optional*): N, by default the number of labels.
    """
    if labels.numel() <= CHUNK:
        loss = _summed(hidden_states, head, labels)
    else:  # backward makes the logits of each chunk again
        chunks = zip(hidden_states.split(CHUNK), labels.split(CHUNK), strict=True)
        loss = sum(checkpoint(_summed, hidden, head, label, use_reentrant=False) for hidden, label in chunks)
    items = labels.numel() if num_items_in_batch is None else num_items_in_batch
    items = torch.as_tensor(items).to(loss.device, non_blocking=True)
    return loss / items.masked_fill(items == 0, 1)  # a GPU is not asked for a number: it would have to finish first


def _summed(hidden_states: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    logits = head(hidden_states).float()
    return F.cross_entropy(logits, labels.to(logits.device), reduction="sum")


__all__ = ["IGNORE_INDEX", "answer_cross_entropy"]
