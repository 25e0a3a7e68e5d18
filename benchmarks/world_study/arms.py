"""What is compared with what: the map of pairs and stage 1, and arms that each differ in one thing."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any


PAIRS = (100, 300, 1_000, 3_000, 10_000, 30_000)
UNITS = (0.0, 0.25, 1.0, 4.0)
RATES = (0.3, 3.0)
FEW, MANY = 300, 3_000  # at which arms are compared


@dataclass(frozen=True)
class Arm:
    """
    One way to make an embedding model from the common backbone.

    Args:
        pairs (`int`): different pairs of stage 2.
        stage_1 (`float`): units of stage 1 before it.
        extra (`float`): units of stage 1 whose cost is spent on more steps of stage 2.
        tokens (`int`): K.
        pooling (`str`): "mean", or "last" for the state of the last compression token.
        dialogues (`str`): what stage 1 is trained on: "multi-turn", "single-turn" or "caption"; "mixed" is several
            turns or a caption, "images and texts" several turns about a scene that is drawn or described.
        kl (`bool`): stage 1 is distilled from the uncompressed backbone, instead of taught by the answers.
        joint (`bool`): the loss of stage 1 is added in every step of stage 2, instead of coming before.
        memory (`str`): what answers are read from, "cache" or "states".
        training (`str`): "lora", a new adapter in each stage, or "full".
        rate (`float`): by which the learning rate of stage 2 is multiplied.
        budgets (`str`): of late interaction, as "1x1 2x2".
    """

    pairs: int = MANY
    stage_1: float = 1.0
    extra: float = 0.0
    tokens: int = 4
    pooling: str = "mean"
    dialogues: str = "multi-turn"
    kl: bool = False
    joint: bool = False
    memory: str = "cache"
    training: str = "lora"
    rate: float = 1.0
    budgets: str = ""

    @property
    def key(self) -> str:
        """What the arm is: the pairs, the units of stage 1, and what is not as usual."""
        return " ".join([f"pairs={self.pairs}", f"stage_1={self.stage_1:g}", *self._unusual("pairs", "stage_1")])

    @property
    def stage_1_key(self) -> str:
        """What of it decides its stage 1."""
        return "-".join(
            [f"{self.stage_1:g}", *self._unusual("pairs", "stage_1", "extra", "joint", "pooling", "rate", "budgets")]
        )

    def _unusual(self, *but: str) -> list[str]:
        usual, own = asdict(Arm()), asdict(self)
        names = [field.name for field in fields(self) if field.name not in but]
        return [f"{name}={own[name]}" for name in names if own[name] != usual[name]]


def without(arm: Arm, extra: float = 0.0) -> Arm:
    """The same arm without stage 1, at equal pairs or, with `extra`, at equal cost."""
    return replace(arm, stage_1=0.0, extra=extra, memory=Arm.memory)


def at_equal_cost(arm: Arm) -> Arm:
    """The same arm with the cost of its stage 1 spent on more steps of stage 2."""
    return without(arm, extra=arm.stage_1)


def both_long(arm: Arm) -> Arm:
    """The same arm with as many steps of stage 2 as it would have at equal cost without its stage 1."""
    return replace(arm, extra=arm.stage_1)


def _of(pairs: tuple[int, ...], units: tuple[float, ...], **settings: Any) -> list[Arm]:
    return [Arm(number, one, **settings) for number in pairs for one in units]


# The map: less of it where a run is long, or where it would only fill a gap between two others.
NO_STAGE_1 = _of(PAIRS, (0.0,))
STATES = _of((FEW, MANY, 100, 1_000, 10_000), (1.0, 4.0), memory="states")
STATES += _of((FEW, MANY), (0.25,), memory="states") + _of((30_000,), (4.0,), memory="states")
CACHE = _of((FEW, MANY, 100, 1_000), (1.0, 4.0))
EQUAL_COST = [at_equal_cost(arm) for arm in STATES if arm.pairs <= MANY]
BOTH_LONG = [both_long(arm) for arm in _of((FEW, 100), (4.0,), memory="states")]
MAP = [*NO_STAGE_1, *STATES, *EQUAL_COST, *CACHE]
FIRST = [arm for arm in MAP if arm.pairs in (FEW, MANY) and 0.25 not in (arm.stage_1, arm.extra)]

# Arms that differ in one thing from a unit of stage 1 through states, or from no stage 1 at its cost.
USUAL = Arm(FEW, 1.0, memory="states")
FULL = _of((FEW,), (1.0, 4.0), memory="states", training="full")
ARMS: dict[str, Arm] = {
    "no stage 1": without(USUAL),
    "no stage 1, at the cost of one unit": at_equal_cost(USUAL),
    "stage 1 through states": USUAL,
    "stage 1 through the cache": replace(USUAL, memory="cache"),
    "both at once": replace(USUAL, stage_1=0.0, joint=True),
    "stage 1, then both at once": replace(USUAL, joint=True),
    **{f"no stage 1, at that cost, rate x {rate:g}": replace(at_equal_cost(USUAL), rate=rate) for rate in RATES},
    **{f"stage 1, rate x {rate:g}": replace(USUAL, rate=rate) for rate in RATES},
    "stage 1 on captions": replace(USUAL, dialogues="caption"),
    "stage 1 on single turns": replace(USUAL, dialogues="single-turn"),
    "stage 1 on images and texts": replace(USUAL, dialogues="images and texts"),
    "stage 1 by KL": replace(USUAL, kl=True),
    "last of one token, no stage 1": replace(without(USUAL), tokens=1, pooling="last"),
    **{f"stage 1, K = {number}": replace(USUAL, tokens=number) for number in (1, 2, 8, 32)},
    "all weights, no stage 1": without(FULL[0]),
    "all weights, stage 1": FULL[0],
    "all weights, no stage 1, at that cost": at_equal_cost(FULL[0]),
    "all weights, four units of stage 1": FULL[1],
    "all weights, no stage 1, at that cost of four": at_equal_cost(FULL[1]),
}


# With a backbone of another size: where stage 1 is longest, in both forms of memory.
LONGEST = [Arm(FEW, max(UNITS), memory=memory) for memory in ("states", "cache")]
SIZE_ARMS = [without(LONGEST[0]), LONGEST[0], at_equal_cost(LONGEST[0]), both_long(LONGEST[0]), LONGEST[1]]

# The same with late interaction: does stage 1 help where the embedding is no mean, but all states?
SEVERAL = replace(LONGEST[0], budgets="1x1 2x2 4x4")
SEVERAL_ARMS = {
    "none": without(SEVERAL),
    "none, at the cost of four units": at_equal_cost(SEVERAL),
    "four units through states": SEVERAL,
}


def compared_with(arm: Arm) -> list[Arm]:
    """What the report takes an arm's results from, and thus has to be run with the same weights of the backbone."""
    others = [without(arm), at_equal_cost(arm)] if arm.stage_1 else []
    if arm in ARMS.values():
        others += [USUAL, without(USUAL), at_equal_cost(USUAL)]
    return [other for other in dict.fromkeys(others) if other != arm and other in plan()]


# One of each that trains in a way of its own, to see that everything runs.
QUICK_ARMS = [
    Arm(FEW, 0.0),
    Arm(FEW),
    Arm(FEW, 0.0, joint=True),
    Arm(FEW, kl=True),
    Arm(FEW, memory="states"),
    Arm(FEW, training="full"),
    Arm(FEW, budgets="1x1 4x4"),
]


def plan() -> list[Arm]:
    """Every arm once, the most telling first, and what has most steps last."""
    arms = [*FIRST, *BOTH_LONG, *ARMS.values(), *SEVERAL_ARMS.values(), *MAP]
    return sorted(dict.fromkeys(arms), key=lambda arm: arm.pairs == max(PAIRS))
