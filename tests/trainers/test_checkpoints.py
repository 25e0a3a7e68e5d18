"""A checkpoint is resumed whole or not at all, and the file that is to blame is named."""

import errno
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainers.adapters import lora_config
from trainers.checkpoints import check_checkpoint, check_files, last_checkpoint, whole_or_nothing


STEPS = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}


@pytest.fixture(params=[pytest.param(True, id="adapter", marks=pytest.mark.slow), pytest.param(False, id="whole")])
def checkpoint(request, make_coma, compression_trainer, compression_rows, tmp_path):
    """A checkpoint, and `resume()`, which goes on from it with a new model."""

    def trainer(**settings):
        coma = make_coma()
        peft_config = lora_config(coma[0], r=settings.pop("r", 2)) if request.param else None
        return compression_trainer(coma, compression_rows(2), peft_config=peft_config, **STEPS, **settings)

    trainer().train()

    def resume(**settings):
        return trainer(**settings).train(resume_from_checkpoint=True)

    return tmp_path / "out" / "checkpoint-1", resume


@pytest.mark.slow
def test_a_file_that_was_cut_is_named(checkpoint):
    folder, resume = checkpoint
    weights = next(file.name for file in folder.glob("*.safetensors"))
    names = [weights, "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"]
    for name in names:
        whole = (folder / name).read_bytes()
        for part in (whole[: len(whole) // 2], whole[:-20], b""):
            (folder / name).write_bytes(part)
            with pytest.raises(ValueError, match=f"checkpoint-1/{name} cannot be read"):
                resume()
        (folder / name).write_bytes(whole)
    resume()


def test_a_checkpoint_without_its_optimizer_is_no_checkpoint(checkpoint):
    folder, resume = checkpoint
    (folder / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-1 has no optimizer.pt, without which"):
        resume()
    check_checkpoint(folder, engine=True)  # DeepSpeed and FSDP have files of their own


def test_weights_that_do_not_fit_are_named(checkpoint):
    folder, resume = checkpoint
    file = next(folder.glob("*.safetensors"))
    weights = {name: weight.clone() for name, weight in load_file(file).items()}
    name = next(name for name in sorted(weights) if ".layers.0." in name)
    smaller = {**weights, name: weights[name][:-1].clone()}
    missing = {other: weight for other, weight in weights.items() if other != name}
    more = {**weights, f"{name}.more": torch.ones(2)}
    for changed in (smaller, missing, more):
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(ValueError, match="do(es)? not fit") as error:
            resume()
        assert name.partition(".layers.0.")[2].removesuffix(".weight") in str(error.value)


@pytest.mark.slow
def test_an_adapter_of_another_rank_or_none(make_coma, compression_trainer, compression_rows, tmp_path):
    rows = compression_rows(2)

    def train(r, **kwargs):
        coma = make_coma()
        config = lora_config(coma[0], r=r) if r else None
        compression_trainer(coma, rows, peft_config=config, **STEPS).train(**kwargs)

    train(2)
    with pytest.raises(
        ValueError, match=r"adapter_model.safetensors does not fit the adapter: .*\(2, .*instead of \(4,"
    ):
        train(4, resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "out")
    train(0)
    with pytest.raises(ValueError, match="has no adapter_model.safetensors: what is trained here is an adapter"):
        train(2, resume_from_checkpoint=True)


def test_whole_weights_of_another_model(make_coma, compression_trainer, compression_rows):
    def train(model_type, **kwargs):
        compression_trainer(make_coma(model_type), compression_rows(2), **STEPS).train(**kwargs)

    train("qwen2_5_vl")
    with pytest.raises(ValueError, match=r"not of the model that is trained: \d+, first [\w.]+\.$"):
        train("qwen2_vl", resume_from_checkpoint=True)


def test_what_is_no_checkpoint(tmp_path):
    for name in ("checkpoint-best", "checkpoint-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(ValueError, match=f"{name} is no folder with a checkpoint"):
            check_checkpoint(tmp_path / name)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json cannot be read: it is JSON of a list"):
        check_files(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # tokenizers
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_written_is_removed(error, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "half").touch()
    with (
        pytest.raises(OSError, match="out could not be written, and nothing was left of it"),
        whole_or_nothing(folder),
    ):
        raise error
    assert not folder.exists()


@pytest.mark.parametrize(
    "error", [ValueError("a fault"), OSError("no connection"), RuntimeError("CUDA"), Exception("?")]
)
def test_other_errors_pass(error, tmp_path):
    with pytest.raises(type(error), match=str(error).replace("?", ".")), whole_or_nothing(tmp_path):
        raise error
    assert tmp_path.exists()
