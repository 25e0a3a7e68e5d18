"""Settings of `generate` that make sense where a memory stands for the input; the others are refused by name."""

import copy
from typing import Any

from transformers import GenerationConfig


# Arguments of the backbone's `generate` beside what a `GenerationConfig` has.
ARGUMENTS = {"generation_config", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"}
ARGUMENTS |= {"streamer", "synced_gpus", "tokenizer"}
KNOWN = {*vars(GenerationConfig()), *ARGUMENTS}

OF_A_CACHE = ("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size")
OF_AN_ASSISTANT = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens", "use_mtp")
OF_OTHER_DECODING = ("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups")
OF_OTHER_DECODING += ("custom_generate",)
OF_AN_INPUT = ("guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask")
REASONS = (
    (OF_A_CACHE, "the memory is the cache that answers are read from"),
    (OF_AN_ASSISTANT, "nothing guesses tokens ahead from a memory"),
    (OF_OTHER_DECODING, "from a memory there are greedy search, sampling and beam search"),
    (OF_AN_INPUT, "without its input there is nothing to guide an answer away from"),
    (("token_healing",), "it rewrites the dialogue"),
)
# Values beside `None` that do nothing.
NEUTRAL = {"use_cache": True, "use_mtp": False, "token_healing": False}
NEUTRAL |= {"penalty_alpha": 0, "num_beam_groups": 1, "guidance_scale": 1}
# name: (value that does nothing, why no other can be)
REFUSED = {name: (NEUTRAL.get(name), why) for names, why in REASONS for name in names}


def sequences_per_row(kwargs: dict[str, Any], defaults: GenerationConfig) -> int:
    r"""
    Checks what is given to `generate`, and says how many rows of cache it wants for every row of input.

    Args:
        kwargs (`dict[str, Any]`): arguments of a call, a `generation_config` among them or not.
        defaults (`GenerationConfig`): the model's own, for what neither of them says.
    Raises `ValueError` for settings that a memory cannot serve, `TypeError` for arguments that nothing knows.
    """

    def setting(name: str) -> Any:
        # Saved after training with gradient checkpointing, a backbone may say `use_cache=False`, and means training.
        return _setting(name, kwargs, None if name == "use_cache" else defaults)

    for name, (neutral, why) in REFUSED.items():
        if setting(name) not in (None, neutral):
            raise ValueError(f"`{name}={setting(name)!r:.60}` cannot be used with a memory: {why}. Leave it out.")
    unknown = sorted(name for name in kwargs.keys() - REFUSED.keys() - KNOWN if kwargs[name] is not None)
    if unknown:
        raise TypeError(
            f"generate_from_memory has no argument {', '.join(unknown)}: the memory stands for all of the input. It "
            "takes the settings of a `GenerationConfig`, and " + ", ".join(sorted(ARGUMENTS)) + "."
        )
    return max(setting("num_beams") or 1, setting("num_return_sequences") or 1)


def _setting(name: str, kwargs: dict[str, Any], defaults: GenerationConfig | None) -> Any:
    """What a call says, or its `generation_config`, or the model."""
    given = [
        kwargs.get(name),
        *(getattr(config, name, None) for config in (kwargs.get("generation_config"), defaults)),
    ]
    return next((value for value in given if value is not None), None)


def with_new_token_limits(kwargs: dict[str, Any], defaults: GenerationConfig, length: int) -> dict[str, Any]:
    """Lengths that count a dialogue, as numbers of new tokens: beside embeddings, `generate` counts these."""
    kwargs = dict(kwargs)
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        limit = _setting(total, kwargs, defaults)
        if limit is not None and _setting(new, kwargs, defaults) is None:
            kwargs |= {total: None, new: max(limit - length, 0)}
    return kwargs


def with_special_ids(kwargs: dict[str, Any], **special_ids: Any) -> dict[str, Any]:
    """Arguments for the backbone's `generate`: these token ids, and a cache in use, where a call says nothing."""
    kwargs = {name: value for name, value in kwargs.items() if name in KNOWN - REFUSED.keys()}
    config = kwargs.get("generation_config")
    if config is None:
        return {**special_ids, "use_cache": True, **kwargs}
    config = copy.deepcopy(config)
    config.update(**special_ids, use_cache=True, defaults_only=True)
    return {**kwargs, "generation_config": config}


__all__ = ["sequences_per_row", "with_new_token_limits", "with_special_ids"]
