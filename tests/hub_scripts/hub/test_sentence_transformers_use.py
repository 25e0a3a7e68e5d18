"""What people do with a folder in sentence-transformers: prompts, small embeddings, processes, fine-tuning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from hub_scripts.common.folders import save_model
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.data.emoji import load_emoji


@pytest.fixture(scope="module")
def mixed(picture: Callable[..., Image.Image]) -> list[Any]:
    high = picture(56, 112, 2)
    return ["a red apple", picture(84, 56, 1), {"image": high, "text": "what is this?"}, {"image": high}, "it"]


@pytest.fixture
def loaded(coma_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(coma_folder), device="cpu", trust_remote_code=True)


def direct(folder: Path, inputs: list[Any]) -> np.ndarray:
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor.process(inputs)).embeddings.numpy()


def instructed(instruction: str, item: Any) -> list[dict]:
    """What a prompt means: a system message before the input."""
    item = item if isinstance(item, dict) else {"text" if isinstance(item, str) else "image": item}
    content = [{"type": kind, kind: value} for kind, value in item.items()]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": content}]


def test_prompts_of_the_folder_belong_to_queries_and_documents(
    make_coma: Callable, mixed: list[Any], tmp_path: Path
) -> None:
    save_model(*make_coma(), tmp_path)
    config = tmp_path / "config_sentence_transformers.json"
    prompts = {"query": "Find it.", "document": "What is it?"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prompts": prompts}))
    loaded = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    for encode, prompt in ((loaded.encode_query, "Find it."), (loaded.encode_document, "What is it?")):
        expected = direct(tmp_path, [instructed(prompt, item) for item in mixed])
        assert np.abs(encode(mixed) - expected).max() < 1e-6
    assert np.abs(loaded.encode(mixed) - direct(tmp_path, mixed)).max() < 1e-6


def test_small_embeddings(loaded: SentenceTransformer, coma_folder: Path, mixed: list[Any]) -> None:
    expected = direct(coma_folder, mixed)
    short = loaded.encode(mixed, truncate_dim=16, normalize_embeddings=True)
    assert np.abs(short - expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)).max() < 1e-6
    signs = np.packbits(expected > 0, axis=1).astype(int) - 128
    assert (loaded.encode(mixed, precision="binary") == signs).all()
    whole = loaded.encode(mixed * 24, precision="int8")  # its scale needs rows
    ranges = expected.min(axis=0), expected.max(axis=0)
    assert whole.dtype == np.int8
    assert np.abs((whole[:5] + 128.0) / 255 * (ranges[1] - ranges[0]) + ranges[0] - expected).max() < 0.01


def test_the_limit_of_a_row_is_that_of_the_processor(loaded: SentenceTransformer) -> None:
    """`max_seq_length` of sentence-transformers sets the tokenizer, whose limit says nothing of images; it is ours
    that cuts texts."""
    text = "a red apple " * 30
    whole = loaded.encode(text)
    loaded.max_seq_length = 16
    assert np.array_equal(loaded.encode(text), whole)
    loaded[0].processor.max_length = 16
    assert np.abs(loaded.encode(text) - whole).max() > 1e-3


def test_its_trainer_fine_tunes_the_folder(loaded: SentenceTransformer, coma_folder: Path, tmp_path: Path) -> None:
    emoji = load_emoji(["noto"]).select(range(8))
    rows = emoji.select_columns(["image", "label"]).rename_columns({"image": "anchor", "label": "positive"})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=1e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        loaded, arguments, train_dataset=rows, loss=MultipleNegativesRankingLoss(loaded)
    )
    done = trainer.train()
    assert done.global_step == 2 and done.training_loss > 0
    loaded.save_pretrained(str(tmp_path / "tuned"))
    items = ["a red apple", emoji["image"][0]]
    tuned = direct(tmp_path / "tuned", items)
    assert np.abs(tuned - loaded.encode(items)).max() < 1e-6
    assert np.abs(tuned - direct(coma_folder, items)).max() > 1e-3
    assert (tmp_path / "tuned" / "modeling_coma.py").exists()


@pytest.mark.slow
def test_several_processes_are_one(loaded: SentenceTransformer, mixed: list[Any]) -> None:
    pool = loaded.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = loaded.encode(mixed, pool=pool, batch_size=2)
    finally:
        loaded.stop_multi_process_pool(pool)
    assert np.abs(found - loaded.encode(mixed)).max() < 1e-6
