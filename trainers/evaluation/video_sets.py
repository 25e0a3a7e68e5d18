"""Rows of the video sets of MMEB-V2 to what is evaluated.

A video is shown as frames that lie in a folder of its own. Labels and captions are ranked among those of the whole
set, all else among the candidates of its row; what is right is known by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from trainers.data.faults import describe, fault
from trainers.data.image_folders import is_system_file
from trainers.data.images import root_of
from trainers.data.mmeb.columns import name_in, text_in, texts_in
from trainers.data.mmeb.footage import MOST_SAVED, frames_in, save_frames
from trainers.data.mmeb.sets import MmebSet
from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS, labels_of, places_of_frames
from trainers.data.mmeb.video_questions import read_question
from trainers.evaluation.retrieval import RetrievalSet, UniqueInputs


__all__ = ["FRAMES_SHOWN", "read_video_set"]

FRAMES_SHOWN = 8  # of a video, where the benchmark is run as it stands
AMONG_ALL = ("label", "caption")
SHOWN_VIDEO = "Understand the content of the provided video."
SOUGHT = {
    "text": "Find the clip that corresponds to the given text:",
    "image": "Select the video clip that aligns with the given text and image:",
    "video": "Find the clip that corresponds to the given sentence and video segment:",
}
SHOWN_CLIP = "Understand the content of the provided video clip."

Blocks = list[dict[str, Any]]


class _Row(NamedTuple):
    """
    What a row says.

    Args:
        query (`list[dict]`): content of its message.
        candidates (`list[tuple[str, str, list[str]]]`): name, text, and the frames of a video or none, of each.
        right (`set[str]`): names of those that are right.
    """

    query: Blocks
    candidates: list[tuple[str, str, list[str]]]
    right: set[str]


def read_video_set(
    rows: Sequence[dict[str, Any]], of: MmebSet, root: str | Path, num_frames: int = FRAMES_SHOWN
) -> RetrievalSet:
    """
    A video set of MMEB-V2.

    Args:
        rows (`Sequence[dict]`): of the set.
        of ([`~trainers.data.mmeb.sets.MmebSet`]): which it is.
        root (`str` or `Path`): the folder `video-tasks` of the benchmark, with `frames` in it. Frames that are not
            there are made of the files in `videos`, and written.
        num_frames (`int`, *optional*, defaults to 8): how many of a video are shown; of MomentSeeker always all.

    Returns:
        [`~trainers.evaluation.RetrievalSet`]: every unique candidate is embedded once.

    Raises:
        ValueError: for a row that is malformed, and for a video that is not there: with row, column, what was found
            and what was expected.
    """
    if not rows:
        raise ValueError(f"{of.name} has no rows.")
    if num_frames < 1:
        raise ValueError(f"{num_frames} frames of a video cannot be shown: give 1 or more.")
    reader, documents = _Reader(of, root, num_frames), UniqueInputs()
    queries, query_names, relevant, candidates = [], [], [], []
    for row_idx, record in enumerate(rows[: VIDEO_LAYOUTS[of.name].most_rows]):
        try:
            row = reader.read(row_idx, record)
        except ValueError as error:
            told = str(error).removeprefix(f"Row {row_idx}: ")  # of a file that cannot be decoded
            raise ValueError(f"Row {row_idx} of {of.name}, {told}.") from error
        queries.append([{"role": "user", "content": row.query}])
        query_names.append(f"Row {row_idx} of {of.name}, query")
        of_row = []
        for place, (_, text, frames) in enumerate(row.candidates):
            messages = [{"role": "user", "content": _content(text, frames)}]
            of_row.append(documents.add(messages, f"Row {row_idx} of {of.name}, candidate {place}"))
        named = zip(of_row, row.candidates, strict=True)
        relevant.append(sorted({number for number, (name, *_) in named if name in row.right}))
        candidates.append(sorted(set(of_row)))
    for label in labels_of(of.name) if of.assembly == "label" else ():
        documents.add([{"role": "user", "content": _content(label)}], f"Label {label} of {of.name}")
    among_all = of.assembly in AMONG_ALL
    return RetrievalSet.of(queries, query_names, documents, relevant, None if among_all else candidates)


def _content(text: str, frames: Sequence[str] = (), image: str | None = None) -> Blocks:
    """The content of a message: what is shown, a blank, and the text."""
    if image is not None:
        return [{"type": "image", "image": image}, {"type": "text", "text": f" {text}"}]
    if frames:
        return [{"type": "video", "video": list(frames)}, {"type": "text", "text": f" {text}"}]
    return [{"type": "text", "text": text}]


class _Reader:
    """Reads rows of a set, and finds their frames."""

    def __init__(self, of: MmebSet, root: str | Path, num_frames: int) -> None:
        self.of, self.layout, self.num_frames = of, VIDEO_LAYOUTS[of.name], num_frames
        places = [Path(root) / "frames" / place for place in places_of_frames(of.name)]
        self.frames = root_of(None, next(filter(Path.is_dir, places), places[0]))
        self.videos = root_of(None, Path(root) / "videos" / self.layout.folder)
        self.row_idx = 0

    def read(self, row_idx: int, row: dict[str, Any]) -> _Row:
        """What a row says."""
        self.row_idx = row_idx
        read = {
            "label": self._label,
            "choice": self._choice,
            "caption": self._caption,
            "moment": self._moment,
            "seek": self._sought,
            "video_question": self._question,
        }[self.of.assembly]
        found = read(row)
        if not found.right & {name for name, *_ in found.candidates}:
            raise ValueError(f"what is right, {sorted(found.right)}, is not among the candidates")
        return found

    def _label(self, row: dict[str, Any]) -> _Row:
        label = text_in(row, "pos_text")
        return _Row(self._labelled(row), [(label, label, [])], {label})

    def _choice(self, row: dict[str, Any]) -> _Row:
        return _Row(
            self._labelled(row), [(text, text, []) for text in texts_in(row, "neg_text")], {text_in(row, "pos_text")}
        )

    def _labelled(self, row: dict[str, Any]) -> Blocks:
        name = name_in(row, "video_id")
        return _content(self.layout.instruction, self._shown("video_id", name, f"{name}.mp4"))

    def _caption(self, row: dict[str, Any]) -> _Row:
        name_column, file_column, text_column = self.layout.columns
        name = name_in(row, name_column)
        file = PurePosixPath(name_in(row, file_column)).name if file_column else f"{name}.mp4"
        name = PurePosixPath(name).stem if name_column == file_column else name
        several = isinstance(row.get(text_column), list)
        caption = texts_in(row, text_column)[0] if several else text_in(row, text_column)
        shown = self._shown(name_column, name, file)
        return _Row(_content(f"{self.layout.instruction} {caption}"), [(name, SHOWN_VIDEO, shown)], {name})

    def _moment(self, row: dict[str, Any]) -> _Row:
        name = PurePosixPath(name_in(row, "video_path")).stem
        folder = self.frames.path(name, "video_path")
        shown = self._shown("video_path", f"{name}/query")
        folders = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_system_file(entry.name)]
        clips = sorted(set(folders) - {"query"})
        query = _content(f"{self.layout.instruction} {text_in(row, 'query')}", shown)
        candidates = [(clip, SHOWN_VIDEO, self._shown("video_path", f"{name}/{clip}")) for clip in clips]
        return _Row(query, candidates, {clip for clip in clips if clip.startswith("positive")})

    def _sought(self, row: dict[str, Any]) -> _Row:
        text, beside = text_in(row, "query"), row.get("input_frames")
        if not isinstance(beside, str):
            raise fault("input_frames", describe(beside), "a video, an image, or an empty text for neither")
        if beside.endswith(".mp4"):
            query = _content(f"{SOUGHT['video']} {text}", self._clip("input_frames", beside))
        elif beside.endswith(".jpg"):
            image = self.frames.path(f"query_{beside}", "input_frames")
            if not os.path.isfile(image):
                raise fault("input_frames", f"no file {image}", "an image (video root?)")
            query = _content(f"{SOUGHT['image']} {text}", image=image)
        else:
            query = _content(f"{SOUGHT['text']} {text}")
        sides = {side: self._paths(row, side) for side in ("positive_frames", "negative_frames")}
        candidates = [(path, SHOWN_CLIP, self._clip(side, path)) for side, paths in sides.items() for path in paths]
        return _Row(query, candidates, set(sides["positive_frames"]))

    def _question(self, row: dict[str, Any]) -> _Row:
        question = read_question(self.of.name, row)
        shown = self._shown(question.column, question.video, question.file)
        text = f"{self.layout.instruction} {question.text}"
        return _Row(_content(text, shown), [(*candidate, []) for candidate in question.candidates], {question.right})

    def _paths(self, row: dict[str, Any], column: str) -> list[str]:
        entries = row.get(column)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise fault(column, describe(entries), "a list of entries with output_path")
        return [text_in(entry, "output_path") for entry in entries]

    def _clip(self, column: str, path: str) -> list[str]:
        """All frames of a clip of MomentSeeker, whose folder has its path for a name."""
        name = path.split(".mp4", maxsplit=1)[0].replace("/", "_")
        return self._shown(column, f"video_frames/{name}", path, everything=True)

    def _shown(self, column: str, name: str, file: str | None = None, everything: bool = False) -> list[str]:
        """The frames of a video that are shown, made of its file where they are not there."""
        folder, number = self.frames.path(name, column), None if everything else self.num_frames
        if frames := frames_in(folder, number):
            return frames
        video = self.videos.path(file, column) if file else ""
        if os.path.isfile(video):
            most = FRAMES_SHOWN if everything else MOST_SAVED
            save_frames(video, folder, self.layout.assembly == "video_question", self.row_idx, most)
            return frames_in(folder, number)
        if frames := frames_in(video, number):  # as some parts of MVBench have it
            return frames
        also = f", and no file {video} nor frames in it" if video else ""
        raise fault(column, f"no frames in {folder}{also}", "images of frames there (video root?)")
