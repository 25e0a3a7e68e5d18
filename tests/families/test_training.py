"""Every family is trained in both stages; what has been trained is saved, merged, and loads anywhere as it is."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.clean_process import libraries, run_isolated
from tests.families import torchvision_on_cpu
from tests.families.folders import FAMILIES, STRANGERS
from trainers.adapters import lora_config, merge_adapter
from trainers.compression import ComaCompressionConfig, ComaCompressionTrainer
from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer


EVERY = [*FAMILIES, *STRANGERS]
HYBRIDS = ("lfm2_vl", "minicpmv4_6", "qwen3_5")  # their layers keep more than the keys and values of a cache
every_family = pytest.mark.parametrize("family", EVERY)
SETTINGS = {
    "max_steps": 10,
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


class Trained(NamedTuple):
    """What stage 2 has made of a family by way of an adapter."""

    losses: list[float]
    embeddings: torch.Tensor  # of the adapted model as the training left it
    folder: Path  # with `base`, `adapter` and `merged`


@pytest.fixture(scope="session")
def items(picture):
    wide, high = picture(84, 56, 1), picture(56, 112, 2)
    return ["a red apple", wide, {"image": [picture(28, 28, 3), high]}, {"image": high, "text": "what is this?"}]


@pytest.fixture(scope="session")
def dialogues(items, picture):
    """Rows of stage 1: a text, an image, both."""
    said = [("what is this?", "an apple"), ("what is around it?", "leaves, and a little sky"), ("red?", "no")]
    inputs = [(None, [picture(84, 56, 1)]), ("a red apple", []), ("it", [picture(28, 28, 3), picture(56, 112, 2)])]
    return [
        {
            "text": text,
            "images": images,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }
        for (text, images), (question, answer) in zip(inputs, said, strict=True)
    ]


@pytest.fixture(scope="session")
def pairs(picture):
    """Rows of stage 2: images of several sizes and their captions, in either direction, and texts alone."""
    nothing = {"text": None, "image": None}
    rows = [
        ({"text": "what is this?", "image": picture(28, 28, 0)}, {"text": "a red apple"}),
        ({"text": "a blue tree and a little sky"}, {"image": picture(56, 56, 1)}),
        ({"text": "green, on a tree"}, {"text": "leaves"}),
        ({"image": picture(84, 28, 3)}, {"image": picture(28, 56, 4), "text": "what is around it?"}),
    ]
    return [{"query": nothing | query, "positive": nothing | positive} for query, positive in rows]


def losses_of(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def embed(model, processor, items) -> torch.Tensor:
    return model.eval()(**processor.process(items)).embeddings


@pytest.fixture(scope="session")
def train_adapter(family_coma, pairs, items, tmp_path_factory):
    """`train_adapter(family)`: ten steps of stage 2, once for all tests."""

    @functools.cache
    def train(family: str) -> Trained:
        folder = tmp_path_factory.mktemp(family)
        model, processor = family_coma(family)
        model.save_pretrained(folder / "base")
        base = ComaForEmbedding.from_pretrained(folder / "base")
        config = ComaContrastiveConfig(output_dir=folder / "adapter", temperature=0.1, **SETTINGS)
        adapter = lora_config(base, r=8, lora_alpha=16, lora_dropout=0.0)
        trainer = ComaContrastiveTrainer(
            base, config, processing_class=processor, train_dataset=pairs, peft_config=adapter
        )
        losses = losses_of(trainer)
        trainer.save_model()
        embeddings = embed(trainer.model, processor, items)
        merged = merge_adapter(trainer.model)
        merged.save_pretrained(folder / "merged")
        processor.save_pretrained(folder / "merged")
        return Trained(losses, embeddings, folder)

    return train


@pytest.mark.parametrize("family", [family for family in EVERY if family not in HYBRIDS])
def test_ten_steps_of_stage_1_lower_the_loss(family, family_coma, dialogues, tmp_path):
    model, processor = family_coma(family)
    config = ComaCompressionConfig(output_dir=tmp_path, **SETTINGS)
    trainer = ComaCompressionTrainer(model, config, processing_class=processor, train_dataset=dialogues)
    losses = losses_of(trainer)
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 10


@every_family
def test_ten_steps_of_stage_2_lower_the_loss(family, train_adapter):
    losses = train_adapter(family).losses
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 10


@every_family
def test_an_adapter_is_the_same_as_trained_reloaded_and_merged(family, train_adapter, items):
    _, expected, folder = train_adapter(family)
    processor = ComaProcessor.from_pretrained(folder / "adapter")
    before = embed(ComaForEmbedding.from_pretrained(folder / "base"), processor, items)
    assert (before - expected).abs().max() > 1e-2
    reloaded = PeftModel.from_pretrained(ComaForEmbedding.from_pretrained(folder / "base"), folder / "adapter")
    merged = ComaForEmbedding.from_pretrained(folder / "merged")
    for model in (reloaded, merged):
        torch.testing.assert_close(embed(model, processor, items), expected, atol=1e-5, rtol=0)


STRANGER = """
import importlib.util, json, runpy, sys
sys.path += sys.argv[3:]
runpy.run_path(sys.argv[1])
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

images = [Image.open(path) for path in ("one.png", "two.png")]
items = ["a red apple", images[0], {"image": images}, {"image": images[1], "text": "what is this?"}]
found = {"importable": importlib.util.find_spec("modeling_coma") is not None}
for family, folder in json.loads(sys.argv[2]).items():
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        found[family] = model(**processor.process(items)).embeddings
torch.save(found, "found.pt")
"""


def test_a_stranger_gets_the_same_bits_of_what_was_merged(train_adapter, picture, tmp_path):
    """In a process that does not know this package, offline."""
    images = [picture(84, 56, 1), picture(56, 112, 2)]
    for name, image in zip(("one.png", "two.png"), images, strict=True):
        image.save(tmp_path / name)
    folders = {family: str(train_adapter(family).folder / "merged") for family in EVERY}
    run_isolated(["-c", STRANGER, torchvision_on_cpu.__file__, json.dumps(folders), *libraries()], tmp_path)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found.pop("importable") is False
    assert found.keys() == set(EVERY)
    items = ["a red apple", images[0], {"image": images}, {"image": images[1], "text": "what is this?"}]
    for family, embeddings in found.items():
        folder = folders[family]
        model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
        assert torch.equal(embeddings, embed(model, processor, items)), family


@pytest.mark.parametrize("family", ["gemma3", "minicpmv4_6", "smolvlm"])
def test_the_folder_is_one_of_sentence_transformers(family, train_adapter, items):
    folder = train_adapter(family).folder / "merged"
    found = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(items)
    expected = embed(ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder), items)
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-5, rtol=0)
