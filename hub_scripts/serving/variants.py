"""The vectors that an engine gives when it does one thing wrongly, computed on this machine.

Whichever of them a wrong vector equals is what went wrong. Each is the mistake of a real engine; see docs/engines.md.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor

from modeling_coma.backbone_coma import token_types


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["Variant", "variants"]

MARK = "content"
SYSTEM_PROMPT = "You are a helpful assistant."  # which chat templates write where nobody gives another one
NO_TEMPLATE = "the chat template was not used: nothing follows the input where the compression tokens should be"
# Most pixels of an image, as shares of those it has; it is enlarged to half of them.
AREAS = [2 ** (step / 2) for step in range(-10, 5)]


class Variant(NamedTuple):
    """A mistake, in words, and the vector that comes of it; its length means nothing."""

    cause: str
    vector: Tensor


@torch.no_grad()
def variants(model: "ComaForEmbedding", processor: "ComaProcessor", messages: list[dict]) -> Iterator[Variant]:
    """
    All mistakes, for one input.

    Args:
        model ([`ComaForEmbedding`]): the model.
        processor ([`ComaProcessor`]): its processor.
        messages (`list[dict]`): the input.

    Yields:
        [`Variant`]
    """
    row = _Row(model, processor, messages)
    yield from _other_pooling(row)
    yield from _other_ends(row)
    yield from _other_messages(model, processor, messages)
    yield from _turns_of_a_chat(row, processor)
    yield from _other_sizes(model, processor, messages)


class _Row:
    """An input as tokens, and the states of whatever tokens are put in their place."""

    def __init__(self, model: "ComaForEmbedding", processor: "ComaProcessor", messages: list[dict]) -> None:
        self.model = model
        made = processor.process([messages]).to(model.device)
        self.count = model.config.num_compression_tokens
        ids = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask")
        self.images = dict(made)
        self.head, self.body = ids[: len(processor.head_ids)], ids[len(processor.head_ids) : -self.count]
        self.tokens = ids[-self.count :]
        self.ids = ids

    def states(self, ids: list[int]) -> Tensor:
        """Last hidden states, of shape `(length, hidden_size)`."""
        backbone = self.model.backbone
        input_ids = torch.tensor([ids], device=self.model.device)
        types = token_types(backbone, input_ids == self.model.config.backbone_config.image_token_id)
        mask = torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": mask, **self.images, **types}
        return backbone.model(**inputs, use_cache=False, return_dict=True).last_hidden_state[0].float()

    def pool(self, states: Tensor) -> Tensor:
        """As the model does."""
        states = states[-self.count :]
        return states.mean(dim=0) if self.model.config.pooling == "mean" else states[-1]


def _other_pooling(row: _Row) -> Iterator[Variant]:
    states = row.states(row.ids)
    if row.model.config.pooling == "mean":
        yield Variant("the last state was taken, and this model takes the mean of the compression tokens", states[-1])
    else:
        mean = states[-row.count :].mean(dim=0)
        yield Variant("the mean of the compression tokens was taken, and this model takes the last one", mean)
    yield Variant("the mean of all tokens was taken, not that of the compression tokens alone", states.mean(dim=0))
    yield Variant("the first state was taken", states[0])
    if (before := _before_the_last_norm(row)) is not None:
        yield Variant("the states are those before the last norm of the language model", row.pool(before))


def _before_the_last_norm(row: _Row) -> Tensor | None:
    """What the norm behind the last layer takes; `None` for a language model that has none."""
    norms = [child for name, child in row.model.backbone.get_decoder().named_children() if "norm" in name]
    if not norms:
        return None
    taken: list[Tensor] = []
    hook = norms[-1].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try:
        row.states(row.ids)
    finally:
        hook.remove()
    return taken[-1].reshape(-1, taken[-1].shape[-1]).float()


def _other_ends(row: _Row) -> Iterator[Variant]:
    """Tokens before and behind the row that are missing, or too many."""
    bare = row.states([*row.head, *row.body])
    yield Variant(NO_TEMPLATE, bare[-1])
    yield Variant(NO_TEMPLATE, bare.mean(dim=0))
    if row.head:
        yield Variant(NO_TEMPLATE, row.states(row.body)[-1])
        yield Variant("BOS is missing", row.pool(row.states([*row.body, *row.tokens])))
        yield Variant("BOS is there twice", row.pool(row.states([*row.head, *row.ids])))
    yield Variant("the compression tokens are there twice", row.pool(row.states([*row.ids, *row.tokens])))
    if isinstance(row.model.config.eos_token_id, int):
        after = row.states([*row.ids, row.model.config.eos_token_id])
        yield Variant("an end-of-text token follows the compression tokens", row.pool(after))


def _other_messages(model: "ComaForEmbedding", processor: "ComaProcessor", messages: list[dict]) -> Iterator[Variant]:
    """A system message or an image that somebody has left out, or put there."""
    system = {"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPT}]}
    others = [(f"a system prompt was added: {SYSTEM_PROMPT!r}", [system, *messages])]
    without = [message for message in messages if message["role"] != "system"]
    if without != messages:
        others.append(("the system message, the instruction, was left out", without))
    texts = [{**m, "content": [block for block in m["content"] if block["type"] == "text"]} for m in messages]
    if texts != messages and any(message["content"] for message in texts):
        others.append(("the image was left out", texts))
    for cause, other in others:
        yield Variant(cause, model(**processor.process([other]).to(model.device)).embeddings[0].float())


def _turns_of_a_chat(row: _Row, processor: "ComaProcessor") -> Iterator[Variant]:
    """The input as a turn of a chat, and the beginning of an answer behind it."""
    tokenizer, template = processor.tokenizer, processor.chat_template["dialogue"]

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def around(*before: dict[str, Any], prompt: bool = False) -> tuple[list[int], list[int]]:
        turns = [*before, {"role": "user", "content": MARK}]
        options = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
        opened, _, closed = tokenizer.apply_chat_template(turns, **options).rpartition(MARK)
        return ids_of(opened), ids_of(closed)

    closed, prompted = around()[1], around(prompt=True)[1]
    prompt = prompted[len(closed) :] if prompted[: len(closed)] == closed else []
    if prompt:
        cause = "a generation prompt follows the compression tokens"
        yield Variant(cause, row.states([*row.ids, *prompt])[-1])
    system = {"role": "system", "content": SYSTEM_PROMPT}
    for before, prompted in (((), False), ((), True), ((system,), False), ((system,), True)):
        try:
            opened, closed = around(*before, prompt=prompted)
        except TemplateError:  # a chat that has no system messages
            continue
        added = ["the turns of a chat", *["a system prompt"] * bool(before), *["a generation prompt"] * prompted]
        cause = f"another chat template was used, with {' and '.join(added)}"
        turn = [*opened, *row.body, *closed]
        yield Variant(f"{cause}, and without the compression tokens", row.states(turn)[-1])
        yield Variant(cause, row.pool(row.states([*turn, *row.tokens])))


def _other_sizes(model: "ComaForEmbedding", processor: "ComaProcessor", messages: list[dict]) -> Iterator[Variant]:
    """The image at the sizes that other pixel budgets give it, where these decide."""
    images = [block["image"] for message in messages for block in message["content"] if block["type"] == "image"]
    if not images or processor.stock_processor is not None:
        return
    patch = processor.image_processor.patch_size
    least, area = (patch * processor.image_processor.merge_size) ** 2, images[0].width * images[0].height

    def made_as(**options: Any) -> str:
        ((_, height, width),) = processor.process_images(images[:1], [0], **options)[0]["image_grid_thw"].tolist()
        return f"{width * patch}x{height * patch}"

    usual = made_as()
    seen = {usual}
    for share in AREAS:
        pixels = max(int(area * share), least)
        size = {"shortest_edge": pixels // 2, "longest_edge": pixels}
        if (other := made_as(size=size)) in seen:
            continue
        seen.add(other)
        made = processor.process([messages], images_kwargs={"size": size}).to(model.device)
        cause = f"another pixel budget: an image is made {other}, which this model makes {usual}"
        yield Variant(cause, model(**made).embeddings[0].float())
