"""Merged, an adapter is the same model: with DoRA, with trained compression tokens, wherever its base went."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel

from hub_scripts.common.loading import load_model
from hub_scripts.merge import merge_model
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import lora_config


@pytest.fixture
def adapter(coma_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An adapter with DoRA and trained tokens that changes embeddings, and the folder of its base."""
    base = shutil.copytree(coma_folder, tmp_path / "base")
    model = ComaForEmbedding.from_pretrained(base)
    adapted = get_peft_model(model, lora_config(model, r=4))
    generator = torch.manual_seed(0)
    for parameter in (parameter for parameter in adapted.parameters() if parameter.requires_grad):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base


@pytest.fixture
def embed(coma_folder: Path, mixed_inputs: list) -> Callable[[torch.nn.Module], torch.Tensor]:
    processor = ComaProcessor.from_pretrained(coma_folder)

    def run(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(**processor.process(mixed_inputs)).embeddings

    return run


def expected(adapter: Path, base: Path, embed: Callable) -> torch.Tensor:
    """By PEFT itself, without any of the code under test."""
    from peft import PeftModel

    return embed(PeftModel.from_pretrained(ComaForEmbedding.from_pretrained(base), adapter))


@pytest.mark.parametrize("moved", [False, True])
def test_embeddings_are_equal(
    adapter: tuple[Path, Path], embed: Callable, coma_command: Callable, tmp_path: Path, moved: bool
) -> None:
    folder, base = adapter
    options = []
    if moved:
        code, _, error = coma_command("merge", folder, tmp_path / "out", "--base", tmp_path / "no")
        assert code == 1 and "not there: give --base FOLDER" in error
        base = base.rename(tmp_path / "elsewhere")
        code, _, error = coma_command("merge", folder, tmp_path / "out")
        assert code == 1 and "not there: give --base FOLDER" in error and not (tmp_path / "out").exists()
        options = ["--base", base]
    code, text, _ = coma_command("merge", folder, tmp_path / "out", *options)
    assert code == 0 and "float32" in text and "before and after" in text
    merged = AutoModel.from_pretrained(tmp_path / "out")
    reference = expected(folder, base, embed)
    assert (embed(merged) - reference).abs().max() < 1e-6
    assert (embed(ComaForEmbedding.from_pretrained(base)) - reference).abs().max() > 1e-2


def test_the_folder_is_complete(
    adapter: tuple[Path, Path], coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    assert coma_command("merge", adapter[0], tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in coma_folder.iterdir()}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights.keys() == load_file(coma_folder / "model.safetensors").keys()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_the_processor_of_the_adapter_goes_first(
    adapter: tuple[Path, Path], coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    """Training may have changed the limits; what a checkpoint saved is what it was trained with."""
    processor = ComaProcessor.from_pretrained(coma_folder)
    processor.max_length = 99
    processor.save_pretrained(adapter[0])
    assert coma_command("merge", adapter[0], tmp_path / "out")[0] == 0
    assert ComaProcessor.from_pretrained(tmp_path / "out").max_length == 99


def test_commands_take_an_adapter_as_a_model(adapter: tuple[Path, Path], embed: Callable) -> None:
    model, processor = load_model(str(adapter[0]), device="cpu")
    assert (embed(model) - expected(*adapter, embed)).abs().max() < 1e-6
    assert processor.num_compression_tokens == 4


def test_from_python_it_writes_nothing_unless_told(
    adapter: tuple[Path, Path], embed: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    merged = merge_model(adapter[0])
    assert {path.name for path in tmp_path.iterdir()} == before
    assert merged.base == str(adapter[1]) and merged.difference < 1e-5
    assert (embed(merged.model) - expected(*adapter, embed)).abs().max() < 1e-6
    rounded = merge_model(adapter[0], tmp_path / "out", dtype="bfloat16")
    assert rounded.model.dtype == torch.bfloat16 and merged.difference < rounded.difference < 0.05
    assert (embed(AutoModel.from_pretrained(tmp_path / "out", dtype="auto")) == embed(rounded.model)).all()
    with pytest.raises(ValueError, match="nothing is overwritten"):
        merge_model(adapter[0], tmp_path / "out")
    assert not capsys.readouterr().out


def test_a_merged_model_that_embeds_differently_is_not_kept(
    adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is folded in is half of what was trained, or no number at all."""
    import trainers.adapters

    for factor in (0.5, float("nan")):

        def half(model, factor=factor):
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data *= factor
            return model.merge_and_unload()

        monkeypatch.setattr(trainers.adapters, "merge_adapter", half)
        with pytest.raises(ValueError, match="embeds differently|is not finite"):
            merge_model(adapter[0], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_no_adapter(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = coma_command("merge", coma_folder, tmp_path / "out")
    assert code == 1 and "it is no adapter folder" in error
