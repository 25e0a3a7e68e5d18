"""What training leaves for the model card: a list of its stages, in `coma_training.json` beside the weights.

It is written with every checkpoint and at the end, so that what is merged or published of either knows how it came
about. An empty list says that nothing has been trained; a folder without the file does not say.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hub_scripts.common.training_stage import describe_source, describe_stage
from hub_scripts.hub.public_names import public_record


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from hub_scripts.common.training import ModelArguments
    from trainers.base import ComaTrainer


__all__ = ["TRAINING_FILE", "TrainingRecord", "read_training_record", "write_stages"]

TRAINING_FILE = "coma_training.json"

logger = logging.get_logger(__name__)


class TrainingRecord(TrainerCallback):
    """
    Writes the record of a training beside its checkpoints; [`TrainingRecord.write`] does so at the end.

    Args:
        trainer ([`ComaTrainer`]): before training, with its data.
        arguments ([`ModelArguments`]): what is trained on what.
        earlier (`list[dict]`): stages that the model had gone through before.
    """

    def __init__(
        self, trainer: "ComaTrainer", arguments: "ModelArguments", earlier: list[dict[str, Any]] | None
    ) -> None:
        self.trainer, self.earlier = trainer, earlier or []
        self.source = describe_source(trainer, arguments) if trainer.args.should_save else {}
        self.left_out = 0

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """A checkpoint has been saved: its record goes there."""
        self._count()
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and folder.is_dir():
            self.write(folder, is_finished=False)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Rows are counted while all processes are there."""
        self._count()

    def write(self, folder: str | Path, is_finished: bool = True) -> None:
        """
        Writes all stages, on one process.

        Args:
            folder (`str` or `Path`): where the weights are.
            is_finished (`bool`, *optional*, defaults to `True`): whether they are those at the end of training.
        """
        stage = describe_stage(self.trainer, self.source, is_finished)
        if self.left_out:
            stage["rows_skipped"] = self.left_out
        write_stages(Path(folder), [*self.earlier, stage])

    def _count(self) -> None:
        """Rows that were left out since training began or was resumed, on all processes, every time they came up."""
        import torch

        bad_rows = getattr(self.trainer.data_collator, "bad_rows", None)
        if bad_rows is not None:
            accelerator = self.trainer.accelerator
            skipped = torch.tensor(bad_rows.skipped, device=accelerator.device)
            self.left_out = int(accelerator.reduce(skipped))


def write_stages(folder: Path, stages: list[dict[str, Any]]) -> None:
    """
    Writes the record of a model.

    Args:
        folder (`Path`): where its weights are.
        stages (`list[dict]`): what it has gone through; none, if nothing has been trained.
    """
    content = json.dumps(public_record(stages), indent=2, default=str, ensure_ascii=False)
    (folder / TRAINING_FILE).write_text(content + "\n", encoding="utf-8")


def read_training_record(name_or_path: str | Path) -> list[dict[str, Any]] | None:
    """
    Stages that a model has gone through, as far as its folder or repository tells.

    Args:
        name_or_path (`str` or `Path`): of the model.

    Returns:
        `list[dict]`, empty if nothing has been trained; `None` if there is no record.

    Raises:
        ValueError: for a record that cannot be read.
    """
    path = Path(name_or_path, TRAINING_FILE)
    if not Path(name_or_path).exists():
        found = _fetch(str(name_or_path))
        if not isinstance(found, Path):
            return found
        path = found
    if not path.exists():
        return None
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a training: {error}. Remove it, or restore it.") from error
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and "stage" in stage for stage in stages):
        raise ValueError(f"{path} is no record of a training, which is a list of stages. Remove it, or restore it.")
    return stages


def _fetch(name: str) -> Path | list[dict[str, Any]] | None:
    """The record of a model on the Hub; if the Hub does not say whether there is one, a stage that says so."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(name, TRAINING_FILE))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:
        if try_to_load_from_cache(name, TRAINING_FILE) is _CACHED_NO_EXIST:
            return None
        logger.warning(f"{TRAINING_FILE} of {name} cannot be fetched: the card will not know its earlier stages.")
        return [{"stage": "unknown", "model": name}]
