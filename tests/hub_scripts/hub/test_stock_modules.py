"""A plain folder pools by stock modules as the model does, whichever way that is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from hub_scripts.common.folders import save_model
from hub_scripts.convert import convert_model
from hub_scripts.create import create_model
from tests.families import grids
from tests.plain_export import by_coma, by_strangers


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone whose own processor needs no torchvision, and whose tokenizer begins texts with BOS and a space."""
    folder = tmp_path_factory.mktemp("llava")
    config, processor = grids.llava()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_stock_tools_embed_as_the_model_does(llava: Path, tmp_path: Path) -> None:
    """Texts, images, both, instructions and what is interleaved, alone and in a batch, without our package."""
    expected = {}
    for pooling, normalize in (("last", True), ("mean", True), ("last", False), ("mean", False)):
        folder = tmp_path / f"{pooling} {normalize}"
        model, processor = create_model(str(llava), 4, pooling)
        model.config.normalize = normalize
        save_model(model, processor, tmp_path / f"coma {folder.name}")
        converted = convert_model(tmp_path / f"coma {folder.name}", folder, to_backbone=True)
        assert converted.difference < 1e-5 and converted.several_images < 1e-5
        expected[folder] = by_coma(model, processor)
    assert (expected[tmp_path / "last False"].norm(dim=1) - 1).abs().min() > 0.1
    assert (expected[tmp_path / "last True"] - expected[tmp_path / "mean True"]).abs().max() > 0.01
    found = by_strangers(list(expected), tmp_path)
    for folder, vectors in expected.items():
        limit = 1e-5 * vectors.norm(dim=1).max()
        assert (found[folder]["alone"] - vectors).abs().max() < limit
        assert (found[folder]["together"] - vectors).abs().max() < limit


def test_what_vllm_reads_of_the_modules(make_coma: Callable, tmp_path: Path) -> None:
    """It looks for two types by these names, and for a pooling mode that is true; so it was read in its source."""
    for normalize in (True, False):
        model, processor = make_coma()
        model.config.pooling, model.config.normalize = "last", normalize
        processor.tokenizer.padding_side = "right"
        save_model(model, processor, tmp_path / f"coma {normalize}")
        folder = tmp_path / f"plain {normalize}"
        convert_model(tmp_path / f"coma {normalize}", folder, to_backbone=True)
        modules = {module["type"]: module["path"] for module in json.loads((folder / "modules.json").read_text())}
        pooling = json.loads((folder / modules["sentence_transformers.models.Pooling"] / "config.json").read_text())
        assert [name for name, value in pooling.items() if value is True] == [
            "pooling_mode_lasttoken",
            "include_prompt",
        ]
        assert ("sentence_transformers.models.Normalize" in modules) == normalize
        assert AutoTokenizer.from_pretrained(folder).padding_side == "left"  # for those that take the last column


def test_of_a_mean_no_engine_is_told_that_it_is_one_of_all_tokens(make_coma: Callable, tmp_path: Path) -> None:
    model, processor = make_coma()
    model.config.pooling = "mean"
    save_model(model, processor, tmp_path / "coma")
    convert_model(tmp_path / "coma", tmp_path / "plain", to_backbone=True)
    assert json.loads((tmp_path / "plain" / "2_Pooling" / "config.json").read_text()) == {
        "embedding_dimension": model.config.hidden_size,
        "pooling_mode": "mean_sqrt_len_tokens",
    }
    weights = json.loads((tmp_path / "plain" / "1_WordWeights" / "config.json").read_text())
    assert len(weights["vocab"]) == model.get_input_embeddings().num_embeddings
    found = {index for index, token in enumerate(weights["vocab"]) if token in weights["word_weights"]}
    assert found == set(model.config.compression_token_ids)
    assert set(weights["word_weights"].values()) == {0.25} and weights["unknown_word_weight"] == 0


def test_texts_that_a_template_would_make_other_tokens_of_are_not_converted(llava: Path, tmp_path: Path) -> None:
    model, processor = create_model(str(llava), 4, "last")
    save_model(model, processor, tmp_path / "coma")
    raw = json.loads((tmp_path / "coma" / "tokenizer.json").read_text())
    # What begins a text is another token than BOS, which a template could write.
    token = next(name for name, index in raw["model"]["vocab"].items() if index > 20 and len(name) > 1)
    text = json.dumps(raw["post_processor"])
    bos = processor.tokenizer.bos_token
    assert bos in text
    raw["post_processor"] = json.loads(
        text.replace(json.dumps(bos), json.dumps(token)).replace(
            f"[{processor.tokenizer.bos_token_id}]", f"[{raw['model']['vocab'][token]}]"
        )
    )
    (tmp_path / "coma" / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="makes other tokens of 'a red apple' than this model has learnt"):
        convert_model(tmp_path / "coma", tmp_path / "plain", to_backbone=True)
    assert not (tmp_path / "plain").exists()
