"""Where the compression tokens are, and the attention mask of an input and its dialogue in one pass.

A row is its input, which ends with the K compression tokens, and the dialogue behind it. Attention is causal; the
dialogue does not see all of the input. Lines are who looks, columns who is seen (K = 2, a dialogue of three tokens):

    "compressed"  x x x c c d d d        "full"  x x x c c d d d
    x             1 . . . . . . .        x       1 . . . . . . .        x  input: texts, images
    x             1 1 . . . . . .        x       1 1 . . . . . .        c  compression tokens
    x             1 1 1 . . . . .        x       1 1 1 . . . . .        d  dialogue
    c             1 1 1 1 . . . .        c       1 1 1 1 . . . .
    c             1 1 1 1 1 . . .        c       1 1 1 1 1 . . .
    d             . . . 1 1 1 . .        d       1 1 1 . . 1 . .
    d             . . . 1 1 1 1 .        d       1 1 1 . . 1 1 .
    d             . . . 1 1 1 1 1        d       1 1 1 . . 1 1 1

"compressed" is P(A | C + Q) of the paper (section 3.1): answers come from the compression tokens alone. "full" is the
backbone as it was: its dialogue does not see the compression tokens, and stands at the positions where they would.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask

from .cache_coma import cache_argument


def find_compression_tokens(input_ids: Tensor, attention_mask: Tensor, ids: list[int]) -> Tensor:
    """Columns of the compression tokens, of shape `(batch_size, K)`, wherever padding has put them. Raises
    `ValueError` for a row that does not end with exactly these, in their order."""
    ids = input_ids.new_tensor(ids)
    is_present = attention_mask.bool()
    is_compression = torch.isin(input_ids, ids) & is_present
    count = is_compression.cumsum(dim=1)
    is_tail = is_present & (count > 0)
    expected = ids[(count - 1).clamp(0, len(ids) - 1)]
    bad = (is_compression.sum(dim=1) != len(ids)) | (is_tail & (input_ids != expected)).any(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"Row {row} must end with the {len(ids)} compression tokens of the model, exactly these; it has "
            f"{int(is_compression[row].sum())}. Make inputs, and cut texts, with its ComaProcessor."
        )
    return is_compression.nonzero()[:, 1].view(-1, len(ids))


def count_positions(attention_mask: Tensor) -> Tensor:
    """0, 1, 2, … over the tokens of each row; 0 at padding."""
    return (attention_mask.long().cumsum(dim=1) - 1).masked_fill(attention_mask == 0, 0)


def add_dialogue(
    inputs: dict,
    columns: Tensor,
    dialogue_input_ids: Tensor,
    dialogue_attention_mask: Tensor,
    dialogue_view: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
) -> dict:
    r"""
    Inputs of the backbone for one pass over an input and its dialogue.

    Args:
        inputs (`dict`): those of the input alone: `input_ids`, `attention_mask`, `position_ids` and what else it has.
        columns (`torch.LongTensor` of shape `(batch_size, K)`): columns of its compression tokens.
        dialogue_input_ids, dialogue_attention_mask (`torch.LongTensor` of shape `(batch_size, length)`): the dialogue.
        dialogue_view (`str`): `"compressed"` or `"full"`, as drawn above.
        config (`PreTrainedConfig`): of the language model; its attention implementation decides the form of the mask.
        dtype (`torch.dtype`): of the model.
    Returns the same with the dialogue behind the input, and a mask of shape `(batch_size, 1, total, total)`.
    Raises `ValueError` for another view, and where the attention implementation takes no such mask.
    """
    input_length = inputs["input_ids"].shape[1]
    is_compression = torch.zeros_like(inputs["input_ids"], dtype=torch.bool).scatter(1, columns, True)
    first_compression_position = inputs["position_ids"][0].gather(1, columns[:, :1])
    if dialogue_view == "compressed":
        is_seen_by_dialogue = is_compression
        dialogue_start = first_compression_position + columns.shape[1]
    elif dialogue_view == "full":
        is_seen_by_dialogue = ~is_compression
        dialogue_start = first_compression_position
    else:
        raise ValueError(f"dialogue_view={dialogue_view!r} does not exist; choose 'compressed' or 'full'.")
    is_seen_by_dialogue = F.pad(is_seen_by_dialogue, (0, dialogue_input_ids.shape[1]), value=True)  # its own past

    input_ids = torch.cat([inputs["input_ids"], dialogue_input_ids], dim=1)
    mask = create_causal_mask(
        config=config,
        inputs_embeds=torch.empty(*input_ids.shape, 1, dtype=dtype, device=input_ids.device),
        attention_mask=torch.cat([inputs["attention_mask"], dialogue_attention_mask], dim=1),
        and_mask_function=lambda row, head, query, key: (query < input_length) | is_seen_by_dialogue[row, key],
        **{cache_argument(create_causal_mask): None},
    )
    if mask is None or len(mask.shape) != 4:
        raise ValueError("This attention implementation takes no mask; choose sdpa or eager.")
    dialogue_positions = (dialogue_start + count_positions(dialogue_attention_mask)).expand(3, -1, -1)
    position_ids = torch.cat([inputs["position_ids"], dialogue_positions], dim=2)
    return {**inputs, "input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids}


__all__ = ["add_dialogue", "count_positions", "find_compression_tokens"]
