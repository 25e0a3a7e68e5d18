"""What a stranger gets from a plain folder: stock sentence-transformers in a process that has nothing of ours."""

import importlib.util
import json
from pathlib import Path

import torch

from hub_scripts.hub.clean_load import decode_inputs
from hub_scripts.hub.golden import input_rows
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.clean_process import libraries, run_isolated
from tests.families import torchvision_on_cpu


__all__ = ["by_coma", "by_strangers", "rows"]

STRANGER = """
import base64, importlib.util, io, json, sys
root, script, *libraries = sys.argv[1:]
sys.path += libraries
if script:
    exec(open(script).read())
from PIL import Image
from sentence_transformers import SentenceTransformer

def block(content):
    if content["type"] == "text":
        return content
    return {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(content["image"])))}

asked = json.load(open(root + "/asked.json"))
items = [[{**m, "content": [block(b) for b in m["content"]]} for m in messages] for messages in asked["inputs"]]
report = {"ours": [name for name in ("modeling_coma", "hub_scripts") if importlib.util.find_spec(name)]}
for folder in asked["folders"]:
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    one_by_one = [model.encode([item])[0].tolist() for item in items]
    report[folder] = {"alone": one_by_one, "together": model.encode(items, batch_size=len(items)).tolist()}
json.dump(report, open(root + "/answer.json", "w"))
"""


def rows() -> dict:
    """The golden inputs, and texts and images that take turns."""
    golden = input_rows()
    image, question = golden["inputs"][2][0]["content"]
    between = [question, image, {"type": "text", "text": " and "}, image, {"type": "text", "text": "?"}]
    golden["names"].append("interleaved")
    golden["inputs"].append([{"role": "user", "content": between}])
    return golden


@torch.no_grad()
def by_coma(model: ComaForEmbedding, processor: ComaProcessor) -> torch.Tensor:
    """Embeddings of the rows, each made alone."""
    return torch.cat([model.eval()(**processor.process([item])).embeddings for item in decode_inputs(rows())])


def by_strangers(folders: list[Path], place: Path) -> dict[Path, dict[str, torch.Tensor]]:
    """Embeddings of the rows by stock tools: `alone` and `together`, in one batch."""
    asked = {"inputs": rows()["inputs"], "folders": list(map(str, folders))}
    (place / "asked.json").write_text(json.dumps(asked))
    script = torchvision_on_cpu.__file__ if importlib.util.find_spec("torchvision") else ""
    run_isolated(["-c", STRANGER, str(place), script, *libraries()], place)
    report = json.loads((place / "answer.json").read_text())
    assert report.pop("ours") == []
    return {
        Path(folder): {how: torch.tensor(vectors) for how, vectors in found.items()}
        for folder, found in report.items()
    }
