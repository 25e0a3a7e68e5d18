"""Files of `coma evaluate`: scores of a set as soon as it is finished, and results.json with their means.

Their names and keys are those of the MMEB leaderboard: `image/ImageNet-1K_score.json`, and in results.json `metadata`
and `metrics`, by modality and set. What is ours besides: `settings` of every set, by which an interrupted run knows
what it may keep, `versions`, `commit`, and `means`. Where several vectors are compared, the scores of a set have their
own by budget, under `vectors`, and so has results.json means.
"""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.evaluation.data import OWN, NamedSet
from hub_scripts.hub.clean_load import LIBRARIES, library_versions
from hub_scripts.hub.golden import identity
from trainers import __version__
from trainers.data.mmeb.sets import PAGE_INSTRUCTION, QUERY_INSTRUCTION, SETS, groups_of
from trainers.files import read_record, write_record


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["ALL", "ResultsFolder", "git_commit", "main_metric", "model_settings"]

ALL = "MMEB-V2"  # beside the modalities, the mean of all their sets


def model_settings(name: str, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    """Everything that scores depend on besides the data, the model as it is known on other machines too."""
    return {
        **identity(name, model, processor),
        "embedding_dimension": model.config.hidden_size,
        "prompts": {"visdoc query": QUERY_INSTRUCTION, "visdoc page": PAGE_INSTRUCTION, "image": "those of the data"},
    }


class ResultsFolder:
    """
    A folder of results, none of which was made with other settings.

    Args:
        folder (`str` or `Path`): where they are written.
        settings (`dict`): of [`model_settings`], and of the evaluation.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = Path(folder), json.loads(json.dumps(settings))

    def check(self, sets: list[NamedSet]) -> None:
        """
        Looks at what is there before anything is computed.

        Raises:
            ValueError: for results that are not of this command, that are damaged, or that were made with other
                settings, which are named.
        """
        for named_set in sets:
            self.read_scores(named_set)
        file = self.folder / "results.json"
        if file.exists():
            metadata = read_record(file, "results.json of coma evaluate").get("metadata")
            if not isinstance(metadata, dict) or not isinstance(metadata.get("settings"), dict):
                raise ValueError(f"{file} is there already and is not of coma evaluate: give another --output.")
            _compare(file, metadata["settings"], self.settings)

    def read_scores(self, named_set: NamedSet, digest: str | None = None) -> dict[str, Any] | None:
        """
        The scores of a set, `None` if they are not there.

        Args:
            named_set ([`NamedSet`]): the set.
            digest (`str`, *optional*): of its data, which must be those that were scored.

        Raises:
            ValueError: as in `check`.
        """
        file = self._file(named_set)
        if not file.exists():
            return None
        scores = read_record(file, "file of scores of coma evaluate")
        settings = scores.get("settings")
        if not isinstance(settings, dict) or not isinstance(scores.get(named_set.metric), int | float):
            raise ValueError(
                f"{file} is there already and has no scores of coma evaluate: remove it, or write elsewhere."
            )
        theirs = {**settings, **{name: scores.get(name) for name in named_set.shown}}
        _compare(file, theirs, {**self.settings, "data": digest or settings.get("data"), **named_set.shown})
        return scores

    def write_scores(self, named_set: NamedSet, scores: dict[str, float], digest: str) -> None:
        """Writes the scores of a set at once: a file that is there is whole."""
        settings = {**self.settings, "data": digest}
        write_record(self._file(named_set), {**scores, **named_set.shown, "settings": settings, **_made_by()})

    def write_results(self, sets: list[NamedSet], model: "ComaForEmbedding") -> dict[str, Any]:
        """
        Puts the scores of all sets, which are there, together.

        Args:
            sets (`list[NamedSet]`): the sets.
            model ([`ComaForEmbedding`]): the model.

        Returns:
            `dict`: what results.json has.
        """
        metrics: dict[str, dict[str, Any]] = {}
        for named_set in sets:
            metrics.setdefault(named_set.modality, {})[named_set.name] = self.read_scores(named_set)
        metadata = {
            "model_name": Path(self.settings["model"]).name,
            "model_backbone": model.config.backbone_config.model_type,
            "model_size": round(model.num_parameters() / 1e9, 3),
            "embedding_dimension": model.config.hidden_size,
            "max_length_tokens": self.settings["max_length"],
            "data_source": "Self-Reported",
            "report_generated_date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": self.settings,
            **_made_by(),
        }
        results = {"metadata": metadata, "metrics": metrics, "means": _all_means(metrics)}
        if budgets := self.settings.get("vectors"):
            results["vectors"] = {budget: {"means": _all_means(metrics, budget)} for budget in budgets}
        write_record(self.folder / "results.json", results)
        return results

    def _file(self, named_set: NamedSet) -> Path:
        return self.folder / named_set.modality / f"{named_set.name}_score.json"


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if files were changed; none if the package is installed."""
    try:
        is_tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
        return is_tracked and _git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except FileNotFoundError:  # there is no git
        return None


def _git(*words: str) -> str | None:
    folder = Path(__file__).resolve().parent
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _made_by() -> dict[str, Any]:
    versions = {"coma": __version__, **library_versions((*LIBRARIES, "datasets"))}
    return {"versions": versions, "commit": git_commit()}


def _compare(file: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise ValueError(f"{file} was made with another {', '.join(other)}: remove it, or give another --output.")


def main_metric(name: str) -> str:
    """The score of a set that counts."""
    return SETS[name].metric if name in SETS else "hit@1"


def _all_means(metrics: dict[str, dict[str, Any]], budget: str | None = None) -> dict[str, dict[str, float | None]]:
    """Of each modality of MMEB, and of all 78 sets; of the one vector, or of a budget of several."""
    of_budget = {
        modality: {name: scores if budget is None else scores["vectors"][budget] for name, scores in sets.items()}
        for modality, sets in metrics.items()
    }
    of_budget.pop(OWN, None)
    means = {modality: _means(groups_of(modality), sets) for modality, sets in of_budget.items()}
    together = {name: scores for sets in of_budget.values() for name, scores in sets.items()}
    return {**means, **({ALL: _means({"overall": list(SETS)}, together)} if means else {})}


def _means(groups: dict[str, list[str]], scores: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Plain means over the sets of each group, and none where one of its sets was not evaluated."""
    means: dict[str, float | None] = {}
    for group, names in groups.items():
        main_scores = [scores[name][main_metric(name)] for name in names if name in scores]
        means[group] = sum(main_scores) / len(names) if len(main_scores) == len(names) else None
    return means
