"""Folds an adapter into the weights of its base: a complete CoMa folder that needs no PEFT.

The sum is made in fp32 and rounded once, to the precision of the base or to --dtype. At the end the embeddings of a
text and an image are compared before and after.

  coma merge outputs/checkpoint-1500 my-coma
  coma merge outputs/checkpoint-1500 my-coma --base ./moved-base
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub_scripts.common.arguments import DTYPES, Dtype, command_parser
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["MergedModel", "main", "merge_model"]


def main(argv: list[str]) -> int:
    """Runs `coma merge`; returns the exit code."""
    parser = command_parser("merge", __doc__)
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter, a checkpoint of training")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to be made")
    parser.add_argument("--base", help="the base, if it is no longer where the adapter says")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the base")
    arguments = parser.parse_args(argv)

    merged = merge_model(**vars(arguments))
    print(f"base     {one_line(merged.base)}")
    print(f"adapter  {one_line(arguments.adapter)}")
    print(f"merged   {one_line(arguments.out)} ({str(merged.model.dtype).removeprefix('torch.')})")
    print(f"largest difference of an embedding, before and after: {merged.difference:.1e}")
    return 0


class MergedModel(NamedTuple):
    """
    A model that an adapter was folded into.

    Args:
        model ([`ComaForEmbedding`]): on the CPU.
        processor ([`ComaProcessor`]): that of the adapter, or of its base.
        base (`str`): name of the base.
        difference (`float`): how far an embedding is from what it was before, as a share of its length.
    """

    model: "ComaForEmbedding"
    processor: "ComaProcessor"
    base: str
    difference: float


def merge_model(
    adapter: str | Path, out: str | Path | None = None, *, base: str | None = None, dtype: Dtype = "auto"
) -> MergedModel:
    """
    Folds an adapter into the weights of its base.

    Args:
        adapter (`str` or `Path`): folder of the adapter.
        out (`str` or `Path`, *optional*): folder to be made of the model. By default nothing is written.
        base (`str`, *optional*): its base, if that is no longer where the adapter says.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights, by default that of the base.

    Returns:
        [`MergedModel`]

    Raises:
        ValueError: if there is no adapter or no base, if there is something at `out` already, and if the merged model
            embeds differently.

    Example:

        >>> from hub_scripts.merge import merge_model
        >>> merged = merge_model("outputs/checkpoint-1500", "my-coma", dtype="bfloat16")
        >>> print(merged.base, merged.difference)
    """
    from hub_scripts.common.folders import new_folder, save_model

    if out is None:
        return _merge(str(adapter), base, dtype)
    with new_folder(Path(out)) as folder:
        merged = _merge(str(adapter), base, dtype)
        save_model(merged.model, merged.processor, folder, trained_in=Path(adapter))
    return merged


def _merge(adapter: str, base: str | None, dtype: str) -> MergedModel:
    import torch
    from transformers import AutoConfig

    from hub_scripts.common.loading import load_adapter, load_processor
    from hub_scripts.hub.golden import ANY_PRECISION, TOLERANCES, distances, golden_embeddings
    from trainers.adapters import merge_adapter

    adapted, base = load_adapter(adapter, base, dtype="float32")
    processor = load_processor(adapter, base)
    before = golden_embeddings(adapted, processor)
    precision = AutoConfig.from_pretrained(base).dtype if dtype == "auto" else dtype
    precision = getattr(torch, precision) if isinstance(precision, str) else precision or torch.float32
    model = merge_adapter(adapted)
    for parameter in model.parameters():  # not `model.to`: the frequencies of positions stay in fp32, as when it loads
        parameter.data = parameter.data.to(precision)
    difference = max(distances(golden_embeddings(model, processor), before))
    if difference > (TOLERANCES["float32"] if precision == torch.float32 else ANY_PRECISION):
        raise ValueError(
            f"In {precision} the merged model embeds differently, by {difference:.1e}: try another --dtype."
        )
    return MergedModel(model, processor, base, difference)
