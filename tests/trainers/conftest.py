"""Fixtures of both stages: rows of every modality, and trainers of tiny models."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainers.compression.config import ComaCompressionConfig
from trainers.compression.trainer import ComaCompressionTrainer
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.experimental.config import ExperimentalContrastiveConfig
from trainers.experimental.trainer import ExperimentalContrastiveTrainer


MODALITIES = ("text", "image", "mixed", "several")


# Settings of a training that is over soon.
QUICK = {
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
}


@pytest.fixture(scope="session")
def contrastive_rows(picture: Callable) -> Callable[..., list[dict[str, Any]]]:
    """`contrastive_rows(modality, number)`: rows of stage 2, all different, every third with hard negatives."""

    def item(modality: str, seed: int) -> dict[str, Any]:
        text = " ".join(f"{seed} is a red apple and {seed + 1} a blue tree".split()[: 3 + seed % 5])
        image = picture(28 * (1 + seed % 4), 28 * (1 + seed % 3), seed)
        return {
            "text": {"text": text, "image": None},
            "image": {"text": None, "image": image},
            "mixed": [{"text": text, "image": None}, {"text": None, "image": image}, {"text": text, "image": image}][
                seed % 3
            ],
            "several": {"text": text, "image": [image, picture(56, 28, seed + 500)][: seed % 3] or None},
        }[modality]

    def make(modality: str = "mixed", number: int = 6) -> list[dict[str, Any]]:
        return [
            {
                "query": item(modality, 5 * row),
                "positive": item(modality, 5 * row + 1),
                "negatives": [item(modality, 5 * row + 2 + n) for n in range(2 if row % 3 == 0 else 0)],
                "source": "ab"[row % 2],
            }
            for row in range(number)
        ]

    return make


@pytest.fixture
def contrastive_trainer(tmp_path: Path) -> Callable[..., ComaContrastiveTrainer]:
    """`contrastive_trainer((model, processor), rows, **settings)`: arguments of the trainer, and of its config."""
    return partial(make_contrastive_trainer, tmp_path, ComaContrastiveTrainer, ComaContrastiveConfig)


@pytest.fixture
def experimental_trainer(tmp_path: Path) -> Callable[..., ExperimentalContrastiveTrainer]:
    """The same with the settings of the experiments."""
    return partial(make_contrastive_trainer, tmp_path, ExperimentalContrastiveTrainer, ExperimentalContrastiveConfig)


def make_contrastive_trainer(
    folder: Path, trainer_class: type, config_class: type, coma: tuple, rows: list[dict] | None = None, **settings: Any
) -> Any:
    model, processor = coma
    kwargs = {name: settings.pop(name) for name in ("peft_config", "callbacks", "eval_dataset") if name in settings}
    config = config_class(**{**QUICK, "output_dir": folder / "out", "temperature": 0.1, **settings})
    return trainer_class(model, config, processing_class=processor, train_dataset=rows, **kwargs)


@pytest.fixture(scope="session")
def compression_rows(picture: Callable) -> Callable[..., list[dict[str, Any]]]:
    """`compression_rows(number)`: rows of stage 1 with images, texts or both, and one to three turns."""

    def row(seed: int) -> dict[str, Any]:
        turns = [("what is this?", f"an apple {seed}"), ("what is around it?", "leaves, a sky"), ("red?", "no")]
        turns = turns[: 1 + seed % 3]
        messages = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in turns]
        images = [picture(28 * (1 + seed % 4), 28 * (1 + seed % 3), seed), picture(28, 28, seed + 99)]
        return {
            "images": images[: (1, 0, 2, 1)[seed % 4]],
            "text": None if seed % 4 == 0 else "a red apple on a green tree"[: 6 + 2 * seed],
            "messages": [message for turn in messages for message in turn],
        }

    return lambda number=8: [row(seed) for seed in range(number)]


@pytest.fixture
def compression_trainer(tmp_path: Path) -> Callable[..., ComaCompressionTrainer]:
    """`compression_trainer((model, processor), rows, **settings)`, the settings being those of trainer and config."""

    def make(coma: tuple, rows: Any = None, **settings: Any) -> ComaCompressionTrainer:
        model, processor = coma
        own = ("peft_config", "teacher", "callbacks", "eval_dataset", "data_collator")
        kwargs = {name: settings.pop(name) for name in own if name in settings}
        config = ComaCompressionConfig(**{**QUICK, "output_dir": tmp_path / "out", **settings})
        return ComaCompressionTrainer(model, config, train_dataset=rows, processing_class=processor, **kwargs)

    return make
