"""In which encoding a file of text is, found by looking at all of it; where two are equally possible, nobody guesses.

A file in UTF-8 says so by itself, and one in UTF-16 by its first bytes. All other encodings read any bytes, and what
tells them apart is whether words come out: "Größe" as cp1252 has the letters of German, as cp1251 ("GrцЯe") those of
two scripts in one word. Of several encodings that give words, the one is taken that needs the fewest languages for
all of them, for a wrong one finds "ř", "ś" and "ő" in one file. What that does not decide is an error, which shows how
each would read: "crème" as cp1252 is "crčme" as cp1250.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from itertools import combinations
from typing import BinaryIO, NamedTuple


__all__ = ["UTF_8", "FoundEncoding", "check_encoding", "find_encoding"]

UTF_8 = "utf-8-sig"  # with or without a byte-order mark
BLOCK = 2**20
MOST_WORDS = 50_000  # different ones, that are looked at
WAY_OUT = "--encoding utf-8 takes rows with such bytes for bad ones"

# Letters beside those of ASCII, by language.
WESTERN = ("äöüß", "àâæçèéêëîïôœùûü", "áéíñóúüç", "ãáàâçéêíóôõúü", "àèéìíîòóùú", "åæøéòô", "åäöé", "áéèêëïóöü")
WESTERN += ("áðéíóúýþæö",)
OF_NAMES = (
    "šž"  # they are in cp1252 as well, for names from elsewhere: its readings with them are possible and no more
)
CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ăâîşţ", "čćđšž", "äöüß", "çë")
TURKISH, BALTIC = ("çğıöşüâîû",), ("äöõüšž", "āčēģīķļņšūž", "ąčęėįšųūž")
# Where several read alike, the first of them is named.
CANDIDATES = {
    "cp1252": WESTERN,
    "cp1250": CENTRAL,
    "cp1254": TURKISH,
    "cp1257": BALTIC,
    "mac_roman": WESTERN,
    "iso8859_15": WESTERN,
    "iso8859_2": CENTRAL,
}
OTHERS = "cp1251 (Cyrillic), cp850 (DOS), mac_roman, gb18030 (Chinese) or shift_jis (Japanese)"

SIGNS = set("€„“”‚‘’–—…«»‹›°§©®™£¥¢½¼¾²³¹·¿¡×÷±µªº•†‰´")
AFTER_LETTERS = set("“”‘’–—…«»‹›°©®™²³¹ªº´")  # what may touch a letter before it, and one behind it
BEFORE_LETTERS = set("“”„‚‘’–—…«»‹›¿¡µ´°")
BETWEEN_LETTERS = set("’‘–—…´")
BLANKS = "\u00a0\u00ad"  # no-break space, soft hyphen

CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")  # of UTF-8
BETWEEN = bytes(byte if byte > 127 or chr(byte).isalnum() else ord(" ") for byte in range(256))
BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class FoundEncoding(NamedTuple):
    """
    How a file is read.

    Args:
        name (`str`): of the encoding, as Python knows it.
        example (`str`): words by which a person sees whether it is the right one; empty where the file says it itself.
    """

    name: str
    example: str = ""


def check_encoding(name: str) -> str:
    """Gives back the name of an encoding; raises `ValueError` for what is none."""
    try:
        is_text = codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        is_text = False
    if not is_text:
        raise ValueError(f"There is no encoding {name!r}; there are utf-8, utf-16, cp1252, {OTHERS}.")
    return UTF_8 if codecs.lookup(name).name == "utf-8" else name


def find_encoding(file: BinaryIO, name: str) -> FoundEncoding:
    """
    Finds the encoding of a file, at whose beginning it is left.

    Args:
        file (`BinaryIO`): the file, open.
        name (`str`): what it is called in messages.

    Returns:
        [`FoundEncoding`]: UTF-8 also for a file of which some bytes are not, as long as most are: those are bad rows.

    Raises:
        ValueError: for UTF-32, and where looking does not tell, with how it could be read.
    """
    beginning = file.read(4096)
    file.seek(0)
    if beginning.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins like UTF-16
        raise ValueError(f"{name} is UTF-32, which nothing else reads: save it again, `iconv -f UTF-32 -t UTF-8`.")
    if utf_16 := _utf_16(beginning):
        return utf_16
    is_utf_8 = _is_utf_8(file)
    file.seek(0)
    if is_utf_8:
        return FoundEncoding(UTF_8)
    words, characters, others = _odd_words(file)
    file.seek(0)
    if characters >= others:
        return FoundEncoding(UTF_8)
    return _chosen(words, name)


def _utf_16(beginning: bytes) -> FoundEncoding | None:
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return FoundEncoding("utf-16")
    half = len(beginning) // 2
    zeros = [beginning[place::2].count(0) for place in (0, 1)]  # every other byte of what is mostly ASCII
    for high, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if zeros[high] > 0.6 * half and zeros[1 - high] < 0.1 * half:
            return FoundEncoding(encoding)
    return None


def _is_utf_8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _odd_words(file: BinaryIO) -> tuple[dict[bytes, None], int, int]:
    """Words with bytes beyond ASCII; how many characters of UTF-8 there are, and how many other such bytes."""
    words: dict[bytes, None] = {}  # in their order
    characters, others = 0, 0
    while lines := file.readlines(BLOCK):
        block = b"".join(lines)
        if NO_TEXT.search(block) is not None:  # such a line is in no encoding, and a bad row in any
            block = b"".join(line for line in lines if NO_TEXT.search(line) is None)
        rest, found = CHARACTER.subn(b"", b" ".join(BEYOND_ASCII.findall(block)))
        bare = len(rest) - rest.count(b" ")
        characters, others = characters + found, others + bare
        if bare and len(words) < MOST_WORDS:
            words |= {word: None for word in dict.fromkeys(block.translate(BETWEEN).split()) if not word.isascii()}
    return words, characters, others


def _chosen(words: Iterable[bytes], name: str) -> FoundEncoding:
    """The encoding of words that are not in UTF-8."""
    possible = _possible_readings(words)
    if not possible:
        raise ValueError(
            f"{name} is not UTF-8, and looking does not tell what else it is ({next(iter(words))[:40]!r} is in it): "
            f"give --encoding, for instance cp1252, {OTHERS}; {WAY_OUT}."
        )
    encoding, read = next(iter(possible.items()))
    if len(set(possible.values())) == 1:
        telling = [word for word in read if any(_is_letter(letter) for letter in word if letter > "\x7f")]
        return FoundEncoding(encoding, ", ".join((telling or read)[:3]))
    differing = next(words for words in zip(*possible.values(), strict=True) if len(set(words)) > 1)
    ways = dict(zip(reversed(differing), reversed(possible), strict=True))
    shown = ", ".join(f"{word!r} as {encoding}" for word, encoding in reversed(ways.items()))
    raise ValueError(
        f"{name} is not UTF-8, and looking does not tell what else it is. It could read {shown}: give --encoding with "
        f"the one that is right; {WAY_OUT}."
    )


def _possible_readings(words: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """The words as each of the encodings reads them by which they are from the fewest languages."""
    readings, languages, with_names = {}, {}, []
    for encoding, alphabets in CANDIDATES.items():
        try:
            readings[encoding] = tuple(word.decode(encoding) for word in words)
        except UnicodeDecodeError:  # it has no such bytes
            continue
        number = _languages(readings[encoding], alphabets)
        if number is not None:
            languages[encoding] = number
        elif _languages(readings[encoding], (*alphabets, OF_NAMES)) is not None:
            with_names.append(encoding)
    fewest = min(languages.values(), default=0)
    best = [encoding for encoding in readings if languages.get(encoding) == fewest or encoding in with_names]
    return {encoding: readings[encoding] for encoding in best}


def _languages(words: Iterable[str], alphabets: tuple[str, ...]) -> int | None:
    """The least number of languages that all these words are from, or `None` if some are no words."""
    letters = set()
    for word in words:
        for part in re.split(f"[{BLANKS}]", word):
            if not _is_shaped_like_a_word(part):
                return None
            letters.add(frozenset(letter.lower()[0] for letter in part if letter > "\x7f" and _is_letter(letter)))
    letters -= {frozenset("i"), frozenset()}  # the Turkish capital of "i"
    for number in range(len(alphabets) + 1):
        for languages in combinations(alphabets, number):
            if all(any(of_word <= set(language) for language in languages) for of_word in letters):
                return number
    return None


def _is_letter(character: str) -> bool:
    return character.isalpha() and character not in SIGNS


def _is_shaped_like_a_word(word: str) -> bool:
    """Whether signs and capitals are where they are in words, and not all letters beyond ASCII."""
    odd = [place for place, letter in enumerate(word) if letter > "\x7f"]
    if len(word) > 2 and len(odd) == len(word) and all(map(_is_letter, word)):
        return False
    return all(_may_stand(word[place - 1] if place else " ", word[place], word[place + 1 :]) for place in odd)


def _may_stand(before: str, letter: str, behind: str) -> bool:
    """Whether a letter or a sign stands behind a character, and before others, as in a text."""
    after = behind[:1] or " "
    if _is_letter(letter):
        return letter.islower() or not before.isalpha() or (before.isupper() and not after.islower())
    if _is_letter(before) and _is_letter(after):
        return letter in BETWEEN_LETTERS
    return (
        letter in SIGNS
        and (letter in AFTER_LETTERS or not _is_letter(before))
        and (letter in BEFORE_LETTERS or not _is_letter(after))
    )
