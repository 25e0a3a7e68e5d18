"""How inputs and dialogues become text: two chat templates, and the tokens that no text may type into them."""

import functools
import json
import re


ROLES = ("system", "user", "assistant")
IMAGE_TOKEN = "<|image_pad|>"
PLACEHOLDER = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"  # of one image, whatever its size

# What can only be a mistake raises, so that nothing is left out, and no word "None" is put in, by whoever renders.
_CHECK_ROLE = (
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('The role of a message is system, user or assistant.') }}{% endif %}"
)
# An input is rendered as it is; a system message is an instruction on a line of its own.
_INPUT_TEMPLATE = (
    "{% for message in messages %}" + _CHECK_ROLE + "{% if message.content is string %}{{ message.content }}"
    "{% elif message.content is undefined or message.content is mapping or message.content is not iterable %}"
    "{{ raise_exception('The content of a message is a text or a list of blocks.') }}"
    "{% else %}{% for block in message.content %}"
    "{% if block.type == 'image' %}{{ PLACEHOLDER }}VIDEOS"
    "{% elif block.type == 'text' and block.text is string %}{{ block.text }}"
    "{% else %}{{ raise_exception('A content block is an image, or a text that is there.') }}{% endif %}"
    "{% endfor %}{% endif %}{{ '' if loop.last else '\n' }}{% endfor %}"
)
# ChatML. Between the generation marks stands what the model says, its end of turn included.
DIALOGUE_TEMPLATE = (
    "{% for message in messages %}"
    + _CHECK_ROLE
    + "{% if message.content is not string %}{{ raise_exception('A message of a dialogue is a text.') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def input_template(placeholder: str, video_placeholder: str | None = None) -> str:
    """The template of inputs, with what stands where an image stands, and where a video does if there can be any."""

    def literal(text: str) -> str:
        return "'" + json.dumps(text, ensure_ascii=False)[1:-1].replace("'", "\\'") + "'"

    videos = "{% elif block.type == 'video' %}{{ " + literal(video_placeholder) + " }}" if video_placeholder else ""
    return _INPUT_TEMPLATE.replace("PLACEHOLDER", literal(placeholder)).replace("VIDEOS", videos)


@functools.lru_cache(maxsize=32)
def _pattern(tokens: tuple[str, ...], placeholders: tuple[str, ...]) -> re.Pattern:
    """Finds placeholders of images and videos, as a whole, and other tokens."""
    longest_first = sorted(tokens, key=len, reverse=True)  # <|ctoken_pad_1|> is not the beginning of another token
    return re.compile("|".join(map(re.escape, [*sorted(placeholders, key=len, reverse=True), *longest_first])))


def find_placeholders(text: str, placeholders: tuple[str, ...]) -> list[str]:
    """The placeholders in a rendered text, in their order."""
    return _pattern((), placeholders).findall(text)


def check_text(
    text: str, row: int, tokens: tuple[str, ...] = (), what: str = "its text", placeholders: tuple[str, ...] = ()
) -> None:
    """
    Raises `ValueError` for a text that types one of the `tokens`, which would be read as what it stands for (another
    speaker, an image, the embedding), and for half a character, which no tokenizer takes. A rendered text may have
    the `placeholders` of images and videos.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{ascii(text[error.start])} at {error.start}, half a character (a lone surrogate)"
        way_out = "take it out, or decode with errors='replace'"
        raise ValueError(f"Row {row}: {what} has {found}, which is not UTF-8: {way_out}.") from error
    found = _pattern(tokens, placeholders).findall(text) if tokens else []
    if typed := [token for token in found if token not in placeholders]:
        token = typed[0]
        before, _, after = text.partition(token)
        excerpt = f"{before[-20:]}{token}{after[:20]}"  # sentence-transformers sorts rows, and numbers help little
        way_out = f"take it out, or break it up, as {token[:1] + ' ' + token[1:]!r}"
        if placeholders:
            way_out = f"where an image stands, a text has {placeholders[0]}, and no other special token"
        message = f"types {token!r}, a special token of the tokenizer, in {excerpt!r}: {way_out}"
        raise ValueError(f"Row {row}: {what} {message}.")


__all__ = ["DIALOGUE_TEMPLATE", "IMAGE_TOKEN", "PLACEHOLDER", "ROLES", "check_text", "find_placeholders"]
__all__ += ["input_template"]
