"""The chat format that is read off a template says what the template says, and marks what the model says in it.

Each shape is a chat template as backbones have it, in short, and beside it, by hand, what it makes of each message.
"""

import copy
import functools
import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from hub_scripts.tiny.tokenizer import CHAT_TEMPLATE as TINY_TEMPLATE
from hub_scripts.tiny.tokenizer import train_tokenizer
from modeling_coma.processing_coma import tokens_before
from modeling_coma.templates_coma import DIALOGUE_TEMPLATE, PLACEHOLDER, input_template
from trainers import chat_format
from trainers.chat_format import dialogue_template, image_placeholder


TEXTS = [
    "User: what is this? Assistant: an apple, 'red' and round",
    'USER: "where" ASSISTANT: on a tree {{ red }}',
] * 4


def loop(body: str, start: str = "", end: str = "") -> str:
    """A template whose `body` finds `role`, and `text`, the content: a text, or the texts and images of its blocks."""
    return (
        start + "{% for message in messages %}{% set role = message['role'] %}"
        "{% set text %}{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for block in message['content'] %}"
        "{% if block['type'] == 'image' %}<image>{% else %}{{ block['text'] }}{% endif %}"
        "{% endfor %}{% endif %}{% endset %}" + body + "{% endfor %}" + end
    )


@dataclass
class Shape:
    """A template, the tokens it needs, and what it makes of a message, `{}` being its content."""

    template: str | None
    question: str
    opening: str
    said: str
    after: str
    end_of_turn: str
    tokens: tuple[str, ...]
    system: str | None = None
    bos: str | None = None
    eos: str = "</s>"
    has_no_end: bool = False  # that of `said` is ours
    before_dialogues: str = ""  # what the template puts there, and what is no part of a turn
    takes_blocks_only: bool = False
    default: str = ""  # a system prompt in the first question

    def text(self, messages: list[dict], prompt: bool = False) -> str:
        forms = {"user": self.question, "assistant": self.opening + self.said + self.after, "system": self.system}
        turns = "".join(forms[message["role"]].replace("{}", message["content"]) for message in messages)
        return turns + self.opening * prompt


PROMPT = "{{% if add_generation_prompt %}}{}{{% endif %}}".format
CHATML = ("<|im_start|>", "<|im_end|>")
COHERE = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)
COHERE += ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
COHERE_LOOP = (
    "<|START_OF_TURN_TOKEN|>{% if role == 'assistant' %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ text }}<|END_RESPONSE|>"
    "{% else %}<|{{ role | upper }}_TOKEN|>{{ text }}{% endif %}<|END_OF_TURN_TOKEN|>"
)
PREAMBLE = "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>You are Command.<|END_OF_TURN_TOKEN|>"
chatml = functools.partial(
    Shape,
    question="<|im_start|>user\n{}<|im_end|>\n",
    opening="<|im_start|>assistant\n",
    said="{}<|im_end|>",
    after="\n",
    end_of_turn="<|im_end|>",
    system="<|im_start|>system\n{}<|im_end|>\n",
    tokens=CHATML,
)
CHATML_LOOP = "<|im_start|>{{ role }}\n{{ text }}<|im_end|>\n"
llama_2 = functools.partial(
    Shape,
    question="<s>[INST] {} [/INST]",
    opening="",
    said=" {} </s>",
    after="",
    end_of_turn="</s>",
    tokens=("<s>", "</s>"),
    bos="<s>",
)
model = functools.partial(
    Shape,
    question="<start_of_turn>user\n{}<end_of_turn>\n",
    opening="<start_of_turn>model\n",
    said="{}<end_of_turn>",
    after="\n",
    end_of_turn="<end_of_turn>",
    tokens=("<bos>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    before_dialogues="<bos>",
)
FOLDED = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}{% endif %}"
)
SHAPES = {
    "chatml": chatml(loop(CHATML_LOOP, end=PROMPT("<|im_start|>assistant\n"))),
    "chatml, default system prompt": chatml(
        loop(
            "{% if loop.first and role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
            + CHATML_LOOP,
            end=PROMPT("<|im_start|>assistant\n"),
        ),
        before_dialogues="<|im_start|>system\nBe kind.<|im_end|>\n",
    ),
    "chatml, bos": chatml(
        loop(CHATML_LOOP, start="{{ bos_token }}", end=PROMPT("<|im_start|>assistant\n")),
        tokens=(*CHATML, "<|startoftext|>"),
        bos="<|startoftext|>",
        before_dialogues="<|startoftext|>",
    ),
    "thinks": chatml(
        loop(
            "{% set ns = namespace(last=-1) %}{% for m in messages %}"
            "{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
            "<|im_start|>{{ role }}\n{% if role == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n"
            "{% endif %}{{ text.split('</think>')[-1].lstrip('\n') if role == 'assistant' else text }}<|im_end|>\n",
            end=PROMPT("<|im_start|>assistant\n<think>\n"),
        ),
        tokens=(*CHATML, "<think>", "</think>"),
    ),
    "blank in the role": chatml(
        loop("<|im_start|>{{ role }} \n{{ text }}<|im_end|>", end=PROMPT("<|im_start|>assistant\n")),
        question="<|im_start|>user \n{}<|im_end|>",
        opening="<|im_start|>assistant \n",
        system="<|im_start|>system \n{}<|im_end|>",
        after="",
    ),
    "end of utterance": Shape(
        loop(
            "{{ role | capitalize }}{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
            "{% if message['content'] is not string %}{{ text }}{% endif %}<end_of_utterance>\n",
            start="<|im_start|>",
            end=PROMPT("Assistant:"),
        ),
        takes_blocks_only=True,
        question="User: {}<end_of_utterance>\n",
        opening="Assistant:",
        said=" {}<end_of_utterance>",
        after="\n",
        end_of_turn="<end_of_utterance>",
        system="System: {}<end_of_utterance>\n",
        tokens=("<|im_start|>", "<end_of_utterance>"),
        before_dialogues="<|im_start|>",
    ),
    "inst, bos in every turn, system folded": llama_2(
        FOLDED + "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
        "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
        "{{ message['content'].strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "inst, default system prompt folded": llama_2(
        loop(
            "{% if role == 'user' %}<s>[INST] {% if loop.first %}<<SYS>>\nBe kind.\n<</SYS>>\n\n{% endif %}"
            "{{ text }} [/INST]{% elif role == 'assistant' %} {{ text }} </s>{% endif %}"
        ),
        default="<<SYS>>\nBe kind.\n<</SYS>>\n\n",
    ),
    "inst, without blanks, system in the last question": Shape(
        FOLDED + "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
        "{% if message['role'] == 'user' %}[INST]{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}"
        "{{ message['content'] + '[/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}",
        question="[INST]{}[/INST]",
        opening="",
        said="{}</s>",
        after="",
        end_of_turn="</s>",
        tokens=("<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        before_dialogues="<s>",
    ),
    "inst, system prompt of its own": Shape(
        loop(
            "{% if role == 'system' %}[SYSTEM_PROMPT]{{ text }}[/SYSTEM_PROMPT]"
            "{% elif role == 'user' %}[INST]{{ text }}[/INST]{% else %}{{ text + eos_token }}{% endif %}",
            start="{{ bos_token }}"
            "{% if messages[0]['role'] != 'system' %}[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT]{% endif %}",
        ),
        question="[INST]{}[/INST]",
        opening="",
        said="{}</s>",
        after="",
        end_of_turn="</s>",
        system="[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]",
        tokens=("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        bos="<s>",
        before_dialogues="<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT]",
    ),
    "headers, strips": Shape(
        loop(
            "{% set turn = '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + text | trim + '<|eot_id|>' %}"
            "{% if loop.first %}{% set turn = bos_token + turn %}{% endif %}{{ turn }}",
            end=PROMPT("<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ),
        question="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        opening="<|start_header_id|>assistant<|end_header_id|>\n\n",
        said="{}<|eot_id|>",
        after="",
        end_of_turn="<|eot_id|>",
        system="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        before_dialogues="<|begin_of_text|>",
    ),
    "model, system folded": model(
        loop(
            "{% if role != 'system' %}<start_of_turn>{{ 'model' if role == 'assistant' else role }}\n"
            "{% if loop.index0 == 1 and role == 'user' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
            "{{ text | trim }}<end_of_turn>\n{% endif %}",
            start="{{ bos_token }}",
            end=PROMPT("<start_of_turn>model\n"),
        )
    ),
    "model, default system prompt folded": model(
        loop(
            "{% if role != 'system' %}<start_of_turn>{{ 'model' if role == 'assistant' else role }}\n"
            "{% if loop.first %}Be kind.\n\n{% endif %}{{ text }}<end_of_turn>\n{% endif %}",
            start="{{ bos_token }}",
            end=PROMPT("<start_of_turn>model\n"),
        ),
        default="Be kind.\n\n",
    ),
    "USER and ASSISTANT, texts only": Shape(
        "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }} "
        "{% elif message.role == 'user' %}USER: {{ message.content }} {% else %}ASSISTANT: {{ message.content }}</s>"
        "{% endif %}{% endfor %}" + PROMPT("ASSISTANT:"),
        question="USER: {} ",
        opening="ASSISTANT:",
        said=" {}</s>",
        after="",
        end_of_turn="</s>",
        system="{} ",
        tokens=("</s>",),
    ),
    "USER and ASSISTANT, no end": Shape(
        loop(
            "{% if role != 'system' %}{{ role.upper() + ': ' }}{% endif %}{{ text + ' ' }}",
            start="{% if messages[0]['role'] != 'system' %}Be kind. {% endif %}",
            end=PROMPT("ASSISTANT:"),
        ),
        question="USER: {} ",
        opening="ASSISTANT:",
        said=" {}</s>",
        after=" ",
        end_of_turn="</s>",
        system="{} ",
        tokens=("</s>",),
        has_no_end=True,
        before_dialogues="Be kind. ",
    ),
    "eos at the very end": Shape(
        loop(
            "{% if not loop.first %}{{ '\n' }}{% endif %}{{ role.upper() + ': ' + text }}",
            end="{% if add_generation_prompt %}{{ '\nASSISTANT:' }}{% else %}{{ eos_token }}{% endif %}",
        ),
        question="USER: {}",
        opening="\nASSISTANT:",
        said=" {}</s>",
        after="\n",
        end_of_turn="</s>",
        system="SYSTEM: {}\n",
        tokens=("</s>",),
        has_no_end=True,
    ),
    "no end, the next turn begins": Shape(
        loop("<|{{ role }}|>\n{{ text }}", start="[gMASK]<sop>", end=PROMPT("<|assistant|>\n<think>")),
        question="<|user|>\n{}",
        opening="<|assistant|>\n",
        said="{}<|endoftext|>",
        after="",
        end_of_turn="<|endoftext|>",
        system="<|system|>\n{}",
        tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>", "<think>"),
        eos="<|endoftext|>",
        has_no_end=True,
        before_dialogues="[gMASK]<sop>",
    ),
    "turn tokens": Shape(
        loop(
            COHERE_LOOP,
            start="{{ bos_token }}",
            end=PROMPT("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>"),
        ),
        question="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        opening="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
        said="{}<|END_RESPONSE|>",
        after="<|END_OF_TURN_TOKEN|>",
        end_of_turn="<|END_RESPONSE|>",
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        tokens=("<BOS_TOKEN>", *COHERE),
        bos="<BOS_TOKEN>",
        before_dialogues="<BOS_TOKEN>",
    ),
    "turn tokens, always prompts": Shape(
        loop(
            COHERE_LOOP,
            start="{{ bos_token }}{% if messages[0]['role'] != 'system' %}" + PREAMBLE + "{% endif %}",
            end="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        question="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        opening="<|START_RESPONSE|>",
        said="{}<|END_RESPONSE|>",
        after="<|END_OF_TURN_TOKEN|>",
        end_of_turn="<|END_RESPONSE|>",
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        tokens=("<BOS_TOKEN>", *COHERE),
        bos="<BOS_TOKEN>",
        before_dialogues="<BOS_TOKEN>" + PREAMBLE,
    ),
}
# Of these no turns can be read.
UNREADABLE = {
    "none at all": None,
    "raises": "{{ raise_exception('No chats.') }}",
    "cannot be parsed": "{% for %}",
    "writes no contents": "{% for message in messages %}{{ message['role'] }}{% endfor %}",
    "shouts": loop("{{ role }}: {{ text | upper }}</s>"),
    "numbers its turns": loop("{{ loop.index }}. {{ text }}</s>"),
    "writes contents of its own": loop("{{ role }}: {{ text | replace('apple', 'pear') }}</s>"),
    "last question only": loop("{% if loop.last %}{{ text }}{% endif %}"),
}


class TextProcessor(ProcessorMixin):
    """A processor of texts alone: enough to render."""

    def __init__(self, tokenizer=None, chat_template=None):
        super().__init__(tokenizer, chat_template=chat_template)


@functools.cache
def trained():
    return train_tokenizer(TEXTS, 400)


def make_tokenizer(template=None, tokens=(), bos=None, eos="</s>"):
    tokenizer = copy.deepcopy(trained())
    tokenizer.add_tokens([token for token in (*tokens, bos, eos) if token], special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, template
    return tokenizer


def tokenizer_of(shape: Shape):
    return make_tokenizer(shape.template, shape.tokens, shape.bos, shape.eos)


def render(tokenizer, messages, **options) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def in_blocks(messages: list[dict]) -> list[dict]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def dialogue(*contents: str, system: str | None = None) -> list[dict]:
    turns = [{"role": role, "content": text} for role, text in zip(itertools.cycle(["user", "assistant"]), contents)]
    return [{"role": "system", "content": system}] * (system is not None) + turns


ALPHABET = [
    *"ab '\"`\\{}%#<|>/_-.\n\té中🍎",
    "{{ a }}",
    "{% b %}",
    "{# a",
    "%}",
    "\\n",
    "{% endgeneration %}",
    "<b>",
    "\n\n",
]


def contents(count: int, seed: int) -> list[str]:
    """Texts of anything, without blanks at their ends, which tokens and templates would take for their own."""
    draw = random.Random(seed)
    return ["".join(draw.choices(ALPHABET, k=draw.randint(1, 30))).strip() or "b" for _ in range(count)]


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """What is warned of."""
    warnings = []
    monkeypatch.setattr(chat_format.logger, "warning", warnings.append)
    return warnings


@pytest.fixture(params=SHAPES, ids=str)
def shape(request) -> Shape:
    return SHAPES[request.param]


def test_turns_are_those_of_the_template(shape, heard):
    tokenizer = tokenizer_of(shape)
    form = dialogue_template(tokenizer)
    assert form.end_of_turn == shape.end_of_turn
    for seed, count in itertools.product(range(8), (1, 2, 3, 4, 5)):
        messages = dialogue(*contents(count, seed))
        assert render(tokenizer, messages, chat_template=form.template) == shape.text(messages)
        prompted = render(tokenizer, messages, chat_template=form.template, add_generation_prompt=True)
        assert prompted == shape.text(messages, prompt=True)
    assert not heard


def test_shapes_are_what_their_templates_say(shape):
    """Of dialogues that go on; what is at the very end, or thought before a last answer, is another matter."""
    tokenizer = tokenizer_of(shape)
    for seed, count in itertools.product(range(8), (1, 3, 5)):
        messages = dialogue(*contents(count, seed))
        given = in_blocks(messages) if shape.takes_blocks_only else messages
        theirs = render(tokenizer, given).replace(shape.default, "")
        ours = shape.before_dialogues + shape.text(messages)
        if shape.has_no_end:
            theirs, ours = theirs.replace(shape.eos, ""), ours.replace(shape.eos, "")
        assert theirs == ours


def test_the_answers_and_their_ends_are_marked_and_nothing_else(shape):
    tokenizer = tokenizer_of(shape)
    form = dialogue_template(tokenizer)
    for seed in range(8):
        messages = dialogue(*contents(6, seed))
        row = tokenizer.apply_chat_template(
            messages, chat_template=form.template, return_dict=True, return_assistant_tokens_mask=True
        )
        pairs = zip(row["assistant_masks"], row["input_ids"], strict=True)
        runs = [
            (mark, [token for _, token in run]) for mark, run in itertools.groupby(pairs, key=lambda pair: pair[0])
        ]
        said = [tokenizer.decode(ids) for mark, ids in runs if mark]
        assert said == [shape.said.replace("{}", message["content"]) for message in messages[1::2]]
        assert tokenizer.decode(row["input_ids"]) == shape.text(messages)
        assert row["input_ids"].count(tokenizer.convert_tokens_to_ids(form.end_of_turn)) >= 3


def test_system_messages_are_turns_or_raise(shape):
    tokenizer = tokenizer_of(shape)
    form = dialogue_template(tokenizer)
    questions = dialogue("a", "b", "c")
    for system in ("Look at it.", "{{ a }} 'b'\n\"c\"", ""):
        messages = dialogue("a", "b", "c", system=system)
        if shape.system is None:
            with pytest.raises(TemplateError, match="this backbone has no system messages"):
                render(tokenizer, messages, chat_template=form.template)
            continue
        text = render(tokenizer, messages, chat_template=form.template)
        assert text == shape.system.replace("{}", system) + shape.text(questions)
        in_the_middle = [*questions, messages[0], *questions]
        assert render(tokenizer, in_the_middle, chat_template=form.template) == shape.text(questions) + text
        if system:
            given = in_blocks(messages) if shape.takes_blocks_only else messages
            theirs = render(tokenizer, given).replace(shape.eos * shape.has_no_end, "")
            assert theirs.endswith(text.replace(shape.eos * shape.has_no_end, ""))


@pytest.mark.parametrize("name", ["chatml", "headers, strips", "none"])
def test_what_can_only_be_a_mistake_raises(name, heard):
    tokenizer = tokenizer_of(SHAPES[name]) if name in SHAPES else make_tokenizer()
    template = dialogue_template(tokenizer).template
    for role in ("tool", "", None):
        with pytest.raises(TemplateError, match="role of a message is system, user or assistant"):
            render(tokenizer, [{"role": role, "content": "a"}], chat_template=template)
    for content in (None, 3, ["a"], [{"type": "text", "text": "a"}]):
        with pytest.raises(TemplateError, match="message of a dialogue is a text"):
            render(tokenizer, [{"role": "user", "content": content}], chat_template=template)


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith(("chatml", "thinks"))])
def test_chatml_is_the_template_that_there_was(name):
    assert dialogue_template(tokenizer_of(SHAPES[name])) == (DIALOGUE_TEMPLATE, "<|im_end|>")


def test_the_small_tokenizer_is_chatml(heard):
    tokenizer = copy.deepcopy(trained())
    assert tokenizer.chat_template == TINY_TEMPLATE
    assert dialogue_template(tokenizer) == (DIALOGUE_TEMPLATE, "<|im_end|>")
    assert image_placeholder(tokenizer, "<|image_pad|>") == PLACEHOLDER
    assert tokens_before(tokenizer) == []
    assert not heard


def test_written_anew_chatml_says_what_the_template_that_there_was_says():
    written = chat_format._write_template(chat_format.CHATML)
    assert written != DIALOGUE_TEMPLATE
    for seed in range(20):
        messages = dialogue(*contents(5, seed), system="b")
        options = [
            {"chat_template": template, "add_generation_prompt": seed % 2} for template in (written, DIALOGUE_TEMPLATE)
        ]
        first, second = (
            trained().apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **option)
            for option in options
        )
        assert first == second


ODD = ["'", '"', "{{", "}}", "{% endif %}", "{#", "\\", "\\n", "\n", "\r\n", "é🍎", "'\"", "\u2028", "{{ 'a' }}"]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_any_text_may_stand_around_contents(odd, heard):
    tokenizer = make_tokenizer(tokens=["<|end|>"])
    tokenizer.chat_template = loop(
        "{{ odd[0] + role + odd[0] + text + '<|end|>' + odd[0] }}",
        start="{% set odd = [" + repr(odd) + "] %}",
        end="{% if add_generation_prompt %}{{ odd[0] + 'assistant' + odd[0] }}{% endif %}",
    )
    form = dialogue_template(tokenizer)
    messages = dialogue("a", odd + "b" + odd, "b", system="a")
    for prompt in (False, True):
        ours = render(tokenizer, messages, chat_template=form.template, add_generation_prompt=prompt)
        assert ours == render(tokenizer, messages, add_generation_prompt=prompt)
    assert not heard


@pytest.mark.parametrize("template", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_plain_lines_or_chatml(template, heard):
    tokenizer = make_tokenizer(template)
    tokenizer.bos_token = "<s>"
    assert dialogue_template(tokenizer) == (DIALOGUE_TEMPLATE, "<|im_end|>")  # the small tokenizer has its tokens
    plain = without_chatml(template)
    form = dialogue_template(plain)
    assert form.end_of_turn == "</s>"
    messages = dialogue("a", "b", "a\nb", system="'c'")
    text = "System: 'c'\nUser: a\nAssistant: b</s>\nUser: a\nb\n"
    assert render(plain, messages, chat_template=form.template) == text
    prompted = render(plain, messages, chat_template=form.template, add_generation_prompt=True)
    assert prompted == text + "Assistant:"
    assert [("ChatML" in said, "plain lines" in said) for said in heard] == [(True, False), (False, True)]


def without_chatml(template=None, post_processor=None, eos="</s>"):
    """A tokenizer as those of SentencePiece: a blank is a part of the word behind it."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    raw.decoder = decoders.Metaspace(prepend_scheme="never")
    raw.train_from_iterator(TEXTS, BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"]))
    if post_processor:
        special = [(token, raw.token_to_id(token)) for token in ("<s>", "</s>")]
        raw.post_processor = processors.TemplateProcessing(single=post_processor, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def test_a_blank_before_an_answer_is_said_as_a_part_of_its_first_word():
    shape = SHAPES["USER and ASSISTANT, texts only"]
    tokenizer = without_chatml(shape.template)
    template = dialogue_template(tokenizer).template
    row = tokenizer.apply_chat_template(
        dialogue("where", "on a tree"), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = row["input_ids"]
    prompt = tokenizer.apply_chat_template(
        dialogue("where"), chat_template=template, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert ids[: len(prompt)] == prompt  # whoever generates sees what was trained on
    assert row["assistant_masks"] == [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    assert tokenizer.convert_ids_to_tokens(ids[len(prompt) :])[0].startswith("▁")
    assert ids[-1] == tokenizer.eos_token_id


def test_a_turn_needs_an_end():
    with pytest.raises(ValueError, match="set tokenizer.eos_token"):
        dialogue_template(without_chatml(eos=None))


def test_tokens_that_only_look_special_end_a_turn():
    tokenizer = make_tokenizer(loop("<|{{ role }}|>{{ text }}<|stop|>>"))
    tokenizer.add_tokens(["<|stop|>>", "<|stop|>", "<|user|>"], special_tokens=False)
    assert dialogue_template(tokenizer).end_of_turn == "<|stop|>>"  # and not the beginning of it


def test_a_processor_speaks_for_its_tokenizer_if_it_has_a_template():
    headers, turns = SHAPES["headers, strips"], SHAPES["model, system folded"]
    tokenizer = make_tokenizer(headers.template, (*headers.tokens, *turns.tokens), bos="<bos>")
    assert dialogue_template(TextProcessor(tokenizer)) == dialogue_template(tokenizer)
    ours = dialogue_template(TextProcessor(tokenizer, turns.template))
    assert ours.end_of_turn == "<end_of_turn>"
    messages = dialogue("a", "b", "c")
    assert render(tokenizer, messages, chat_template=ours.template) == turns.text(messages)
    named = TextProcessor(tokenizer, {"default": turns.template, "other": headers.template})
    assert dialogue_template(named) == ours


PICTURES = {
    "<|vision_start|><|image_pad|><|vision_end|>": "<|image_pad|>",
    "<|begin_of_image|><|image|><|end_of_image|>": "<|image|>",
    "<image>": "<image>",
    "<IMG_CONTEXT>\n": "<IMG_CONTEXT>",
    "\n\n<start_of_image>\n\n": "<start_of_image>",
    "[IMG]": "[IMG]",
}


@pytest.mark.parametrize(("placeholder", "token"), PICTURES.items(), ids=ascii)
@pytest.mark.parametrize("kind", ["tokenizer", "processor"])
def test_placeholders_are_found_where_images_stand(placeholder, token, kind):
    template = loop("<|{{ role }}|> {{ text | trim | replace('<image>', " + repr(placeholder) + ") }}")
    tokenizer = make_tokenizer(template)
    given = tokenizer if kind == "tokenizer" else TextProcessor(make_tokenizer(), template)
    found = image_placeholder(given, token)
    assert found == placeholder
    block = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "image"}, {"type": "text", "text": "b"}]
    rendered = render(tokenizer, [{"role": "user", "content": block}])
    assert rendered == "<|user|> a" + placeholder * 2 + "b"
    messages = [{"role": "user", "content": block}]
    assert render(tokenizer, messages, chat_template=input_template(found)) == "a" + placeholder * 2 + "b"


IMAGES_FIRST = (
    "{% for message in messages %}{% for block in message.content if block.type == 'image' %}<image>\n{% endfor %}"
    "{% for block in message.content if block.type == 'text' %}{{ block.text + ' ' }}{% endfor %}{% endfor %}"
)
ELSEWHERE = {
    **{name: UNREADABLE[name] for name in ("none at all", "raises", "cannot be parsed", "writes no contents")},
    "images first": IMAGES_FIRST,
    "texts only": "{% for message in messages %}{{ message.content }}{% endfor %}",
    "strings only": "{% for message in messages %}{{ 'user: ' + message.content }}{% endfor %}",
    "no images": "{% for block in messages[0].content %}{{ block.text }}{% endfor %}",
    "twice": loop("{{ text | replace('<image>', '<image><image>') }}"),
    "another token": loop("{{ text | replace('<image>', '<|image_1|>') }}"),
}


@pytest.mark.parametrize("template", ELSEWHERE.values(), ids=ELSEWHERE)
def test_without_a_place_the_image_token_alone_is_the_placeholder(template):
    assert image_placeholder(make_tokenizer(template), "<image>") == "<image>"


def test_the_template_of_the_usual_placeholder_is_that_of_older_folders():
    saved = Path(__file__).parents[1] / "golden" / "older_folder" / "chat_template.jinja"
    assert input_template(PLACEHOLDER) == saved.read_text(encoding="utf-8")


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_placeholder_may_be_any_text(odd):
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]
    messages.insert(0, {"role": "system", "content": "b"})
    template = input_template(f"<image>{odd}")
    assert render(trained(), messages, chat_template=template) == f"b\na<image>{odd}"


@pytest.mark.parametrize(
    ("post_processor", "ids"),
    [(None, []), ("<s> $A", [1]), ("<s> $A </s>", [1]), ("$A </s>", []), ("</s> <s> $A", [2, 1])],
)
def test_bos_is_what_stands_before_every_text(post_processor, ids):
    tokenizer = without_chatml(post_processor=post_processor)
    assert tokens_before(tokenizer) == ids
    for text in ("an apple", "where is it"):
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer(text)["input_ids"][: len(ids) + len(bare)] == ids + bare
