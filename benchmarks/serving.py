"""`coma serve` under load on this machine: how many answers a second, how late, and whether each is the right one.

A small random model embeds texts of 1 to 60 words, emoji of several sizes, and both. First the model alone, in this
process, one item after the other; then behind the server, asked by so many clients at one time, each of which waits
for its answer. Clients, server and model share the processors. Every answer is compared with the vector that
`embed_items` gives; so are those of a longer run of mixed requests with one replica killed in its middle. A request
that is told to come again (429, 503) comes again, and is counted.

  python -m benchmarks.serving                          # 10,000 answers, some minutes
  python -m benchmarks.serving --quick                  # to see that it runs

The last line is a JSON object.
"""

import argparse
import asyncio
import base64
import json
import socket
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import psutil
from transformers.utils import logging

from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.serve import serve_model
from hub_scripts.tiny.backbone import BackboneSizes, create_tiny_backbone
from trainers.backbone import model_from_backbone
from trainers.data.emoji import load_emoji
from trainers.encoding.encode import embed_items


CONCURRENCY = (1, 8, 64)
TOLERANCE = 1e-5
TRIES = 100
AGAIN = (429, 503)


class Case(NamedTuple):
    body: bytes
    item: Any
    expected: np.ndarray


class Load(NamedTuple):
    """What came of many requests."""

    seconds: list[float]  # each, with those that came again
    wall: float
    statuses: Counter  # of all answers
    wrong: int
    missing: int  # without a vector in the end


def make_model(folder: Path, texts: list[str]) -> Path:
    sizes = BackboneSizes(hidden_size=256, num_hidden_layers=6)
    backbone = create_tiny_backbone(folder / "backbone", texts=texts, sizes=sizes)
    save_model(*model_from_backbone(str(backbone), 8), folder / "model")
    return folder / "model"


def make_cases(folder: Path, emoji: Any, count: int) -> list[Case]:
    random, bodies, items = np.random.default_rng(0), [], []
    names = emoji["label"][:]
    for place in range(count):
        text = " ".join(names[row] for row in random.integers(len(names), size=random.integers(1, 30)))
        file = BytesIO()
        size = (int(random.integers(28, 225)), int(random.integers(28, 225)))
        emoji[place % len(names)]["image"].convert("RGB").resize(size).save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        parts = [parts[:1], parts[1:], parts][place % 3]
        item = {"text": text, "image": file.getvalue()}
        items.append([text, {"image": item["image"]}, item][place % 3])
        asked = {"messages": [{"role": "user", "content": parts}]} if place % 3 else {"input": text}
        bodies.append(json.dumps({"model": "model", **asked}).encode())
    expected = embed_items(*load_model(str(folder), device="cpu"), items, description=None).numpy()
    return [Case(*case) for case in zip(bodies, items, expected, strict=True)]


def in_process(folder: Path, cases: list[Case], count: int) -> float:
    """Items a second, one after the other."""
    model, processor = load_model(str(folder), device="cpu")
    embed_items(model, processor, [cases[0].item], description=None)
    began = time.perf_counter()
    for place in range(count):
        embed_items(model, processor, [cases[place % len(cases)].item], description=None)
    return count / (time.perf_counter() - began)


async def load(url: str, cases: list[Case], count: int, concurrency: int, kill_at: int | None = None) -> Load:
    places, seconds, statuses = iter(range(count)), [], Counter()
    wrong = missing = 0
    limits = httpx2.Limits(max_connections=concurrency)

    async def ask(client: httpx2.AsyncClient, case: Case) -> np.ndarray | None:
        for _ in range(TRIES):
            response = await client.post(f"{url}/embeddings", content=case.body)
            statuses[response.status_code] += 1
            if response.status_code not in AGAIN:
                break
            await asyncio.sleep(float(response.headers["Retry-After"]))
        return np.array(response.json()["data"][0]["embedding"]) if response.status_code == 200 else None

    async def client_of_many(client: httpx2.AsyncClient) -> None:
        nonlocal wrong, missing
        for place in places:
            if place == kill_at:
                kill_replica()
            case, began = cases[place % len(cases)], time.perf_counter()
            vector = await ask(client, case)
            seconds.append(time.perf_counter() - began)
            missing += vector is None
            wrong += vector is not None and not np.abs(vector - case.expected).max() <= TOLERANCE

    async with httpx2.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
        began = time.perf_counter()
        await asyncio.gather(*(client_of_many(client) for _ in range(concurrency)))
    return Load(seconds, time.perf_counter() - began, statuses, wrong, missing)


def kill_replica() -> None:
    everything = psutil.Process().children(recursive=True)
    next(one for one in everything if "ray::ServeReplica:coma:Replica" in " ".join(one.cmdline())).kill()


def row(name: str, found: Load) -> dict[str, float]:
    p50, p99 = np.quantile(found.seconds, [0.5, 0.99]) * 1e3
    rate = len(found.seconds) / found.wall
    print(f"{name:<28}{rate:>9.1f}{p50:>10.0f}{p99:>10.0f}{found.wrong:>7}{found.missing:>9}", flush=True)
    return {"per_second": round(rate, 1), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "wrong": found.wrong}


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    emoji = load_emoji(["noto"])
    model = make_model(folder, emoji["label"][:200])
    cases = make_cases(model, emoji, arguments.cases)
    print(f"{'':<28}{'a second':>9}{'p50, ms':>10}{'p99, ms':>10}{'wrong':>7}{'missing':>9}")
    alone = in_process(model, cases, arguments.requests)
    print(f"{'in process, one by one':<28}{alone:>9.1f}{1e3 / alone:>10.0f}", flush=True)
    made: dict[str, Any] = {"in_process_per_second": round(alone, 1)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with serve_model(model, port=port, replicas=arguments.replicas, device="cpu") as url:
        asyncio.run(load(url, cases, 4 * arguments.replicas, 4))  # the first ones are late
        for concurrency in CONCURRENCY:
            found = asyncio.run(load(url, cases, arguments.requests, concurrency))
            made[f"at_{concurrency}"] = row(f"{concurrency} at one time", found)
        found = asyncio.run(load(url, cases, arguments.answers, 64, kill_at=arguments.answers // 2))
        made["answers"] = row("a replica killed", found) | {
            "answers": arguments.answers - found.missing,
            "missing": found.missing,
            "came_again": sum(found.statuses[status] for status in AGAIN),
            "statuses": {str(status): number for status, number in sorted(found.statuses.items())},
        }
    made["times_in_process"] = round(made["at_64"]["per_second"] / alone, 2)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, help="of the run with a killed replica (default: 10,000)")
    parser.add_argument("--requests", type=int, help="for each number of clients (default: 600)")
    parser.add_argument("--cases", type=int, default=300, help="different requests (default: 300)")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="500 answers, 60 requests")
    arguments = parser.parse_args()
    arguments.answers = arguments.answers or (500 if arguments.quick else 10_000)
    arguments.requests = arguments.requests or (60 if arguments.quick else 600)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        made = measure(Path(folder), arguments)
    print(json.dumps({"replicas": arguments.replicas, "requests": arguments.requests, **made}))


if __name__ == "__main__":
    main()
