"""Chat templates in the forms that published checkpoints use, each as short as it can be.

They differ where code that builds on them can fall: whether an image stands where it was given or before all text,
what closes a turn (a token, the next turn, nothing), whether the beginning of the text is written, and whether a
message may be a plain string. transformers drops a line break after a block, so that one is written as an expression.
"""

__all__ = [
    "COHERE",
    "DEEPSEEK",
    "GEMMA",
    "GEMMA4",
    "GLM",
    "LLAVA",
    "LLAVA_NEXT",
    "MISTRAL",
    "chatml",
    "content",
    "idefics",
    "images_first",
    "llama3",
]


def content(image: str, video: str = "<video>") -> str:
    """The parts of a message in their order; a plain string is one part."""
    return (
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'text' %}{{ part.text }}"
        f"{{% elif part.type == 'image' %}}{image}{{% elif part.type == 'video' %}}{video}{{% endif %}}"
        "{% endfor %}{% endif %}"
    )


def images_first(image: str) -> str:
    """All images of a message, then its texts. As published, a plain string renders as nothing."""
    return (
        f"{{% for part in message.content | selectattr('type', 'equalto', 'image') %}}{image}{{% endfor %}}"
        "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %}"
    )


def chatml(parts: str, begin: str = "") -> str:
    """Qwen's form, which most others have taken up."""
    return (
        f"{begin}{{% for message in messages %}}<|im_start|>{{{{ message.role }}}}\n{parts}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def idefics(begin: str) -> str:
    """The role as a word; a space after its colon unless an image comes first."""
    return (
        f"{begin}{{% for message in messages %}}{{{{ message.role | capitalize }}}}:"
        "{% if message.content[0].type != 'image' %} {% endif %}" + content("<image>") + "<end_of_utterance>\n"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )


def llama3(start: str, stop: str, end: str) -> str:
    """Llama 3 and 4: the role between two tokens, a third closes the turn."""
    return (
        f"{{{{ bos_token }}}}{{% for message in messages %}}{start}{{{{ message.role }}}}{stop}\n\n"
        + content("<|image|>")
        + f"{end}{{% endfor %}}{{% if add_generation_prompt %}}{start}assistant{stop}\n\n{{% endif %}}"
    )


# Nothing closes a turn.
LLAVA = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}"
    + images_first("<image>\n")
    + " {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

LLAVA_NEXT = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] "
    + images_first("<image>\n")
    + " [/INST]{% elif message.role == 'system' %}<<SYS>>\n"
    + images_first("")
    + "{{ '\n' }}<</SYS>>\n\n{% else %} "
    + images_first("")
    + "</s> {% endif %}{% endfor %}"
)

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST]"
    + content("[IMG]")
    + "[/INST]{% elif message.role == 'system' %}[SYSTEM_PROMPT]"
    + content("")
    + "[/SYSTEM_PROMPT]{% else %}"
    + content("")
    + "{{ eos_token }}{% endif %}{% endfor %}"
)

# There is no system turn: its text begins that of the user. The roles must alternate.
GEMMA = (
    "{{ bos_token }}{% set ns = namespace(before='', turns=0) %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.before %}" + content("") + "{{ '\n\n' }}{% endset %}{% else %}"
    "{% if (message.role == 'user') != (ns.turns % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n{{ ns.before }}"
    + content("<start_of_image>")
    + "<end_of_turn>\n{% set ns.turns = ns.turns + 1 %}{% set ns.before = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

GEMMA4 = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    + content("<|image|>", "<|video|>")
    + "<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)

# The role as a word, an empty line after a question, the end of the text after an answer.
DEEPSEEK = (
    "{% for message in messages %}{% if message.role == 'assistant' %}Assistant: "
    + content("")
    + "{{ eos_token }}{% else %}{% if message.role == 'user' %}User: {% endif %}"
    + content("<image_placeholder>")
    + "{{ '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

COHERE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{% if message.role == 'assistant' %}<|CHATBOT_TOKEN|><|START_RESPONSE|>" + content("") + "<|END_RESPONSE|>"
    "{% else %}{{ '<|SYSTEM_TOKEN|>' if message.role == 'system' else '<|USER_TOKEN|>' }}"
    + content("<image>")
    + "{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)

# The next turn closes a turn.
GLM = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>\n"
    + content("<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>")
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
