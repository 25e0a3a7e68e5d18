"""What `coma pretrain` and `coma finetune` have in common: settings from a file, the model, training to the end."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import HfArgumentParser, TrainingArguments

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.base import ComaTrainer


__all__ = ["EMOJI", "RECIPES", "UNSEEN", "ModelArguments", "emoji_styles", "load_trainable", "parse_settings", "train"]

RECIPES = Path(__file__).with_name("recipes")
EMOJI, UNSEEN = "emoji", "twemoji"


@dataclass
class ModelArguments:
    """The model and what is trained of it."""

    model: str | None = field(default=None, metadata={"help": "CoMa folder, or its name on the Hub."})
    dtype: str = field(default="auto", metadata={"help": "Precision of the weights; auto is that of the checkpoint."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; 0 trains the model itself."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter."})
    use_dora: bool = field(default=True, metadata={"help": "Weight-decomposed adapter."})


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
        ValueError: for a file that is not there or has unknown settings, and if model or data are missing.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        (own, config),
        prog=f"coma {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="YAML file with any of these, or the name of a recipe")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(argv)
    if known.config is not None:
        parser.set_defaults(**_read_yaml(known.config, parser))
    arguments, settings, _ = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    for name in ("model", "data"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` is missing: give --{name}, or a line `{name}: …` in the file of --config.")
    return arguments, settings


def _read_yaml(name: str, parser: "HfArgumentParser") -> dict[str, Any]:
    import yaml

    path, command = Path(name), parser.prog.split()[-1]
    if not path.exists():
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        recipes = ", ".join(sorted(file.stem for file in RECIPES.glob(f"*-{command}.yaml")))
        raise ValueError(f"{name} is neither a file nor one of the recipes {recipes}.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    known = {action.dest for action in parser._actions}
    if not isinstance(settings, dict) or settings.keys() - known:
        unknown = sorted(settings.keys() - known) if isinstance(settings, dict) else settings
        raise ValueError(f"{path} has settings that do not exist: {unknown}; `{parser.prog} --help` lists them.")
    return settings


def load_trainable(arguments: ModelArguments) -> tuple["ComaForEmbedding", "ComaProcessor", "LoraConfig | None"]:
    """The model (on the CPU: the trainer moves it), its processor, and the adapter to be trained, if there is one."""
    from hub_scripts.loading import fetch_adapter, is_adapter, load_model
    from trainers.lora import lora_config

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


def train(trainer: "ComaTrainer", config: "TrainingArguments", arguments: ModelArguments) -> str:
    """Trains to the end, from a checkpoint if the settings say so, and saves. Returns what is to be said then."""
    from hub_scripts.training_record import TrainingRecord, read_training_record

    record = TrainingRecord(trainer, arguments, read_training_record(arguments.model))
    trainer.add_callback(record)
    resume = config.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=resume.lower() == "true" or resume if resume else None)
    if trainer.args.should_save:
        record.write(config.output_dir)
    trainer.save_model()
    if not trainer.args.should_save:
        return ""
    trainer.save_state()
    if arguments.lora_r == 0:
        return f"trained  {config.output_dir}\n"
    return f"trained  {config.output_dir}\nnext     coma merge {config.output_dir} NEW_FOLDER\n"


def emoji_styles(evaluation: bool) -> list[str]:
    """Three drawing styles are trained on, the fourth is for evaluation."""
    from trainers.data.emoji import STYLES

    return [style for style in STYLES if (style == UNSEEN) == evaluation]
