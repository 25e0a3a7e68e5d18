"""Experiments on the packaged emoji, on a CPU: the claim of the paper with its ablations, and settings of stage 2.

Every arm starts from one small Qwen2.5-VL that has learned to look and to speak from dialogues in full view of the
image, and is trained on three drawing styles of four fifths of the emoji. It is asked about a fourth style, and
about the other fifth. Arms with and without stage 1 cost the same processor time. What is done already is not done
again: interrupt it and go on, or give the seeds to several processes.

  python -m benchmarks.emoji_study claim                    # about an hour and a half on two cores
  python -m benchmarks.emoji_study contrastive
  python -m benchmarks.emoji_study late                     # several vectors in nested budgets
  python -m benchmarks.emoji_study pooling                  # the mean of the states, or the last one
  python -m benchmarks.emoji_study rerank                   # images reranked from memories; bytes of an image
  python -m benchmarks.emoji_study claim --seeds 0 --quick  # to see that it runs

It leaves in the folder: `backbone`, a JSON file for every run, and with all of them there, tables and plots.
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from transformers.utils import logging

from benchmarks.emoji_study.arms import STUDIES
from benchmarks.emoji_study.report import write_report
from benchmarks.emoji_study.runs import run
from benchmarks.emoji_study.setting import SIZES, Emoji, Steps, make_backbone
from hub_scripts.hub.clean_load import library_versions


QUICK, QUICK_EVERY = Steps(backbone=2, compression=1, contrastive=2, joint=1, alone=2), 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--folder", type=Path, default=Path("emoji-study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a few steps with a few emoji")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    steps = QUICK if arguments.quick else Steps()
    emoji, folder = Emoji(every=QUICK_EVERY if arguments.quick else 1), arguments.folder
    prepare(folder, steps, emoji)
    arms = {arm.key: arm for arms in STUDIES[arguments.study].values() for arm in arms}
    for seed in arguments.seeds:
        for key, arm in arms.items():
            path = folder / "runs" / f"{key} {seed}.json"
            if not path.exists():
                started = time.perf_counter()
                found = run(arm, seed, steps, emoji, folder)
                write_json(path, found)
                print(f"{path.stem:<60}{found['name P@1']:>8.2f}%{time.perf_counter() - started:>8.0f} s", flush=True)
    write_report(arguments.study, folder)


def prepare(folder: Path, steps: Steps, emoji: Emoji) -> None:
    """The backbone, unless it is there; a folder belongs to one plan, whose runs may stand in one table."""
    file = folder / "plan.json"
    plan = {"steps": asdict(steps), "emoji": len(emoji.names), "sizes": asdict(SIZES)}
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        seconds = make_backbone(folder / "backbone", emoji, steps.backbone)
        write_json(file, {**plan, "backbone seconds": seconds, "versions": library_versions()})
    elif (found := json.loads(file.read_text())) | plan != found:
        raise SystemExit(f"{folder} was begun with another plan, give another --folder: {found}")


def write_json(path: Path, content: dict) -> None:
    """All of it or nothing, so that an interrupted run leaves no half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1))
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
