"""The section of a model card on training: what the record that training leaves says, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from hub_scripts.hub.markdown import plain, row


__all__ = ["NOT_RECORDED", "NOT_TRAINED", "training_section", "used_instruction"]

NOT_TRAINED = "Nothing was trained: these are the weights of the backbone and freshly drawn compression tokens."
NOT_RECORDED = "Not recorded: there is no `coma_training.json`, as `coma pretrain` and `coma finetune` leave it."
TITLES = {
    "compression": "compression: dialogues are answered from the compression tokens alone",
    "contrastive": "matching: InfoNCE over queries and documents",
    "unknown": "earlier stages are not known: their record could not be fetched",
}
# Settings that are prompts: how inputs were worded in training, and should be in use.
PROMPTS = ("compression_instruction", "instructions")
# What has a row of its own, or is not for the card.
SHOWN_APART = {
    *("stage", "layout", "version", "settings", "adapter", "last_log", "libraries", "steps", "epochs"),
    *("rows_per_step", "rows_skipped", "weights_of_step", "processes"),
    *(
        "data",
        "data_digest",
        "data_rows",
        "eval_data",
        "eval_data_digest",
        "eval_data_rows",
        "model",
        "model_revision",
    ),
    *("num_compression_tokens", "pixels", "max_length", "dtype", "mixed_precision"),
}
# The first layout kept what was typed, or would have been: of the model made before, or of emoji, it may be untrue.
TYPED = ("num_compression_tokens", "min_pixels", "max_pixels", "dtype", "cache_pixels")


def training_section(record: Sequence[Mapping[str, Any]] | None) -> str:
    """
    Markdown with a table for each stage, empty without a record.

    Args:
        record (`Sequence[Mapping]`, *optional*): see [`read_training_record`].
    """
    if record is None:
        return ""
    return "\n\n".join(_stage(number, stage) for number, stage in enumerate(record, 1)) or NOT_TRAINED


def used_instruction(record: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether a stage says that dialogues followed the instruction of the processor."""
    return any(stage.get("settings", {}).get("compression_instruction") for stage in record or ())


def _stage(number: int, stage: Mapping[str, Any]) -> str:
    rows = _sources(stage) | (_facts(stage) if "layout" in stage else {})
    untrue = () if "layout" in stage else TYPED + (() if stage.get("data") == "emoji" else ("turns",))
    rows |= {name: value for name, value in stage.items() if name not in {*SHOWN_APART, *untrue}}
    if "steps" in stage:
        rows |= _course(stage)
    table = "\n".join(row(plain(name), _cell(value)) for name, value in rows.items())
    title = TITLES.get(stage["stage"], plain(stage["stage"]))
    return f"### {number}. {title}\n\n| | |\n|---|---|\n{table}"


def _sources(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Model and data by name and by what they hold."""
    rows = {}
    if "model" in stage:
        revision = stage.get("model_revision")
        rows["model"] = f"{stage['model']}{f' at {revision}' if revision else ''}"
    for name in ("data", "eval_data"):
        if name in stage:
            count, digest = stage.get(f"{name}_rows"), stage.get(f"{name}_digest")
            rows[name] = ", ".join([str(stage[name]), *([f"{count} rows"] if count else []), *filter(None, [digest])])
    return rows


def _facts(stage: Mapping[str, Any]) -> dict[str, Any]:
    least, most = stage["pixels"]
    mixed = stage.get("mixed_precision", "no")
    return {
        "compression tokens (K)": stage["num_compression_tokens"],
        "pixels of an image": f"{least} to {most}",
        "limit of an input": f"{stage['max_length']} tokens" if stage.get("max_length") else "none",
        "weights": f"{stage['dtype']}{'' if mixed == 'no' else f', computed in {mixed}'}",
    }


def _course(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What was done, and how it ended."""
    settings, adapter = stage.get("settings", {}), stage.get("adapter")
    at_most = "at most " if "max_tokens_per_batch" in settings else ""
    processes = f" on {stage['processes']} processes" if stage.get("processes", 1) > 1 else ""
    epochs = f", {stage['epochs']:.2f} epochs" if stage.get("epochs") is not None else ""
    rows = {"steps": f"{stage['steps']} of {at_most}{stage.get('rows_per_step', '?')} rows{processes}{epochs}"}
    if "weights_of_step" in stage:
        rows["weights of step"] = f"{stage['weights_of_step']}, the best of the evaluations"
    if "rows_skipped" in stage:
        rows["rows left out"] = f"{stage['rows_skipped']}, each time that they came up"
    rows["adapter"] = _inline(adapter) if adapter else "none: weights were trained themselves"
    rows |= {f"prompt: {name}": settings[name] for name in PROMPTS if name in settings}
    rows["settings"] = _inline({name: value for name, value in settings.items() if name not in PROMPTS})
    if stage.get("last_log"):
        rows["at the end"] = _inline(stage["last_log"])
    made_with = _inline(stage.get("libraries", {}), " ")
    return rows | {"made with": f"coma-embedding {stage.get('version', '?')}, {made_with}"}


def _inline(values: Mapping[str, Any], between: str = "=") -> str:
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name}{between}{value}" for name, value in numbers.items())


def _cell(value: Any) -> str:
    value = "none" if value is None else _inline(value, ": ") if isinstance(value, Mapping) else value
    return plain(str(value).replace("\n", "\\n"))
