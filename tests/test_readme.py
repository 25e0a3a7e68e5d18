"""Every snippet of the README and of the pages about data, memories, Python, search and training is run as it stands:
the Python ones of a page in one session, the commands in one folder; blocks with a title are files, which are written
there.
"""

import contextlib
import inspect
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

import hub_scripts
import hub_scripts.hub.golden
from hub_scripts.app import open_app
from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.create import create_model
from hub_scripts.hub.training_record import write_stages
from hub_scripts.serve import serve_model
from hub_scripts.tiny.backbone import create_tiny_backbone
from tests.chat_server import ChatServer
from tests.clean_process import load_here
from tests.embedding_server import EmbeddingServer, Engine
from trainers.data.emoji import load_emoji


ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/data.md", "docs/memory.md", "docs/python.md", "docs/search.md", "docs/training.md")
# language, title, content
SNIPPETS = {
    page: re.findall(
        r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```', (ROOT / page).read_text(encoding="utf-8"), re.S | re.M
    )
    for page in PAGES
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Where a stranger would be: a folder after `make demo`, with photos, and a backbone in place of the Hub's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    backbone = tmp_path / "Qwen" / "Qwen2.5-VL-3B-Instruct"
    create_tiny_backbone(backbone, texts=["a red apple, what is drawn here?"] * 20)
    save_model(*create_model(str(backbone), num_compression_tokens=4), tmp_path / "demo" / "model")
    write_stages(tmp_path / "demo" / "model", [{"stage": "compression"}])
    Path("photos").mkdir()
    for path in ("photo.png", "photos/one.png", "photos/two.jpg"):
        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 20).convert("RGB").save(path)


@pytest.fixture
def pictures(stranger):
    """Images that the page about data speaks of, with a caption beside each, and the files that it shows."""
    emoji = load_emoji(["noto"])
    Path("images").mkdir()
    for name in ("cat.png", "dog.jpg", "bicycle.webp", "red_apple.png"):
        row = emoji[emoji["label"][:].index(name.partition(".")[0].replace("_", " "))]
        row["image"].convert("RGB").save(Path("images", name))
        Path("images", name).with_suffix(".txt").write_text(f"A drawing of a {row['label']}.")
    for place in ("MMEB-train/images/ImageNet_1K/Train/cat.png", "MMEB-train/images/MSCOCO_t2i/Train/dog.jpg"):
        Path(place).parent.mkdir(parents=True)
        shutil.copy(Path("images", Path(place).name), place)
    write_files("docs/data.md")


def write_files(page):
    """The files that a page shows, in this folder."""
    for _, title, content in SNIPPETS[page]:
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_is_of_a_kind_that_is_run(page):
    assert {language for language, title, _ in SNIPPETS[page] if not title} <= {"bash", "python"}
    assert {language for language, title, _ in SNIPPETS[page] if title} <= {"json", "csv"}


def run_python(page, servers=None):
    """The names that the snippets have defined in the end, and what they printed. Servers stand at other addresses."""
    session, printed = {}, io.StringIO()
    for language, _, code in SNIPPETS[page]:
        if language == "python":
            with contextlib.redirect_stdout(printed):
                for address, here in (servers or {}).items():
                    code = code.replace(address, here)
                exec(compile(code, page, "exec"), session)
    return session, printed.getvalue()


def test_python_snippets_of_the_readme(stranger):
    pytest.importorskip("sentence_transformers")
    session, _ = run_python("README.md")
    assert session["embeddings"].shape == (4, 64)
    assert Path("my-coma", "modeling_coma.py").exists()


def test_python_snippets_of_the_page_about_data(pictures):
    session, printed = run_python("docs/data.md")
    assert session["message"].startswith(
        "Row 1 of broken.jsonl is bad: column positive.image: found int 3, expected a path"
    )
    assert list(session["bad_rows"].reasons) == [1, 2, 3] and len(session["rows"]) == 2
    assert "Which animal barks?" in printed and "bicycle |" in printed and "A dog." in printed


@contextlib.contextmanager
def no_page(*args, **kwargs):
    """In place of `open_app`, whose library is in no default environment; tests/hub_scripts/test_app.py opens it."""
    inspect.signature(open_app).bind(*args, **kwargs)
    yield "http://127.0.0.1:7860/"


@contextlib.contextmanager
def no_server(*args, **kwargs):
    """In place of `serve_model`, as above; tests/hub_scripts/test_serve.py starts one."""
    inspect.signature(serve_model).bind(*args, **kwargs)
    yield "http://127.0.0.1:8002/v1"


def test_python_snippets_of_the_page_about_python(stranger, monkeypatch):
    """It shows every function behind a command, but those that need LanceDB, which docs/lance-index.md shows."""
    monkeypatch.setattr("hub_scripts.app.open_app", no_page)
    monkeypatch.setattr("hub_scripts.serve.serve_model", no_server)
    monkeypatch.setattr(hub_scripts.hub.golden, "load_cleanly", load_here)
    write_files("docs/python.md")
    model, processor = load_model("demo/model", "float32", "cpu")
    with ChatServer() as chat, EmbeddingServer(reply=Engine(model, processor)) as embeddings:
        servers = {"http://localhost:8000/v1": chat.url, "http://localhost:8001/v1": embeddings.url}
        session, _ = run_python("docs/python.md", servers)
    assert session["served"].is_intact
    assert session["report"]["rows"]["good"] == 2 and session["embedded"].num_rows == 2
    assert session["mined"]["rows"] == 3 and len(session["pairs"]) == 3
    assert not session["published"].commit and Path("published", "modeling_coma.py").exists()
    of_the_index = {name for name, module in hub_scripts.FUNCTIONS.items() if module == "index"}
    assert session.keys() >= set(hub_scripts.__all__) - of_the_index


def test_python_snippets_of_the_page_about_search(stranger):
    pytest.importorskip("sentence_transformers")
    session, printed = run_python("docs/search.md")
    assert "32 ubinary" in printed and "(2, 32) ['one.png', 'two.jpg']" in printed
    assert {hit.row["id"] for hit in session["hits"]} == {"one.png", "two.jpg"}


def test_the_page_about_memories(stranger, capsys):
    for _, *arguments in commands("docs/memory.md"):
        assert main(arguments) == 0, capsys.readouterr().err
    assert "and the memory of each, " in capsys.readouterr().out
    session, printed = run_python("docs/memory.md")
    assert session["answered"].hit.row["id"] in printed


def test_python_snippets_of_the_page_about_training(stranger):
    """The collators with a plain `Trainer`: two steps of each stage."""
    session, _ = run_python("docs/training.md")
    assert len(session["losses"]) == 4 and all(0 < loss < 20 for loss in session["losses"])


def test_the_page_about_data_knows_every_loader():
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    loaders = {
        name
        for file in (ROOT / "trainers" / "data").rglob("*.py")
        for name in re.findall(r"^def ((?:load|stream)_\w+)", file.read_text(encoding="utf-8"), re.M)
    } - {"load_emoji"}
    assert len(loaders) >= 11 and all(f"`{name}`" in page for name in loaders)
    links = re.findall(r"\]\(#(.*?)\)", page)
    titles = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)", page, re.M)}
    assert set(links) <= titles


def commands(page):
    lines = [
        line.partition("#")[0].strip()
        for language, _, code in SNIPPETS[page]
        if language == "bash"
        for line in code.splitlines()
    ]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands(page, pictures, capsys):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for program, *arguments in commands(page):
        if program == "make":
            assert arguments[0] in targets
        else:
            assert program == "coma"
            assert main(arguments) == 0, capsys.readouterr().err
