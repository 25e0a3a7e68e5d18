"""Lines of code of the three packages, without docstrings, comments and blanks: `python -m benchmarks.code_lines`.

The limits of the house count these (tests/test_house.py), so that an explanation never costs a line of code.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path


__all__ = ["code_lines"]

PACKAGES = ("modeling_coma", "trainers", "hub_scripts")
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> set[int]:
    """Numbers of the lines of a source text that have code on them."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - _docstring_lines(ast.parse(text))


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                lines |= set(range(first.lineno, first.end_lineno + 1))
    return lines


def main(words: list[str]) -> None:
    total = 0
    for place in map(Path, words or PACKAGES):
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        lines = sum(len(code_lines(file.read_text(encoding="utf-8"))) for file in files)
        print(f"{lines:>6}  {place}")
        total += lines
    print(f"{total:>6}  in all")


if __name__ == "__main__":
    main(sys.argv[1:])
