"""Trains a small CoMa model on real images, from nothing, and shows what it finds.

The data are 1,595 emoji in four drawing styles. Three styles are trained on, the fourth is never seen. A random
backbone of three million parameters goes through both stages of the paper: first it answers dialogues about an image
from its compression tokens alone, then the embeddings of images and names are matched by InfoNCE. After that it
names images of the unseen style, finds them by name, and finds the same emoji in another style.

  coma demo                          # about five minutes on two cores
  coma demo --out my-demo --compression-steps 20 --contrastive-steps 50

It leaves in the folder: `model`, which AutoModel and SentenceTransformer load, and `retrieval.png`, a page of queries
with what they found.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import command_parser, positive


if TYPE_CHECKING:
    import torch

    from modeling_coma import ComaForEmbedding, ComaProcessor
    from trainers.base import ComaTrainer
    from trainers.evaluation.metrics import Ranking


__all__ = ["main"]

UNSEEN, OTHER = "twemoji", "noto"
BACKBONE = "tiny random Qwen2.5-VL"
NUM_COMPRESSION_TOKENS, TURNS = 4, 3

# Loads the folder where nothing of this package has been imported, and embeds what it is given.
RELOAD = """
import sys, torch
from transformers import AutoModel, AutoProcessor
folder, image = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert not any(name.partition(".")[0] == "modeling_coma" for name in sys.modules)
with torch.no_grad():
    print(model(**processor.process(["red apple", {"image": image}])).embeddings.flatten().tolist())
"""


def main(argv: list[str]) -> int:
    """Runs `coma demo`; returns the exit code."""
    parser = command_parser("demo", __doc__)
    parser.add_argument("--out", metavar="OUT", type=Path, default=Path("demo"), help="folder (default: demo)")
    parser.add_argument("--compression-steps", type=positive, default=20, help="steps of stage 1 (default: 20)")
    parser.add_argument("--contrastive-steps", type=positive, default=400, help="steps of stage 2 (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order (default: 0)")
    arguments = parser.parse_args(argv)

    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.common.page import draw_page
    from hub_scripts.hub.training_record import write_stages
    from trainers.data.emoji import emoji_retrieval

    started = time.perf_counter()
    with new_folder(arguments.out) as folder:
        model, processor = _create(arguments.seed)
        stages = _train(model, processor, arguments)
        unseen, other = emoji_retrieval(UNSEEN), emoji_retrieval(OTHER)
        rankings, neighbours = _evaluate(model, processor, unseen, other)
        model.config.backbone_config._name_or_path = BACKBONE
        table = _table(rankings, len(unseen.names))
        (folder / "model").mkdir()
        write_stages(folder / "model", stages)
        save_model(model, processor, folder / "model", _training(arguments), f"```\n{table.strip()}\n```")
        _check_reload(model, processor, folder / "model", unseen.images[0])
        draw_page(folder / "retrieval.png", unseen, other, neighbours)
    results = {name: _hits(ranking, 1) for name, ranking in rankings.items()}
    sys.stdout.write(table)
    sys.stdout.write(
        f"\nLook at {arguments.out / 'retrieval.png'}; load {arguments.out / 'model'} with AutoModel.\n\n"
    )
    summary = {
        **{f"{name}_p1": round(value, 4) for name, value in results.items()},
        "chance_p1": round(1 / len(unseen.names), 6),
        "seconds": round(time.perf_counter() - started),
        "model": str(arguments.out / "model"),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _create(seed: int) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    from hub_scripts.tiny.backbone import DEMO, create_tiny_backbone
    from trainers.backbone import model_from_backbone
    from trainers.data.emoji import emoji_dialogues, load_emoji

    emoji = load_emoji()
    texts = [message["content"] for row in emoji_dialogues(emoji, languages=())["messages"] for message in row]
    with tempfile.TemporaryDirectory() as folder:
        create_tiny_backbone(folder, texts=texts + list(emoji["label"]), sizes=DEMO, seed=seed)
        return model_from_backbone(folder, NUM_COMPRESSION_TOKENS)


def _train(model: "ComaForEmbedding", processor: "ComaProcessor", arguments: Any) -> list[dict[str, Any]]:
    """Both stages, on all styles but one; gives the record of them."""
    from trainers.data.emoji import STYLES, load_emoji
    from trainers.data.images import as_image, without_decoding
    from trainers.data.pixel_cache import CachingProcessor

    emoji = load_emoji([style for style in STYLES if style != UNSEEN])
    caching = CachingProcessor.of(processor)
    caching.fill([as_image(image) for image in without_decoding(emoji)["image"]], num_workers=2)
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder,
            "freeze_vision": False,  # the backbone is random: all of it is trained
            "weight_decay": 0.05,
            "warmup_steps": 0.1,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "seed": arguments.seed,
        }
        sys.stdout.write("\nStage 1, compression: dialogues answered from the compression tokens alone\n")
        first = _compress(model, processor, caching, emoji, {**common, "max_steps": arguments.compression_steps})
        sys.stdout.write("\nStage 2, matching: images and their names, by InfoNCE\n")
        second = _match(model, processor, caching, emoji, {**common, "max_steps": arguments.contrastive_steps})
    model.eval()
    return [first, second]


def _compress(model: Any, processor: Any, caching: Any, emoji: Any, settings: dict) -> dict[str, Any]:
    from trainers.compression.collator import ComaCompressionCollator
    from trainers.compression.config import ComaCompressionConfig
    from trainers.compression.trainer import ComaCompressionTrainer
    from trainers.data.emoji import emoji_dialogues

    rows = emoji_dialogues(emoji, seed=settings["seed"], turns=TURNS, languages=())
    config = ComaCompressionConfig(**settings, per_device_train_batch_size=64, learning_rate=3e-4)
    collator = ComaCompressionCollator(caching, compression_instruction=False)
    trainer = ComaCompressionTrainer(model, config, collator, rows, processing_class=processor)
    trainer.train()
    return _stage(trainer, turns=TURNS)


def _match(model: Any, processor: Any, caching: Any, emoji: Any, settings: dict) -> dict[str, Any]:
    from trainers.contrastive.collator import ComaContrastiveCollator
    from trainers.contrastive.config import ComaContrastiveConfig
    from trainers.contrastive.trainer import ComaContrastiveTrainer
    from trainers.data.emoji import emoji_pairs

    loss = {"temperature": 0.07, "bidirectional": True}
    config = ComaContrastiveConfig(**settings, **loss, per_device_train_batch_size=128, learning_rate=1.5e-3)
    collator = ComaContrastiveCollator(caching)
    rows = emoji_pairs(emoji)
    trainer = ComaContrastiveTrainer(model, config, collator, rows, processing_class=processor)
    trainer.train()
    return _stage(trainer)


def _stage(trainer: "ComaTrainer", **more: Any) -> dict[str, Any]:
    from hub_scripts.common.training import EMOJI
    from hub_scripts.hub.training_record import describe_stage

    source = {"model": BACKBONE, "data": EMOJI, "data_rows": len(trainer.train_dataset), **more}
    return describe_stage(trainer, source, is_finished=True)


def _training(arguments: Any) -> str:
    return (
        f"`coma demo`, from random weights, on emoji in three drawing styles. Stage 1: {arguments.compression_steps} "
        "steps of 64 dialogues, without the instruction line, learning rate 3e-4. Stage 2: "
        f"{arguments.contrastive_steps} steps of 128 pairs of image and name, learning rate 1.5e-3, temperature "
        f"0.07, both directions. Everything was trained. Seed {arguments.seed}."
    )


def _evaluate(
    model: "ComaForEmbedding", processor: "ComaProcessor", unseen: Any, other: Any
) -> tuple[dict[str, "Ranking"], dict[str, "torch.Tensor"]]:
    """Each query's own emoji is the one right answer among all of them."""
    import torch

    from trainers.encoding.encode import embed_items
    from trainers.evaluation.metrics import Relevance, rank_embeddings

    pictures, names, others = (
        embed_items(model, processor, items, description=f"Embedding {what}")
        for items, what in ((unseen.images, UNSEEN), (unseen.names, "names"), (other.images, OTHER))
    )
    relevance = Relevance.single(torch.arange(len(names)))
    tasks = {
        "image_to_text": (pictures, names),
        "text_to_image": (names, pictures),
        "image_to_image": (pictures, others),
    }
    rankings = {name: rank_embeddings(*pair, relevance) for name, pair in tasks.items()}
    neighbours = {name: (queries @ documents.T).topk(5).indices for name, (queries, documents) in tasks.items()}
    return rankings, neighbours


def _hits(ranking: "Ranking", cutoff: int) -> float:
    from trainers.evaluation.metrics import retrieval_metrics

    return retrieval_metrics(ranking, (cutoff,))[f"hit@{cutoff}"]


def _table(rankings: dict[str, "Ranking"], candidates: int) -> str:
    lines = [
        f"\nRetrieval among {candidates} emoji, images of the unseen style {UNSEEN}",
        f"{'':<18}{'P@1':>9}{'R@10':>9}",
    ]
    for name, ranking in rankings.items():
        title = name.replace("_to_", " -> ").replace("image", "image").replace("text", "name")
        lines.append(f"{title:<18}{_hits(ranking, 1):>9.2%}{_hits(ranking, 10):>9.2%}")
    lines.append(f"{'chance':<18}{1 / candidates:>9.2%}{10 / candidates:>9.2%}")
    return "\n".join(lines) + "\n"


def _check_reload(model: "ComaForEmbedding", processor: "ComaProcessor", folder: Path, picture: Any) -> None:
    """The saved folder gives the same embeddings in a process that has never seen this package."""
    import torch

    with tempfile.TemporaryDirectory() as elsewhere:
        picture.save(Path(elsewhere, "image.png"))
        reload = [sys.executable, "-I", "-c", RELOAD, str(folder), str(Path(elsewhere, "image.png"))]
        printed = subprocess.run(reload, cwd=elsewhere, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise ValueError(f"The saved model does not load with trust_remote_code:\n{printed.stderr[-2000:]}")
    with torch.no_grad():
        here = model(**processor.process(["red apple", picture])).embeddings.flatten()
    difference = (here - torch.tensor(json.loads(printed.stdout))).abs().max().item()
    if not difference <= 1e-6:  # nor if it is not a number
        raise ValueError(f"The saved model gives other embeddings when it is loaded again: off by {difference:.1e}.")
    sys.stdout.write(f"\nReloaded in a clean process with AutoModel: largest difference {difference:.0e}\n")
