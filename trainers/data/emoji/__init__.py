"""Rows for both stages from the packaged emoji."""

from trainers._lazy import lazy


__all__ = ["PAIR_KINDS", "STYLES", "EmojiRetrieval", "emoji_dialogues", "emoji_pairs", "emoji_retrieval", "load_emoji"]
__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__, "rows"))
