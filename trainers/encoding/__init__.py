"""Embeddings of any number of inputs: the encode loop, its shards on disk, exact nearest neighbours."""

from trainers._lazy import lazy


_MODULES = {
    "embed_items": "encode",
    "encode_batches": "encode",
}
__all__ = ["embed_items", "encode_batches"]
__getattr__, __dir__ = lazy(__name__, _MODULES)
