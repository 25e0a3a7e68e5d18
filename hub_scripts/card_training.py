"""The section of a model card on training: what the record that training leaves says, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any


__all__ = ["training_section"]

TITLES = {
    "compression": "compression: dialogues are answered from the compression tokens alone",
    "contrastive": "matching: InfoNCE over queries and documents",
}
# Settings that are prompts: how inputs were worded in training, and should be in use.
PROMPTS = ("compression_instruction", "instructions")


def training_section(record: Sequence[Mapping[str, Any]]) -> str:
    """
    Markdown with a table for each stage, empty without any.

    Args:
        record (`Sequence[Mapping]`): see [`read_training_record`].
    """
    return "\n\n".join(_stage(number, stage) for number, stage in enumerate(record, 1))


def _stage(number: int, stage: Mapping[str, Any]) -> str:
    known = {"stage", "version", "settings", "adapter", "last_log", "libraries", "steps", "epochs", "rows_per_step"}
    rows = {name: value for name, value in stage.items() if name not in known}
    epochs = f", {stage['epochs']:.2f} epochs" if stage["epochs"] is not None else ""
    rows["steps"] = f"{stage['steps']} of {stage['rows_per_step']} rows{epochs}"
    rows["adapter"] = _inline(stage["adapter"]) if stage["adapter"] else "none: weights were trained themselves"
    rows |= {f"prompt: {name}": stage["settings"][name] for name in PROMPTS if name in stage["settings"]}
    rows["settings"] = _inline({name: value for name, value in stage["settings"].items() if name not in PROMPTS})
    rows["at the end"] = _inline(stage["last_log"])
    rows["made with"] = f"coma-embedding {stage['version']}, {_inline(stage['libraries'], ' ')}"
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"### {number}. {TITLES.get(stage['stage'], stage['stage'])}\n\n| | |\n|---|---|\n{table}"


def _inline(values: Mapping[str, Any], between: str = "=") -> str:
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name}{between}{value}" for name, value in numbers.items())


def _cell(value: Any) -> str:
    return str(value).replace("\n", "\\n").replace("|", "\\|")
