"""The modules by which stock sentence-transformers, and engines that read its files, pool a plain backbone rightly.

`modules.json` names them, in this order:

| pooling | modules |
|---|---|
| last | Transformer, Pooling by the last token, Normalize |
| mean | Transformer, WordWeights, Pooling by a sum of weights, Normalize |

Without `normalize` the last one is left out. WordWeights weighs states by the ids of their tokens: 1/K at the K
compression tokens and 0 elsewhere. The weights of a row add up to 1, so the weighted sum is the mean, and
`mean_sqrt_len_tokens`, which divides by the root of what they add up to, gives it as it is. Plain `mean` would, too;
but an engine that knows it, and knows no WordWeights, would average all tokens and say nothing.

The names of the modules are those of before sentence-transformers 5.4: it still takes them, and vLLM looks for them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_coma.sentence_transformers_coma import FILES


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_coma import ComaConfig, ComaProcessor


__all__ = ["write_stock_modules"]

STATES = {"method": "forward", "method_output_name": "last_hidden_state"}
TRANSFORMER = {
    "transformer_task": "feature-extraction",
    # With "message" there, whatever is given becomes chat messages first, and the template ends them.
    "modality_config": {"text": STATES, "image": STATES, "message": {**STATES, "format": "structured"}},
    "module_output_name": "token_embeddings",
    "unpad_inputs": False,
}
# All that a row begins and ends with is in the template. transformers says so by itself where that begins with BOS,
# and does not want to be told twice.
NOTHING_ADDED = {"processing_kwargs": {"text": {"add_special_tokens": False}}}


def write_stock_modules(folder: Path, config: "ComaConfig", processor: "ComaProcessor") -> None:
    """
    Writes `modules.json` and what it names into the folder of a plain backbone.

    Args:
        folder (`Path`): where the backbone is saved, with a chat template that ends with the compression tokens.
        config ([`ComaConfig`]): of the model that it was the backbone of: how it pools, and whether it normalises.
        processor ([`ComaProcessor`]): whose tokenizer has the compression tokens.
    """
    modules = {"": ("Transformer", None)}
    if config.pooling == "mean":
        modules["1_WordWeights"] = ("WordWeights", _weights(config, processor.tokenizer))
    modules[f"{len(modules)}_Pooling"] = ("Pooling", _pooling(config))
    if config.normalize:
        modules[f"{len(modules)}_Normalize"] = ("Normalize", {})
    rows = []
    for index, (path, (name, settings)) in enumerate(modules.items()):
        rows.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"})
        if settings is not None:
            (folder / path).mkdir()
            _write(folder / path / "config.json", settings)
    _write(folder / "modules.json", rows)
    _write(folder / "sentence_bert_config.json", TRANSFORMER | ({} if processor.head_ids else NOTHING_ADDED))
    name = "config_sentence_transformers.json"
    _write(folder / name, FILES[name])


def _pooling(config: "ComaConfig") -> dict[str, Any]:
    if config.pooling == "mean":
        return {"embedding_dimension": config.hidden_size, "pooling_mode": "mean_sqrt_len_tokens"}
    # As vLLM reads it.
    return {"word_embedding_dimension": config.hidden_size, "pooling_mode_lasttoken": True, "include_prompt": True}


def _weights(config: "ComaConfig", tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Of all rows of the table of embeddings, named by their tokens; those of none, which no text has, by nothing."""
    ids = config.compression_token_ids
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spare = config.get_text_config().vocab_size - len(names)
    weights = {names[index]: 1 / len(ids) for index in ids}
    return {"vocab": [*names, *[""] * spare], "word_weights": weights, "unknown_word_weight": 0.0}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
