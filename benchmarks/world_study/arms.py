"""What is compared with what: the map of pairs and stage 1, and arms that each differ in one thing."""

from dataclasses import asdict, dataclass, fields, replace


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
        extra (`float`): units of stage 1 whose cost is spent on more steps of stage 2 instead.
        tokens (`int`): K.
        pooling (`str`): "mean", or "last" for the state of the last compression token.
        dialogues (`str`): what stage 1 is trained on: "multi-turn", "single-turn", "caption", or "mixed", which is
            several turns or a caption.
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
    return replace(arm, stage_1=0.0, extra=extra)


def at_equal_cost(arm: Arm) -> Arm:
    """The same arm with the cost of its stage 1 spent on more steps of stage 2."""
    return without(arm, extra=arm.stage_1)


MAP = [Arm(pairs, units) for units in UNITS for pairs in PAIRS]
EQUAL_COST = [at_equal_cost(arm) for arm in MAP if arm.stage_1]
COARSE_MAP = [arm for arm in MAP if arm.pairs <= 10_000 and arm.stage_1 != 0.25]
FIRST = [arm for arm in COARSE_MAP if arm.pairs in (FEW, MANY)]
FIRST += [at_equal_cost(arm) for arm in FIRST if arm.stage_1]
PAIRED = [arm for pairs in (FEW, MANY) for arm in (Arm(pairs), at_equal_cost(Arm(pairs)))]
OTHER_RATES = [replace(arm, rate=rate) for rate in RATES for arm in PAIRED]


def _at_both(**settings: object) -> list[Arm]:
    return [replace(Arm(pairs), **settings) for pairs in (FEW, MANY)]


ARMS: dict[str, list[Arm]] = {
    "no stage 1": _at_both(stage_1=0.0),
    **{f"no stage 1, cost of {units:g}": _at_both(stage_1=0.0, extra=units) for units in UNITS if units},
    **{f"stage 1, {units:g}": _at_both(stage_1=units) for units in UNITS if units},
    **{f"no stage 1, cost of 1, rate x {rate:g}": _at_both(stage_1=0.0, extra=1.0, rate=rate) for rate in RATES},
    **{f"stage 1, 1, rate x {rate:g}": _at_both(rate=rate) for rate in RATES},
    "both at once": _at_both(stage_1=0.0, joint=True),
    "stage 1 on captions": _at_both(dialogues="caption"),
    "stage 1 on single turns": _at_both(dialogues="single-turn"),
    "stage 1 by KL": _at_both(kl=True),
    "stage 1 through states": _at_both(memory="states"),
    "last of one token, no stage 1": _at_both(stage_1=0.0, tokens=1, pooling="last"),
    **{f"K = {number}, stage 1": _at_both(tokens=number) for number in (1, 2, 8, 32)},
    "all weights, no stage 1": _at_both(stage_1=0.0, training="full"),
    "all weights, stage 1": _at_both(training="full"),
}


# One of each that trains in a way of its own, to see that everything runs.
QUICK_ARMS = [
    Arm(FEW, 0.0),
    Arm(FEW),
    Arm(FEW, 0.0, joint=True),
    Arm(FEW, kl=True),
    Arm(FEW, memory="states"),
    Arm(FEW, training="full"),
]


def plan() -> list[Arm]:
    """Every arm once, the most telling first."""
    several = [*FIRST, *OTHER_RATES, *COARSE_MAP, *(arm for arms in ARMS.values() for arm in arms), *MAP, *EQUAL_COST]
    return list(dict.fromkeys(several))
