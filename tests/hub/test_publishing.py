"""From training to a stranger: a trained model is pushed, the Hub moves on, and who has only torch and transformers
loads it by name and revision, online and from the cache, and gets the golden vectors. Then sentence-transformers does.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.hub.golden import GOLDEN_FILE
from hub_scripts.hub.upload import upload
from trainers.adapters import lora_config
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.trainer import ComaContrastiveTrainer


pytestmark = pytest.mark.slow

ROWS = [
    {"query": {"text": text, "image": None}, "positive": {"text": f"it is {text}", "image": None}, "negatives": []}
    for text in ("a red apple", "a green tree", "a blue sky", "leaves below it")
]
OURS = ("modeling_coma", "trainers", "hub_scripts")
EXTRAS = ("peft", "datasets", "evaluate", "accelerate", "mteb")

# Runs without `site`, so that a package that is installed as editable is not there either.
STRANGER = """
import base64, importlib.util, io, json, sys
root, allowed = sys.argv[1], sys.argv[2].split(",")
sys.path += sys.argv[3:]
for name in {forbidden!r}:
    if name not in allowed:
        sys.modules[name] = None  # as if it were not installed
        assert importlib.util.find_spec(name) is None
import numpy as np
from PIL import Image


def block(content):
    if content["type"] == "text":
        return content
    return {{"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(content["image"])))}}


golden = json.load(open(f"{{root}}/golden.json"))
inputs = [[{{**m, "content": [block(c) for c in m["content"]]}} for m in item] for item in golden["inputs"]]
found = {{}}
{body}
np.savez(f"{{root}}/{{sys.argv[2] or 'nothing'}}.npz", **found)
"""

WITH_TRANSFORMERS = """
import torch
from transformers import AutoModel, AutoProcessor

trusted = {"trust_remote_code": True}
for revision in ("v1", "main", "v1 offline"):
    if "offline" in revision:
        import huggingface_hub

        huggingface_hub.constants.HF_HUB_OFFLINE = True  # what HF_HUB_OFFLINE in the environment does
    revision, name = revision.partition(" ")[0], revision
    model = AutoModel.from_pretrained("org/my-coma", revision=revision, **trusted)
    processor = AutoProcessor.from_pretrained("org/my-coma", revision=revision, **trusted)
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        found[name] = torch.cat([model(**processor.process([item])).embeddings for item in inputs]).numpy()
"""

WITH_SENTENCE_TRANSFORMERS = """
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("org/my-coma", revision="v1", trust_remote_code=True)
found["v1"] = np.concatenate([encoder.encode([item]) for item in inputs[:3]])
"""

AN_ADAPTER = """
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("org/adapter", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("org/adapter", trust_remote_code=True)
with torch.no_grad():
    found["main"] = torch.cat([model(**processor.process([item])).embeddings for item in inputs]).numpy()
"""


def stranger(root: Path, body: str, *allowed: str) -> dict[str, np.ndarray]:
    """What a process without this package gets, which of further libraries may import those that are allowed."""
    code = STRANGER.format(forbidden=(*OURS, *EXTRAS, "sentence_transformers"), body=body)
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    command = [sys.executable, "-I", "-S", "-c", code, str(root), ",".join(allowed), *libraries]
    done = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(root / f"{','.join(allowed) or 'nothing'}.npz") as found:
        return dict(found)


def trained(model, processor, folder: Path, adapter=None) -> ComaContrastiveTrainer:
    settings = {"per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "save_strategy": "no"}
    config = ComaContrastiveConfig(folder, report_to="none", use_cpu=True, disable_tqdm=True, **settings)
    trainer = ComaContrastiveTrainer(
        model, config, train_dataset=ROWS, processing_class=processor, peft_config=adapter
    )
    trainer.train()
    trainer.save_model()
    return trainer


def golden_of(hub, repo: str, root: Path) -> np.ndarray:
    content = hub.repos[repo].files("main" if repo == "org/adapter" else "v1")[GOLDEN_FILE].content
    (root / "golden.json").write_bytes(content)
    return np.array(json.loads(content)["embeddings"], dtype=np.float32)


def test_from_training_to_a_stranger(hub, make_coma, tmp_path, capsys):
    model, processor = make_coma()
    trainer = trained(model, processor, tmp_path / "trained")
    push = ["push", str(tmp_path / "trained"), "org/my-coma", "--tag", "v1", "--max-shard-size", "300KB"]
    assert main(push) == 0, capsys.readouterr().err
    golden = golden_of(hub, "org/my-coma", tmp_path)
    assert sum(name.endswith(".safetensors") for name in hub.repos["org/my-coma"].files()) > 1

    # The repository moves on: other weights, in one file. What was pushed before is still there under its tag.
    for parameter in trainer.model.backbone.model.language_model.parameters():
        parameter.data *= 1.1
    save_model(trainer.model, processor, tmp_path / "moved")
    upload(tmp_path / "moved", "org/my-coma", "moved on")
    assert {"model.safetensors"} == {n for n in hub.repos["org/my-coma"].files() if n.endswith(".safetensors")}

    found = stranger(tmp_path, WITH_TRANSFORMERS)
    assert np.abs(found["v1"] - golden).max() < 1e-6
    assert np.abs(found["main"] - golden).max() > 1e-3
    assert np.array_equal(found["v1 offline"], found["v1"])
    allowed = ("sentence_transformers", "datasets", "accelerate")  # it takes them for there if their files are
    encoded = stranger(tmp_path, WITH_SENTENCE_TRANSFORMERS, *allowed)
    assert np.abs(encoded["v1"] - golden[:3]).max() < 1e-6


def test_an_adapter_for_a_stranger(hub, make_coma, tmp_path, capsys):
    """Pushed as an adapter, upon a base that is on the Hub; transformers finds both by the name of the adapter."""
    model, processor = make_coma()
    save_model(model, processor, tmp_path / "base")
    upload(tmp_path / "base", "org/base", "the base")
    model = type(model).from_pretrained(tmp_path / "base")
    adapted = trained(model, processor, tmp_path / "adapter", lora_config(model, r=4, lora_dropout=0.0)).model
    push = ["push", str(tmp_path / "adapter"), "org/adapter", "--adapter", "--base", "org/base"]
    assert main(push) == 0, capsys.readouterr().err
    golden = golden_of(hub, "org/adapter", tmp_path)
    files = hub.repos["org/adapter"].files()
    assert json.loads(files["adapter_config.json"].content)["base_model_name_or_path"] == "org/base"
    assert "model.safetensors" not in files and "base_model: org/base" in files["README.md"].content.decode()
    with torch.no_grad():
        ours = adapted.eval()(**processor.process(["A red bicycle leans on the wall of a bakery."])).embeddings[0]
    assert np.abs(ours.numpy() - golden[0]).max() < 1e-5
    commit = hub.repos["org/adapter"].branches["main"]
    assert main(["verify", "org/adapter", "--revision", commit]) == 0 and commit in capsys.readouterr().out
    found = stranger(tmp_path, AN_ADAPTER, "peft", "accelerate", "datasets")
    assert np.abs(found["main"] - golden).max() < 1e-6
