"""What `coma pretrain` and `coma finetune` have in common: settings from a file, the model, training to the end."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hub_scripts.common.output_folder import save_whole, settings_of_beginning
from trainers.ranges import BELOW_1, COUNT, WHOLE, Range, check_choices, check_ranges


if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import HfArgumentParser, TrainingArguments

    from hub_scripts.common.output_folder import Beginning
    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.base import ComaTrainer


__all__ = [
    "EMOJI",
    "RECIPES",
    "UNSEEN",
    "ModelArguments",
    "emoji_styles",
    "load_trainable",
    "parse_settings",
    "refuse_without",
    "train",
]

RECIPES = Path(__file__).parents[1] / "recipes"
EMOJI, UNSEEN = "emoji", "twemoji"
# Where a setting was given. What a file says may be overruled by the command line, and then need not act.
IN_FILE, ON_LINE = 1, 2
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")


@dataclass
class ModelArguments:
    """The model and what is trained of it."""

    model: str | None = field(default=None, metadata={"help": "CoMa folder, or its name on the Hub."})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Precision of the weights; auto is that of the checkpoint."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; 0 trains the model itself."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter."})
    use_dora: bool = field(default=True, metadata={"help": "Weight-decomposed adapter."})

    given: ClassVar[Mapping[str, int]] = {}  # settings that are no defaults: IN_FILE or ON_LINE
    ranges: ClassVar[Mapping[str, Range]] = {"lora_r": WHOLE, "lora_alpha": COUNT, "lora_dropout": BELOW_1}

    def __post_init__(self) -> None:
        check_choices(self)
        check_ranges(self, self.ranges)


def parse_settings(command: str, description: str, argv: list[str], own: type, config: type) -> tuple[Any, Any]:
    """
    Settings of a training command, from its line and from the YAML file that `--config` names; the line goes first.

    Args:
        command (`str`): name of the command.
        description (`str`): what its help begins with.
        argv (`list[str]`): its command line.
        own (`type`): dataclass with `model`, `data` and what else the command has.
        config (`type`): dataclass of the settings of the trainer.

    Returns:
        `tuple`: an instance of each.

    Raises:
        ValueError: for a file that is not there or has unknown settings, if model or data are missing, and for
            settings that would not act.
    """
    from transformers import HfArgumentParser

    from hub_scripts.common.settings_file import read_settings

    first = argparse.ArgumentParser(prog=f"coma {command}", add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, line = first.parse_known_args(argv)
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
        given = dict.fromkeys(_names(parser, line), ON_LINE)
        words, lists = read_settings(_config_file(known.config, command), parser) if known.config else ([], {})
        given = {**dict.fromkeys([*_names(parser, words), *lists], IN_FILE), **given}
        if "eval_data" in given and not given.keys() & {"eval_strategy", "eval_on_start"}:
            words.append("--eval_strategy=epoch")  # by default there is no evaluation, and the data would lie idle
        parser.set_defaults(**lists)
        arguments, settings = _parse(parser, words + line)
        if settings.resume_from_checkpoint == "true":
            begun = settings_of_beginning(settings.output_dir)
            known = {action.dest for action in parser._actions} - given.keys()
            parser.set_defaults(**{name: value for name, value in begun.items() if name in known})
            arguments, settings = _parse(parser, words + line)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    arguments.given = given
    _check(arguments, settings)
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


def _names(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """The settings that a command line gives."""
    unset = object()
    names = [action.dest for action in parser._actions if action.dest != "help"]
    found, _ = parser.parse_known_args(words, argparse.Namespace(**dict.fromkeys(names, unset)))
    return [name for name in names if getattr(found, name) is not unset]


def _config_file(name: str, command: str) -> Path:
    path = Path(name)
    if not path.exists():
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        recipes = ", ".join(sorted(file.stem for file in RECIPES.glob(f"*-{command}.yaml")))
        raise ValueError(f"{name} is neither a file nor one of the recipes {recipes}.")
    return path


def _check(arguments: ModelArguments, config: "TrainingArguments") -> None:
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


def refuse_without(arguments: ModelArguments, names: list[str], need: str, reasons: list[str]) -> None:
    """
    Raises for a setting that was given and does not act.

    Args:
        arguments ([`ModelArguments`]): knows what was given.
        names (`list[str]`): settings that do not act.
        need (`str`): what they act with.
        reasons (`list[str]`): settings that say so. If they are on the command line, what a file says is overruled.
    """
    level = max([IN_FILE, *(arguments.given.get(name, IN_FILE) for name in reasons)])
    if idle := [name for name in names if arguments.given.get(name, 0) >= level]:
        raise ValueError(f"{', '.join(idle)} cannot act without {need}: leave out --{idle[0]}.")


def load_trainable(arguments: ModelArguments) -> tuple["ComaForEmbedding", "ComaProcessor", "LoraConfig | None"]:
    """The model (on the CPU: the trainer moves it), its processor, and the adapter to be trained, if there is one."""
    from hub_scripts.common.loading import fetch_adapter, is_adapter, load_model
    from trainers.adapters import lora_config

    # An adapter names its base: with the whole path it is found from everywhere.
    name = str(Path(arguments.model).absolute()) if Path(arguments.model).exists() else arguments.model
    if arguments.lora_r and is_adapter(fetch_adapter(name)):
        raise ValueError(
            f"{name} is an adapter, and a new adapter upon it would name the base below both, and lose this one: make "
            f"a model of it first, `coma merge {arguments.model} NEW_FOLDER`, and train that."
        )
    model, processor = load_model(name, arguments.dtype, "cpu")
    if not arguments.lora_r:
        return model, processor, None
    settings = {"lora_dropout": arguments.lora_dropout, "use_dora": arguments.use_dora}
    return model, processor, lora_config(model, arguments.lora_r, arguments.lora_alpha, **settings)


def train(trainer: "ComaTrainer", config: "TrainingArguments", arguments: ModelArguments, begun: "Beginning") -> str:
    """Trains to the end, from a checkpoint if the settings say so, and saves. Returns what is to be said then."""
    from hub_scripts.hub.training_record import TrainingRecord, read_training_record

    record = TrainingRecord(trainer, arguments, read_training_record(arguments.model))
    trainer.add_callback(record)
    begun.write()
    resume = config.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume == "true" else resume)
    if trainer.args.should_save:
        record.write(config.output_dir)
    save_whole(trainer)
    if config.push_to_hub:
        trainer.push_to_hub(commit_message="Model save", revision=config.hub_revision)
    if not trainer.args.should_save:
        return ""
    if arguments.lora_r == 0:
        return f"trained  {config.output_dir}\n"
    return f"trained  {config.output_dir}\nnext     coma merge {config.output_dir} NEW_FOLDER\n"


def emoji_styles(evaluation: bool) -> list[str]:
    """Three drawing styles are trained on, the fourth is for evaluation."""
    from trainers.data.emoji import STYLES

    return [style for style in STYLES if (style == UNSEEN) == evaluation]
