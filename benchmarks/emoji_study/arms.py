"""What is compared with what: every arm of every study, each different from another in one thing."""

from dataclasses import asdict, dataclass, replace

from benchmarks.reranking import BUDGETS


@dataclass(frozen=True)
class Arm:
    """
    One way to make an embedding model from the common backbone.

    Args:
        name (`str`): row of the table.
        tokens (`int`): K.
        pooling (`str`): "mean", or "last" for the state of the last compression token.
        dialogues (`str`, *optional*): what stage 1 is trained on: "multi-turn", "single-turn" or "caption".
        longer (`int`): how many times as long as usual stage 1 is, or stage 2 with both at once; more than once costs
            more than the other arms.
        kl (`bool`): stage 1 is distilled from the uncompressed backbone, instead of taught by the answers.
        joint (`bool`): the loss of stage 1 is added in every step of stage 2, instead of coming before.
        share (`float`): of the pairs of stage 2.
        batch_size, temperature (`int`, `float`): of stage 2.
        mask_duplicates (`bool`): whether documents that equal the positive are no negatives.
        hard_negatives (`int`): names of the same subgroup, given with every pair.
        budgets (`str`): of late interaction, as "1x1 2x2".
        last_first (`bool`): a budget has the last states, whose tokens see the others, instead of the first.
        rerank (`bool`): the nearest images are reranked, and small vectors examined, too.
    """

    name: str
    tokens: int = 8
    pooling: str = "mean"
    dialogues: str | None = None
    longer: int = 1
    kl: bool = False
    joint: bool = False
    share: float = 1.0
    batch_size: int = 64
    temperature: float = 0.07
    mask_duplicates: bool = True
    hard_negatives: int = 0
    budgets: str = ""
    last_first: bool = False
    rerank: bool = False

    @property
    def key(self) -> str:
        """What the arm is, but for its name in a table: the name of its file."""
        settings = asdict(self)
        del settings["name"]
        usual = asdict(Arm(""))
        return "-".join(
            [f"K{self.tokens}", *(f"{n}={v}" for n, v in settings.items() if n != "tokens" and v != usual[n])]
        )


LAST = Arm("last token, contrastive only", tokens=1, pooling="last")
PLAIN = Arm("K = 8, contrastive only")
COMA = Arm("K = 8, stage 1, then contrastive", dialogues="multi-turn")
JOINT = Arm("K = 8, both at once", dialogues="multi-turn", joint=True)

CLAIM = {
    "The claim": [LAST, PLAIN, COMA, JOINT],
    "Number of tokens": [
        *(replace(COMA, name=f"K = {number}", tokens=number) for number in (1, 4)),
        replace(COMA, name="K = 8"),
        *(replace(COMA, name=f"K = {number}", tokens=number) for number in (16, 32)),
    ],
    "Stage 1": [
        replace(COMA, name="caption, cross-entropy", dialogues="caption"),
        replace(COMA, name="single turn, cross-entropy", dialogues="single-turn"),
        replace(COMA, name="several turns, cross-entropy"),
        replace(COMA, name="several turns, KL", kl=True),
        replace(COMA, name="several turns, four times as long", longer=4),
    ],
    "Contrastive pairs": [
        replace(arm, name=f"{share:.0%} of the pairs, {'with' if arm.dialogues else 'without'} stage 1", share=share)
        for share in (0.1, 0.3, 1.0)
        for arm in (PLAIN, COMA)
    ],
}

CONTRASTIVE = {
    "Batch size, as many pairs in all": [
        replace(PLAIN, name="16", batch_size=16),
        replace(PLAIN, name="64"),
        replace(PLAIN, name="256", batch_size=256),
    ],
    "Temperature": [replace(PLAIN, name=str(value), temperature=value) for value in (0.02, 0.07, 0.2)],
    "Documents equal to the positive, batch 256": [
        replace(PLAIN, name="masked", batch_size=256),
        replace(PLAIN, name="negatives", batch_size=256, mask_duplicates=False),
    ],
    "Hard negatives, of the same subgroup": [
        replace(PLAIN, name="none"),
        replace(PLAIN, name="2", hard_negatives=2),
    ],
}

NESTED = replace(PLAIN, name="K = 8, nested, the first states", budgets=" ".join(BUDGETS))
LATE = {
    "Late interaction": [
        replace(PLAIN, name="K = 8, one vector"),
        NESTED,
        replace(PLAIN, name="K = 1, one vector", tokens=1),
        replace(NESTED, name="K = 8, nested, the last states", last_first=True),
    ]
}

POOLING = {
    "Pooling": [
        replace(PLAIN, name="K = 8, mean of all"),
        replace(PLAIN, name="K = 8, last", pooling="last"),
    ]
}

KEPT = replace(COMA, budgets=" ".join(BUDGETS), rerank=True)
RERANK = {
    "Reranking": [
        replace(KEPT, name="600 steps of stage 1, then contrastive", longer=12),
        replace(KEPT, name="582 steps of both at once", joint=True, longer=6),
    ]
}

STUDIES = {"claim": CLAIM, "contrastive": CONTRASTIVE, "late": LATE, "pooling": POOLING, "rerank": RERANK}
