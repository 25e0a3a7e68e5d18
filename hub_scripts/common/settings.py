"""Settings of `coma pretrain` and `coma finetune`, from the command line and from the YAML file of `--config`.

What stands in the file is read as if it stood on the command line: the same result, or the same error.
"""

import argparse
import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from hub_scripts.common.arguments import Dtype
from hub_scripts.common.output_folder import settings_of_beginning
from trainers.ranges import BELOW_1, COUNT, WHOLE, Range, check_choices, check_ranges


if TYPE_CHECKING:
    from transformers import HfArgumentParser, TrainingArguments

    from trainers.data.text_format import TextFormat


__all__ = ["EMOJI", "RECIPES", "ModelAndData", "parse_settings", "refuse_without"]

RECIPES = Path(__file__).parents[1] / "recipes"
EMOJI = "emoji"  # as `data`, the images that come with the package
# Where a setting was given. What a file says may be overruled by the command line, and then need not act.
IN_FILE, ON_LINE = 1, 2
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")

NULL = "tag:yaml.org,2002:null"
SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp")}
LARGEST = 100_000  # entries of a mapping, those of its anchors counted wherever they stand


@dataclass
class ModelAndData:
    """The model, what is trained of it, and the data."""

    model: str | None = field(default=None, metadata={"help": "CoMa folder, or its name on the Hub."})
    dtype: Dtype = field(
        default="auto", metadata={"help": "Precision of the weights; auto is that of the checkpoint."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; 0 trains the model itself."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter."})
    use_dora: bool = field(default=True, metadata={"help": "Weight-decomposed adapter."})
    data: str | None = field(default=None, metadata={"help": "File, folder of save_to_disk, shards, or emoji."})
    eval_data: str | None = field(
        default=None, metadata={"help": "The same for evaluation: after every epoch, or as eval_strategy says."}
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative paths of images."})
    encoding: str | None = field(default=None, metadata={"help": "Of a table of text; by default found by looking."})
    csv_separator: str | None = field(default=None, metadata={"help": "Between its fields; by default found, too."})
    max_image_pixels: int | None = field(
        default=None, metadata={"help": "Images with more are bad rows; by default as the model has it."}
    )
    cache_pixels: bool = field(default=False, metadata={"help": "Keep preprocessed images of small sets in memory."})

    given: ClassVar[Mapping[str, int]] = {}  # settings that are no defaults: IN_FILE or ON_LINE
    ranges: ClassVar[Mapping[str, Range]] = {
        "lora_r": WHOLE,
        "lora_alpha": COUNT,
        "lora_dropout": BELOW_1,
        "max_image_pixels": COUNT,
    }
    columns: ClassVar[type]  # dataclass of the names of columns, of which a command inherits
    formats_without_columns: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, self.ranges)

    @property
    def text_format(self) -> "TextFormat":
        """How tables of text are written."""
        from trainers.data.text_format import TextFormat

        return TextFormat(self.encoding, self.csv_separator)

    @property
    def is_emoji(self) -> bool:
        """Whether all data are the emoji, for which nothing is to be read."""
        return {self.data, self.eval_data} <= {EMOJI, None}


def parse_settings(command: str, description: str, argv: list[str], own: type, config: type) -> tuple[Any, Any]:
    """
    Settings of a training command; the command line goes before the file.

    Args:
        command (`str`): name of the command.
        description (`str`): what its help begins with.
        argv (`list[str]`): its command line.
        own (`type`): the [`ModelAndData`] of the command.
        config (`type`): dataclass of the settings of the trainer.

    Returns:
        `tuple`: an instance of each.

    Raises:
        ValueError: for a file that is not there or has unknown settings, if model or data are missing, and for
            settings that would not act.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        (own, config),
        prog=f"coma {command}",
        usage=f"coma {command} [--config FILE] [--SETTING VALUE …]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", help="YAML file with any of these, or the name of a recipe")
    try:
        on_line = _given(parser, argv)
        words, lists = [], {}
        if "config" in on_line:
            words, lists = _read_file(_find_file(on_line["config"], command), parser)
        in_file = [*_given(parser, words), *lists]
        given = {**dict.fromkeys(in_file, IN_FILE), **dict.fromkeys(on_line, ON_LINE)}
        if "eval_data" in given and not given.keys() & {"eval_strategy", "eval_on_start"}:
            words.append("--eval_strategy=epoch")  # by default there is no evaluation, and the data would lie idle
        parser.set_defaults(**lists)
        arguments, settings = _parse(parser, words + argv)
        if settings.resume_from_checkpoint == "true":
            begun_with = settings_of_beginning(settings.output_dir)
            parser.set_defaults(**{name: value for name, value in begun_with.items() if name not in given})
            arguments, settings = _parse(parser, words + argv)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    arguments.given = given
    _refuse_idle(arguments, settings)
    return arguments, settings


def _parse(parser: "HfArgumentParser", words: list[str]) -> tuple[Any, Any]:
    options = {"look_for_args_file": False, "return_remaining_strings": True}
    arguments, settings, _, unknown = parser.parse_args_into_dataclasses(words, **options)
    if unknown:
        raise ValueError(f"There are no settings {' '.join(unknown)}; `{parser.prog} --help` lists them.")
    resume = settings.resume_from_checkpoint
    if resume is not None and resume.lower() in (*TRUE, *FALSE):
        settings.resume_from_checkpoint = "true" if resume.lower() in TRUE else None
    return arguments, settings


def _given(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """What a command line gives, without defaults."""
    unset = object()
    names = [action.dest for action in parser._actions if action.dest != "help"]
    values, _ = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(names, unset)))
    return {name: value for name, value in vars(values).items() if value is not unset}


def _refuse_idle(arguments: ModelAndData, config: "TrainingArguments") -> None:
    """Raises for settings that are missing, and for those that were given and do not act."""
    for name in ("model", "data"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` is missing: give --{name}, or a line `{name}: …` in the file of --config.")
    evaluates = config.eval_strategy != "no" or config.eval_on_start
    if arguments.eval_data is None and evaluates:
        raise ValueError("eval_strategy and eval_on_start need eval_data: give --eval_data, or leave them out.")
    if not evaluates:
        refuse_without(arguments, ["eval_data"], "an eval_strategy", ["eval_strategy", "eval_on_start"])
    if arguments.lora_r == 0:
        refuse_without(arguments, ["lora_alpha", "lora_dropout", "use_dora"], "an adapter (lora_r 0)", ["lora_r"])
    given = {name: getattr(config, name) for name in ("do_train", "do_eval", "do_predict") if name in arguments.given}
    if given.get("do_train") is False or given.get("do_predict") or ("do_eval" in given and not evaluates):
        raise ValueError(
            "This command trains, and evaluates by eval_strategy: leave out do_train, do_eval, do_predict."
        )
    reasons = ["data_format", "data"]
    if arguments.is_emoji or arguments.data_format in arguments.formats_without_columns:
        table = f"a table of data_format {type(arguments).data_format} or shards"  # the default
        refuse_without(arguments, [column.name for column in dataclasses.fields(arguments.columns)], table, reasons)
    if arguments.is_emoji or arguments.data_format == "webdataset":
        refuse_without(arguments, ["image_root"], "paths of images in a table", reasons)
    if arguments.is_emoji or arguments.data_format in ("webdataset", "mmeb"):
        refuse_without(arguments, ["encoding", "csv_separator"], "a table of text", reasons)


def refuse_without(arguments: ModelAndData, names: Iterable[str], need: str, reasons: Iterable[str]) -> None:
    """
    Raises for a setting that was given and does not act.

    Args:
        arguments ([`ModelAndData`]): knows what was given.
        names (`Iterable[str]`): settings that do not act.
        need (`str`): what they act with.
        reasons (`Iterable[str]`): settings that say so. If they are on the command line, a file is overruled.
    """
    level = max(arguments.given.get(name, IN_FILE) for name in reasons)
    if idle := [name for name in names if arguments.given.get(name, 0) >= level]:
        raise ValueError(f"{', '.join(idle)} cannot act without {need}: leave out --{idle[0]}.")


def _find_file(name: str, command: str) -> Path:
    path = Path(name)
    if not path.exists():
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        recipes = ", ".join(sorted(file.stem for file in RECIPES.glob(f"*-{command}.yaml")))
        raise ValueError(f"{name} is neither a file nor one of the recipes {recipes}.")
    return path


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-5` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_file(path: Path, parser: "HfArgumentParser") -> tuple[list[str], dict[str, list[str]]]:
    """
    Words for a command line that say what a YAML file says.

    Args:
        path (`Path`): a mapping from names of settings to what stands behind them on a command line. A mapping as a
            value is given as JSON; an empty value, or `null`, is the default where that is none.
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
    for name, node in _nodes(path):
        if name not in actions:
            raise ValueError(f"{path} has settings that do not exist: {[name]}; `{parser.prog} --help` lists them.")
        place, action = f"{path}, {name}", actions[name]
        if isinstance(node, yaml.SequenceNode) and action.nargs != "+" and _takes(hints[name], list):
            lists[name] = [_word(item, place) for item in node.value]
            continue
        setting = _words(node, action, _takes(hints[name], dict), place)
        try:
            parser.parse_known_args(setting)
        except argparse.ArgumentError as error:
            raise ValueError(f"{path}: {error}") from error
        words += setting
    return words, lists


def _nodes(path: Path) -> list[tuple[str, yaml.Node]]:
    """Names and what stands behind them, unread."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML of one document: {error}") from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} must be a mapping, a line `setting: value` for each; it is a {node.id}.")
    _check_keys(node, str(path))
    return [(key.value, value) for key, value in node.value]


def _check_keys(node: yaml.MappingNode, place: str) -> None:
    names: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{place}, line {key.start_mark.line + 1}: a name of a setting must be a word.")
        if key.value in names:
            raise ValueError(f"{place} has {key.value!r} twice, in line {key.start_mark.line + 1} again.")
        names.add(key.value)


def _words(node: yaml.Node, action: argparse.Action, takes_mapping: bool, place: str) -> list[str]:
    option = f"--{action.dest}"
    if node.tag == NULL:
        if action.default is not None:
            raise ValueError(f"{place}: there is no value. Give one, or leave out the line for {action.default!r}.")
        return []
    if isinstance(node, yaml.MappingNode):
        if not takes_mapping:
            raise ValueError(f"{place}: expected one value, found a mapping.")
        return [f"{option}={_json(node, place)}"]
    if isinstance(node, yaml.SequenceNode):
        if action.nargs != "+":
            raise ValueError(f"{place}: expected one value, found a list.")
        return [option, *(_word(item, place) for item in node.value)]
    return [f"{option}={_word(node, place)}"]


def _word(node: yaml.Node, place: str) -> str:
    """What is written there, as it is written: whether `no` or `1` is a word or something else, the setting knows."""
    if not isinstance(node, yaml.ScalarNode) or node.tag not in SCALARS:
        raise ValueError(f"{place}, line {node.start_mark.line + 1}: expected a word or a number.")
    return node.value


def _json(node: yaml.MappingNode, place: str) -> str:
    entries: list[yaml.Node] = [node]
    for entry in entries:  # to which those within it are added
        if len(entries) > LARGEST:  # an anchor within itself would come to no end
            raise ValueError(f"{place}: the mapping has more than {LARGEST} entries.")
        if isinstance(entry, yaml.MappingNode):
            _check_keys(entry, place)
            entries += [value for _, value in entry.value]
        elif isinstance(entry, yaml.SequenceNode):
            entries += entry.value
    try:
        return json.dumps(_Loader("").construct_document(node))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{place}: it is no mapping of words and numbers ({error}).") from error


def _takes(hint: Any, kind: type) -> bool:
    """Whether a setting may be a list, or a mapping."""
    return any((typing.get_origin(part) or part) is kind for part in (hint, *typing.get_args(hint)))
