"""Small sets in the exact layouts of MMEB, made of emoji."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value

from trainers.data.emoji import load_emoji
from trainers.data.mmeb.sets import SETS


NUMBER = 6
PICTURE = "<|image_1|>\n"
DESCRIBE = "Represent the given image."


class Emoji:
    """The first emoji of a style: their names, and their images as PNG files."""

    def __init__(self, root: Path, style: str = "noto") -> None:
        self.names, pictures = emoji(style)
        self.paths = [f"{style}/{n}.png" for n in range(NUMBER)]
        (root / style).mkdir(parents=True, exist_ok=True)
        for path, picture in zip(self.paths, pictures, strict=True):
            if not (root / path).exists():
                (root / path).write_bytes(picture)


@functools.cache
def emoji(style: str) -> tuple[list[str], list[bytes]]:
    rows, files = load_emoji([style]).select(range(NUMBER)), []
    for image in rows["image"]:
        files.append(io.BytesIO())
        image.convert("RGB").resize((56, 56)).save(files[-1], "PNG")
    return list(rows["label"]), [file.getvalue() for file in files]


def rotated(values: list[Any], by: int) -> list[Any]:
    """A list that begins elsewhere: the right candidate comes first, as in the benchmark."""
    return values[by:] + values[:by]


def v1_rows(name: str, root: Path) -> list[dict[str, Any]]:
    """Rows of MMEB-v1, prompts included: images with names to be found, or the other way round, or both images."""
    emoji, others = Emoji(root), Emoji(root, "twemoji")
    assembly, none = SETS[name].assembly, [""] * NUMBER
    rows = []
    for n in range(NUMBER):
        query, picture = f"{PICTURE}Name it: number {n}\n", emoji.paths[n]
        texts, paths = rotated(emoji.names, n), none
        if assembly == "from_text":
            query, picture = f"Find the image: {emoji.names[n]}\n", ""
        if assembly in ("from_text", "to_image"):
            texts, paths = [f"{PICTURE}{DESCRIBE}\n"] * NUMBER, rotated(others.paths, n)
        rows.append({"qry_text": query, "qry_img_path": picture, "tgt_text": texts, "tgt_img_path": paths})
    return rows


def v2_rows(name: str, root: Path, captions: bool = False) -> list[dict[str, Any]]:
    """The same with instructions apart; with captions, candidates are images with their names."""
    rows = v1_rows(name, root)
    emoji = Emoji(root)
    for n, row in enumerate(rows):
        to_pictures = bool(row["tgt_img_path"][0])
        row["qry_inst"] = "Find the image:" if not row["qry_img_path"] else f"{PICTURE}Name it:"
        row["qry_text"] = emoji.names[n] if not row["qry_img_path"] else f"number {n}"
        row["tgt_inst"] = f"{PICTURE}{DESCRIBE}" if to_pictures else ""
        if to_pictures:
            row["tgt_text"] = rotated(emoji.names, n) if captions else [""] * NUMBER
    return rows


def visual_documents(root: Path) -> dict[str, Dataset]:
    """
    Three queries to six pages. To the first, page 1 is worth 2 and page 2 is worth 1; to the second page 0 is worth 1
    (twice told) and page 3 nothing; to the third page 5 is worth 3.
    """
    pages = [{"path": None, "bytes": (root / path).read_bytes()} for path in Emoji(root).paths]
    corpus = {"corpus-id": [f"page-{n}" for n in range(NUMBER)], "image": pages}
    queries = {
        "query-id": [10, 11, 12],
        "query": ["a grin", "a big grin", "tears of joy"],
        "language": ["english"] * 3,
    }
    judged = [(10, 1, 2), (10, 2, 1), (11, 0, 1), (11, 0, 1), (11, 3, 0), (12, 5, 3)]
    qrels = {"query-id": [q for q, _, _ in judged], "corpus-id": [f"page-{p}" for _, p, _ in judged]}
    return {
        "queries": Dataset.from_dict(queries),
        "qrels": Dataset.from_dict({**qrels, "score": [score for _, _, score in judged]}),
        "corpus": Dataset.from_dict(corpus, Features({"corpus-id": Value("string"), "image": Image()})),
    }


def write_rows(rows: list[dict[str, Any]], folder: Path, as_json: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if as_json:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "test.jsonl").write_text(lines, encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")


def write_mmeb(root: Path, names: list[str], v2: bool = False) -> Path:
    """A folder with these sets of images and visual documents, the images included."""
    for name in names:
        if SETS[name].modality == "visdoc":
            for table, dataset in visual_documents(root).items():
                (root / name / table).mkdir(parents=True)
                dataset.to_parquet(root / name / table / "test-00000-of-00001.parquet")
        else:
            write_rows((v2_rows if v2 else v1_rows)(name, root), root / name)
    return root
