"""`coma verify` of a server: right is 0, and of what is wrong the cause is named."""

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hub_scripts import verify_server
from hub_scripts.common.folders import save_model
from hub_scripts.hub.golden import GOLDEN_FILE, write_golden
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.embedding_server import EmbeddingServer, Engine


NAMES = [
    "a text, input",
    "a text, input, in a batch",
    "a text, messages",
    "an image, messages",
    "an image and a text, messages",
    "a text with an instruction, messages",
]


@pytest.fixture(scope="module")
def saved(make_coma: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`saved(pooling)`: model, processor and their folder, made once. Nobody changes them."""

    @functools.cache
    def make(pooling: str) -> tuple[ComaForEmbedding, ComaProcessor, Path]:
        model, processor = make_coma("qwen2_5_vl", 4)
        model.config.pooling = pooling
        norm = model.backbone.model.language_model.norm
        norm.weight.data = torch.linspace(0.2, 3.0, len(norm.weight))
        folder = tmp_path_factory.mktemp("golden")
        save_model(model.eval(), processor, folder)
        write_golden(folder, model, processor)
        return model, processor, folder

    return make


@pytest.fixture
def coma(request: pytest.FixtureRequest, saved: Callable) -> tuple[ComaForEmbedding, ComaProcessor]:
    """A model whose last norm scales its dimensions, as that of a trained one, so that it can be missed."""
    return saved(request.param)[:2]


@pytest.fixture
def golden(coma: tuple, saved: Callable) -> Path:
    return saved(coma[0].config.pooling)[2]


def verify(coma_command: Callable, server: EmbeddingServer, golden: Path, *words: object) -> tuple[int, str, str]:
    return coma_command("verify", server.url, "--model", "m", "--golden", golden, *words)


@pytest.mark.parametrize("coma", ["last", "mean"], indirect=True)
def test_a_server_that_is_right(coma: tuple, golden: Path, coma_command: Callable) -> None:
    with EmbeddingServer(reply=Engine(*coma)) as server:
        code, said, error = verify(coma_command, server, golden)
    assert not error, error
    lines = said.splitlines()
    assert (code, error, lines[0]) == (0, "", f"server    {server.url}")
    assert len(lines) == 1 + len(NAMES) and all("as published" in line for line in lines[1:])
    assert all(name in line for name, line in zip(NAMES, lines[1:], strict=True))
    bodies = [body for _, body in server.requests]
    assert {body["model"] for body in bodies} == {"m"} and "Authorization" not in server.headers
    assert len(bodies[1]["input"]) == 2 and [block["type"] for block in bodies[3]["messages"][0]["content"]] == [
        "image_url"
    ]


EVERYTHING = set(NAMES)
IMAGES = {"an image, messages", "an image and a text, messages"}
FAULTS = {
    "pre-norm": ("the states are those before the last norm of the language model", EVERYTHING),
    "template": ("the chat template was not used", EVERYTHING),
    "generation prompt": ("a generation prompt follows the compression tokens", EVERYTHING),
    "system prompt": ("a system prompt was added: 'You are a helpful assistant.'", EVERYTHING),
    "padding side": ("padding: alone the vector is right", {"a text, input, in a batch"}),
    "pixel budget": ("another pixel budget: an image is made 28x28, which this model makes 112x84", IMAGES),
    "not normalised": ("not normalised: the direction is right", EVERYTHING),
    "truncated": ("truncated: these are the first 16 of 64 dimensions", EVERYTHING),
    "other pooling": ("of the compression tokens", EVERYTHING),
    "mean of all": ("the mean of all tokens was taken", EVERYTHING),
}
# Those that another pooling of the model can change, again with it.
AGAIN = ["pre-norm", "other pooling", "generation prompt"]
ALL = [*[("last", fault) for fault in FAULTS], *[("mean", fault) for fault in AGAIN]]
QUICK = [("last", "other pooling"), ("last", "template"), ("last", "padding side"), ("last", "truncated")]


@pytest.mark.parametrize(
    ("coma", "fault"),
    [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in ALL if other not in QUICK)],
    indirect=["coma"],
)
def test_the_cause_of_a_fault_is_named(fault: str, coma: tuple, golden: Path) -> None:
    cause, wrong = FAULTS[fault]
    with EmbeddingServer(reply=Engine(*coma, fault)) as server:
        found = verify_server(server.url, model="m", golden=golden)
    assert not found.is_intact
    causes = {name: answer.cause for name, answer in found.answers.items() if answer.cause}
    assert causes.keys() == wrong and len(set(causes.values())) == 1
    assert cause in causes.popitem()[1]
    assert all((answer.difference > found.tolerance) == bool(answer.cause) for answer in found.answers.values())


@pytest.mark.parametrize("coma", ["last"], indirect=True)
def test_a_fault_on_the_command_line(coma: tuple, golden: Path, coma_command: Callable) -> None:
    with EmbeddingServer(reply=Engine(*coma, "pixel budget")) as server:
        code, said, _ = verify(coma_command, server, golden)
        lines = said.splitlines()
        assert code == 1 and len(lines) == 1 + len(NAMES) + 1
        assert [" DIFFERS, at most 0.001" in line for line in lines[1:-1]] == [name in IMAGES for name in NAMES]
        assert lines[-1].startswith("cause     another pixel budget: ") and lines[-1].endswith(
            f"({'; '.join(NAMES[3:5])})"
        )
        code, said, error = verify(coma_command, server, golden, "--form", "input")
        assert (code, error) == (0, "") and said.count("as published") == 2  # which has no images
        code, said, _ = verify(coma_command, server, golden, "--form", "messages", "--tolerance", "2")
        assert code == 0 and said.count("as published") == 4


@pytest.mark.slow
@pytest.mark.parametrize("coma", ["last"], indirect=True)
def test_another_model(coma: tuple, golden: Path, make_coma: Callable) -> None:
    other, processor = make_coma("qwen2_5_vl", 4)
    for parameter in other.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    with EmbeddingServer(reply=Engine(other, processor)) as server:
        found = verify_server(server.url, model="m", golden=golden)
    of_texts, of_images = (
        "none of the known mistakes: another model, or other weights",
        "none of the known mistakes; if",
    )
    for name, answer in found.answers.items():
        assert answer.cause.startswith(of_images if name in IMAGES else of_texts)
    with EmbeddingServer(reply=lambda body: [[1.0] * 40] * 2) as server:
        found = verify_server(server.url, model="m", golden=golden, form="input")
    assert {answer.cause for answer in found.answers.values()} == {
        "another model: its vectors have 40 dimensions, those of this one 64"
    }


@pytest.mark.slow
@pytest.mark.parametrize("coma", ["last"], indirect=True)
def test_half_precision_is_told_from_a_fault(coma: tuple, golden: Path) -> None:
    half = copy.deepcopy(coma[0]).to(torch.bfloat16)
    with EmbeddingServer(reply=Engine(half, coma[1])) as server:
        found = verify_server(server.url, model="m", golden=golden)
        wide = verify_server(server.url, model="m", golden=golden, tolerance=0.08)
    assert not found.is_intact and all("half precision" in answer.cause for answer in found.answers.values())
    assert wide.is_intact


@pytest.mark.parametrize("coma", ["last"], indirect=True)
def test_without_golden_vectors_the_model_makes_them(coma: tuple, golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden, tmp_path / "never pushed")
    (folder / GOLDEN_FILE).unlink()
    with EmbeddingServer(reply=Engine(*coma)) as server:
        found = verify_server(server.url, model="m", golden=folder)
    assert found.is_intact and list(found.answers) == NAMES
