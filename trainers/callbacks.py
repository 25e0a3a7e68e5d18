"""What is watched and written during training beside the HF logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


__all__ = ["SamplerEpoch", "SeenInputs", "TokenSimilarity", "draw_token_similarity"]


class SamplerEpoch(TrainerCallback):
    """
    Tells the sampler which epoch begins, however deep it is wrapped. `Trainer` does so too, but reaches only two
    wrappers deep, and a training that several processes resume in the middle of an epoch has three.
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs,
    ) -> None:
        sampler = train_dataloader
        while sampler is not None:
            sampler = getattr(sampler, "batch_sampler", getattr(sampler, "sampler", None))
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(int(state.epoch))


class SeenInputs(TrainerCallback, ExportableState):
    """
    Counts the images and tokens that a training has seen: on all processes, and before and after it was resumed.

    Args:
        accelerator (`Accelerator`):
            Adds up what the processes have seen.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.totals = {"images_seen": 0, "tokens_seen": 0}
        self._new = torch.zeros(2, dtype=torch.long, device=accelerator.device)

    def add(self, images: int | torch.Tensor, tokens: int | torch.Tensor) -> None:
        """Counts what this process has seen. Nothing waits for the device."""
        for place, number in enumerate((images, tokens)):
            self._new[place] += number

    def state(self) -> dict[str, dict]:
        """What is saved in `trainer_state.json`."""
        return {"args": {}, "attributes": dict(self.totals)}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__)
        self.totals |= saved["attributes"] if saved else {}
        self._new.zero_()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if control.should_log or control.should_evaluate or control.should_save:  # on all processes or on none
            seen = self.accelerator.reduce(self._new.clone()).tolist()
            self.totals = {name: total + new for (name, total), new in zip(self.totals.items(), seen, strict=True)}
            self._new.zero_()


class TokenSimilarity(TrainerCallback):
    """
    Saves beside a checkpoint how similar its compression tokens are to each other (paper, figure 3), if it has just
    been evaluated. `similarity`, of shape `(K, K)`, is set by the trainer.
    """

    def __init__(self) -> None:
        self.similarity: torch.Tensor | None = None
        self.step = -1

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.step = state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if state.is_world_process_zero and self.similarity is not None and self.step == state.global_step:
            draw_token_similarity(self.similarity, folder / "token_similarity.png", f"step {self.step}")


def draw_token_similarity(similarity: torch.Tensor, path: Path, title: str) -> None:
    """
    Draws the mean cosine similarity of compression tokens to each other (paper, figure 3).

    Args:
        similarity (`torch.Tensor` of shape `(K, K)`):
            What [`evaluate_compression`] returns.
        path (`Path`):
            Image to be written.
        title (`str`):
            What stands above it.
    """
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(similarity.float().cpu().numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, label="cosine similarity")
    between = (similarity.sum() - similarity.trace()) / max(1, similarity.numel() - len(similarity))
    axes.set(title=f"{title}: {between:.2f} between tokens", xlabel="compression token", ylabel="compression token")
    figure.savefig(path, dpi=120)
