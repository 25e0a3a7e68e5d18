"""`coma create` leaves a folder that is complete, or nothing."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from hub_scripts.create import create_model


FILES = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "chat_template.jinja"}
FILES |= {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
FILES |= {f"{name}_coma.py" for name in ("configuration", "inputs", "loss", "memory", "modeling", "processing")}


def test_settings_are_saved_and_act(
    make_backbone: Callable, coma_command: Callable, picture: Callable, tmp_path: Path
) -> None:
    backbone, out = make_backbone(), tmp_path / "new" / "coma"
    options = ["--num-compression-tokens", 5, "--pooling", "last", "--max-length", 40, "--max-image-pixels", 500**2]
    pixels = ["--min-pixels", 4 * 28**2, "--max-pixels", 9 * 28**2]
    code, text, _ = coma_command("create", backbone, out, *options, *pixels)
    assert code == 0 and "4 to 9 image tokens" in text and f'AutoModel.from_pretrained("{out}"' in text
    assert {file.name for file in out.iterdir()} >= FILES

    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert (model.config.pooling, model.config.num_compression_tokens, processor.max_length) == ("last", 5, 40)
    for side, tokens in ((28, 4), (500, 9)):
        batch = processor.process([picture(side, side)])
        assert int(batch["image_grid_thw"].prod()) // 4 == tokens
    with pytest.raises(ValueError, match="501x500 pixels are over the limit of 250000; .* .--max-image-pixels."):
        processor.process([picture(501, 500)])
    expected, _ = create_model(str(backbone), 5, "last")
    with torch.no_grad():
        assert torch.equal(model(**batch).embeddings, expected(**batch).embeddings)


@pytest.mark.parametrize("memory", ["cache", "states"])
def test_what_stage_1_answers_from_is_said(
    make_backbone: Callable, coma_command: Callable, tmp_path: Path, memory: str
) -> None:
    words = [] if memory == "cache" else ["--memory", memory]
    code, text, _ = coma_command("create", make_backbone(), tmp_path / "out", *words)
    assert code == 0 and re.search(rf"^memory +{memory}: ", text, flags=re.MULTILINE)
    assert AutoModel.from_pretrained(tmp_path / "out").config.memory == memory


@pytest.mark.parametrize("texts", [True, False])
def test_tiny(coma_command: Callable, tmp_path: Path, texts: bool) -> None:
    (tmp_path / "texts.txt").write_text("quokka wombat\n" * 20)
    options = ["--texts", tmp_path / "texts.txt"] if texts else []
    code, text, _ = coma_command("create", "--tiny", "qwen2_5_vl", tmp_path / "out", *options)
    assert code == 0 and "qwen2_5_vl (tiny, random)" in text
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer
    learned, other = ("quokka", "grinning") if texts else ("grinning", "quokka")
    assert len(tokenizer(learned)["input_ids"]) < 3 < len(tokenizer(other)["input_ids"])
    assert "/tmp" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.slow
def test_the_size_in_between(coma_command: Callable, tmp_path: Path) -> None:
    """That of the demo, wide enough to learn; without --tiny it would not act."""
    code, text, _ = coma_command("create", "--tiny", "qwen2_5_vl", tmp_path / "out", "--size", "demo")
    assert code == 0 and re.search(r"embedding size +256\n", text) and "4 to 4 image tokens" in text
    code, _, error = coma_command("create", "qwen2_5_vl", tmp_path / "other", "--size", "demo")
    assert code == 1 and "--size demo is that of a tiny backbone" in error
    with pytest.raises(ValueError, match="size='large' must be tiny or demo"):
        create_model("qwen2_5_vl", tiny=True, size="large")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-pixels", 783], "does not hold an image token"),
        (["--num-compression-tokens", 257], "1 to 256, got 257"),
        (["--max-length", 49], "max_length=49 is less than 50"),
    ],
)
def test_an_error_leaves_nothing(
    make_backbone: Callable, coma_command: Callable, tmp_path: Path, words: list, message: str
) -> None:
    code, _, error = coma_command("create", make_backbone(), tmp_path / "out", *words)
    assert code == 1 and message in error
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(make_backbone: Callable, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    code, _, error = coma_command("create", make_backbone(), tmp_path)
    assert code == 1 and "nothing is overwritten" in error
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_what_is_no_backbone_is_said(
    make_backbone: Callable, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    broken = shutil.copytree(make_backbone(), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-9])
    (tmp_path / "file").touch()
    for backbone, words, message in (
        (coma_folder, [], "is no backbone but a CoMa model already, one with 4 tokens"),
        (broken, [], "broken/model.safetensors cannot be read"),
        (tmp_path / "file", [], "is a file"),
        (tmp_path / "nothing", [], "There is no folder"),
        (make_backbone(), ["--revision", "main"], "--revision is for a backbone on the Hub"),
        ("qwen2_5_vl", ["--tiny", "--revision", "main"], "--revision is for a backbone on the Hub"),
    ):
        code, _, error = coma_command("create", backbone, tmp_path / "out", *words)
        assert code == 1 and message in error.splitlines()[-1], error
        assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(make_backbone: Callable, coma_command: Callable, tmp_path: Path) -> None:
    """The limit of a file stands for the disk: what is written beyond it fails in the same way."""
    resource = pytest.importorskip("resource")
    before, out = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "out"
    backbone = make_backbone()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        code, _, error = coma_command("create", backbone, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and error.splitlines()[-1].startswith(f"coma create: error: {out} could not be written")
    assert not any(tmp_path.iterdir())


def test_weights_of_a_backbone_are_not_drawn(make_backbone: Callable, coma_command: Callable, tmp_path: Path) -> None:
    broken = shutil.copytree(make_backbone(), tmp_path / "broken")
    weights = {name: weight.clone() for name, weight in load_file(broken / "model.safetensors").items()}
    name = next(name for name in weights if name.endswith("patch_embed.proj.weight"))
    for problem, changed in (
        ("missing_keys", {other: weight for other, weight in weights.items() if other != name}),
        ("mismatched_keys", {**weights, name: weights[name][:-1].clone()}),
    ):
        save_file(changed, broken / "model.safetensors", {"format": "pt"})
        code, _, error = coma_command("create", broken, tmp_path / "out")
        assert code == 1 and "do not fit its configuration" in error and problem in error
        assert not (tmp_path / "out").exists()


class TestFromPython:
    """`create_model` is what the command calls, and raises what the command says."""

    def test_settings_act(self, make_backbone: Callable, picture: Callable) -> None:
        model, processor = create_model(
            make_backbone(), 3, "last", min_pixels=4 * 28**2, max_pixels=9 * 28**2, max_length=40, dtype="bfloat16"
        )
        assert (model.config.pooling, model.config.num_compression_tokens) == ("last", 3)
        assert model.dtype == torch.bfloat16 and not model.training and processor.max_length == 40
        for side, tokens in ((28, 4), (500, 9)):
            assert int(processor.process([picture(side, side)])["image_grid_thw"].prod()) // 4 == tokens

    def test_what_is_not_set_is_that_of_the_backbone(self, make_backbone: Callable) -> None:
        backbone = make_backbone()
        size = AutoImageProcessor.from_pretrained(backbone).size
        model, processor = create_model(str(backbone), revision=None, dtype=None)
        assert (model.config.pooling, processor.num_compression_tokens, processor.max_length) == ("mean", 32, None)
        assert processor.image_processor.size == size

    def test_a_tiny_one_is_whole(self, tmp_path: Path) -> None:
        model, processor = create_model("qwen3_vl", 2, tiny=True, texts=["quokka wombat"] * 20)
        model.save_pretrained(tmp_path), processor.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        batch = processor.process(["quokka"])
        assert torch.equal(loaded(**batch).embeddings, model(**batch).embeddings)
        assert loaded.config.backbone_config._name_or_path == "tiny random qwen3_vl"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_compression_tokens": 0}, "1 to 256, got 0"),
            ({"pooling": "max"}, "pooling='max' does not exist"),
            ({"max_pixels": 783}, "does not hold an image token"),
            ({"max_length": 49}, "max_length=49 is less than 50"),
            ({"texts": ["a"]}, "there is none without --tiny"),
            ({"revision": "main"}, "--revision is for a backbone on the Hub"),
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, make_backbone: Callable, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            create_model(make_backbone(), **options)

    def test_a_model_is_no_backbone(self, coma_folder: Path) -> None:
        with pytest.raises(ValueError, match="is no backbone but a CoMa model already, one with 4 tokens"):
            create_model(coma_folder)
