"""What a stranger downloads: a folder that loads offline in a process that has never heard of this package.

One process loads several folders, saves each elsewhere, loads that, and reports: starting it is what takes time here.
By default these are a backbone and a memory of states; the others are in the slow tests.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import modeling_coma
from hub_scripts.tiny.backbone import MODEL_TYPES
from tests.clean_process import libraries, run_isolated
from trainers.backbone import model_from_backbone


FILES = {path.name for path in Path(modeling_coma.__file__).parent.glob("*_coma.py")}

QUICK = ("qwen3_vl", "states")
OTHERS = tuple(name for name in MODEL_TYPES if name not in QUICK)
every_folder = pytest.mark.parametrize(
    ("stranger", "name"),
    [
        *((QUICK, name) for name in QUICK),
        *(pytest.param(OTHERS, name, marks=pytest.mark.slow) for name in OTHERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
    indirect=["stranger"],
    scope="module",  # or the process would be started for every test
)

STRANGER = """
import importlib.util, pickle, shutil, sys
from pathlib import Path
sys.path += sys.argv[2:]
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor

root = Path(sys.argv[1])
arrays = np.load(root / "images.npz")
images = [Image.fromarray(arrays[name]) for name in ("a", "b")]
inputs = ["a red apple", images[0], {"image": images[1], "text": "what is this?"}]
trusted = {"trust_remote_code": True}
report = {"importable": importlib.util.find_spec("modeling_coma") is not None}


@torch.no_grad()
def run(folder, **kwargs):
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True, **trusted, **kwargs)
    processor = AutoProcessor.from_pretrained(folder, **trusted)
    assert type(AutoConfig.from_pretrained(folder, **trusted)).__name__ == type(model.config).__name__
    batch = processor.process(inputs)
    turn = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "it"}]
    rows = processor.process_dialogues([turn] * 3)
    ids, marks = torch.tensor(rows["input_ids"]), torch.tensor(rows["assistant_masks"])
    labels = ids.masked_fill(marks == 0, -100)
    output = model(**batch, dialogue_input_ids=ids, labels=labels)
    asked = ids[:, :-4]
    texts = model.generate_from_memory(model.compress(**batch), asked, torch.ones_like(asked), max_new_tokens=3)
    other = pickle.loads(pickle.dumps(model))
    return model, processor, {
        "pickled": other(**batch).embeddings, "same class": type(other) is type(model),
        "embeddings": output.embeddings, "loss": output.loss, "texts": texts,
        "module": type(model).__module__, "lost": {name: list(keys) for name, keys in info.items() if keys},
    }


results = {}
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    model, processor, results[folder.name] = run(folder)
    part = results[folder.name]
    elsewhere = root.parent / "elsewhere" / folder.name
    model.save_pretrained(elsewhere), processor.save_pretrained(elsewhere)
    shutil.rmtree(folder)
    _, _, part["again"] = run(elsewhere)
    part["files"] = sorted(path.name for path in elsewhere.glob("*.py"))
    half, _, _ = run(elsewhere, dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager")
    part["dtypes"] = sorted({str(parameter.dtype) for parameter in half.parameters()})
    towers = (half, half.backbone.model.visual, half.backbone.model.language_model)
    part["attention"] = sorted({tower.config._attn_implementation for tower in towers})
torch.save((report, results), root / "results.pt")
"""


@pytest.fixture(scope="module")
def stranger(request, tmp_path_factory, make_coma, make_backbone, picture):
    """What this process computes and what the stranger's does, for each of some folders."""
    root = tmp_path_factory.mktemp("folders")
    pictures = {"a": picture(84, 56, 1), "b": picture(56, 112, 2)}
    np.savez(root / "images.npz", **{name: np.asarray(image) for name, image in pictures.items()})
    here = {}
    models = {name: with_states(make_backbone) if name == "states" else make_coma(name) for name in request.param}
    for name, (model, processor) in models.items():
        here[name] = expected(model, processor, ["a red apple", *pictures.values()])
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        assert FILES <= {path.name for path in (root / name).iterdir()}
    run_isolated(["-c", STRANGER, str(root), *libraries()], root.parent)
    report, results = torch.load(root / "results.pt", weights_only=True)
    assert report == {"importable": False}, "the stranger could import the package: it proves nothing"
    return here, results


def with_states(make_backbone):
    """A memory of states, whose projection is not the one that it begins with."""
    model, processor = model_from_backbone(make_backbone(), 4, memory="states")
    weight = model.memory_projection.weight.data
    weight += 0.02 * torch.randn(weight.shape, generator=torch.manual_seed(0))
    return model, processor


@torch.no_grad()
def expected(model, processor, inputs: list) -> dict:
    text, image, other = inputs
    batch = processor.process([text, image, {"image": other, "text": "what is this?"}])
    turn = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "it"}]
    rows = processor.process_dialogues([turn] * 3)
    ids, marks = torch.tensor(rows["input_ids"]), torch.tensor(rows["assistant_masks"])
    output = model(**batch, dialogue_input_ids=ids, labels=ids.masked_fill(marks == 0, -100))
    texts = model.generate_from_memory(
        model.compress(**batch), ids[:, :-4], torch.ones_like(ids[:, :-4]), max_new_tokens=3
    )
    return {"embeddings": output.embeddings, "loss": output.loss, "texts": texts}


@every_folder
def test_a_stranger_gets_the_same_bits(stranger, name):
    here, there = stranger[0][name], stranger[1][name]
    assert here["embeddings"].std() > 0.01
    for part in (there, there["again"]):
        assert part["module"].startswith("transformers_modules.")
        assert part["lost"] == {}
        for what, value in here.items():
            assert torch.equal(part[what], value), what


@every_folder
def test_a_stranger_may_pickle_the_model(stranger, name):
    """As sentence-transformers does for several processes."""
    there = stranger[1][name]
    assert there["same class"] is True
    assert there["pickled"].shape == there["embeddings"].shape
    torch.testing.assert_close(there["pickled"], there["embeddings"], atol=1e-6, rtol=0)


SEVERAL = """
import sys
sys.path += sys.argv[2:]
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    folder = sys.argv[1]
    model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    assert type(model[0].auto_model).__module__.startswith("transformers_modules.")
    inputs = [f"apple {number}" for number in range(5)]
    inputs += [Image.new("RGB", (84, 56), colour) for colour in ("red", "blue")]
    several = model.encode(inputs, device=["cpu", "cpu"], batch_size=2, chunk_size=2)
    np.savez(folder + "/found.npz", one=model.encode(inputs, batch_size=2), several=several)
"""


@pytest.mark.distributed
def test_several_processes_of_sentence_transformers(make_coma, tmp_path):
    model, processor = make_coma()
    folder = tmp_path / "model"
    model.save_pretrained(folder), processor.save_pretrained(folder)
    (tmp_path / "several.py").write_text(SEVERAL)
    run_isolated([str(tmp_path / "several.py"), str(folder), *libraries()], tmp_path)
    found = np.load(folder / "found.npz")
    assert found["one"].shape == (7, model.config.hidden_size) and np.ptp(found["one"], axis=0).max() > 0.1
    assert np.abs(found["several"] - found["one"]).max() < 1e-6


@every_folder
def test_what_a_stranger_saves_is_whole(stranger, name):
    """Saved from remote code, the first folder gone, every file of code is there again."""
    there = stranger[1][name]
    assert set(there["files"]) == FILES
    assert there["dtypes"] == ["torch.bfloat16"]
    assert there["attention"] == ["eager"]


def test_the_code_that_is_saved_is_the_code_that_runs(make_coma, tmp_path):
    model, processor = make_coma()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    source = Path(modeling_coma.__file__).parent
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_coma.ComaConfig",
        "AutoModel": "modeling_coma.ComaForEmbedding",
    }
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "processing_coma.ComaProcessor"}
