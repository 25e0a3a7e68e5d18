"""Stage 2: trains a CoMa model to match queries and documents, by InfoNCE at any batch size.

Everything can stand in a YAML file, a line each; what is given on the command line goes first. My own pairs:

  model: my-coma
  data: pairs.csv                # or .tsv, .jsonl, .json, .parquet, a folder of `Dataset.save_to_disk`, or emoji
  data_format: pairs             # or triplets, mmeb, webdataset ("shards/*.tar"); docs/data.md shows them all
  query_text: question           # columns: query_, positive_, negative_ with text or image (paths), source, group
  positive_image: image
  output_dir: my-coma-pairs

  coma finetune --config pairs.yaml
  coma finetune --config pairs.yaml --per_device_train_batch_size 256 --num_train_epochs 1
  coma finetune --config emoji-finetune --model my-coma --output_dir out      # a recipe that comes with the package
  torchrun --nproc-per-node 8 -m hub_scripts.cli finetune --config mmeb-finetune --data MMEB-train

It leaves an adapter, which `coma merge` folds into the model, or with `--lora_r 0` a whole model. Interrupted, it goes
on with `--resume_from_checkpoint true`: with what it was begun with, and nothing else takes its folder. All settings
of the HF TrainingArguments are there as well, if they act.
"""

import sys
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from hub_scripts.common.output_folder import output_folder
from hub_scripts.common.training import (
    EMOJI,
    ModelArguments,
    emoji_styles,
    load_trainable,
    parse_settings,
    refuse_without,
    train,
)
from trainers.data.pairs import PairColumns


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from trainers.contrastive.config import ComaContrastiveConfig
    from trainers.contrastive.trainer import ComaContrastiveTrainer


__all__ = ["FinetuneArguments", "main"]


@dataclass
class FinetuneArguments(ModelArguments, PairColumns):
    """What is trained on what, beside the settings of the trainer."""

    data: str | None = field(default=None, metadata={"help": "File, folder of save_to_disk, shards, or emoji."})
    data_format: Literal["pairs", "triplets", "mmeb", "webdataset"] = field(
        default="pairs", metadata={"help": "What its rows are like; mmeb is a folder with MMEB-train."}
    )
    mmeb_sets: list[str] | None = field(
        default=None, metadata={"help": "Sets of mmeb, by default those of the paper."}
    )
    mmeb_split: Literal["original", "diverse_instruction"] = field(
        default="original", metadata={"help": "Of mmeb, the wording of its instructions."}
    )
    eval_data: str | None = field(
        default=None,
        metadata={"help": "The same for evaluation, loss and retrieval: after every epoch, or as eval_strategy says."},
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative paths of images."})
    cache_pixels: bool = field(default=False, metadata={"help": "Keep preprocessed images of small sets in memory."})


def main(argv: list[str]) -> int:
    """Runs `coma finetune`; returns the exit code."""
    arguments, config = _parse(argv)
    with output_folder("finetune", arguments, config) as begun:
        sys.stdout.write(train(_trainer(arguments, config), config, arguments, begun))
    return 0


def _parse(argv: list[str]) -> tuple[FinetuneArguments, "ComaContrastiveConfig"]:
    from trainers.contrastive.config import ComaContrastiveConfig

    arguments, config = parse_settings("finetune", __doc__, argv, FinetuneArguments, ComaContrastiveConfig)
    all_emoji = {arguments.data, arguments.eval_data} <= {EMOJI, None}
    if all_emoji or arguments.data_format != "mmeb":
        refuse_without(arguments, ["mmeb_sets", "mmeb_split"], "data_format mmeb", ["data_format", "data"])
    if all_emoji or arguments.data_format in ("mmeb", "triplets"):
        columns = [column.name for column in fields(PairColumns)]
        refuse_without(arguments, columns, "a table of data_format pairs or shards", ["data_format", "data"])
    if all_emoji or arguments.data_format == "webdataset":
        refuse_without(arguments, ["image_root"], "paths of images in a table", ["data_format", "data"])
    return arguments, config


def _trainer(arguments: FinetuneArguments, config: "ComaContrastiveConfig") -> "ComaContrastiveTrainer":
    from trainers.contrastive.collator import ComaContrastiveCollator
    from trainers.contrastive.trainer import ComaContrastiveTrainer
    from trainers.data.images import without_decoding
    from trainers.data.pixel_cache import CachingProcessor
    from trainers.evaluation import RetrievalCallback, RetrievalSet

    kwargs: dict[str, Any] = {}
    with config.main_process_first():  # the others find what it has made
        kwargs["train_dataset"] = _load(arguments.data, arguments, config.on_bad_row)
        if arguments.eval_data is not None:
            kwargs["eval_dataset"] = _load(arguments.eval_data, arguments, config.on_bad_row, evaluation=True)
    model, processor, adapter = load_trainable(arguments)
    if arguments.cache_pixels:
        caching = CachingProcessor.of(processor)
        if config.dataloader_num_workers:  # what they would add is lost with them
            caching.fill_from(kwargs["train_dataset"], config.dataloader_num_workers)
        kwargs["data_collator"] = ComaContrastiveCollator.of(caching, config)
    trainer = ComaContrastiveTrainer(model, config, processor, adapter, **kwargs)
    if arguments.eval_data is not None:
        rows = without_decoding(kwargs["eval_dataset"])
        task = RetrievalSet.from_rows(rows, config.instructions, config.on_bad_row)
        trainer.add_callback(RetrievalCallback(trainer, task))
    return trainer


def _load(
    path: str, arguments: FinetuneArguments, on_bad_row: str, evaluation: bool = False
) -> "Dataset | IterableDataset":
    from trainers.data.emoji import emoji_pairs, load_emoji
    from trainers.data.mmeb.train import load_mmeb_train
    from trainers.data.pairs import load_pairs, load_triplets
    from trainers.data.webdataset import stream_pairs

    if path == EMOJI:
        return emoji_pairs(load_emoji(emoji_styles(evaluation)))
    if arguments.data_format == "mmeb":
        return load_mmeb_train(path, arguments.mmeb_sets, arguments.mmeb_split, arguments.image_root, on_bad_row)
    if arguments.data_format == "triplets":
        return load_triplets(path, arguments.image_root, on_bad_row)
    if arguments.data_format == "webdataset":
        return stream_pairs(path, arguments, on_bad_row, arguments.image_root)
    return load_pairs(path, arguments, arguments.image_root, on_bad_row)
