"""The rules of the house that a linter does not hold: sizes, the direction of imports, what library code leaves alone.

Each rule reads one parsed file and yields sentences. Further down every rule is broken once, and must object.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers.dynamic_module_utils import get_relative_imports

from benchmarks.code_lines import code_lines
from hub_scripts.cli import COMMANDS


ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("modeling_coma", "trainers", "hub_scripts")  # a room imports the rooms before it, never those after it
LIBRARY = ("modeling_coma", "trainers")
OUTSIDE = ("tests", "benchmarks")
# numpy and PIL: the types of transformers' own image processing; packaging: what transformers compares versions with
SHIPPED_WITH = {*sys.stdlib_module_names, "torch", "transformers", "numpy", "PIL", "packaging"}

# Inside trainers/: what a folder may import of the folders beside it. The files that lie flat in trainers/ may be
# imported by all of them, and import data alone.
FOLDERS = {
    "data": set(),
    "encoding": {"data"},
    "compression": {"encoding", "data"},
    "contrastive": {"encoding", "data"},
    "mining": {"encoding", "data"},
    "evaluation": {"encoding", "data"},
    "experimental": {"compression", "contrastive", "encoding", "data"},
}

# Lines of code: docstrings, comments and blanks are free.
MAX_FILE_LINES = 260
MAX_FUNCTION_LINES = 40
MAX_MODEL_LINES = 1676

BANNED = {
    "print": "the library logs, commands print",
    "os.environ": "the library takes arguments, it does not read the environment",
    "os.getenv": "the library takes arguments, it does not read the environment",
    "sys.path": "imports are the installer's business",
    "NotImplementedError": "write it or leave it out",
}


class Source(NamedTuple):
    """One file of the house: its path from the root, its text, its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.parts[0]


Rule = Callable[[Source], Iterator[str]]


def read(path: Path) -> Source:
    text = (ROOT / path).read_text(encoding="utf-8")
    return Source(path, text, ast.parse(text, filename=str(path)))


def sources() -> list[Path]:
    return sorted(file.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    """Every import anywhere in the file as (line, level, module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or ""


def dotted(node: ast.AST) -> str:
    """`os.environ` for the expression that spells it, and nothing for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def docstring_lines(node: ast.AST) -> int:
    if not node.body:
        return 0
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    return first.end_lineno - first.lineno + 1 if is_docstring else 0


def file_size(source: Source) -> Iterator[str]:
    lines = len(code_lines(source.text))
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines of code, at most {MAX_FILE_LINES}: one idea per file, give the second idea its own"


def function_size(source: Source) -> Iterator[str]:
    code = code_lines(source.text)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = len(code & set(range(node.lineno, node.end_lineno + 1)))
            if lines > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: `{node.name}`: {lines} lines of code, limit {MAX_FUNCTION_LINES}"


def import_direction(source: Source) -> Iterator[str]:
    above = {*ROOMS[ROOMS.index(source.room) + 1 :], *OUTSIDE}
    for line, level, module in imports(source.tree):
        if level == 0 and module.split(".")[0] in above:
            yield f"line {line}: imports `{module}`; arrows go hub_scripts -> trainers -> modeling_coma"


def trainer_folders(source: Source) -> Iterator[str]:
    """Arrows inside trainers/ go one way: {compression, contrastive, mining, evaluation} -> encoding -> data."""
    if source.room != "trainers":
        return
    own = source.path.parts[1]
    allowed = {own, *FOLDERS.get(own, {"data"})}
    if own == "__init__.py":  # which names all folders, and imports them when they are asked for
        return
    for line, level, module in imports(source.tree):
        names = module.split(".")
        if level == 0 and names[0] == "trainers" and len(names) > 1 and names[1] in FOLDERS.keys() - allowed:
            yield f"line {line}: imports `{module}`; of the folders beside it {own} may import {sorted(allowed)}"


def remote_code(source: Source) -> Iterator[str]:
    """What `save_pretrained` can copy next to the weights: flat siblings, and no library but its two."""
    if source.room != "modeling_coma":
        return
    if len(source.path.parts) != 2:
        yield "lies in a subfolder; remote code is flat"
    for line, level, module in imports(source.tree):
        if level > 1 or (level == 1 and (not module or "." in module)):
            yield f"line {line}: only `from .file import name` survives as remote code"
        if level == 0 and module.split(".")[0] not in SHIPPED_WITH:
            yield f"line {line}: imports `{module}`; the model may need what transformers itself needs and no more"


def exports(source: Source) -> Iterator[str]:
    body = source.tree.body
    if len(body) <= 1 and docstring_lines(source.tree):  # a docstring alone has nothing to export
        return
    assigned = [dotted(target) for node in body if isinstance(node, ast.Assign) for target in node.targets]
    if "__all__" not in assigned and (not source.path.name.startswith("_") or source.path.name == "__init__.py"):
        yield "has no `__all__`: say which names are public"


def library_manners(source: Source) -> Iterator[str]:
    if source.room not in LIBRARY:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or is_blanket(node.type)):
            yield f"line {node.lineno}: blanket `except`; name the errors that can be mended here"
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node) in BANNED:
            yield f"line {node.lineno}: `{dotted(node)}`; {BANNED[dotted(node)]}"
        if isinstance(node, ast.ImportFrom):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                if name in BANNED:
                    yield f"line {node.lineno}: `{name}`; {BANNED[name]}"


def is_blanket(node: ast.expr) -> bool:
    named = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(dotted(name) in {"Exception", "BaseException"} for name in named)


RULES: list[Rule] = [
    file_size,
    function_size,
    import_direction,
    trainer_folders,
    remote_code,
    exports,
    library_manners,
]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_file_keeps_the_rules_of_the_house(path: Path) -> None:
    source = read(path)
    objections = [f"{path}: {sentence}" for rule in RULES for sentence in rule(source)]
    assert not objections, "\n" + "\n".join(objections)


def test_rooms_are_found() -> None:
    assert {path.parts[0] for path in sources()} == set(ROOMS)


def test_the_flat_level_of_hub_scripts_is_the_commands() -> None:
    flat = {path.stem for path in (ROOT / "hub_scripts").glob("*.py")}
    assert flat == {"__init__", "cli"} | {command.replace("-", "_") for command in COMMANDS}


def test_tests_mirror_the_tree() -> None:
    """The tests of a room lie where its files do; what goes through all rooms has a folder of its own beside them, as
    tests/families (backbones of every kind, in the environment of `make test-vision`)."""
    folders = {
        path.parent.relative_to(ROOT / "tests")
        for room in ROOMS
        for path in (ROOT / "tests" / room).rglob("test_*.py")
    }
    strays = sorted(str(folder) for folder in folders if not any((ROOT / folder).glob("*.py")))
    assert not strays, f"tests of folders that do not exist: {strays}"


def module_of(path: Path) -> str:
    """`trainers.data.pairs` for its path; a package goes by its folder."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def eager_imports(source: Source) -> Iterator[str]:
    """Modules that importing a file imports at once: not those of functions, nor those for type checkers alone."""
    package = (
        module_of(source.path) if source.path.name == "__init__.py" else module_of(source.path).rpartition(".")[0]
    )
    for node in source.tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = f"{package}.{node.module}" if node.level else node.module
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)  # those that are modules themselves


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Some nodes of a directed graph that lead back to the first of them; none if there is no way back."""
    finished: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in finished:
            return []
        for target in sorted(graph[node]):
            if found := walk(target, [*path, node]):
                return found
        finished.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_no_imports_go_in_a_circle() -> None:
    modules = {module_of(path): read(path) for path in sources()}
    graph = {name: set(eager_imports(source)) & modules.keys() - {name} for name, source in modules.items()}
    assert sum(map(len, graph.values())) > 100
    assert not circle(graph)


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


WITHOUT_TRAINING = """
import sys
for line in sys.stdin.read().splitlines():
    exec(line)
    print(sorted({"peft", "matplotlib", "evaluate", "sentence_transformers"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_what_needs_no_training_loads_none_of_it() -> None:
    """All of it in one process: what one line had loaded, it would still have after the others."""
    lines = [
        "from trainers import ComaCompressionCollator, ComaContrastiveCollator",
        "from trainers import embed_items",
        "import hub_scripts.cli, trainers, modeling_coma",
    ]
    command = [sys.executable, "-c", WITHOUT_TRAINING]
    done = subprocess.run(command, input="\n".join(lines), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-len(lines) :] == ["[]"] * len(lines)


def test_the_model_stays_small() -> None:
    lines = {path.name: len(code_lines(path.read_text())) for path in (ROOT / "modeling_coma").glob("*.py")}
    assert sum(lines.values()) <= MAX_MODEL_LINES, f"modeling_coma has {sum(lines.values())} lines of code: {lines}"


def test_what_transformers_would_copy_exists() -> None:
    """transformers finds siblings by a regular expression that reads docstrings too."""
    for path in (ROOT / "modeling_coma").glob("*.py"):
        missing = [name for name in get_relative_imports(path) if not path.with_name(f"{name}.py").exists()]
        assert not missing, f"{path.name} names siblings that do not exist (in a docstring?): {missing}"


def test_there_is_one_version() -> None:
    """setup.py states it; the citation and the packages do not repeat it."""
    stated = [path for path in sources() if "__version__ =" in (ROOT / path).read_text()]
    assert not stated, f"these repeat the version of setup.py: {stated}"
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text()


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES

BROKEN = [
    (file_size, "trainers/a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (function_size, "trainers/a.py", LONG_FUNCTION),
    (function_size, "trainers/a.py", LONG_FUNCTION.replace("def", "async def")),
    (import_direction, "modeling_coma/a.py", "from trainers.compression.loss import info_nce"),
    (import_direction, "trainers/a.py", "def f():\n    import hub_scripts.cli"),
    (import_direction, "hub_scripts/a.py", "from benchmarks import step"),
    (trainer_folders, "trainers/data/a.py", "from trainers.encoding.encode import embed_items"),
    (trainer_folders, "trainers/encoding/a.py", "import trainers.mining.mine"),
    (trainer_folders, "trainers/contrastive/a.py", "def f():\n    from trainers.experimental.joint import g"),
    (trainer_folders, "trainers/evaluation/a.py", "from trainers.contrastive import ComaContrastiveTrainer"),
    (trainer_folders, "trainers/a.py", "from trainers.encoding import embed_items"),
    (remote_code, "modeling_coma/a.py", "import peft"),
    (remote_code, "modeling_coma/a.py", "from . import b"),
    (remote_code, "modeling_coma/a.py", "from ..b import c"),
    (remote_code, "modeling_coma/a.py", "from .b.c import d"),
    (remote_code, "modeling_coma/a.py", "from modeling_coma.b import c"),
    (remote_code, "modeling_coma/a/b.py", "x = 1"),
    (exports, "trainers/a.py", "x = 1"),
    (exports, "trainers/__init__.py", '"""Doc."""\nfrom trainers.a import b'),
    (library_manners, "trainers/a.py", "print(1)"),
    (library_manners, "trainers/a.py", "import os\nos.environ['A']"),
    (library_manners, "trainers/a.py", "from os import environ"),
    (library_manners, "modeling_coma/a.py", "import os\nos.getenv('A')"),
    (library_manners, "trainers/a.py", "import sys\nsys.path.append('.')"),
    (library_manners, "trainers/a.py", "try:\n    f()\nexcept:\n    pass"),
    (library_manners, "trainers/a.py", "try:\n    f()\nexcept (ValueError, Exception):\n    pass"),
    (library_manners, "trainers/a.py", "def f():\n    raise NotImplementedError"),
]

KEPT = [
    (function_size, "trainers/a.py", 'def f():\n    """' + "Long.\n" * MAX_FUNCTION_LINES + '"""\n    return 1'),
    (trainer_folders, "trainers/experimental/a.py", "from trainers.contrastive.trainer import b"),
    (trainer_folders, "trainers/mining/a.py", "from trainers.files import b\nfrom trainers.encoding.shards import c"),
    (trainer_folders, "trainers/a.py", "from trainers.data.rows import b"),
    (remote_code, "modeling_coma/a.py", "import math\nfrom transformers.cache_utils import Cache\nfrom .b import c"),
    (exports, "trainers/a.py", "__all__ = []"),
    (exports, "trainers/__init__.py", '"""Doc."""'),
    (library_manners, "hub_scripts/a.py", "print(1)"),
    (library_manners, "trainers/a.py", "try:\n    f()\nexcept (ValueError, OSError):\n    pass"),
]


def name_of(value: Rule | str) -> str:
    return value[:40] if isinstance(value, str) else value.__name__


def objections_to(rule: Rule, path: str, text: str) -> list[str]:
    return list(rule(Source(Path(path), text, ast.parse(text))))


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN, ids=name_of)
def test_a_broken_rule_is_seen(rule: Rule, path: str, text: str) -> None:
    assert objections_to(rule, path, text)


@pytest.mark.parametrize(("rule", "path", "text"), KEPT, ids=name_of)
def test_a_kept_rule_is_left_alone(rule: Rule, path: str, text: str) -> None:
    assert not objections_to(rule, path, text)
