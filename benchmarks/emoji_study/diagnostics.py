"""What happens to the geometry of the embeddings: before stage 1, after it, and after stage 2, as images.

  python -m benchmarks.emoji_study.diagnostics              # after `python -m benchmarks.emoji_study claim`

It leaves in the folder: `geometry.png` (likeness of the compression tokens, cosines between images, alignment and
uniformity), `groups.png` (which group the nearest name belongs to) and `neighbours.png` (queries with what they find).
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors.torch import load_file
from transformers.utils import logging

from benchmarks.emoji_study.arms import COMA
from benchmarks.emoji_study.geometry import alignment, anisotropy, uniformity
from benchmarks.emoji_study.runs import similarity
from benchmarks.emoji_study.setting import OTHER, UNSEEN, Emoji, embed
from hub_scripts.common.page import draw_page
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone
from trainers.data.emoji import emoji_retrieval


class Moment(NamedTuple):
    """A model at one point of its training."""

    title: str
    embeddings: dict[str, torch.Tensor]
    similarity: torch.Tensor  # (K, K)


def moments(folder: Path, seed: int, emoji: Emoji) -> list[Moment]:
    stage_1 = folder / "stage-1" / f"K{COMA.tokens}-{COMA.dialogues}-ce-1-{seed}"
    found = []
    for title, loaded in (
        ("before stage 1", model_from_backbone(str(folder / "backbone"), COMA.tokens)),
        ("after stage 1", (ComaForEmbedding.from_pretrained(stage_1), ComaProcessor.from_pretrained(stage_1))),
    ):
        found.append(Moment(title, embed(*loaded, emoji), torch.tensor(similarity(*loaded, emoji))))
    run = json.loads((folder / "runs" / f"{COMA.key} {seed}.json").read_text())
    embeddings = load_file(folder / "embeddings" / f"{COMA.key} {seed}.safetensors")
    return [*found, Moment("after stage 2", embeddings, torch.tensor(run["token similarity"]))]


def draw_geometry(several: list[Moment]) -> Figure:
    figure = Figure(figsize=(4.2 * len(several), 8), layout="constrained")
    matrices, below = figure.subplots(2, len(several))
    for axes, moment in zip(matrices, several, strict=True):
        image = axes.imshow(moment.similarity, vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set(title=f"compression tokens, {moment.title}", xlabel="token", ylabel="token")
    figure.colorbar(image, ax=matrices, label="cosine similarity")
    _draw_cosines(below[0], several)
    _draw_plane(below[1], several)
    below[2].bar([moment.title for moment in several], [anisotropy(m.embeddings["images"]) for m in several])
    below[2].set(title="anisotropy", ylabel="mean cosine between images")
    return figure


def _draw_cosines(axes: Axes, several: list[Moment]) -> None:
    for moment in several:
        images = moment.embeddings["images"]
        cosines = (images @ images.T)[~torch.eye(len(images), dtype=torch.bool)]
        axes.hist(cosines.numpy(), bins=80, density=True, histtype="step", label=moment.title)
    axes.set(title="between different images", xlabel="cosine similarity", ylabel="density")
    axes.legend()


def _draw_plane(axes: Axes, several: list[Moment]) -> None:
    for moment in several:
        images, names = moment.embeddings["images"], moment.embeddings["names"]
        axes.scatter(uniformity(images), alignment(images, names), s=80, label=moment.title)
    axes.set(title="both are best when low", xlabel="uniformity of images", ylabel="alignment with their names")
    axes.legend()


def draw_groups(moment: Moment, groups: list[str]) -> Figure:
    """Share of the images of each group whose nearest name belongs to each group."""
    names = sorted(set(groups))
    numbers = torch.tensor([names.index(group) for group in groups])
    nearest = numbers[(moment.embeddings["images"] @ moment.embeddings["names"].T).argmax(dim=1)]
    counts = torch.zeros(len(names), len(names)).index_put(
        (numbers, nearest), torch.ones(len(groups)), accumulate=True
    )
    shares = counts / counts.sum(dim=1, keepdim=True)
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="Blues"), ax=axes, label="share of the images")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="group of the nearest name", ylabel="group of the image", title=moment.title)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("emoji-study"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    emoji = Emoji()
    several = moments(arguments.folder, arguments.seed, emoji)
    draw_geometry(several).savefig(arguments.folder / "geometry.png", dpi=110)
    draw_groups(several[-1], emoji.groups).savefig(arguments.folder / "groups.png", dpi=110)
    embeddings = {name: several[-1].embeddings[name] for name in ("images", "names", "others")}
    draw_page(arguments.folder / "neighbours.png", emoji_retrieval(UNSEEN), emoji_retrieval(OTHER), **embeddings)


if __name__ == "__main__":
    main()
