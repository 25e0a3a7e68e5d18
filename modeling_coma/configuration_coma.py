"""Configuration of a CoMa embedding model: a vision-language backbone and its compression tokens."""

import transformers
from packaging.version import Version
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)

# The oldest and the newest transformers with which the tests of this code have passed. A saved folder says so.
TESTED_TRANSFORMERS = ("5.18.0", "5.24.0")


class ComaConfig(PreTrainedConfig):
    """
    Configuration of a [`ComaForEmbedding`]. It composes the configuration of the backbone, whatever its family.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`): configuration of the vision-language backbone.
        compression_token_ids (`list[int]`): vocabulary ids of the K tokens (1 to 256), in the order of the input.
        pooling (`str`): how their last hidden states become one embedding, `"mean"` (section 3.2) or `"last"`.
        normalize (`bool`): whether embeddings are L2-normalised.
        memory (`str`): what of these tokens dialogues are answered from: `"cache"`, keys and values in every layer
            (section 3.1), or `"states"`, their last hidden states, which is not the paper's form but fits any layers.
        tested_transformers (`list[str]`): oldest and newest transformers that the code of a folder was tested with, of
            which loading by another says a line. What is saved next has the range of the code that is saved.
        kwargs: `eos_token_id`, at which `generate` stops, `pad_token_id`, and what `PreTrainedConfig` takes.
    Raises `ValueError` for a pooling or memory that does not exist, and for ids repeated, out of range or too many.
    """

    model_type = "coma"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: dict | PreTrainedConfig | None = None,
        compression_token_ids: list[int] | None = None,
        pooling: str = "mean",
        normalize: bool = True,
        memory: str = "cache",
        tested_transformers: list[str] | None = None,
        **kwargs,
    ):
        if tested_transformers is not None:
            _compare_with_tested(*tested_transformers)
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.compression_token_ids = compression_token_ids or []
        self.pooling = pooling
        self.normalize = normalize
        self.memory = memory
        if backbone_config is not None:
            self._validate()
            self.tested_transformers = list(TESTED_TRANSFORMERS)
            self.hidden_size = self.get_text_config().hidden_size  # DeepSpeed and sentence-transformers look here
            kwargs["tie_word_embeddings"] = backbone_config.tie_word_embeddings
        super().__init__(**kwargs)

    @property
    def num_compression_tokens(self) -> int:
        return len(self.compression_token_ids)

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self if self.backbone_config is None else self.backbone_config.get_text_config(*args, **kwargs)

    def _validate(self):
        ids, vocab_size = self.compression_token_ids, self.get_text_config().vocab_size
        if self.pooling not in ("mean", "last"):
            raise ValueError(f"pooling={self.pooling!r} does not exist; choose 'mean' or 'last'.")
        if self.memory not in ("cache", "states"):
            raise ValueError(f"memory={self.memory!r} does not exist; choose 'cache' or 'states'.")
        if not 1 <= len(ids) <= 256 or len(set(ids)) != len(ids) or not 0 <= min(ids) <= max(ids) < vocab_size:
            raise ValueError(f"compression_token_ids must be 1 to 256 distinct ids below {vocab_size}, got {ids}.")


def _compare_with_tested(oldest: str, newest: str):
    if not Version(oldest) <= Version(transformers.__version__) <= Version(newest):
        logger.warning_once(
            f"This model was tested with transformers {oldest} to {newest}, and runs with {transformers.__version__}: "
            "if embeddings or answers look wrong, install one of those."
        )


__all__ = ["TESTED_TRANSFORMERS", "ComaConfig"]
