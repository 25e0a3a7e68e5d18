"""Where the video sets of MMEB-V2 are: in a clone of the benchmark, in folders as of other sets, on the Hub."""

from pathlib import Path
from typing import Any, NamedTuple

from datasets import load_dataset

from hub_scripts.evaluation.tables import rows_in
from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS, row_files, subset_videos
from trainers.evaluation.video_sets import FRAMES_SHOWN


__all__ = ["Footage", "video_part", "video_rows", "video_rows_on_hub"]

TASKS = "video-tasks"  # the folder of a clone of the benchmark in which all is that belongs to its videos
PARTS = "MVBench"  # has a file for each part, named like it


class Footage(NamedTuple):
    """
    Videos of the benchmark.

    Args:
        root (`str` or `Path`, *optional*): the folder with `frames`, or `videos`; by default that of the sets, or
            `video-tasks` in it.
        num_frames (`int`, *optional*, defaults to 8): how many frames of a video are shown.
    """

    root: str | Path | None = None
    num_frames: int = FRAMES_SHOWN

    def root_in(self, folder: Path) -> Path:
        """Where the videos of sets are that were found in a folder."""
        if self.root is not None:
            return Path(self.root)
        return folder / TASKS if (folder / TASKS).is_dir() else folder

    def root_for(self, repository: str) -> Path:
        """Where the videos of a repository are. Raises `ValueError` where nobody has said so."""
        if self.root is None:
            raise ValueError(
                f"The rows of {repository} have no frames: unpack those of TIGER-Lab/MMEB-V2 and give their folder "
                f"{TASKS}, --video-root."
            )
        return Path(self.root)


def video_part(folder: Path, name: str) -> Path | None:
    """The file of a set in the folder `data` of the benchmark, or a folder of such files."""
    if name not in VIDEO_LAYOUTS:
        return None
    ends = ("",) if name == PARTS else (".jsonl", ".parquet")
    files = [f"{file}{end}" for file in row_files(name) for end in ends]
    places = (place / "data" / file for place in (folder, folder / TASKS) for file in files)
    return next((place for place in places if place.exists()), None)


def video_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a set; those of a set of parts know theirs."""
    if name != PARTS or not path.is_dir() or not (files := _parts(path)):
        return rows_in(path)
    return [{**row, "subset": file.stem} for file in files for row in rows_in(file)]


def video_rows_on_hub(name: str) -> list[dict[str, Any]]:
    """The same from the repository of the set."""
    repository, config, split = VIDEO_LAYOUTS[name].source
    if name != PARTS:
        return load_dataset(repository, config, split=split).to_list()
    parts = {subset: load_dataset(repository, subset, split=split) for subset in subset_videos()}
    return [{**row, "subset": subset} for subset, part in parts.items() for row in part.to_list()]


def _parts(path: Path) -> list[Path]:
    """The files of the parts, in the order of the benchmark. Raises `ValueError` where some are there and some not."""
    named = {
        subset: [path / f"{subset}{end}" for end in (".json", ".jsonl", ".parquet")] for subset in subset_videos()
    }
    found = {subset: [file for file in files if file.exists()] for subset, files in named.items()}
    if missing := [subset for subset, files in found.items() if not files]:
        if len(missing) == len(found):
            return []
        raise ValueError(f"{path} has no file of {len(missing)} of {len(found)} parts: {', '.join(missing)}.")
    return [files[0] for files in found.values()]
