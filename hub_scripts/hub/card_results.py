"""Results for a model card, from files that an evaluation has written."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

from hub_scripts.hub.golden import ANY_PRECISION, probe, same_embeddings
from hub_scripts.hub.markdown import code, plain, row
from hub_scripts.hub.public_names import public_text


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["Score", "read_results", "results_table"]

LAYOUT = '`results.json` of `coma evaluate`, or {"task": …, "dataset": …, "metrics": {name: number}}'
SOURCES = ("commit", "report_generated_date", "versions")
NOT_IN_A_TYPE = re.compile(r"[^\w.-]+")  # the Hub takes names of repositories


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
        slug = NOT_IN_A_TYPE.sub("-", self.dataset["name"]).strip("-") or "unnamed"
        return [
            EvalResult(
                task_type=self.task,
                dataset_type=self.dataset.get("type") or slug,
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
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if isinstance(content, dict) and {"metadata", "metrics"} <= content.keys():
            content = _of_evaluate(file, content, model, processor)
        found = [_score(file, result) for result in (content if isinstance(content, list) else [content])]
        if not any(score.metrics for score in found):
            raise ValueError(f"{file} has no metrics that are numbers; results are {LAYOUT}.")
        scores += found
    return scores


def results_table(scores: Sequence[Score]) -> str:
    """Markdown with a table of all scores and a line on each source; empty without scores."""
    if not scores:
        return ""
    names = list(dict.fromkeys(name for score in scores for name in score.metrics))
    lines = [row("task", "data", *map(plain, names)), "|---" * (len(names) + 2) + "|"]
    for score in scores:
        cells = [f"{score.metrics[name]:.4f}" if name in score.metrics else "" for name in names]
        lines.append(row(plain(score.task), plain(score.dataset["name"]), *cells))
    sources = dict.fromkeys(words for score in scores if (words := _source(score.source)))
    return "\n".join(lines + [f"\n{source}" for source in sources])


def _of_evaluate(
    file: Path, content: dict[str, Any], model: "ComaForEmbedding", processor: "ComaProcessor"
) -> list[dict[str, Any]]:
    """The results of `coma evaluate` in the plain layout, if they are of the model."""
    try:
        metadata, settings = content["metadata"], content["metadata"].get("settings", {})
        name, theirs = settings.get("model"), settings.get("probe")
        source = {"command": "coma evaluate", **{key: metadata.get(key) for key in SOURCES}}
        results = [
            {"task": _task(modality), "dataset": dataset, "metrics": dict(values), **source}
            for modality, sets in content["metrics"].items()
            for dataset, values in sets.items()
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not as `coma evaluate` leaves it: those files are {LAYOUT}.") from error
    if theirs is not None and not same_embeddings(theirs, probe(model, processor), ANY_PRECISION):
        raise ValueError(f"{file} has the results of another model, {name}: it embeds otherwise.")
    return results


def _task(modality: str) -> str:
    """Sets of one's own are of the modality "retrieval", a task already; MMEB has "image", "video", "visdoc"."""
    return modality if modality.endswith("retrieval") else f"{modality}-retrieval"


def _score(file: Path, result: Any) -> Score:
    if not isinstance(result, dict) or not {"task", "dataset", "metrics"} <= result.keys():
        raise ValueError(f"{file} is no file of results: those are {LAYOUT}.")
    task, dataset, metrics = result["task"], result["dataset"], result["metrics"]
    task = task.get("type") if isinstance(task, dict) else task
    dataset = dataset if isinstance(dataset, dict) else {"name": dataset}
    texts = [task, dataset.get("name"), *(dataset.get(name) or "" for name in ("type", "split", "revision"))]
    if not all(isinstance(text, str) for text in texts) or not isinstance(metrics, dict):
        raise ValueError(f"{file}: task and data set need names, and metrics are names with numbers: {LAYOUT}.")
    return Score(
        task=public_text(task),
        dataset={name: public_text(value) for name, value in dataset.items() if isinstance(value, str)},
        metrics={name: value for name, value in metrics.items() if _is_score(name, value)},
        source={name: result[name] for name in ("command", *SOURCES) if result.get(name)},
    )


def _is_score(name: str, value: Any) -> bool:
    """Scores are fractions; whole numbers count rows, and what chance would score is no score of the model."""
    return isinstance(value, float) and math.isfinite(value) and not name.startswith("chance_")


def _source(source: dict[str, Any]) -> str:
    """A sentence on where scores come from, empty if nothing is known."""
    versions = source.get("versions")
    words = [code(public_text(str(source["command"])))] if source.get("command") else []
    words += [f"commit {plain(source['commit'])}"] if source.get("commit") else []
    words += [plain(source["report_generated_date"])] if source.get("report_generated_date") else []
    if isinstance(versions, dict) and versions:
        words.append(plain(" ".join(f"{name} {version}" for name, version in versions.items())))
    return f"By {', '.join(words)}." if words else ""
