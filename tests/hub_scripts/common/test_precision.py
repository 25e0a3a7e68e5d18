"""Fewer bits and compiled layers give the embeddings of the model, as nearly as their precision allows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import load_model
from hub_scripts.tiny.backbone import BackboneSizes
from modeling_coma import ComaForEmbedding


# Wider than the other test models: the error of rounding is an average over the width.
WIDE = BackboneSizes(hidden_size=256, intermediate_size=512, vision_hidden_size=128, vision_intermediate_size=256)


@pytest.fixture(params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def saved(request, make_coma: Callable, tmp_path: Path):
    """A folder, its processor, and the model."""
    model, processor = make_coma(request.param, sizes=WIDE)
    save_model(model, processor, tmp_path)
    return tmp_path, processor, model


def cosines(one: torch.nn.Module, other: torch.nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return torch.cosine_similarity(one(**batch).embeddings.float(), other(**batch).embeddings.float())


def test_bfloat16(saved, mixed_inputs: list) -> None:
    folder, processor, model = saved
    loaded, _ = load_model(str(folder), "bfloat16", "cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert cosines(loaded, model, processor.process(mixed_inputs)).min() > 0.999


@pytest.mark.slow
def test_8_bits_of_torchao(saved, mixed_inputs: list) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    folder, processor, model = saved
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    loaded = ComaForEmbedding.from_pretrained(folder, quantization_config=config)
    assert "Int8Tensor" in {type(parameter).__name__ for parameter in loaded.parameters()}
    assert cosines(loaded, model, processor.process(mixed_inputs)).min() > 0.997


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "least", "share"), [(8, 0.997, 0.4), (4, 0.85, 0.3)])
def test_bitsandbytes(saved, mixed_inputs: list, bits: int, least: float, share: float) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    folder, processor, model = saved
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**(four if bits == 4 else {"load_in_8bit": True}))
    loaded = ComaForEmbedding.from_pretrained(folder, quantization_config=config, device_map="cpu")
    assert loaded.get_memory_footprint() < share * model.get_memory_footprint()
    assert cosines(loaded, model, processor.process(mixed_inputs)).min() > least


@pytest.mark.slow
def test_the_language_model_is_one_graph(make_coma: Callable, mixed_inputs: list) -> None:
    """What compiles in one piece, for batches of any shape, is the language model; here it is traced only."""
    model, processor = make_coma("qwen2_5_vl", 4)
    batches = [processor.process(mixed_inputs), processor.process(mixed_inputs[:3])]
    with torch.no_grad():
        expected = [model(**batch).embeddings for batch in batches]
        model.backbone.model.language_model.compile(dynamic=True, fullgraph=True, backend="eager")
        for batch, embeddings in zip(batches, expected, strict=True):
            assert (model(**batch).embeddings - embeddings).abs().max() < 1e-6
