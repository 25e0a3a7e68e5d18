"""From a PDF to an answer: trained on rendered pages, a page is found by its words."""

import json
from pathlib import Path

import pytest
import yaml

from hub_scripts.common.loading import load_model
from hub_scripts.embed import embed_table
from hub_scripts.finetune import main as finetune
from hub_scripts.search import search_index
from tests.pdf_files import write_pdf


WORDS = ["apple", "tree", "leaves", "sky", "what", "few", "red", "blue", "words", "image", "text", "user"]
SETTINGS = {"query_text": "text", "positive_image": "page", "lora_r": 0, "max_steps": 60, "learning_rate": 0.003}
SETTINGS |= {"per_device_train_batch_size": 12, "report_to": "none", "use_cpu": True, "save_strategy": "no"}


def found_first(model: Path, pdf: Path, index: Path) -> int:
    """How many pages are the first that is found by the words on them."""
    embed_table(model, pdf, index)
    loaded = load_model(str(model))
    firsts = [search_index(index, word, model=loaded, k=1)[0].row["id"] for word in WORDS]
    return sum(first == f"words.pdf#{number}" for number, first in enumerate(firsts, 1))


@pytest.mark.slow
def test_a_page_is_found_by_its_words(coma_folder: Path, tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "words.pdf", WORDS, width=130, height=60)
    rows = [{"text": word, "page": f"words.pdf#{number}"} for number, word in enumerate(WORDS, 1)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = {"data": tmp_path / "rows.jsonl", "output_dir": tmp_path / "tuned", "model": coma_folder}
    settings = SETTINGS | {name: str(path) for name, path in paths.items()}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(settings))
    before = found_first(coma_folder, pdf, tmp_path / "before.parquet")
    assert finetune(["--config", str(tmp_path / "my.yaml")]) == 0
    after = found_first(tmp_path / "tuned", pdf, tmp_path / "after.parquet")
    assert before <= 4 and after >= 11
