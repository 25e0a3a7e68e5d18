"""Results for a model card, from files that an evaluation has written."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["Score", "read_results", "results_table"]

LAYOUT = '`results.json` of `coma evaluate`, or {"task": …, "dataset": …, "metrics": {name: number}}'
NOT_IN_A_TYPE = re.compile(r"[^\w.-]+")  # the Hub takes names of repositories
PROBE_TOLERANCE = 0.02  # between devices and precisions; another model is further away


@dataclass
class Score:
    """Metrics of one data set, and where they come from (command, commit, versions)."""

    task: str
    dataset: dict[str, str]  # name; type, split and revision where they are known
    metrics: dict[str, float]
    source: dict[str, Any] = field(default_factory=dict)

    def eval_results(self) -> list[EvalResult]:
        """Entries of the `model-index`."""
        split, revision = self.dataset.get("split"), self.dataset.get("revision")
        return [
            EvalResult(
                task_type=self.task,
                dataset_type=self.dataset.get("type", NOT_IN_A_TYPE.sub("-", self.dataset["name"])),
                dataset_name=self.dataset["name"],
                dataset_split=split,
                dataset_revision=revision,
                metric_type=name,
                metric_value=round(value, 6),
            )
            for name, value in self.metrics.items()
        ]


def read_results(files: Sequence[Path], model: "ComaForEmbedding", processor: "ComaProcessor") -> list[Score]:
    """
    Reads evaluation files.

    Args:
        files (`Sequence[Path]`): JSON of `coma evaluate`, or of others in the plain layout.
        model ([`ComaForEmbedding`]): the model that they must be of, where they say of which they are.
        processor ([`ComaProcessor`]): its processor.

    Returns:
        `list[Score]`

    Raises:
        ValueError: for a file that is none, has no numbers, or is of another model.
    """
    scores = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if isinstance(content, dict) and {"metadata", "metrics"} <= content.keys():
            _check_model(file, content["metadata"], model, processor)
            found = _of_evaluate(content)
        else:
            found = [_of_plain(file, one) for one in (content if isinstance(content, list) else [content])]
        if not any(score.metrics for score in found):
            raise ValueError(f"{file} has no metrics that are numbers; results are {LAYOUT}.")
        scores += found
    return scores


def results_table(scores: Sequence[Score]) -> str:
    """Markdown with a table of all scores and a line on each source; empty without scores."""
    if not scores:
        return ""
    names = list(dict.fromkeys(name for score in scores for name in score.metrics))
    lines = [f"| task | data | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for score in scores:
        cells = [f"{score.metrics[name]:.4f}" if name in score.metrics else "" for name in names]
        lines.append(f"| {score.task} | {score.dataset['name']} | {' | '.join(cells)} |")
    sources = dict.fromkeys(_source(score.source) for score in scores if score.source)
    return "\n".join(lines + [f"\n{source}" for source in sources])


def _of_evaluate(content: dict[str, Any]) -> list[Score]:
    metadata = content["metadata"]
    source = {name: metadata[name] for name in ("commit", "report_generated_date", "versions") if name in metadata}
    return [
        Score(f"{modality}-retrieval", {"name": name}, _numbers(values), {"command": "coma evaluate", **source})
        for modality, sets in content["metrics"].items()
        for name, values in sets.items()
    ]


def _of_plain(file: Path, content: Any) -> Score:
    if not isinstance(content, dict) or not {"task", "dataset", "metrics"} <= content.keys():
        raise ValueError(f"{file} is no file of results: those are {LAYOUT}.")
    task, dataset = content["task"], content["dataset"]
    task = task["type"] if isinstance(task, dict) else task
    dataset = dataset if isinstance(dataset, dict) else {"name": dataset}
    source = {name: content[name] for name in ("command", "commit", "versions") if name in content}
    return Score(task, dataset, _numbers(content["metrics"]), source)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Scores are fractions; whole numbers count rows."""
    return {name: value for name, value in values.items() if isinstance(value, float) and math.isfinite(value)}


def _check_model(file: Path, metadata: dict[str, Any], model: "ComaForEmbedding", processor: "ComaProcessor") -> None:
    from hub_scripts.identity import probe

    theirs = metadata.get("settings", {}).get("probe")
    if theirs is None:
        return
    ours = probe(model, processor)
    if max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > PROBE_TOLERANCE:
        name = metadata["settings"].get("model")
        raise ValueError(f"{file} has the results of another model, {name}: it embeds otherwise.")


def _source(source: dict[str, Any]) -> str:
    words = [f"`{source['command']}`"] if "command" in source else []
    words += [f"commit {source['commit']}"] if source.get("commit") else []
    words += [source["report_generated_date"]] if "report_generated_date" in source else []
    words += [" ".join(f"{name} {version}" for name, version in source.get("versions", {}).items())]
    return f"By {', '.join(word for word in words if word)}."
