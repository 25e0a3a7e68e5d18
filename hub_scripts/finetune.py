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
  coma finetune --config emoji-finetune --model my-coma --output_dir out    # a recipe, see `coma recipes`
  torchrun --nproc-per-node 8 --no-python coma finetune --config mmeb-finetune --data MMEB-train

It leaves an adapter, which `coma merge` folds into the model, or with `--lora_r 0` a whole model. Interrupted, it goes
on with `--resume_from_checkpoint true`: with what it was begun with, and nothing else takes its folder. All settings
of the HF TrainingArguments are there as well (--help-all), if they act.
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from hub_scripts.common.output_folder import output_folder
from hub_scripts.common.settings import EMOJI, ModelAndData, for_evaluation, parse_settings, refuse_without
from hub_scripts.common.training import emoji_styles, load_data, load_trainable, make_trainer, train
from trainers.data.pairs import PairColumns


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from trainers.contrastive.trainer import ComaContrastiveTrainer
    from trainers.experimental.config import ExperimentalContrastiveConfig


__all__ = ["FinetuneArguments", "main"]


@dataclass
class FinetuneArguments(ModelAndData, PairColumns, for_evaluation(PairColumns)):
    """What is trained on what, beside the settings of the trainer."""

    data_format: Literal["pairs", "triplets", "mmeb", "webdataset"] = field(
        default="pairs", metadata={"help": "Rows are pairs, triplets, mmeb or webdataset."}
    )
    eval_data_format: Literal["pairs", "triplets", "mmeb", "webdataset"] | None = field(
        default=None, metadata={"help": "Rows of eval_data, where they are others."}
    )
    mmeb_sets: list[str] | None = field(
        default=None, metadata={"help": "Sets of mmeb, by default those of the paper."}
    )
    mmeb_split: Literal["original", "diverse_instruction"] = field(
        default="original", metadata={"help": "Of mmeb, the wording of its instructions."}
    )

    columns: ClassVar[type] = PairColumns
    formats_without_columns: ClassVar[tuple[str, ...]] = ("triplets", "mmeb")


def main(argv: list[str]) -> int:
    """Runs `coma finetune`; returns the exit code."""
    arguments, config = _parse(argv)
    with output_folder("finetune", arguments, config) as begin:
        sys.stdout.write(train(_trainer(arguments, config), arguments, begin))
    return 0


def _parse(argv: list[str]) -> tuple[FinetuneArguments, "ExperimentalContrastiveConfig"]:
    from trainers.experimental.config import ExperimentalContrastiveConfig

    arguments, config = parse_settings("finetune", __doc__, argv, FinetuneArguments, ExperimentalContrastiveConfig)
    if arguments.is_emoji or "mmeb" not in (arguments.data_format, arguments.eval_data_format):
        refuse_without(arguments, ["mmeb_sets", "mmeb_split"], "data_format mmeb", ["data_format", "data"])
    return arguments, config


def _trainer(arguments: FinetuneArguments, config: "ExperimentalContrastiveConfig") -> "ComaContrastiveTrainer":
    from trainers.contrastive.trainer import ComaContrastiveTrainer
    from trainers.data.images import without_decoding
    from trainers.evaluation import RetrievalCallback, RetrievalSet
    from trainers.experimental.trainer import ExperimentalContrastiveTrainer

    data = load_data(_load, arguments, config)
    model, processor = load_trainable(arguments)
    trainer_class = ExperimentalContrastiveTrainer if config.is_experimental else ComaContrastiveTrainer
    trainer = make_trainer(trainer_class, arguments, config, data, model, processor)
    if arguments.eval_data is not None:
        rows = without_decoding(data["eval_dataset"])
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
    data_format, image_root, columns = arguments.rows_of(evaluation)
    if data_format == "mmeb":
        return load_mmeb_train(path, arguments.mmeb_sets, arguments.mmeb_split, image_root, on_bad_row)
    if data_format == "triplets":
        return load_triplets(path, image_root, on_bad_row, arguments.text_format)
    if data_format == "webdataset":
        return stream_pairs(path, columns, on_bad_row, image_root)
    return load_pairs(path, columns, image_root, on_bad_row, arguments.text_format)
