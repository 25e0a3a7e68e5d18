"""Questions and answers about emoji, written from their names, keywords and groups."""

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple


__all__ = ["LANGUAGES", "write_dialogues"]

LANGUAGES = ("de", "fr", "es", "ja", "zh")

NAME = ("What is this?", "What does the picture show?", "Name it.", "What is drawn here?", "Say what you see.")
KEYWORDS = ("Give keywords.", "Which words go with it?", "How would you tag it?", "What does it make you think of?")
GROUP = ("Which group is it in?", "What sort of thing is it?", "Where does it belong?")
SUBGROUP = ("Which kind exactly?", "What is its subgroup?", "Put it into a narrow class.")
CHOICE = ("Which is it: {}?", "Which of these is it: {}?", "Choose the right name: {}.")
IS_NAME = ("Is it {}?", "Does it show {}?", "Could its name be {}?")
IS_GROUP = ("Is it in {}?", "Does it belong to {}?", "Would you look for it under {}?")
NAME_IN = {
    "de": ("Was ist das?", "Was zeigt das Bild?", "Wie heißt das?"),
    "fr": ("Qu’est-ce que c’est ?", "Que montre l’image ?", "Comment ça s’appelle ?"),
    "es": ("¿Qué es esto?", "¿Qué muestra la imagen?", "¿Cómo se llama?"),
    "ja": ("これは何ですか？", "何の絵ですか？", "名前は何ですか？"),
    "zh": ("这是什么？", "图上画的是什么？", "它叫什么？"),
}

Emoji = dict[str, Any]
Turn = tuple[str, str]
Message = dict[str, str]


class Others(NamedTuple):
    """What there is besides the emoji that is asked about, for wrong answers to be drawn from."""

    names: list[str]
    groups: list[str]
    by_subgroup: dict[str, list[str]]
    by_group: dict[str, list[str]]


def write_dialogues(emoji: Sequence[Emoji], seed: int, turns: int, languages: Sequence[str]) -> list[list[Message]]:
    """
    Writes a dialogue about every emoji.

    Args:
        emoji (`Sequence[dict]`): each with `id`, `style`, `label`, `tags`, `group`, `subgroup` and the translations.
        seed (`int`): seed of the wording.
        turns (`int`): questions in a dialogue.
        languages (`Sequence[str]`): which of [`LANGUAGES`] may be asked for.

    Returns:
        `list[list[dict]]`: for every emoji its messages, user and assistant in turn.

    Raises:
        ValueError: if a language is unknown, or there are not as many sorts of questions as turns.
    """
    unknown = [language for language in languages if language not in LANGUAGES]
    if unknown:
        raise ValueError(f"languages={list(languages)}: {unknown[0]!r} is not one of {', '.join(LANGUAGES)}")
    sorts = [_ask_keywords, _ask_group, _ask_subgroup, _ask_choice, _ask_is_name, _ask_is_group]
    if languages:
        sorts.append(partial(_ask_name_in, languages=tuple(languages)))
    if not 1 <= turns <= len(sorts) + 1:
        raise ValueError(f"turns={turns} must lie between 1 and {len(sorts) + 1}, the number of sorts of questions")
    others = _others(emoji)
    dialogues = []
    for one in emoji:
        draw = random.Random(f"{seed} {one['id']} {one['style']}")
        asked = [_ask_name, *draw.sample(sorts, turns - 1)]
        draw.shuffle(asked)
        dialogues.append(_as_messages([ask(one, others, draw) for ask in asked]))
    return dialogues


def _as_messages(turns: list[Turn]) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": role, "content": content} for turn in turns for role, content in zip(roles, turn, strict=True)]


def _others(emoji: Sequence[Emoji]) -> Others:
    by_subgroup, by_group = defaultdict(set), defaultdict(set)
    for one in emoji:
        by_subgroup[one["subgroup"]].add(one["label"])
        by_group[one["group"]].add(one["label"])
    # Sorted, because a set of strings has another order in every process.
    names, groups = sorted(set().union(*by_group.values())), sorted(by_group)
    return Others(names, groups, *({key: sorted(by[key]) for key in by} for by in (by_subgroup, by_group)))


def _ask_name(one: Emoji, others: Others, draw: random.Random) -> Turn:
    return draw.choice(NAME), one["label"]


def _ask_keywords(one: Emoji, others: Others, draw: random.Random) -> Turn:
    return draw.choice(KEYWORDS), ", ".join(one["tags"])


def _ask_group(one: Emoji, others: Others, draw: random.Random) -> Turn:
    return draw.choice(GROUP), _spelled(one["group"])


def _ask_subgroup(one: Emoji, others: Others, draw: random.Random) -> Turn:
    return draw.choice(SUBGROUP), one["subgroup"].replace("-", " ")


def _ask_name_in(one: Emoji, others: Others, draw: random.Random, languages: tuple[str, ...]) -> Turn:
    language = draw.choice(languages)
    return draw.choice(NAME_IN[language]), one[f"label_{language}"]


def _ask_choice(one: Emoji, others: Others, draw: random.Random) -> Turn:
    near = others.by_subgroup[one["subgroup"]]
    if len(near) < 3:
        near = others.by_group[one["group"]]
    wrong = [name for name in near if name != one["label"]]
    options = [one["label"], *draw.sample(wrong, min(2, len(wrong)))]
    draw.shuffle(options)
    return draw.choice(CHOICE).format(", ".join(options)), one["label"]


def _ask_is_name(one: Emoji, others: Others, draw: random.Random) -> Turn:
    name = one["label"]
    if draw.random() < 0.5:
        # A wrong name shares no word with the right one or its keywords: nobody could dispute the "no".
        taken = {*_words(name), *one["tags"]}
        drawn = draw.sample(others.names, min(8, len(others.names)))
        name = next((other for other in drawn if taken.isdisjoint(_words(other))), name)
    return draw.choice(IS_NAME).format(name), _yes_no(name == one["label"])


def _ask_is_group(one: Emoji, others: Others, draw: random.Random) -> Turn:
    group = one["group"]
    wrong = [other for other in others.groups if other != group]
    if wrong and draw.random() < 0.5:
        group = draw.choice(wrong)
    return draw.choice(IS_GROUP).format(_spelled(group)), _yes_no(group == one["group"])


def _words(name: str) -> list[str]:
    return name.lower().replace(":", "").split()


def _spelled(group: str) -> str:
    return group.replace("-", " and ")


def _yes_no(answer: bool) -> str:
    return "yes" if answer else "no"
