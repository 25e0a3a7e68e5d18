"""Requests a second of `coma generate-qa` against the number at one time, from a server that takes 50 ms for each.

The server is another process on the same machine and answers after exactly that time, so the ideal is concurrency /
0.05 s. What is timed is the whole work: real images are read, decoded and encoded, questions asked, parsed and
answered in conversations of five turns, and rows written in order.

  python -m benchmarks.qa_generation
  python -m benchmarks.qa_generation --concurrency 1 8 --images 2      # quick, to see that it runs

The last line is a JSON object; `cpu_ms` is the time of the processor that a request has cost on our side.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.qa_server import LATENCY
from trainers.data.emoji import load_emoji
from trainers.data.qa.dialogue import QASettings
from trainers.data.qa.generation import Source, write_dialogues
from trainers.data.qa.output import QAOutput
from trainers.data.qa.server import ServerChat, ServerSettings


def save_images(folder: Path, number: int) -> list[Source]:
    dataset = load_emoji()
    paths = [folder / f"{place}.png" for place in range(number)]
    for place, path in enumerate(paths):
        dataset[place % len(dataset)]["image"].save(path)
    return [Source(path.name, str(path)) for path in paths]


async def measure(url: str, concurrency: int, sources: list[Source], out: Path) -> tuple[float, float]:
    """Requests a second, and milliseconds of our processor for each."""
    async with ServerChat(ServerSettings(url, "m", concurrency=concurrency)) as chat:
        with QAOutput(out, {}) as output:
            started, worked = time.perf_counter(), time.process_time()
            await write_dialogues(sources, chat, output, QASettings())
            seconds, worked = time.perf_counter() - started, time.process_time() - worked
            calls = [written.stats["calls"] for written in output.written() if written.good]
    if len(calls) != len(sources):
        raise RuntimeError(f"{len(sources) - len(calls)} of {len(sources)} images have no dialogue: see {out}")
    return sum(calls) / seconds, 1000 * worked / sum(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--images", type=int, default=10, help="for every request at one time (default: 10)")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "benchmarks.qa_server"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            sources = save_images(Path(folder), arguments.images * max(arguments.concurrency))
            found = {}
            print(f"{'at one time':>11}{'requests/s':>12}{'ideal':>8}{'ratio':>7}{'cpu ms':>8}")
            for number in arguments.concurrency:
                out = Path(folder, f"{number}.jsonl")
                rate, cpu = asyncio.run(measure(url, number, sources[: arguments.images * number], out))
                ratio = rate * LATENCY / number
                found[number] = {"requests_per_s": round(rate, 1), "ratio": round(ratio, 3), "cpu_ms": round(cpu, 2)}
                print(f"{number:>11}{rate:>12.1f}{number / LATENCY:>8.0f}{ratio:>7.2f}{cpu:>8.2f}")
            print(json.dumps({"latency_s": LATENCY, "by_concurrency": found}))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
