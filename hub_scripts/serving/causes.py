"""Why a vector of a server is not the golden one, as far as that can be told."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hub_scripts.hub.golden import ANY_PRECISION, TOLERANCES, distances
from hub_scripts.serving.variants import Variant


__all__ = ["explain"]

# A variant is what happened if it is as near as one model in two precisions is to itself.
AS_NEAR_AS = TOLERANCES["bfloat16"]
WEIGHTS = "none of the known mistakes: another model, or other weights"
IMAGES = "none of the known mistakes; if texts are right, images are made otherwise: size, resampling, colours"


def explain(
    found: list[float], expected: list[float], variants: Callable[[], Iterable[Variant]], is_image: bool
) -> str:
    """
    Names the likely cause of a difference.

    Args:
        found (`list[float]`): what the server gave.
        expected (`list[float]`): the golden vector.
        variants (`Callable`): gives what would come of known mistakes; called only where the numbers say nothing.
        is_image (`bool`): whether an image is in the input.

    Returns:
        `str`: a sentence without a full stop.
    """
    given, golden = torch.tensor(found).double(), torch.tensor(expected).double()
    if len(given) < len(golden) and _apart(given, golden[: len(given)]) <= AS_NEAR_AS:
        return f"truncated: these are the first {len(given)} of {len(golden)} dimensions"
    if len(given) != len(golden):
        return f"another model: its vectors have {len(given)} dimensions, those of this one {len(golden)}"
    apart = _apart(given, golden)
    if apart > TOLERANCES["float32"]:
        nearest = min(variants(), key=lambda variant: _apart(given, variant.vector.cpu().double()))
        if _apart(given, nearest.vector.cpu().double()) <= min(AS_NEAR_AS, apart / 2):
            return nearest.cause
    if apart <= AS_NEAR_AS and abs(given.norm() - golden.norm()) > ANY_PRECISION * golden.norm():
        return _of_the_length(given, golden)
    if apart <= ANY_PRECISION:
        return f"within what another precision makes ({ANY_PRECISION:g}): does the server compute in half precision?"
    return IMAGES if is_image else WEIGHTS


def _of_the_length(given: Tensor, golden: Tensor) -> str:
    if _is_unit(golden):
        return "not normalised: the direction is right, and the length is not 1"
    what = "normalised, which this model is not" if _is_unit(given) else "scaled"
    return f"{what}: the direction is right, and the length is not"


def _apart(found: Tensor, expected: Tensor) -> float:
    """How far one direction is from the other."""
    return distances(normalize(found, dim=0), normalize(expected, dim=0))[0]


def _is_unit(vector: Tensor) -> bool:
    return bool(abs(vector.norm() - 1) < ANY_PRECISION)
