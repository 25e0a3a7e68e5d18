"""Where does compression before matching help? A map over pairs and stage 1, in a world that is drawn on the spot.

Every arm starts from one small backbone that answers questions about its pictures, trained here first where the
folder has none. Finished runs are lines of `benchmarks/world_study/results.jsonl`; what is there is not run again, so
the map is completed on several machines, over several days, or by two processes with different `--seeds`.

  python -m benchmarks.world_study                       # runs what is missing, the most telling first
  python -m benchmarks.world_study --hours 2 --seeds 0   # stops before a run that would begin later than that
  python -m benchmarks.world_study --report              # tables and plots of what is there
  python -m benchmarks.world_study --size deep --folder world-study-deep    # some arms, with twice the layers
  python -m benchmarks.world_study --size large --folder world-study-large  # with ten times the weights, on a GPU
  python -m benchmarks.world_study --quick               # to see that everything runs; keeps its results to itself
"""

import argparse
import time
from pathlib import Path

from transformers.utils import logging

from benchmarks.world_study.arms import QUICK_ARMS, SIZE_ARMS, Arm, plan
from benchmarks.world_study.backbone import make_backbone, study
from benchmarks.world_study.report import write_report
from benchmarks.world_study.results import COMMITTED, append_result, missing, read_results
from benchmarks.world_study.runs import run
from benchmarks.world_study.settings import BACKBONES, QUICK, USUAL_SIZE, Sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("world-study"), help="of the backbone and of stage 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--hours", type=float, default=float("inf"), help="after which no run is begun")
    parser.add_argument("--size", choices=BACKBONES, default=USUAL_SIZE, help="of the backbone")
    parser.add_argument("--report", action="store_true", help="runs nothing")
    parser.add_argument("--quick", action="store_true", help="a few steps of a few arms")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    usual, folder = (QUICK if arguments.quick else Sizes()), arguments.folder
    of_size = {name: usual.of_size(name) for name in BACKBONES}
    results = folder / "results.jsonl" if arguments.quick else COMMITTED
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        arms = QUICK_ARMS if arguments.quick else plan() if arguments.size == USUAL_SIZE else SIZE_ARMS
        complete(results, of_size[arguments.size], folder, arguments.seeds, arguments.hours, arms)
    write_report({name: read_results(results, study(sizes)) for name, sizes in of_size.items()}, folder)


def complete(results: Path, sizes: Sizes, folder: Path, seeds: list[int], hours: float, arms: list[Arm]) -> None:
    """Runs what is missing."""
    started = time.monotonic()
    backbone = make_backbone(folder / "backbone", sizes)
    known = {"study": study(sizes), "weights": backbone["weights"]}
    for arm, seed in missing(read_results(results, known["study"]), arms, seeds, known["weights"]):
        if time.monotonic() - started > 3600 * hours:
            break
        found = {"arm": arm.key, "seed": seed, **known, **run(arm, seed, sizes, folder / "backbone", folder)}
        append_result(results, found)
        print(f"{arm.key}, seed {seed}: IND {found['ind']['mean']}, OOD {found['ood']['mean']}", flush=True)


if __name__ == "__main__":
    main()
