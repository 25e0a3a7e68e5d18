"""What `coma pretrain` and `coma finetune` both do: load data and model, train to the end, save."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.settings import EMOJI, ModelAndData
from hub_scripts.common.summary import summary
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.base import ComaTrainer


__all__ = ["EMOJI", "UNSEEN", "emoji_styles", "load_data", "load_trainable", "make_trainer", "train"]

UNSEEN = "twemoji"
TEMPORARY = ".saving"


def emoji_styles(evaluation: bool) -> list[str]:
    """Three drawing styles are trained on, the fourth is for evaluation."""
    from trainers.data.emoji import STYLES

    return [style for style in STYLES if (style == UNSEEN) == evaluation]


def load_data(load: Callable[..., Any], arguments: ModelAndData, config: "TrainingArguments") -> dict[str, Any]:
    """
    Data of a training, as a trainer takes them.

    Args:
        load (`Callable`): of the command; takes a path, the arguments, `on_bad_row`, and whether it is for evaluation.
        arguments ([`ModelAndData`]): name the data.
        config (`TrainingArguments`): settings of the trainer.
    """
    with config.main_process_first():  # the others find what it has made
        data = {"train_dataset": load(arguments.data, arguments, config.on_bad_row)}
        if arguments.eval_data is not None:
            data["eval_dataset"] = load(arguments.eval_data, arguments, config.on_bad_row, evaluation=True)
    return data


def load_trainable(arguments: ModelAndData) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    """The model (on the CPU: the trainer moves it) and its processor."""
    from hub_scripts.common.loading import fetch_adapter, is_adapter, load_model

    # An adapter names its base: with the whole path it is found from everywhere.
    name = str(Path(arguments.model).absolute()) if Path(arguments.model).exists() else arguments.model
    if arguments.lora_r and is_adapter(fetch_adapter(name)):
        raise ValueError(
            f"{name} is an adapter, and a new adapter upon it would name the base below both, and lose this one: make "
            f"a model of it first, `coma merge {arguments.model} NEW_FOLDER`, and train that."
        )
    model, processor = load_model(name, arguments.dtype, "cpu", arguments.max_image_pixels)
    return model.requires_grad_(), processor  # of a base with a merged adapter all weights are frozen


def make_trainer(
    trainer_class: type["ComaTrainer"],
    arguments: ModelAndData,
    config: "TrainingArguments",
    data: dict[str, Any],
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
) -> "ComaTrainer":
    """A trainer of a model, or of an adapter upon it, that keeps the pixels of images with `cache_pixels`."""
    from trainers.adapters import lora_config
    from trainers.data.pixel_cache import CachingProcessor

    adapter = None
    if arguments.lora_r:
        adapter = lora_config(
            model,
            r=arguments.lora_r,
            lora_alpha=arguments.lora_alpha,
            lora_dropout=arguments.lora_dropout,
            use_dora=arguments.use_dora,
        )
    of_collator = CachingProcessor.of(processor) if arguments.cache_pixels else processor
    if arguments.cache_pixels and config.dataloader_num_workers:  # what they would add is lost with them
        of_collator.fill_from(data["train_dataset"], config.dataloader_num_workers)
    return trainer_class(
        model=model,
        args=config,
        data_collator=trainer_class.collator_class.of(of_collator, config),
        processing_class=processor,
        peft_config=adapter,
        **data,
    )


def train(trainer: "ComaTrainer", arguments: ModelAndData, begin: Callable[[], None]) -> str:
    """
    Trains to the end, from a checkpoint if the settings say so, and saves.

    Args:
        trainer ([`ComaTrainer`]): with its settings and data.
        arguments ([`ModelAndData`]): what is trained on what.
        begin (`Callable`): see [`~hub_scripts.common.output_folder.output_folder`].

    Returns:
        `str`: what is to be said then.
    """
    from hub_scripts.hub.training_record import TrainingRecord, read_training_record

    config, resume = trainer.args, trainer.args.resume_from_checkpoint
    record = TrainingRecord(trainer, arguments, read_training_record(arguments.model))
    trainer.add_callback(record)
    begin()
    trainer.train(resume_from_checkpoint=True if resume == "true" else resume)
    if config.should_save:
        record.write(config.output_dir)
    _save_whole(trainer)
    if config.push_to_hub:
        trainer.push_to_hub(commit_message="Model save", revision=config.hub_revision)
    if not config.should_save:
        return ""
    return "".join(f"{one_line(line)}\n" for line in summary(trainer, bool(arguments.lora_r)))


def _save_whole(trainer: "ComaTrainer") -> None:
    """Saves what was trained in the output folder: all of it, or on an error nothing. On all processes."""
    from transformers.trainer import TRAINER_STATE_NAME

    from trainers.checkpoints import whole_or_nothing

    folder = Path(trainer.args.output_dir)
    temporary = folder / TEMPORARY
    with whole_or_nothing(temporary):
        trainer.save_model(str(temporary), _internal_call=True)  # whether it is pushed is decided by the caller
        if trainer.args.should_save:
            trainer.state.save_to_json(str(temporary / TRAINER_STATE_NAME))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            for path in temporary.iterdir():
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
            temporary.rmdir()
