"""An adapter is the same for PEFT and for transformers, with DoRA and with trained compression tokens."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_coma import ComaForEmbedding
from trainers.adapters import WEIGHTS, complete_adapter, is_hub_name, lora_config, public_base


@pytest.fixture
def adapted(make_coma, tmp_path):
    """An adapter that changes embeddings, its base in a folder."""
    model, processor = make_coma()
    model.save_pretrained(tmp_path / "base")
    model = get_peft_model(ComaForEmbedding.from_pretrained(tmp_path / "base"), lora_config(model, r=4))
    generator = torch.manual_seed(0)
    for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), processor


@torch.no_grad()
def embed(model, processor):
    return model.eval()(**processor.process(["a red apple", "a blue tree and a sky"])).embeddings


def test_both_libraries_load_the_same(adapted, tmp_path):
    model, processor = adapted
    expected, folder = embed(*adapted), tmp_path / "adapter"
    model.save_pretrained(folder)
    names = set(load_file(folder / WEIGHTS))
    complete_adapter(folder)
    assert len(names) == len(load_file(folder / WEIGHTS)) and any(".lora_magnitude" in name for name in names)
    by_peft = PeftModel.from_pretrained(ComaForEmbedding.from_pretrained(tmp_path / "base"), folder)
    assert torch.equal(embed(by_peft, processor), expected)
    by_transformers = AutoModel.from_pretrained(folder)
    assert torch.allclose(embed(by_transformers, processor), expected, atol=1e-6)
    assert (embed(AutoModel.from_pretrained(tmp_path / "base"), processor) - expected).abs().max() > 1e-2


def test_twice_is_once(adapted, tmp_path):
    adapted[0].save_pretrained(tmp_path / "adapter")
    complete_adapter(tmp_path / "adapter")
    once = (tmp_path / "adapter" / WEIGHTS).read_bytes()
    complete_adapter(tmp_path / "adapter")
    assert (tmp_path / "adapter" / WEIGHTS).read_bytes() == once
    complete_adapter(tmp_path)  # no adapter: nothing to do


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "folder").mkdir(parents=True)
    assert is_hub_name("org/name-1.0")
    for name in ("name", "/org/name", "org/folder", "./name", "a/b/c", "", None):
        assert not is_hub_name(name)
    assert public_base(LoraConfig(base_model_name_or_path="org/name")) == "org/name"
    with pytest.raises(ValueError, match=r"names '.*folder' as its base"):
        public_base(LoraConfig(base_model_name_or_path="org/folder"))
