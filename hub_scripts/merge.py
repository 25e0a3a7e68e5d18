"""Folds an adapter into the weights of its base: a complete CoMa folder that needs no PEFT.

The sum is made in fp32 and rounded once, to the precision of the base or to --dtype. At the end the embeddings of a
text and an image are compared before and after.

  coma merge outputs/checkpoint-1500 my-coma
  coma merge outputs/checkpoint-1500 my-coma --base ./moved-base
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hub_scripts.common.arguments import DTYPES, command_parser


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main", "merge"]


def main(argv: list[str]) -> int:
    """Runs `coma merge`; returns the exit code."""
    parser = command_parser("merge", __doc__)
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter, a checkpoint of training")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to be made")
    parser.add_argument("--base", help="the base, if it is no longer where the adapter says")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the base")
    arguments = parser.parse_args(argv)

    from hub_scripts.common.folders import new_folder, save_model

    with new_folder(arguments.out) as folder:
        model, processor, base, difference = merge(arguments.adapter, arguments.base, arguments.dtype)
        save_model(model, processor, folder, trained_in=Path(arguments.adapter))
    print(f"base     {base}")
    print(f"adapter  {arguments.adapter}")
    print(f"merged   {arguments.out} ({str(model.dtype).removeprefix('torch.')})")
    print(f"largest difference of an embedding, before and after: {difference:.1e}")
    return 0


def merge(
    adapter: str, base: str | None = None, dtype: str = "auto"
) -> tuple["ComaForEmbedding", "ComaProcessor", str, float]:
    """
    The model with an adapter folded into its weights, on the CPU.

    Args:
        adapter (`str`): folder of the adapter.
        base (`str`, *optional*): its base, if that is no longer where the adapter says.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights, by default that of the base.

    Returns:
        `tuple`: the model, its processor, the name of the base, and the largest difference of an embedding.

    Raises:
        ValueError: if the merged model embeds differently.
    """
    import torch
    from transformers import AutoConfig

    from hub_scripts.common.loading import load_adapter, load_processor
    from hub_scripts.hub.golden import ANY_PRECISION, TOLERANCES, distances
    from trainers.adapters import merge_adapter

    adapted, base = load_adapter(adapter, base, dtype="float32")
    processor = load_processor(adapter, base)
    before = _probe(adapted, processor)
    precision = AutoConfig.from_pretrained(base).dtype if dtype == "auto" else dtype
    precision = getattr(torch, precision) if isinstance(precision, str) else precision or torch.float32
    model = merge_adapter(adapted).to(precision)
    difference = max(distances(_probe(model, processor), before))
    if difference > (TOLERANCES["float32"] if precision == torch.float32 else ANY_PRECISION):
        raise ValueError(
            f"In {precision} the merged model embeds differently, by {difference:.1e}: try another --dtype."
        )
    return model, processor, base, difference


def _probe(model: "ComaForEmbedding", processor: "ComaProcessor") -> "Tensor":
    """Embeddings of texts and images."""
    import torch

    from hub_scripts.hub.golden import golden_inputs

    with torch.no_grad():
        return model(**processor.process(list(golden_inputs().values()))).embeddings.float()
