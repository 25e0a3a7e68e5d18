"""Stage 2, contrastive: the pooled compression tokens as an embedding, trained with InfoNCE."""

from trainers._lazy import lazy


_MODULES = {
    "ComaContrastiveCollator": "collator",
    "ComaContrastiveConfig": "config",
    "ComaContrastiveTrainer": "trainer",
}
__all__ = ["ComaContrastiveCollator", "ComaContrastiveConfig", "ComaContrastiveTrainer"]
__getattr__, __dir__ = lazy(__name__, _MODULES)
