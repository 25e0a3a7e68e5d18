"""Rows of the compression tokens, in every table of the language model that is indexed by token ids."""

import torch
from torch import nn
from transformers import PreTrainedModel


__all__ = ["make_rows", "token_tables"]


def token_tables(backbone: PreTrainedModel) -> list[str]:
    """
    Names of the tables with a row for every token: the input embedding, and where a family has one, a second table
    that every layer draws from. They are told from tables of positions by their number of rows, which the
    configuration names (`vocab_size`, `vocab_size_per_layer_input`).
    """
    config = backbone.config.get_text_config().to_dict()
    sizes = {size for name, size in config.items() if name.startswith("vocab_size")}
    embedding = backbone.get_input_embeddings()
    in_decoder = set(backbone.get_decoder().modules())
    return [
        name
        for name, module in backbone.named_modules()
        if module is embedding
        or (isinstance(module, nn.Embedding) and module in in_decoder and module.num_embeddings in sizes)
    ]


def make_rows(backbone: PreTrainedModel, start: int, stop: int) -> None:
    r"""
    Gives the tokens from `start` to `stop` rows with the mean and the deviation of those before.

    Spare rows are taken; where there are too few, all tables grow, and an untied output head too. (Its new rows are
    drawn by transformers. They belong to tokens that are never an answer.)

    Args:
        backbone (`PreTrainedModel`): a vision-language model of transformers; its `config` follows.
        start (`int`): number of tokens that have a row.
        stop (`int`): number of tokens that need one.

    Raises:
        ValueError: if a table cannot have these rows.
    """
    if start == stop:
        return
    names = token_tables(backbone)
    before = {name: backbone.get_submodule(name).num_embeddings for name in names}
    if stop > min(before.values()) and len(set(before.values())) == 1:
        backbone.resize_token_embeddings(stop, mean_resizing=False)
        if hasattr(backbone.config, "vocab_size"):  # beside that of the language model, which is set now
            backbone.config.vocab_size = stop
    for name in names:
        table = backbone.get_submodule(name)
        if table.num_embeddings < stop:
            raise ValueError(
                f"{name} has {table.num_embeddings} rows and cannot grow with the vocabulary to {stop}: the tables of "
                f"this backbone differ in length ({before}). Use a tokenizer whose spare tokens have rows in all."
            )
        _draw_rows(table.weight, min(start, before[name]), start, stop)


@torch.no_grad()
def _draw_rows(weight: nn.Parameter, known: int, start: int, stop: int) -> None:
    """Rows from `start` to `stop` get the mean and the deviation of the known ones, the same every time."""
    columns = weight[:known].split(1024, dim=1)  # in float32 a per-layer table would need many GB
    std, mean = (torch.cat(parts) for parts in zip(*(torch.std_mean(c.float(), dim=0) for c in columns), strict=True))
    noise = torch.randn(stop - start, len(mean), generator=torch.Generator().manual_seed(0))
    weight[start:stop] = (mean + std * noise.to(weight.device)).to(weight.dtype)
