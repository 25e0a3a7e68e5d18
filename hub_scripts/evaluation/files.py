"""Files of `coma evaluate`: scores of a set as soon as it is finished, and results.json with their means.

Their names and keys are those of the MMEB leaderboard: `image/ImageNet-1K_score.json`, and in results.json `metadata`
and `metrics`, by modality and set. What is ours besides: `settings` of every set, by which an interrupted run knows
what it may keep, `versions`, `commit`, and `means`.
"""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.terminal import one_line
from trainers.files import read_record, write_record


if TYPE_CHECKING:
    from hub_scripts.evaluation.data import NamedSet
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["check_folder", "git_commit", "is_finished", "model_settings", "write_results", "write_scores"]


def model_settings(name: str, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    """Everything that scores depend on besides the data, the model as it is known on other machines too."""
    from hub_scripts.hub.golden import identity
    from trainers.data.mmeb.sets import PAGE_INSTRUCTION, QUERY_INSTRUCTION

    return {
        **identity(name, model, processor),
        "embedding_dimension": model.config.hidden_size,
        "prompts": {"visdoc query": QUERY_INSTRUCTION, "visdoc page": PAGE_INSTRUCTION, "image": "those of the data"},
    }


def is_finished(folder: Path, one: "NamedSet", settings: dict[str, Any]) -> bool:
    """
    Whether the scores of a set are there.

    Raises:
        ValueError: if they are there and were made with other settings, which are named.
    """
    file = _file(folder, one)
    if not file.exists():
        return False
    _compare(file, _scores_in(file, one)["settings"], settings)
    return True


def check_folder(folder: Path, sets: list["NamedSet"], settings: dict[str, Any]) -> None:
    """
    Looks at what is in a folder before anything is computed.

    Args:
        folder (`Path`): where results will be written.
        sets (`list[NamedSet]`): what will be evaluated.
        settings (`dict`): of [`model_settings`].

    Raises:
        ValueError: for results that are not of this command, that are damaged, or that were made with other settings.
    """
    for one in sets:
        if (file := _file(folder, one)).exists():
            theirs = _scores_in(file, one)["settings"]
            _compare(file, {name: value for name, value in theirs.items() if name != "data"}, settings)
    if (file := folder / "results.json").exists():
        metadata = read_record(file, "results.json of coma evaluate").get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("settings"), dict):
            raise ValueError(f"{file} is there already and is not of coma evaluate: give another --output.")
        _compare(file, metadata["settings"], settings)


def _compare(file: Path, theirs: dict[str, Any], settings: dict[str, Any]) -> None:
    ours = json.loads(json.dumps(settings))
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise ValueError(f"{file} was made with another {', '.join(other)}: remove it, or give another --output.")


def _scores_in(file: Path, one: "NamedSet") -> dict[str, Any]:
    scores = read_record(file, "file of scores of coma evaluate")
    if not isinstance(scores.get("settings"), dict) or not isinstance(scores.get(one.metric), int | float):
        raise ValueError(f"{file} is there already and has no scores of coma evaluate: remove it, or write elsewhere.")
    return scores


def write_scores(folder: Path, one: "NamedSet", scores: dict[str, float], settings: dict[str, Any]) -> None:
    """Writes the scores of a set at once: a file that is there is whole."""
    _write(_file(folder, one), {**scores, "settings": settings, "versions": _versions(), "commit": git_commit()})


def write_results(folder: Path, sets: list["NamedSet"], settings: dict[str, Any], model: "ComaForEmbedding") -> str:
    """
    Puts the scores of all sets together.

    Args:
        folder (`Path`): where they are, and results.json will be.
        sets (`list[NamedSet]`): the sets, all of them finished.
        settings (`dict`): of [`model_settings`].
        model ([`ComaForEmbedding`]): the model.

    Returns:
        `str`: a table of the main scores and of the means.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for one in sets:
        scores = _scores_in(_file(folder, one), one)
        metrics.setdefault(one.modality, {})[one.name] = scores
    main_scores = {one.name: (one.metric, metrics[one.modality][one.name][one.metric]) for one in sets}
    means = {modality: _means(modality, main_scores) for modality in metrics if modality != "retrieval"}
    metadata = {
        "model_name": Path(settings["model"]).name,
        "model_backbone": model.config.backbone_config.model_type,
        "model_size": round(model.num_parameters() / 1e9, 3),
        "embedding_dimension": model.config.hidden_size,
        "max_length_tokens": settings["max_length"],
        "data_source": "Self-Reported",
        "report_generated_date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{"settings": settings, "versions": _versions(), "commit": git_commit()},
    }
    _write(folder / "results.json", {"metadata": metadata, "metrics": metrics, "means": means})
    skipped = {one_line(one.name): metrics[one.modality][one.name].get("rows_skipped", 0) for one in sets}
    table = [_table(main_scores, means)]
    table += [
        f"{one_line(name)}: {rows} bad rows were left out of its scores" for name, rows in skipped.items() if rows
    ]
    return "\n".join([*table, f"results  {one_line(folder / 'results.json')}"])


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if files were changed; none if the package is installed."""
    here = Path(__file__).resolve()
    try:
        tracked = _git(here, "ls-files", "--error-unmatch", here.name)
        return tracked and _git(here, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except FileNotFoundError:  # there is no git
        return None


def _git(here: Path, *words: str) -> str | None:
    done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    from hub_scripts.cli import coma_version
    from hub_scripts.hub.clean_load import LIBRARIES, library_versions

    return {"coma": coma_version(), **library_versions((*LIBRARIES, "datasets"))}


def _means(modality: str, main_scores: dict[str, tuple[str, float]]) -> dict[str, float | None]:
    """Plain means over the sets of each group, and none where one of its sets was not evaluated."""
    from trainers.data.mmeb.sets import groups_of

    means: dict[str, float | None] = {}
    for group, names in groups_of(modality).items():
        scores = [main_scores[name][1] for name in names if name in main_scores]
        means[group] = sum(scores) / len(names) if len(scores) == len(names) else None
    return means


def _table(main_scores: dict[str, tuple[str, float]], means: dict[str, dict[str, float | None]]) -> str:
    rows = [(one_line(name), metric, score) for name, (metric, score) in main_scores.items()]
    for modality, groups in means.items():
        rows += [(f"{modality}: {group}", "mean", score) for group, score in groups.items() if score is not None]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {metric:<13}  {100 * score:5.1f}" for name, metric, score in rows)


def _file(folder: Path, one: "NamedSet") -> Path:
    return folder / one.modality / f"{one.name}_score.json"


def _write(file: Path, content: dict[str, Any]) -> None:
    write_record(file, content)
