"""A small index of emoji and a session over it, without the page."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_scripts.app_page.session import Session
from hub_scripts.common.loading import load_model
from hub_scripts.embed import embed_table
from hub_scripts.embedding.opened import OpenStore
from trainers.data.emoji import load_emoji


@pytest.fixture(scope="session")
def emoji_index(coma_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 60 emoji by their names, with the images beside it in `photos/`. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("emoji")
    (folder / "photos").mkdir()
    emoji = load_emoji(["twemoji"]).select(range(0, 1560, 26))
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image"])
        for row in emoji:
            row["image"].save(folder / "photos" / f"{row['id']}.png")
            rows.writerow([row["label"], f"photos/{row['id']}.png"])
    embed_table(coma_folder, folder / "photos.csv", folder / "index.parquet", device="cpu")
    return folder / "index.parquet"


@pytest.fixture(scope="session")
def session(emoji_index: Path, coma_folder: Path) -> Session:
    return Session(OpenStore(emoji_index), load_model(str(coma_folder), device="cpu"), emoji_index.parent)


@pytest.fixture(scope="session")
def make_index(coma_folder: Path) -> Callable[..., Path]:
    """`make_index(folder, rows)`: an index of texts whose columns then say what the rows say."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(folder: Path, rows: list[dict]) -> Path:
        lines = "".join(json.dumps({"text": f"a red apple {number}"}) + "\n" for number in range(len(rows)))
        (folder / "rows.jsonl").write_text(lines)
        embed_table(coma_folder, folder / "rows.jsonl", folder / "honest.parquet", device="cpu")
        table = pq.read_table(folder / "honest.parquet")
        for place, name in enumerate(("id", "text", "image"), 1):
            table = table.set_column(place, name, pa.array([row.get(name) for row in rows], pa.string()))
        pq.write_table(table, folder / "index.parquet")
        return folder / "index.parquet"

    return make
