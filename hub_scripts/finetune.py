"""Stage 2: trains a CoMa model to match queries and documents, by InfoNCE at any batch size.

Everything can stand in a YAML file, a line each; what is given on the command line goes first. My own pairs:

  model: my-coma
  data: pairs.csv                # or .jsonl, .parquet, a folder of `Dataset.save_to_disk`, or emoji
  query_text: question           # columns: query_, positive_, negative_ with text or image (paths), source, group
  positive_image: picture
  output_dir: my-coma-pairs

  coma finetune --config pairs.yaml
  coma finetune --config pairs.yaml --per_device_train_batch_size 256 --num_train_epochs 1
  coma finetune --config emoji-finetune --model my-coma --output_dir out      # a recipe that comes with the package
  torchrun --nproc-per-node 8 -m hub_scripts.cli finetune --config mmeb-finetune

It leaves an adapter, which `coma merge` folds into the model, or with `--lora_r 0` a whole model. Interrupted, it goes
on with `--resume_from_checkpoint true`. All settings of the HF TrainingArguments are there as well.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.data.pairs import PairColumns


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import HfArgumentParser

    from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer


__all__ = ["FinetuneArguments", "main"]

RECIPES = Path(__file__).with_name("recipes")
EMOJI, UNSEEN = "emoji", "twemoji"


@dataclass
class FinetuneArguments(PairColumns):
    """What is trained on what, beside the settings of the trainer."""

    model: str | None = field(default=None, metadata={"help": "CoMa folder, or its name on the Hub."})
    dtype: str = field(default="auto", metadata={"help": "Precision of the weights; auto is that of the checkpoint."})
    data: str | None = field(default=None, metadata={"help": "File, folder of save_to_disk, or emoji."})
    eval_data: str | None = field(default=None, metadata={"help": "The same for evaluation, loss and retrieval."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative paths of pictures."})
    cache_pixels: bool = field(default=False, metadata={"help": "Keep preprocessed pictures of small sets in memory."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter; 0 trains the model itself."})
    lora_alpha: int = field(default=64, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter."})
    use_dora: bool = field(default=True, metadata={"help": "Weight-decomposed adapter."})


def main(argv: list[str]) -> int:
    """Runs `coma finetune`; returns the exit code."""
    arguments, config = _parse(argv)

    from hub_scripts.sentence_transformers_files import write_sentence_transformers_files

    trainer = _trainer(arguments, config)
    resume = config.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=resume.lower() == "true" or resume if resume else None)
    trainer.save_model()
    if trainer.args.should_save:
        trainer.save_state()
        if arguments.lora_r == 0:
            write_sentence_transformers_files(Path(config.output_dir))
        sys.stdout.write(f"trained  {config.output_dir}\n")
        if arguments.lora_r:
            sys.stdout.write(f"next     coma merge {config.output_dir} NEW_FOLDER\n")
    return 0


def _parse(argv: list[str]) -> tuple[FinetuneArguments, "ComaContrastiveConfig"]:
    from transformers import HfArgumentParser

    from trainers.contrastive import ComaContrastiveConfig

    parser = HfArgumentParser(
        (FinetuneArguments, ComaContrastiveConfig),
        prog="coma finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="YAML file with any of these, or the name of a recipe")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, rest = first.parse_known_args(argv)
    if known.config is not None:
        parser.set_defaults(**_read_yaml(known.config, parser))
    arguments, config, _ = parser.parse_args_into_dataclasses(rest, look_for_args_file=False)
    for name in ("model", "data"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` is missing: give --{name}, or a line `{name}: …` in the file of --config.")
    return arguments, config


def _read_yaml(name: str, parser: "HfArgumentParser") -> dict[str, Any]:
    import yaml

    path, recipes = Path(name), sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if not path.exists():
        path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"{name} is neither a file nor one of the recipes {', '.join(recipes)}.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    known = {action.dest for action in parser._actions}
    if not isinstance(settings, dict) or settings.keys() - known:
        unknown = sorted(settings.keys() - known) if isinstance(settings, dict) else settings
        raise ValueError(f"{path} has settings that do not exist: {unknown}; `coma finetune --help` lists them.")
    return settings


def _trainer(arguments: FinetuneArguments, config: "ComaContrastiveConfig") -> "ComaContrastiveTrainer":
    from hub_scripts.loading import load_model
    from trainers.contrastive import ComaContrastiveCollator, ComaContrastiveTrainer
    from trainers.lora import lora_config
    from trainers.pixel_cache import CachingProcessor
    from trainers.retrieval_callback import RetrievalCallback, RetrievalSet
    from trainers.rows import without_decoding

    kwargs: dict[str, Any] = {"train_dataset": _load(arguments.data, arguments)}
    name = str(Path(arguments.model).absolute()) if Path(arguments.model).exists() else arguments.model
    model, processor = load_model(name, arguments.dtype, "cpu")  # the trainer moves it
    lora = {"lora_dropout": arguments.lora_dropout, "use_dora": arguments.use_dora}
    if arguments.lora_r:
        kwargs["peft_config"] = lora_config(model, arguments.lora_r, arguments.lora_alpha, **lora)
    if arguments.cache_pixels:
        caching = CachingProcessor.of(processor)
        settings = (config.max_length, config.instructions, config.own_negatives_only, config.on_bad_row)
        kwargs["data_collator"] = ComaContrastiveCollator(caching, *settings)
    if arguments.eval_data is not None:
        kwargs["eval_dataset"] = _load(arguments.eval_data, arguments, evaluation=True)
    trainer = ComaContrastiveTrainer(model, config, processor, **kwargs)
    if arguments.eval_data is not None:
        task = RetrievalSet.from_rows(without_decoding(kwargs["eval_dataset"]), config.instructions)
        trainer.add_callback(RetrievalCallback(trainer, task))
    return trainer


def _load(path: str, arguments: FinetuneArguments, evaluation: bool = False) -> "Dataset":
    """Of the emoji three drawing styles are trained on, the fourth is for evaluation."""
    from trainers.data.emoji import STYLES, emoji_pairs, load_emoji
    from trainers.data.pairs import load_pairs

    if path == EMOJI:
        return emoji_pairs(load_emoji([style for style in STYLES if (style == UNSEEN) == evaluation]))
    return load_pairs(path, arguments, arguments.image_root)
