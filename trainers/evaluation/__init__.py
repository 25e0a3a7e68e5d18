"""Evaluation: retrieval metrics, the sets that a model is scored on, and scores during a training."""

from trainers._lazy import lazy


_MODULES = {
    "RetrievalCallback": "callback",
    "RetrievalSet": "retrieval",
    "evaluate_set": "retrieval",
}
__all__ = ["RetrievalCallback", "RetrievalSet", "evaluate_set"]
__getattr__, __dir__ = lazy(__name__, _MODULES)
