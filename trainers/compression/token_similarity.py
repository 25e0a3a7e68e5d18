"""How similar the compression tokens are to each other, drawn beside checkpoints (paper, figure 3)."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


__all__ = ["TokenSimilarity", "draw_token_similarity"]


class TokenSimilarity(TrainerCallback):
    """
    Saves beside a checkpoint how similar its compression tokens are to each other, if it has just been evaluated.
    `similarity`, of shape `(K, K)`, is set by the trainer.
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
