"""Words of others are shown as they are: a Markdown reader finds the text again, and nothing but text."""

import random

from markdown_it import MarkdownIt

from hub_scripts.hub.markdown import code, plain, row


HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "`x` ``y``",
    "*bold* _it_ __b__ ~~s~~",
    "![i](http://e/x.png) [l](javascript:x)",
    "a\n---\n# head\n| x |",
    "learning_rate=5e-05 <!-- &lt; &amp; --> \\| \\",
    "\x1b[31mred\x00",
    "$$x$$",
]
SIGNS = "ab1 |`*_[]()<>!#\\~$&;-=\n\t\"'"


def texts() -> list[str]:
    """Those, and some of which nobody thought."""
    draw = random.Random(0)
    return [*HOSTILE, *("".join(draw.choices(SIGNS, k=draw.randint(1, 20))) for _ in range(300))]


def seen(markdown: str) -> list[str]:
    """Text of every cell of the first row; whatever is more than text fails."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(f"| a | b |\n|---|---|\n{markdown}\n\nend")
    begin = next(place for place, token in enumerate(tokens) if token.type == "tbody_open")
    end = next(place for place, token in enumerate(tokens) if token.type == "tbody_close")
    cells = [token for token in tokens[begin:end] if token.type == "inline"]
    assert {child.type for cell in cells for child in cell.children} <= {"text", "text_special"}, markdown
    return ["".join(child.content for child in cell.children) for cell in cells]


def one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def test_a_cell_is_text() -> None:
    for text in texts():
        shown = seen(row(plain(text), "end"))
        assert [one_line(cell) for cell in shown] == [one_line(text), "end"], text


def test_a_code_span_is_one() -> None:
    for text in texts():
        tokens = MarkdownIt("commonmark").parse(f"By {code(text)}, commit.")
        children = tokens[1].children
        assert len(tokens) == 3 and [child.type for child in children] == ["text", "code_inline", "text"], text
        assert one_line(children[1].content) == one_line(text)
