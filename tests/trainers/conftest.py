"""Fixtures of stage 2: rows of every modality, and trainers of tiny models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer


MODALITIES = ("text", "image", "mixed", "several")


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

    def make(coma: tuple, rows: list[dict] | None = None, **settings: Any) -> ComaContrastiveTrainer:
        model, processor = coma
        kwargs = {
            name: settings.pop(name) for name in ("peft_config", "callbacks", "eval_dataset") if name in settings
        }
        defaults = {
            "output_dir": tmp_path / "out",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "temperature": 0.1,
            "learning_rate": 1e-3,
        }
        config = ComaContrastiveConfig(**{**defaults, **settings})
        return ComaContrastiveTrainer(model, config, processor, train_dataset=rows, **kwargs)

    return make
