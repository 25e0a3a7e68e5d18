"""Rows of stage 1 from what people have: messages as of OpenAI and TRL, or columns with questions and answers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset

from trainers.data.build import Policy, build_dataset
from trainers.data.column_names import refuse_misnamed
from trainers.data.contents import PLACEHOLDERS, has_video_block, read_content
from trainers.data.faults import describe, fault
from trainers.data.images import ImageRoot, as_stored_list, root_of
from trainers.data.schema import (
    DIALOGUE_FEATURES,
    VIDEO_DIALOGUE_FEATURES,
    as_text,
    check_dialogue,
    validate_dialogues,
)
from trainers.data.tables import Records, open_records, refuse_format, saved_dataset
from trainers.data.text_format import TextFormat
from trainers.data.videos import has_videos, late_video


__all__ = ["DialogueColumns", "MessageNames", "dialogue_row", "load_dialogues", "mapped_row", "shows_video"]

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
OTHER_CONTENT = ("tool_calls", "function_call", "image", "images", "video", "videos", "audio")  # beside the content


class MessageNames(NamedTuple):
    """
    How messages are written down.

    Args:
        column (`str`): the column of the dialogue.
        role, content (`str`): keys of a message.
        roles (`dict[str, str]`): roles as they are written down, and as they are called here.
        image_is_video (`bool`): whether `<image>` stands for a video, too, in a row without images.
    """

    column: str = "messages"
    role: str = "role"
    content: str = "content"
    roles: dict[str, str] = ROLES
    image_is_video: bool = False


@dataclass
class DialogueColumns:
    """
    Names of the columns of a table.

    Args:
        images (`str`, *optional*, defaults to `"images"`):
            One image or a list of them.
        text (`str`, *optional*, defaults to `"text"`):
            What is to be compressed beside the images.
        messages (`str`, *optional*, defaults to `"messages"`):
            The dialogue.
        question, answer (`str`, *optional*):
            In place of a dialogue, texts, or lists of them for several turns.
        videos (`str`, *optional*, defaults to `"videos"`):
            One video or a list of them, shown after the images.
    """

    images: str = "images"
    text: str = "text"
    messages: str = "messages"
    question: str | None = None
    answer: str | None = None
    videos: str = "videos"

    def needed(self) -> list[str]:
        """The columns that must be there: those with other names than the usual, and the dialogue."""
        if (self.question is None) != (self.answer is None):
            raise ValueError(f"question={self.question!r} and answer={self.answer!r} go together: name both columns.")
        names = {field.name: getattr(self, field.name) for field in fields(DialogueColumns)}
        named = [name for field, name in names.items() if name != getattr(DialogueColumns, field)]
        return named if self.question is not None else sorted({*named, self.messages})

    def known(self) -> list[str]:
        """The columns that are read."""
        talk = [self.messages] if self.question is None else [self.question, str(self.answer)]
        return [self.images, self.videos, self.text, *talk]


def load_dialogues(
    source: str | Path | Dataset,
    image_root: str | Path | None = None,
    columns: DialogueColumns | None = None,
    on_bad_row: Policy = "raise",
    text_format: TextFormat | None = None,
) -> Dataset:
    r"""
    Loads rows of stage 1.

    Contents of messages are texts, or lists of blocks as OpenAI and TRL have them: `text`, `image`, `image_url`. An
    image in a block, wherever it stands, becomes one of `images`, which are compressed before the dialogue; a block
    without one, and every `<image>` in a text, stands for one of the column `images`, so their numbers must agree. The
    same holds for `video`, `video_url`, `videos` and, where the rows have videos, `<video>`.

    Args:
        source (`str`, `Path` or `Dataset`):
            A .csv, .tsv, .txt, .jsonl, .json or .parquet file, a folder made by `Dataset.save_to_disk`, or a data set.
        image_root (`str` or `Path`, *optional*):
            Folder at which relative paths of images begin; by default that of the file.
        columns ([`DialogueColumns`], *optional*):
            Other names of the columns.
        on_bad_row (`str` or [`BadRows`], *optional*, defaults to `"raise"`):
            `"raise"`, or `"skip"` to leave bad rows out; a [`BadRows`] afterwards knows how many, and why.
        text_format ([`TextFormat`], *optional*):
            Encoding and separator of a file of text; by default what is found by looking.

    Returns:
        `Dataset`: columns `images`, `text`, `messages`, and `videos` where there are any; paths are absolute, no image
        has been opened.

    Raises:
        ValueError: for what is no such source, columns that are not there, and a bad row with its number, column, what
            was found and what was expected.
    """
    columns = columns or DialogueColumns()
    needed, dataset = columns.needed(), saved_dataset(source)
    if columns == DialogueColumns() and dataset is not None and image_root is None and _is_ready(dataset):
        refuse_format(text_format, "a data set")
        return validate_dialogues(dataset, on_bad_row)
    records = open_records(source, text_format)
    convert, features = partial(mapped_row, columns=columns, root=root_of(source, image_root)), DIALOGUE_FEATURES
    if _has_videos(records, columns):
        convert, features = partial(convert, videos=True), VIDEO_DIALOGUE_FEATURES
    return build_dataset(records, convert, features, on_bad_row, needed, columns.known())


def _has_videos(records: Records, columns: DialogueColumns) -> bool:
    """Whether there is a column of videos; where columns are not known or there are blocks, the first rows say it."""
    if columns.videos in (records.columns or ()):
        return True
    is_told = records.columns is not None and columns.messages not in records.columns
    wanted = None if records.columns is None else [columns.messages]
    return not is_told and has_videos(records, partial(shows_video, columns=columns), wanted)


def shows_video(record: dict[str, Any], columns: DialogueColumns) -> bool:
    """Whether a record has a video, in its column or in a block of its dialogue."""
    talk = record.get(columns.messages) if columns.question is None else None
    return bool(record.get(columns.videos)) or has_video_block(talk)


def _is_ready(dataset: Dataset) -> bool:
    """Whether rows are in the schema already, with no placeholder to be taken out: then nothing is written anew."""
    names = [name for name in VIDEO_DIALOGUE_FEATURES if name in dataset.column_names]
    if any(dataset.features[name] != VIDEO_DIALOGUE_FEATURES[name] for name in names) or "messages" not in names:
        return False
    batches = dataset.select_columns(["messages"]).with_format("arrow").iter(1000)
    contents = (pc.list_flatten(batch["messages"]) for batch in batches)
    texts = (pc.struct_field(content, "content") for content in contents)
    marks = [PLACEHOLDERS[kind] for kind in ("image", "video") if f"{kind}s" in names or kind == "image"]
    return not any(pc.any(pc.match_substring(text, mark)).as_py() for text in texts for mark in marks)


def mapped_row(
    record: dict[str, Any], columns: DialogueColumns, root: ImageRoot, videos: bool = False
) -> dict[str, Any]:
    """A row of stage 1 from a record with these columns; with `videos`, if there can be any."""
    refuse_misnamed(record, columns.known())
    if record.get(columns.videos) and not videos:
        raise late_video(columns.videos)
    images = as_stored_list(record.get(columns.images), columns.images, root)
    text = record.get(columns.text)
    if columns.question is not None:
        text = as_text(text, columns.text)
        messages = _turns(record.get(columns.question), record.get(columns.answer), columns)
    elif columns.messages in record:
        messages = record[columns.messages]
    else:
        hint = "; its `conversations` are what `load_llava` reads" if "conversations" in record else ""
        raise fault(columns.messages, f"a row with the columns {sorted(record)}{hint}", "messages")
    row = {"images": images, "text": text}
    if videos:
        row["videos"] = as_stored_list(record.get(columns.videos), columns.videos, root)
    return dialogue_row(row, messages, root, MessageNames(columns.messages))


def dialogue_row(
    row: dict[str, Any],
    messages: Any,
    root: ImageRoot,
    names: MessageNames,
    placeholders: bool = False,
) -> dict[str, Any]:
    """A checked row of stage 1, of what is to be compressed (`images`, `text`, maybe `videos`) and of its messages, of
    which the images and placeholders are taken out. There may be none of the latter, because the images are compressed
    before the dialogue, unless `placeholders` says that there must be."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise fault(names.column, describe(messages), f"a list of {{{names.role!r}, {names.content!r}}}")
    kinds = tuple(kind for kind in PLACEHOLDERS if f"{kind}s" in row)
    clean, files = [], []
    for number, message in enumerate(messages):
        column, role = f"{names.column}[{number}]", message.get(names.role)
        if not isinstance(role, str) or role not in names.roles:
            raise fault(f"{column}.{names.role}", describe(role), f"one of {', '.join(names.roles)}")
        for other in OTHER_CONTENT:
            if message.get(other):
                raise fault(f"{column}.{other}", describe(message[other]), f"all that is said in {names.content!r}")
        content = read_content(message.get(names.content), f"{column}.{names.content}", root, kinds)
        clean.append({"role": names.roles[role], "content": content.text})
        files += content.files
    if names.image_is_video and row.get("videos") and not row["images"]:
        files = [("video" if file is None else kind, file) for kind, file in files]
    row = {**row, "text": None if row["text"] == "" else row["text"], "messages": clean}
    for kind in PLACEHOLDERS:
        shown = _shown(row.get(f"{kind}s") or [], kind, files, names.column, placeholders)
        if kind in kinds:
            row[f"{kind}s"] = shown
        elif shown:
            raise late_video(names.column)
    check_dialogue(row, names.column, (names.role, names.content))
    return row


def _shown(own: list[Any], kind: str, files: list[Any], column: str, placeholders: bool) -> list[dict[str, Any]]:
    """The images, or the videos, of a row and of its messages; placeholders among the latter stand for the former."""
    of_messages = [file for of, file in files if of == kind]
    count = of_messages.count(None)
    if count != len(own) and (count or placeholders):
        raise fault(column, f"{count} placeholders for {kind}s", f"one for each of the {len(own)} {kind}s")
    return own + [file for file in of_messages if file is not None]


def _turns(questions: Any, answers: Any, columns: DialogueColumns) -> list[dict[str, Any]]:
    questions, answers = (value if isinstance(value, list) else [value] for value in (questions, answers))
    if len(questions) != len(answers):
        found = f"{len(questions)} questions and {len(answers)} answers"
        raise fault(f"{columns.question}, {columns.answer}", found, "an answer to every question")
    messages = []
    for question, answer in zip(questions, answers, strict=True):
        messages.append({"role": "user", "content": _words(question, str(columns.question))})
        messages.append({"role": "assistant", "content": _words(answer, str(columns.answer))})
    return messages


def _words(value: Any, column: str) -> str:
    text = as_text(value, column)
    if text is None or not text.strip():
        raise fault(column, describe(value), "a text")
    return text
