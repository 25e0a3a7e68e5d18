"""How a backbone writes images and dialogues, found by looking at what its own chat template makes of known messages.

Nothing here knows a family of models. Known texts are rendered, what stands between them is cut out, and what is put
together from the pieces is compared with the template's own rendering before it is used.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from modeling_coma.templates_coma import DIALOGUE_TEMPLATE


__all__ = ["DialogueFormat", "dialogue_template", "image_placeholder"]

logger = logging.get_logger(__name__)

Messages = list[dict[str, Any]]
Speaker = ProcessorMixin | PreTrainedTokenizerBase  # what has a chat template
# What templates raise, by themselves or because they were not made for such messages; ValueError: there is none.
CANNOT_RENDER = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
# Texts that no template has in it. Nothing strips or splits them, none is a part of another.
SYSTEM, *SPOKEN = "Sx0z", "Ux1z", "Ax1z", "Ux2z", "Ax2z", "Ux3z"
# Other words than those that were cut at, for the comparison.
PROBE = ["What is this?", "An apple.\n\nA {{ red }} one, isn't it?", "Where?", 'On "the" tree', "And below it?"]
# The checks of a message, before anything is written.
CHECKS = DIALOGUE_TEMPLATE[: DIALOGUE_TEMPLATE.index("{{ '<|im_start|>'")]
NO_SYSTEM = "The chat template of this backbone has no system messages: put their text into the first question."


class DialogueFormat(NamedTuple):
    """How a backbone writes dialogues.

    Args:
        template (`str`): a chat template for messages that are texts, with generation marks around the answers.
        end_of_turn (`str`): the token with which the model ends what it says, at which generation stops.
    """

    template: str
    end_of_turn: str


class _Turns(NamedTuple):
    """What stands around the contents of messages in the middle of a conversation."""

    user: tuple[str, str]
    opening: str  # of an answer, which is also the prompt for one
    lead: str  # blanks with which the model itself begins
    end: str  # of the turn, said by the model; "" where there is none
    after: str
    system: tuple[str, str] | None = None


CHATML = _Turns(
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    opening="<|im_start|>assistant\n",
    lead="",
    end="<|im_end|>",
    after="\n",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
)
PLAIN = _Turns(user=("User: ", "\n"), opening="Assistant:", lead=" ", end="", after="\n", system=("System: ", "\n"))


def image_placeholder(processor: Speaker, image_token: str, kind: Literal["image", "video"] = "image") -> str:
    r"""
    What a backbone's chat template writes where an image stands, and around it.

    Args:
        processor (`ProcessorMixin` or `PreTrainedTokenizerBase`): of the backbone.
        image_token (`str`): the token that its processor replaces by an image.
        kind (`str`, *optional*, defaults to `"image"`): `"video"` for those of videos.

    Returns:
        `str`: `<|vision_start|><|image_pad|><|vision_end|>` for instance. It has the image token once. The bare image
        token for a template that puts images elsewhere than they stand, that takes none, or that is not there.
    """
    before, after = SPOKEN[:2]
    blocks = [{"type": "text", "text": before}, {"type": kind}, {"type": "text", "text": after}]
    pieces = _between(_render(_speaker(processor), [{"role": "user", "content": blocks}]), [before, after])
    return pieces[1] if pieces and pieces[1].count(image_token) == 1 else image_token


def dialogue_template(processor: Speaker) -> DialogueFormat:
    r"""
    A chat template for dialogues that go on after the compression tokens: turns are written as the backbone's own
    template writes them in the middle of a conversation, without what it puts before the first of them (its BOS, its
    system prompt; a BOS before every question stays). Contents are written as they are, even where the backbone's
    template strips them.

    Between the generation marks stands what the model says, its end of turn included. Where the template has no end of
    turn, `eos_token` is one. Blanks before an answer that are no part of the backbone's generation prompt are said by
    the model, because tokenizers join them to its first word.

    A template that cannot be taken apart, or that is not there, is replaced with a warning: by ChatML if the tokenizer
    has its tokens, else by plain lines, `User: …` and `Assistant: …`.

    Args:
        processor (`ProcessorMixin` or `PreTrainedTokenizerBase`): of the backbone.

    Returns:
        [`DialogueFormat`]: the template and its end of turn. The template raises for roles other than system, user and
        assistant, for contents that are no texts, and for a system message if the backbone's template gives it no turn
        of its own.

    Raises:
        ValueError: if neither the chat template nor the tokenizer has a token that ends a turn.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    turns = _read_turns(_speaker(processor), tokenizer)
    if turns is None:
        has_chatml = {"<|im_start|>", "<|im_end|>"} <= set(_special_tokens(tokenizer))
        turns = CHATML if has_chatml else PLAIN
        instead = "in ChatML" if has_chatml else "as plain lines, User: … and Assistant: …"
        logger.warning(f"No turns can be read off a chat template of the backbone: dialogues are written {instead}.")
    if not turns.end:
        if tokenizer.eos_token is None:
            raise ValueError("Nothing ends a turn, in no chat template and no tokenizer: set tokenizer.eos_token.")
        turns = turns._replace(end=tokenizer.eos_token)
    template = DIALOGUE_TEMPLATE if turns == CHATML else _write_template(turns)
    return DialogueFormat(template, end_of_turn=_atoms(turns.end, tokenizer)[-1])


def _speaker(processor: Speaker) -> Speaker:
    """A processor, or its tokenizer if only that has a chat template."""
    return processor if processor.chat_template else getattr(processor, "tokenizer", processor)


def _render(speaker: Speaker, messages: Messages, in_blocks: bool = False, **options) -> str | None:
    if in_blocks:
        messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    try:
        return speaker.apply_chat_template(messages, tokenize=False, **options)
    except CANNOT_RENDER:
        return None


def _between(text: str | None, words: list[str]) -> list[str] | None:
    """What stands before, between and after words that a text must have once each, in this order."""
    pattern = "|".join(map(re.escape, words))
    return None if text is None or re.findall(pattern, text) != words else re.split(pattern, text)


def _dialogue(contents: list[str], system: str | None = None) -> Messages:
    messages = [] if system is None else [{"role": "system", "content": system}]
    turns = [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]
    return messages + turns


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Not every tokenizer says of all those that look like it that they are special. A longer one comes before its
    beginning."""
    added = tokenizer.added_tokens_decoder.values()
    tokens = {token.content for token in added if token.special or re.fullmatch("<.*>", token.content, re.S)}
    return sorted(tokens, reverse=True)


def _atoms(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A text in pieces that are never cut through: special tokens, and the characters between them."""
    return re.findall("|".join([*map(re.escape, _special_tokens(tokenizer)), "."]), text, re.DOTALL)


def _read_turns(speaker: Speaker, tokenizer: PreTrainedTokenizerBase) -> _Turns | None:
    """Turns that say the same as the template itself, without its system messages if only these do not."""
    for in_blocks in (False, True):  # some templates take contents as texts, some as blocks
        render = partial(_render, speaker, in_blocks=in_blocks)
        turns = _cut_turns(render, tokenizer)
        if turns and _agree(turns, _dialogue(PROBE), render, tokenizer):
            system = _cut_system(render, turns.user[0], tokenizer)
            whole = turns._replace(system=system)
            messages = _dialogue(PROBE, system="Look at it.")
            return whole if system and _agree(whole, messages, render, tokenizer) else turns
    return None


def _agree(turns: _Turns, messages: Messages, render: Callable, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the backbone's template says the same from the first content to the last: other things may stand before
    a conversation, and behind it."""
    ours = tokenizer.apply_chat_template(messages, chat_template=_write_template(turns), tokenize=False)
    first, last = messages[0]["content"], messages[-1]["content"]
    return ours[ours.index(first) : ours.rindex(last) + len(last)] in (render(messages) or "")


def _cut_turns(render: Callable, tokenizer: PreTrainedTokenizerBase) -> _Turns | None:
    """Turns without a system message, from a conversation that goes on after two answers: templates write the last
    answer in another way, with its thoughts or an end of their own."""
    asked = _between(render(_dialogue(SPOKEN)), SPOKEN)
    answered = _between(render(_dialogue(SPOKEN[:4])), SPOKEN[:4])
    if asked is None or answered is None:
        return None
    head, opened, closed = asked[:3]
    after_answer = _cut_answer(head, closed, answered[-1], tokenizer)
    if after_answer is None:
        return None
    user_suffix = os.path.commonprefix([_atoms(opened, tokenizer), _atoms(asked[-1], tokenizer)])
    user = (closed.removeprefix(after_answer), "".join(user_suffix))
    opening, lead = opened.removeprefix(user[1]), ""
    prompted = _between(render(_dialogue(SPOKEN), add_generation_prompt=True), SPOKEN)
    prompt = prompted[-1].removeprefix(user[1]) if prompted else opening
    if opening.startswith(prompt) and opening[len(prompt) :].isspace():  # a prompt may have a thought begin instead
        opening, lead = prompt, opening[len(prompt) :]
    said = _atoms(after_answer, tokenizer)
    specials = _special_tokens(tokenizer)
    end = next((at + 1 for at, atom in enumerate(said) if atom in specials), 0)
    return _Turns(user, opening, lead, end="".join(said[:end]), after="".join(said[end:]))


def _cut_answer(head: str, closed: str, last: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """
    What of `closed`, between an answer and the next question, belongs to the answer.

    `last` stands behind the last answer, and begins what stands behind others, unless an end of its own or the prompt
    for another answer always does. `head` stands before the first question, and ends as what stands before others,
    unless a system prompt is a part of that question.
    """
    if closed.startswith(last) and head.endswith(closed.removeprefix(last)):
        return last
    same = os.path.commonprefix([_atoms(head, tokenizer)[::-1], _atoms(closed, tokenizer)[::-1]])[::-1]
    if "".join(same).strip():
        # The token that begins the first turn begins this one too: before it is the end of another, a system prompt.
        turn = head.removeprefix(tokenizer.bos_token or "")
        specials = _special_tokens(tokenizer)
        start = next((at for at, atom in enumerate(same) if atom in specials and turn.startswith(atom)), 0)
        return closed.removesuffix("".join(same[start:]))
    return last if closed.startswith(last) else None


def _cut_system(render: Callable, user_prefix: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """What stands around a system message if a question follows it, without what stands before any dialogue."""
    pieces = _between(render(_dialogue(SPOKEN, system=SYSTEM)), [SYSTEM, *SPOKEN])
    if pieces is None:
        return None
    head = render(_dialogue(SPOKEN)).partition(SPOKEN[0])[0].removesuffix(user_prefix)
    # What stands there without a system message too; or it is a system prompt, and only the BOS is no part of one.
    common = head if pieces[0].startswith(head) else tokenizer.bos_token or ""
    return pieces[0].removeprefix(common), pieces[1].removesuffix(user_prefix)


def _write_template(turns: _Turns) -> str:
    """`repr` makes the literals: jinja reads the escapes of Python."""

    def around(before: str, after: str) -> str:
        return f"{{{{ {before!r} + message.content + {after!r} }}}}"

    system = around(*turns.system) if turns.system else f"{{{{ raise_exception({NO_SYSTEM!r}) }}}}"
    opening = f"{{{{ {turns.opening!r} }}}}"
    answer = f"{{% generation %}}{around(turns.lead, turns.end)}{{% endgeneration %}}"
    return (
        f"{CHECKS}{{% if message.role == 'system' %}}{system}"
        f"{{% elif message.role == 'user' %}}{around(*turns.user)}"
        f"{{% else %}}{opening}{answer}{{{{ {turns.after!r} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )
