"""Stage 1, compression: dialogues about an input are answered from its compression tokens alone."""

from trainers._lazy import lazy


_MODULES = {
    "ComaCompressionCollator": "collator",
    "ComaCompressionConfig": "config",
    "ComaCompressionTrainer": "trainer",
    "add_lengths": "lengths",
    "answer_kl": "loss",
    "evaluate_compression": "evaluation",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy(__name__, _MODULES)
