"""The runs of a study, and how the numbers of several seeds are written."""

import statistics
from typing import Any


Results = dict[str, list[dict[str, Any]]]  # runs of each key, one for each seed


def spread(values: list[float], digits: int) -> str:
    """`mean ± standard deviation`."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
