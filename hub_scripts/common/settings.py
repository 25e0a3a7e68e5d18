"""Settings of `coma pretrain` and `coma finetune`, from the command line and from the YAML file of `--config`.

What stands in the file is read as if it stood on the command line: the same result, or the same error.
"""

import argparse
import json
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from hub_scripts.common.arguments import Dtype, did_you_mean
from hub_scripts.common.output_folder import settings_of_beginning
from hub_scripts.recipes import FOLDER, list_recipes
from trainers.ranges import BELOW_1, COUNT, WHOLE, Range, check_choices, check_ranges


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hub_scripts.common.settings_help import SettingsParser
    from trainers.data.text_format import TextFormat


__all__ = ["EMOJI", "ModelAndData", "for_evaluation", "parse_settings", "refuse_without"]

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

    model: str | None = field(
        default=None, metadata={"help": "Folder of a CoMa model or adapter, or its name on the Hub."}
    )
    dtype: Dtype = field(default="auto", metadata={"help": "Of the weights: auto, float32, bfloat16 or float16."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; 0 trains the model itself."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter, which its rank divides."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter."})
    use_dora: bool = field(default=True, metadata={"help": "The adapter is a DoRA (weight-decomposed)."})
    data: str | None = field(
        default=None, metadata={"help": "Table, folder of save_to_disk, shards ('x/*.tar'), or emoji."}
    )
    eval_data: str | None = field(
        default=None, metadata={"help": "The same for evaluation, after every epoch or by eval_strategy."}
    )
    image_root: str | None = field(
        default=None, metadata={"help": "Where paths of images begin; else at the folder of the table."}
    )
    eval_image_root: str | None = field(default=None, metadata={"help": "Where paths of images of eval_data begin."})
    encoding: str | None = field(default=None, metadata={"help": "Of a table of text; by default found by looking."})
    csv_separator: str | None = field(default=None, metadata={"help": "Between its fields; by default found, too."})
    max_image_pixels: int | None = field(
        default=None, metadata={"help": "Images with more are bad rows; by default as the model has it."}
    )
    cache_pixels: bool = field(default=False, metadata={"help": "Keep the images of a small set in memory, prepared."})

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

    @property
    def describes_evaluation(self) -> bool:
        """Whether something is said of the rows of `eval_data`; then only that counts for them."""
        columns = [column.name for column in fields(self.columns)]
        return any(getattr(self, f"eval_{name}") is not None for name in ("data_format", "image_root", *columns))

    def rows_of(self, evaluation: bool) -> tuple[str, str | None, Any]:
        """Format, root of the images and columns of `data`, or of `eval_data`."""
        own = evaluation and self.describes_evaluation
        names = {column.name: f"eval_{column.name}" if own else column.name for column in fields(self.columns)}
        columns = {name: value for name, given in names.items() if (value := getattr(self, given)) is not None}
        if not own:
            return self.data_format, self.image_root, self.columns(**columns)
        return self.eval_data_format or self.data_format, self.eval_image_root, self.columns(**columns)


def for_evaluation(columns: type) -> type:
    """The names of columns once more, for `eval_data`: `eval_query_text` beside `query_text`."""
    named = [(f"eval_{column.name}", str | None, field(default=None)) for column in fields(columns)]
    return make_dataclass(f"Evaluation{columns.__name__}", named)


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
        ValueError: for a file that is not there or has unknown settings, and for settings that would not act.
        SystemExit: for a wrong command line, with 2.
    """
    from hub_scripts.common.settings_help import SettingsParser

    parser = SettingsParser((own, config), command, description)
    try:
        on_line = _given(parser, argv)
        file, words, lists = None, [], {}
        if "config" in on_line:
            file = _find_file(on_line["config"], command)
            words, lists = _read_file(file, parser)
        in_file = {**_given(parser, words), **lists}
        given = {**dict.fromkeys(in_file, IN_FILE), **dict.fromkeys(on_line, ON_LINE)}
        words += _evaluation_words(in_file, on_line)
        parser.set_defaults(**lists)
        with _named(file, in_file.keys() - on_line.keys()):
            arguments, settings = _parse(parser, words + argv)
            if settings.resume_from_checkpoint == "true":
                begun_with = settings_of_beginning(settings.output_dir)
                parser.set_defaults(**{name: value for name, value in begun_with.items() if name not in given})
                arguments, settings = _parse(parser, words + argv)
            arguments.given = given
            _refuse_idle(arguments, settings)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    return arguments, settings


@contextmanager
def _named(file: Path | None, names: Collection[str]) -> Iterator[None]:
    """An error about a setting that stands in a file, and on no command line, names the file."""
    try:
        yield
    except ValueError as error:
        name = re.split(r"\W", str(error), maxsplit=1)[0]
        if name not in names:
            raise
        overrule = f" On the command line, --{name} goes before the recipe." if file.parent == FOLDER else ""
        raise ValueError(f"{file}: {error}{overrule}") from error


def _evaluation_words(in_file: Mapping[str, Any], on_line: Mapping[str, Any]) -> list[str]:
    """When to evaluate, where nothing is said of it: with data for it after every epoch, without data never."""
    given = {**in_file, **on_line}
    if given.get("eval_data") is not None:
        return [] if given.keys() & {"eval_strategy", "eval_on_start"} else ["--eval_strategy=epoch"]
    return ["--eval_strategy=no"] if "eval_data" in on_line else []  # which takes back what a file says


def _parse(parser: "SettingsParser", words: list[str]) -> tuple[Any, Any]:
    options = {"look_for_args_file": False, "return_remaining_strings": True}
    arguments, settings, _, unknown = parser.parse_args_into_dataclasses(words, **options)
    if unknown:
        parser.error(f"{' '.join(unknown)}: a setting has a name, as in --data FILE --model FOLDER")
    for name in ("model", "data"):
        if getattr(arguments, name) is None:
            parser.error(f"`{name}` is missing: give --{name}, or a line `{name}: …` in the file of --config")
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
    """Raises for settings that were given and do not act."""
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
    paths = {arguments.data} if arguments.describes_evaluation else {arguments.data, arguments.eval_data}
    _refuse_idle_rows(arguments, paths, "")
    if arguments.describes_evaluation:
        _refuse_idle_rows(arguments, {arguments.eval_data}, "eval_")


def _refuse_idle_rows(arguments: ModelAndData, paths: Collection[str | None], prefix: str) -> None:
    """Raises for what is said of rows of data, or of data for evaluation, that have nothing of the kind."""
    data_format = arguments.rows_of(evaluation=prefix != "")[0]
    reasons = [f"{prefix}data_format", f"{prefix}data"]
    is_read = not set(paths) <= {EMOJI, None}
    if not is_read and prefix:
        refuse_without(arguments, ["eval_data_format"], "eval_data with rows of its own", reasons)
    if not is_read or data_format in arguments.formats_without_columns:
        table = f"a table of data_format {type(arguments).data_format} or shards"  # the default
        refuse_without(arguments, [f"{prefix}{column.name}" for column in fields(arguments.columns)], table, reasons)
    if not is_read or data_format == "webdataset":
        refuse_without(arguments, [f"{prefix}image_root"], "paths of images in a table", reasons)
    if not prefix and (not is_read or data_format in ("webdataset", "mmeb")):
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
    given = [name for name in names if getattr(arguments, name) is not None]  # none, on a command line, is not given
    if idle := [name for name in given if arguments.given.get(name, 0) >= level]:
        raise ValueError(f"{', '.join(idle)} cannot act without {need}: leave out --{idle[0]}.")


def _find_file(name: str, command: str) -> Path:
    path = Path(name)
    if not path.exists():
        recipes = list_recipes(command)
        if name not in recipes:
            raise ValueError(f"{name} is neither a file nor one of the recipes {', '.join(recipes)}.")
        return recipes[name]
    return path


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but `1e-5` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_file(path: Path, parser: "SettingsParser") -> tuple[list[str], dict[str, list[str]]]:
    """
    Words for a command line that say what a YAML file says.

    Args:
        path (`Path`): a mapping from names of settings to what stands behind them on a command line. A mapping as a
            value is given as JSON; an empty value, or `null`, is the default where that is none.
        parser ([`SettingsParser`]): knows the settings.

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
            raise ValueError(f"{path} has a setting that does not exist: {name}{did_you_mean(name, actions)}")
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
