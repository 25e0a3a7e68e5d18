"""Settings from a YAML file, read as if they stood on the command line: the same result, or the same error."""

import argparse
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml


if TYPE_CHECKING:
    from transformers import HfArgumentParser


__all__ = ["read_settings"]

NULL = "tag:yaml.org,2002:null"
SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp")}
LARGEST = 100_000  # entries of a mapping, those of its anchors counted wherever they stand


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-5` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_settings(path: Path, parser: "HfArgumentParser") -> tuple[list[str], dict[str, list[str]]]:
    """
    Words for a command line that say what a file says.

    Args:
        path (`Path`): a YAML file: a mapping from names of settings to what stands behind them on a command line. A
            mapping as a value is given as JSON; an empty value, or `null`, is the default where that is none.
        parser (`HfArgumentParser`): knows the settings.

    Returns:
        `tuple[list[str], dict[str, list[str]]]`: the words, and lists for settings that a command line gives one of.

    Raises:
        ValueError: names the file, the setting and what is wrong with it.
    """
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    hints = {name: hint for kind in parser.dataclass_types for name, hint in typing.get_type_hints(kind).items()}
    words: list[str] = []
    lists: dict[str, list[str]] = {}
    for name, node in _settings(path):
        if name not in actions:
            raise ValueError(f"{path} has settings that do not exist: {[name]}; `{parser.prog} --help` lists them.")
        place = f"{path}, {name}"
        if isinstance(node, yaml.SequenceNode) and actions[name].nargs != "+" and _takes(hints[name], list):
            lists[name] = [_word(item, place) for item in node.value]
            continue
        try:
            new = list(_words(name, node, hints[name], actions[name], place))
            parser.parse_known_args(new)
        except argparse.ArgumentError as error:
            raise ValueError(f"{path}: {error}") from error
        words += new
    return words, lists


def _settings(path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """Names and what stands behind them, unread."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML of one document: {error}") from error
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} must be a mapping, a line `setting: value` for each; it is a {node.id}.")
    _check_keys(node, str(path))
    for key, value in node.value:
        yield key.value, value


def _check_keys(node: yaml.MappingNode, place: str) -> None:
    names: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{place}, line {key.start_mark.line + 1}: a name of a setting must be a word.")
        if key.value in names:
            raise ValueError(f"{place} has {key.value!r} twice, in line {key.start_mark.line + 1} again.")
        names.add(key.value)


def _words(name: str, node: yaml.Node, hint: Any, action: argparse.Action, place: str) -> Iterator[str]:
    if node.tag == NULL:
        if action.default is not None:
            raise ValueError(f"{place}: there is no value. Give one, or leave out the line for {action.default!r}.")
    elif isinstance(node, yaml.MappingNode):
        if not _takes(hint, dict):
            raise ValueError(f"{place}: expected one value, found a mapping.")
        yield f"--{name}={_json(node, place)}"
    elif isinstance(node, yaml.SequenceNode):
        if action.nargs != "+":
            raise ValueError(f"{place}: expected one value, found a list.")
        yield f"--{name}"
        yield from (_word(item, place) for item in node.value)
    else:
        yield f"--{name}={_word(node, place)}"


def _word(node: yaml.Node, place: str) -> str:
    """What is written there, as it is written: whether `no` or `1` is a word or something else, the setting knows."""
    if not isinstance(node, yaml.ScalarNode) or node.tag not in SCALARS:
        raise ValueError(f"{place}, line {node.start_mark.line + 1}: expected a word or a number.")
    return node.value


def _json(node: yaml.MappingNode, place: str) -> str:
    waiting: list[yaml.Node] = [node]
    for _ in range(LARGEST):  # an anchor within itself would come to no end
        if not waiting:
            break
        part = waiting.pop()
        if isinstance(part, yaml.MappingNode):
            _check_keys(part, place)
            waiting += [value for _, value in part.value]
        elif isinstance(part, yaml.SequenceNode):
            waiting += part.value
    else:
        raise ValueError(f"{place}: the mapping has more than {LARGEST} entries.")
    try:
        return json.dumps(_Loader("").construct_document(node))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{place}: it is no mapping of words and numbers ({error}).") from error


def _takes(hint: Any, kind: type) -> bool:
    """Whether a setting may be a list, or a mapping."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return any((typing.get_origin(one) or one) is kind for one in (typing.get_args(hint) if is_union else (hint,)))
