"""What the trainers push by themselves loads: at every save, with checkpoints, at the end; models and adapters."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from peft import get_peft_model
from transformers import AutoModel, AutoProcessor

import modeling_coma
from hub_scripts.common.folders import save_model
from hub_scripts.common.loading import fetch_adapter, load_model
from hub_scripts.hub.upload import upload
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import lora_config
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.trainer import ComaContrastiveTrainer


CODE = {path.name for path in Path(modeling_coma.__file__).parent.glob("*_coma.py")}
TEXTS = ["a red apple", "a green tree", "a blue sky", "leaves below it"]
ROWS = [
    {"query": {"text": text, "image": None}, "positive": {"text": f"what is {text}?", "image": None}, "negatives": []}
    for text in TEXTS
]


@pytest.fixture
def trainer(tmp_path):
    """`trainer(model, processor, adapter, **settings)`: two steps, pushed to org/trained."""

    def make(model, processor, adapter=None, **settings):
        defaults = {
            "output_dir": tmp_path / "out",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "save_steps": 1,
            "learning_rate": 1e-2,
            "push_to_hub": True,
            "hub_model_id": "org/trained",
            "hub_always_push": True,
        }
        config = ComaContrastiveConfig(**{**defaults, **settings})
        return ComaContrastiveTrainer(
            model, config, train_dataset=ROWS, processing_class=processor, peft_config=adapter
        )

    return make


@torch.no_grad()
def embed(model, processor):
    return model.eval()(**processor.process(TEXTS)).embeddings


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "end"])
def test_a_model(hub, make_coma, trainer, strategy):
    model, processor = make_coma()
    one = trainer(model, processor, hub_strategy=strategy, hub_always_push=True)  # however slow the last push is
    one.train()
    if strategy == "end":
        one.push_to_hub()
    repo = hub.repos["org/trained"]
    pushed = [commit for commit in repo.commits.values() if "config.json" in commit.files]
    assert len(pushed) >= {"every_save": 2, "checkpoint": 2, "end": 1}[strategy]
    for commit in pushed:
        assert {*CODE, "model.safetensors", "processor_config.json"} <= commit.files.keys(), commit.title
    weights = [commit.files["model.safetensors"].oid for commit in pushed]
    assert strategy == "end" or weights[0] != weights[-1], "both saves have the same weights"
    folder = snapshot_download("org/trained")
    loaded, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(embed(loaded, AutoProcessor.from_pretrained(folder)), embed(one.model, processor))
    checkpoint = {name.partition("/")[2] for name in repo.files() if name.startswith("last-checkpoint/")}
    assert checkpoint >= ({"trainer_state.json", "optimizer.pt", *CODE} if strategy == "checkpoint" else set())


@pytest.mark.slow
def test_an_adapter(hub, make_coma, trainer, tmp_path):
    """By the name of its repository, AutoModel loads it upon its base, with all that was trained: DoRA's magnitudes
    and the rows of the compression tokens among it."""
    save_model(*make_coma(), tmp_path / "base")
    upload(tmp_path / "base", "org/base", "the base")
    model, processor = ComaForEmbedding.from_pretrained("org/base"), ComaProcessor.from_pretrained("org/base")
    one = trainer(model, processor, lora_config(model, r=4, lora_dropout=0.0), hub_strategy="every_save")
    before = embed(one.model, processor)
    one.train()
    expected = embed(one.model, processor)
    assert (expected - before).abs().max() > 1e-2
    files = hub.repos["org/trained"].files()
    assert "adapter_config.json" in files and "model.safetensors" not in files
    loaded = AutoModel.from_pretrained("org/trained")
    assert torch.allclose(embed(loaded, AutoProcessor.from_pretrained("org/trained")), expected, atol=1e-6)
    # And so do our commands.
    assert torch.allclose(embed(*load_model("org/trained", device="cpu")), expected, atol=1e-5)
    assert fetch_adapter("org/base") == "org/base"
    with pytest.raises(OSError, match="not a valid model identifier"):
        fetch_adapter("org/none")


def test_an_adapter_whose_base_nobody_has(hub, make_coma, trainer, tmp_path):
    save_model(*make_coma(), tmp_path / "base")
    model, processor = ComaForEmbedding.from_pretrained(tmp_path / "base"), make_coma()[1]
    with pytest.raises(ValueError, match="not on the Hub: nobody else could load it"):
        trainer(model, processor, lora_config(model))
    one = trainer(get_peft_model(model, lora_config(model)), processor, push_to_hub=False)
    with pytest.raises(ValueError, match="coma push BASE ORG/NAME"):
        one.push_to_hub()
    assert not hub.repos
