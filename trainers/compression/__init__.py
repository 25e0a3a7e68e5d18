"""Stage 1, compression: dialogues about an input are answered from its compression tokens alone."""

from trainers._lazy import lazy


_MODULES = {
    "ComaCompressionCollator": "collator",
    "ComaCompressionConfig": "config",
    "ComaCompressionTrainer": "trainer",
}
__all__ = ["ComaCompressionCollator", "ComaCompressionConfig", "ComaCompressionTrainer"]
__getattr__, __dir__ = lazy(__name__, _MODULES)
