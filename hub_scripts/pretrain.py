"""Stage 1: trains a model to answer dialogues about its input from the compression tokens alone.

Everything can stand in a YAML file, a line each; what is given on the command line goes first. My own dialogues:

  model: my-coma                 # or a backbone: Qwen/Qwen2.5-VL-3B-Instruct
  data: dialogues.jsonl          # or .json, .csv, .tsv, .parquet, a folder of `Dataset.save_to_disk`, or emoji
  data_format: messages          # or llava, coma-sft, webdataset ("shards/*.tar"); docs/data.md shows them all
  output_dir: my-coma-compressed

  {"images": ["cat.jpg"], "text": null, "messages": [{"role": "user", "content": "What is it?"},
                                                     {"role": "assistant", "content": "A cat."}]}

  coma pretrain --config dialogues.yaml
  coma pretrain --config dialogues.yaml --per_device_train_batch_size 16 --kl_weight 0.5
  coma pretrain --config emoji-pretrain --model my-coma --output_dir out    # a recipe, see `coma recipes`
  torchrun --nproc-per-node 8 --no-python coma pretrain --config paper-pretrain --data dialogues.parquet
  accelerate launch --config_file fsdp2.yaml --no_python coma pretrain --config dialogues.yaml

It leaves an adapter, which `coma merge` folds into the model, or with `--lora_r 0` a whole model. A CoMa model that is
made of a backbone is saved as `base` in the output folder. Interrupted, training goes on with
`--resume_from_checkpoint true`: with what it was begun with, and nothing else takes its folder. All settings
of the HF TrainingArguments are there as well (--help-all), if they act.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from hub_scripts.common.image_size import image_size
from hub_scripts.common.output_folder import output_folder
from hub_scripts.common.settings import EMOJI, ModelAndData, for_evaluation, parse_settings, refuse_without
from hub_scripts.common.training import emoji_styles, load_data, load_trainable, make_trainer, train
from trainers.data.dialogues import DialogueColumns
from trainers.ranges import COUNT, Range


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from modeling_coma import ComaProcessor
    from trainers.compression.config import ComaCompressionConfig
    from trainers.compression.trainer import ComaCompressionTrainer


__all__ = ["PretrainArguments", "main"]


@dataclass
class PretrainArguments(ModelAndData, DialogueColumns, for_evaluation(DialogueColumns)):
    """What is trained on what, beside the settings of the trainer."""

    data_format: Literal["messages", "llava", "coma-sft", "webdataset"] = field(
        default="messages", metadata={"help": "Rows are messages, llava, coma-sft or webdataset."}
    )
    eval_data_format: Literal["messages", "llava", "coma-sft", "webdataset"] | None = field(
        default=None, metadata={"help": "Rows of eval_data, where they are others."}
    )
    turns: int = field(default=5, metadata={"help": "Questions about an image of data emoji."})
    num_compression_tokens: int = field(default=32, metadata={"help": "K, where model is a backbone."})
    min_pixels: int | None = field(default=None, metadata={"help": "Images are enlarged to this (backbone)."})
    max_pixels: int | None = field(default=None, metadata={"help": "Images are shrunk to this (backbone)."})

    columns: ClassVar[type] = DialogueColumns
    formats_without_columns: ClassVar[tuple[str, ...]] = ("llava", "coma-sft")
    ranges: ClassVar[Mapping[str, Range]] = {
        **ModelAndData.ranges,
        **dict.fromkeys(("turns", "min_pixels", "max_pixels"), COUNT),
        "num_compression_tokens": Range("from 1 to 256", lambda number: COUNT.holds(number) and number <= 256),
    }


def main(argv: list[str]) -> int:
    """Runs `coma pretrain`; returns the exit code."""
    arguments, config = _parse(argv)
    with output_folder("pretrain", arguments, config) as begin:
        sys.stdout.write(train(_trainer(arguments, config, begin), arguments, begin))
    return 0


def _parse(argv: list[str]) -> tuple[PretrainArguments, "ComaCompressionConfig"]:
    from trainers.compression.config import ComaCompressionConfig

    arguments, config = parse_settings("pretrain", __doc__, argv, PretrainArguments, ComaCompressionConfig)
    if EMOJI not in (arguments.data, arguments.eval_data):
        refuse_without(arguments, ["turns"], "data emoji", ["data", "eval_data"])
    if arguments.data_format == "webdataset" and config.groups_by_length and arguments.data != EMOJI:
        raise ValueError("group_by_length needs a table, whose rows can be sorted; shards come as they come.")
    return arguments, config


def _trainer(
    arguments: PretrainArguments, config: "ComaCompressionConfig", begin: Callable[[], None]
) -> "ComaCompressionTrainer":
    from trainers.compression.lengths import add_lengths
    from trainers.compression.trainer import ComaCompressionTrainer

    data = load_data(_load, arguments, config)
    with config.main_process_first():  # the others find what it has made
        arguments.model = _coma_folder(arguments, Path(config.output_dir, "base"), begin)
    model, processor = load_trainable(arguments)
    _check_made_of(arguments, processor)
    if config.groups_by_length and config.length_column_name not in data["train_dataset"].column_names:
        with config.main_process_first():
            data["train_dataset"] = add_lengths(
                data["train_dataset"],
                processor,
                max_length=config.max_length,
                dialogue_max_length=config.dialogue_max_length,
                compression_instruction=config.compression_instruction,
                column=config.length_column_name,
                num_proc=config.dataloader_num_workers or None,
            )
    return make_trainer(ComaCompressionTrainer, arguments, config, data, model, processor)


def _coma_folder(arguments: PretrainArguments, base: Path, begin: Callable[[], None]) -> str:
    """The model itself or, of a backbone, the CoMa model that is made of it once and that an adapter will name."""
    from transformers import AutoConfig

    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.common.loading import check_folder, fetch_adapter, is_adapter
    from hub_scripts.create import create_model
    from hub_scripts.hub.training_record import write_stages

    check_folder(arguments.model)
    if is_adapter(fetch_adapter(arguments.model)) or AutoConfig.from_pretrained(arguments.model).model_type == "coma":
        return arguments.model
    if not base.exists():
        begin()
        model, processor = create_model(
            arguments.model,
            num_compression_tokens=arguments.num_compression_tokens,
            min_pixels=arguments.min_pixels,
            max_pixels=arguments.max_pixels,
            max_image_pixels=arguments.max_image_pixels,
            dtype=arguments.dtype,
        )
        with new_folder(base) as folder:
            write_stages(folder, [])
            save_model(model, processor, folder)
    return str(base)


def _check_made_of(arguments: PretrainArguments, processor: "ComaProcessor") -> None:
    size = image_size(processor)
    least, most = (size, size) if isinstance(size, dict) else size
    made_of = {
        "num_compression_tokens": processor.num_compression_tokens,
        "min_pixels": least,
        "max_pixels": most,
    }
    for name, value in made_of.items():
        if name in arguments.given and getattr(arguments, name) not in (None, value):
            raise ValueError(
                f"{arguments.model} is a CoMa model already, with {name} {value}: {getattr(arguments, name)} would "
                "not act. Leave it out, or make a new model of the backbone."
            )


def _load(
    path: str, arguments: PretrainArguments, on_bad_row: str, evaluation: bool = False
) -> "Dataset | IterableDataset":
    from trainers.data.dialogues import load_dialogues
    from trainers.data.emoji import emoji_dialogues, load_emoji
    from trainers.data.llava import load_coma_sft, load_llava
    from trainers.data.webdataset import stream_dialogues

    if path == EMOJI:
        return emoji_dialogues(load_emoji(emoji_styles(evaluation)), turns=arguments.turns, languages=())
    data_format, image_root, columns = arguments.rows_of(evaluation)
    if data_format == "webdataset":
        return stream_dialogues(path, columns, on_bad_row, image_root)
    if data_format == "messages":
        return load_dialogues(path, image_root, columns, on_bad_row, arguments.text_format)
    load = load_llava if data_format == "llava" else load_coma_sft
    return load(path, image_root, on_bad_row, arguments.text_format)
