"""Malformed files of other kinds: settings in YAML, indexes of `coma embed`, and files of 300,000 equal things."""

import io
import random
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from hub_scripts.embedding.index import write_index
from hub_scripts.embedding.nearest import nearest
from hub_scripts.embedding.store import index_metadata
from hub_scripts.finetune import _parse as parse_finetune
from hub_scripts.pretrain import _parse as parse_pretrain
from tests.malformed.cases import Case, Check
from tests.malformed.tables import load
from trainers.data.qa.parsing import find_questions
from trainers.encoding.shards import write_shard


__all__ = ["index_cases", "long_cases", "setting_cases"]

NO_NUMBER = [
    "x",
    "true",
    "[1]",
    "{a: 1}",
    ".nan",
    "1,5",
    "0x1g",
    "!!binary aGk=",
    "2020-01-01",
    '"1" 2',
    "-3",
    "[",
    "*a",
]
WRONG = {
    "learning_rate": [*NO_NUMBER, ".inf"],
    "num_train_epochs": NO_NUMBER,
    "per_device_train_batch_size": [*NO_NUMBER, "0", "1.5"],
    "max_steps": [word for word in [*NO_NUMBER, "1.5"] if word != "-3"],
    "warmup_steps": NO_NUMBER,
    "data_format": ["lllava", "3", "[llava]", "{a: b}", "LLAVA"],
    "dtype": ["float31", "3", "[float32]"],
    "bf16": ["maybe", "3", "[true]", "{a: b}"],
    "lora_r": [*NO_NUMBER, "1.5"],
    "lora_dropout": [*NO_NUMBER, "1.5"],
    "on_bad_row": ["ignore", "3", "[skip]"],
    "save_strategy": ["sometimes", "3"],
    "lr_scheduler_type": ["straight", "[cosine]"],
    "learnig_rate": ["1e-5"],
    "model": ["n", "[a, b]", "{a: b}"],  # it is there already
}
NO_MAPPING = ["- a", "3", "a", "a: b: c", "\tx: 1", "a: ["]
NO_SETTINGS = ["---\na: 1\n---\nb: 2", "? [a]\n: b", "a: !!python/object:os.system x", "\0", "a: &x [*x]", "[" * 5000]
NO_SETTINGS += ["a: " + "{b: " * 3000, "1: 2", "~: x", "[a, b]: c", "seed: 1\nseed: 2", "max_steps: 1\n'max_steps': 2"]
NO_SETTINGS += ["a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))]
RIGHT = {"learning_rate": ["1e-5", "0.001", "1.0e-4", "5e-05"], "lora_dropout": ["0", "0.5"], "weight_decay": ["0.01"]}
RIGHT |= {"max_steps": ["3", "17"], "seed": ["0", "7"], "logging_steps": ["5"]}
GOOD = b"model: m\ndata: d\nlearning_rate: 1e-5\nmax_steps: 3\n"


def setting_cases(number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    texts: list[tuple[str, Check | None]] = [(text, None) for text in NO_MAPPING]
    lines = [f"{name}: {value}" for name, values in WRONG.items() for value in values]
    texts += [(f"model: m\ndata: d\n{line}\n", None) for line in (*lines, *NO_SETTINGS)]
    for name, values in RIGHT.items():
        texts += [(f"model: m\ndata: d\n{name}: {value}\n", is_set(name, float(value))) for value in values]
    contents = [(text.encode(), check) for text, check in texts]
    for _ in range(number - len(contents)):  # bytes of any kind
        place = draw.randrange(len(GOOD))
        inserted = GOOD[:place] + draw.randbytes(3) + GOOD[place:]
        contents.append((draw.choice([draw.randbytes(50), inserted, GOOD.decode().encode("utf-16-le")]), has_model))
    for place, (content, check) in enumerate(contents):
        path = folder / f"settings{place}.yaml"
        path.write_bytes(content)
        parse = (parse_pretrain, parse_finetune)[place % 2]
        yield Case(f"settings {content!r:.100}", lambda p=parse, f=path: parsed(p, f), check)


def parsed(parse: Callable, path: Path) -> Any:
    """What a command makes of a file; a wrong command line is an error, too."""
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        try:
            return parse(["--config", str(path), "--output_dir", str(path.parent / "out")])
        except SystemExit as stop:
            raise ValueError(said.getvalue() if stop.code == 2 else "") from stop


def is_set(name: str, expected: float) -> Check:
    def check(found: Any) -> str | None:
        given = [getattr(part, name) for part in found if hasattr(part, name)]
        return None if given == [expected] else f"{name} is {given}"

    return check


def has_model(found: Any) -> str | None:
    """Of a file with other bytes in it a value may be another one, but nothing is missing."""
    return None if found[0].model and found[0].data else f"{found!r:.200}"


def index_cases(number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    embeddings = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.manual_seed(0)), dim=1)
    metadata = {"model": "m", "num_compression_tokens": 4, "dim": 16, "probe": [0.5, 0.25]}
    table = pa.table(
        {
            "row": range(40),
            "id": [f"n{row}" for row in range(40)],
            "text": [f"⟦{row}⟧" for row in range(40)],
            "image": pa.nulls(40),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.numpy().reshape(-1)), 16),
            "error": pa.nulls(40, pa.string()),
        }
    )
    shards = [folder / f"{row}.arrow" for row in range(0, 40, 10)]
    for place, shard in enumerate(shards):
        write_shard(shard, table.slice(10 * place, 10))
    index = folder / "index.parquet"
    write_index(index, shards, folder / "skipped", metadata)
    data, expected = index.read_bytes(), nearest(index, embeddings[7], 5)
    metadata |= {"dims": 16, "precision": "float32"}

    def read(path: Path) -> Any:
        return index_metadata(path), nearest(path, embeddings[7], 5)

    def check(found: Any) -> str | None:
        return None if found == (metadata, expected) else f"it finds {found!r:.300}"

    for place in range(number):
        path = folder / f"index{place}"
        path.write_bytes(damaged(draw, data))
        yield Case(f"index {place}", lambda f=path: read(f), check, rf"{path.name}\b")


def damaged(draw: random.Random, data: bytes) -> bytes:
    how, changed = draw.randrange(5), bytearray(data)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        place = draw.randrange(len(data))
        return data[:place] + draw.randbytes(draw.randrange(400)) + data[place + draw.randrange(1, 400) :]
    for _ in range(draw.choice([1, 1, 3])):  # anywhere, or where the footer is
        changed[draw.randrange(len(data) - 2500 if how == 2 else 0, len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


THINGS = ['"', ",", "\n", "\r", "[", "{", '{"a":', "<think>", " ", "\t", '"x",', 'x"y,', '"\n', "\\", "*", "- ", "1. "]
THINGS += ["```\n", "?", "é", "\0", "|"]


def long_cases(number: int, draw: random.Random, folder: Path) -> Iterator[Case]:
    """Nothing may be read time after time: of one sort of thing, or of two in turn, 300,000 take a moment."""
    things = THINGS + [draw.choice(THINGS) + draw.choice(THINGS) for _ in range(number - len(THINGS))]
    for place, thing in enumerate(things):
        text = thing * (300_000 // len(thing))
        if place % 4 == 0:
            yield Case(f"long reply of {thing!r}", lambda t=text: find_questions(t), lambda found: None)
        kind, before = (("csv", "q,p\n"), ("jsonl", ""), ("json", "["), ("tsv", "q\tp\n"))[place % 4]
        path = folder / f"long{place}.{kind}"
        path.write_text(before + text, encoding="utf-8", newline="")
        yield Case(f"{path.name} of {thing!r}", lambda f=path: load(f), lambda found: None, kind)
    keys = ",".join(f'"{key}": 1' for key in range(30_000))
    path = folder / "keys.jsonl"
    path.write_text(f'{{{keys}, "29999": 2}}\n{{"q": "⟦0⟧", "p": "⟦0⟧"}}\n')
    yield Case("many keys", lambda: load(path), lambda found: None if found == ([("⟦0⟧", "⟦0⟧")], {0}) else f"{found}")
