"""Trainers of the two stages of CoMa, their losses and data. Each name is imported when it is first asked for."""

from trainers._lazy import installed_version, lazy


_MODULES = {
    "CachingProcessor": "data.pixel_cache",
    "ComaCompressionCollator": "compression.collator",
    "ComaCompressionConfig": "compression.config",
    "ComaCompressionTrainer": "compression.trainer",
    "ComaContrastiveCollator": "contrastive.collator",
    "ComaContrastiveConfig": "contrastive.config",
    "ComaContrastiveTrainer": "contrastive.trainer",
    "DialogueColumns": "data.dialogues",
    "PairColumns": "data.pairs",
    "RetrievalCallback": "evaluation.callback",
    "RetrievalSet": "evaluation.retrieval",
    "add_lengths": "compression.lengths",
    "embed_items": "encoding.encode",
    "emoji_dialogues": "data.emoji",
    "emoji_pairs": "data.emoji",
    "encode_batches": "encoding.encode",
    "evaluate_set": "evaluation.retrieval",
    "load_coma_sft": "data.llava",
    "load_dialogues": "data.dialogues",
    "load_emoji": "data.emoji",
    "load_folder": "data.folders",
    "load_folder_dialogues": "data.folders",
    "load_folder_pairs": "data.folders",
    "load_llava": "data.llava",
    "load_mmeb_train": "data.mmeb.train",
    "load_pairs": "data.pairs",
    "load_triplets": "data.pairs",
    "lora_config": "adapters",
    "merge_adapter": "adapters",
    "model_from_backbone": "backbone",
    "nearest_documents": "encoding.nearest",
    "retrieval_metrics": "evaluation.metrics",
    "stream_dialogues": "data.webdataset",
    "stream_pairs": "data.webdataset",
    "validate_dialogues": "data.schema",
    "validate_pairs": "data.schema",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy(__name__, _MODULES)
__version__: str = installed_version()
