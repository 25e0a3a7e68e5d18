"""Peak memory of the loss of late interaction: forward and backward of InfoNCE over MaxSim, from random states.

It is measured above the states of both sides, in this process. All cosines of states with each other would be
`pairs² x q x t` numbers, 69 GB for 4,096 pairs of 16 and 64 states.

  python -m benchmarks.late_interaction
  python -m benchmarks.late_interaction --pairs 256      # quick, to see that it runs

The last line is a JSON object.
"""

import argparse
import json
import time

import torch

from benchmarks.contrastive_step import memory_above
from trainers.contrastive.loss import info_nce


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--budget", type=int, nargs=2, default=(16, 64), help="states of a query and of a document")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    queries, documents = (torch.randn(arguments.pairs, n, arguments.dim).requires_grad_() for n in arguments.budget)
    info_nce(queries[:8], documents[:8]).loss.backward()
    queries.grad = documents.grad = None

    def work() -> None:
        info_nce(queries, documents).loss.backward()

    started = time.process_time()
    peak = memory_above(work)
    states = sum(side.nbytes for side in (queries, documents)) / 2**30
    print(json.dumps({"peak_gb": round(peak, 3), "states_gb": states, "cpu_s": round(time.process_time() - started)}))


if __name__ == "__main__":
    main()
