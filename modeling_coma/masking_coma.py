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
from transformers import PreTrainedModel
from transformers.masking_utils import create_masks_for_generate

from .backbone_coma import count_positions, first_axis, text_positions, token_types, visual_types
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


def add_dialogue(
    inputs: dict,
    columns: Tensor,
    dialogue_input_ids: Tensor,
    dialogue_attention_mask: Tensor,
    dialogue_view: str,
    backbone: PreTrainedModel,
) -> dict:
    r"""
    Inputs of the backbone for one pass over an input and its dialogue.

    Args:
        inputs (`dict`): those of the input alone: `input_ids`, `attention_mask`, `position_ids` and what else it has.
        columns (`torch.LongTensor` of shape `(batch_size, K)`): columns of its compression tokens.
        dialogue_input_ids, dialogue_attention_mask (`torch.LongTensor` of shape `(batch_size, length)`): the dialogue.
        dialogue_view (`str`): `"compressed"` or `"full"`, as drawn above.
        backbone (`PreTrainedModel`): its attention implementation decides the form of the mask.
    Returns the same with the dialogue behind the input, and a mask of shape `(batch_size, 1, total, total)`, or one
    for each kind of layers (sliding windows).
    Raises `ValueError` for another view, and where the attention implementation takes no such mask.
    """
    input_length = inputs["input_ids"].shape[1]
    inputs, places, is_seen = join_dialogue(
        inputs, columns, dialogue_input_ids, dialogue_attention_mask, dialogue_view, backbone
    )
    mask = _masks(backbone, inputs, inputs["attention_mask"], input_length, places, is_seen)
    return {**inputs, "attention_mask": mask}


def join_dialogue(
    inputs: dict,
    columns: Tensor,
    dialogue_input_ids: Tensor,
    dialogue_attention_mask: Tensor,
    dialogue_view: str,
    backbone: PreTrainedModel,
) -> tuple[dict, Tensor, Tensor]:
    """The same before the mask is made: its `attention_mask`, where the tokens stand, and what of them the dialogue
    sees are of shape `(batch_size, total)`."""
    input_places = count_positions(inputs["attention_mask"])
    first_compression_place = input_places.gather(1, columns[:, :1])
    is_compression = torch.zeros_like(inputs["input_ids"], dtype=torch.bool).scatter(1, columns, True)
    first_compression_position = first_axis(inputs["position_ids"]).gather(1, columns[:, :1])
    if dialogue_view == "compressed":
        is_seen_by_dialogue = is_compression
        steps = columns.shape[1]
    elif dialogue_view == "full":
        is_seen_by_dialogue = ~is_compression
        steps = 0
    else:
        raise ValueError(f"dialogue_view={dialogue_view!r} does not exist; choose 'compressed' or 'full'.")
    is_seen_by_dialogue = F.pad(is_seen_by_dialogue, (0, dialogue_input_ids.shape[1]), value=True)  # its own past

    mask = torch.cat([inputs["attention_mask"], dialogue_attention_mask], dim=1)
    steps = steps + count_positions(dialogue_attention_mask)  # from the first compression token
    places = torch.cat([input_places, first_compression_place + steps], dim=1)
    positions = first_compression_position + steps
    dialogue = {"input_ids": dialogue_input_ids, "position_ids": text_positions(backbone, positions)}
    dialogue |= token_types(backbone, torch.zeros_like(dialogue_input_ids))
    inputs = inputs | {name: torch.cat([inputs[name], tensor], dim=-1) for name, tensor in dialogue.items()}
    return {**inputs, "attention_mask": mask}, places, is_seen_by_dialogue


def _masks(
    backbone: PreTrainedModel,
    inputs: dict,
    mask: Tensor,
    input_length: int,
    places: Tensor,
    is_seen_by_dialogue: Tensor,
) -> dict[str, Tensor] | Tensor:
    """The masks of a backbone, of each kind of its layers, of which the dialogue sees less. Its sliding windows count
    `places`, and no columns between them of padding or of what the dialogue does not see."""
    window = getattr(backbone.config.get_text_config(), "sliding_window", None)
    common = {
        "config": backbone.config,
        "inputs_embeds": torch.empty(*mask.shape, 1, dtype=backbone.dtype, device=mask.device),
        "attention_mask": mask,
        cache_argument(create_masks_for_generate): None,
    }

    def is_seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query < input_length) | is_seen_by_dialogue[row, key]

    def is_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (places[row, query] - places[row, key] < window)

    masks = create_masks_for_generate(
        **common, or_mask_function=is_near if window else None, and_mask_function=is_seen
    )
    of_layers = masks if isinstance(masks, dict) else {"": masks}
    if any(one is None or len(one.shape) != 4 for one in of_layers.values()):
        raise ValueError("This attention implementation takes no mask; choose sdpa or eager.")
    own = getattr(type(backbone), "create_masks_for_generate", None)  # of images that look at themselves both ways
    if own is not None:
        types = token_types(backbone, visual_types(backbone, inputs["input_ids"]))
        of_input = own(**common, position_ids=inputs["position_ids"], **types)
        for kind, one in of_layers.items():
            if of_input[kind] is not None:
                one[:, :, :input_length] = of_input[kind][:, :, :input_length]
    return masks if len(of_layers) > 1 else next(iter(of_layers.values()))


__all__ = ["add_dialogue", "find_compression_tokens", "join_dialogue"]
