"""The chat template of a plain backbone: what stock tools render begins and ends as rows of ours do.

Before the row stands what its tokenizer would begin it with, BOS, and after it the compression tokens, so that nothing
is left for a tool to add. A tokenizer that puts a space before the first word of a text puts none after a BOS that was
typed: then the template writes it.
"""

import json
from typing import TYPE_CHECKING

from modeling_coma.processing_coma import compression_tokens


if TYPE_CHECKING:
    from modeling_coma import ComaProcessor


__all__ = ["check_template", "stock_template"]

SPACED = "{{% set row %}}{row}{{% endset %}}{{{{ bos_token }}}}{{{{ '' if row.startswith((' ', {image})) else ' ' }}}}"


def stock_template(processor: "ComaProcessor") -> str:
    """
    The template of a processor with all that its rows begin and end with.

    Args:
        processor ([`ComaProcessor`]): of a model.
    """
    row = processor.chat_template["default"]
    tokens = "".join(compression_tokens(processor.num_compression_tokens))
    if not processor.head_ids:
        begin = row
    elif _splits_alike(processor):
        begin = "{{ bos_token }}" + row
    else:
        image = json.dumps(processor.image_placeholder, ensure_ascii=False)
        begin = SPACED.format(row=row, image=image) + "{{ row }}"
    return f"{begin}{{{{ '{tokens}' }}}}"


def _splits_alike(processor: "ComaProcessor") -> bool:
    """Whether a text is the same tokens after a BOS that the tokenizer has put there, and after one in the text."""
    tokenizer = processor.tokenizer
    typed, put = f"{tokenizer.bos_token}a", tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer(typed, add_special_tokens=False)["input_ids"] == [*processor.head_ids, *put]


def check_template(processor: "ComaProcessor") -> None:
    """
    Compares what the tokenizer makes of texts by its own template with the rows of the processor.

    Args:
        processor ([`ComaProcessor`]): whose tokenizer has the template.

    Raises:
        ValueError: if they differ.
    """
    texts = ["a red apple", " a red apple", "\na", "1 + 1"]
    conversations = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]
    conversations += [[{"role": "system", "content": "Find it."}, *messages] for messages in conversations]
    for messages in conversations:
        expected = processor.process([messages])["input_ids"][0].tolist()
        found = processor.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        if found != expected:
            raise ValueError(
                f"By a chat template, the tokenizer makes other tokens of {messages[-1]['content'][0]['text']!r} than "
                f"this model has learnt, {found} for {expected}: nothing was converted. Stock tools cannot serve it."
            )
