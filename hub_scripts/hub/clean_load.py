"""Loads a model as somebody does who has only torch and transformers, and embeds the golden inputs with it.

It is run as a script in a process of its own, `clean_load.py MODEL COMMIT INPUTS ANSWER`, where nothing of this
package can be imported: what is missing in the model is missed. The answer, a JSON file, has the embeddings, the names
of weights that were not found or not used, and the versions of the libraries.
"""

import base64
import importlib.metadata
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any


__all__ = ["GOLDEN_FILE", "LIBRARIES", "decode_inputs", "library_versions", "main"]

GOLDEN_FILE = "coma_golden.json"
THIS_PACKAGE = ("modeling_coma", "trainers", "hub_scripts")
OF_TRAINING = ("accelerate", "datasets", "evaluate", "sentence_transformers", "peft")
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "torchvision", "peft")


def main(argv: list[str]) -> None:
    """Writes the answer; the commit, without which MODEL is a folder, may be empty."""
    name, commit, inputs, answer = argv
    hide(THIS_PACKAGE)
    pinned = {"revision": commit} if commit else {}
    expected = json.loads(Path(inputs).read_text(encoding="utf-8"))
    if not expected["adapter"]:
        hide(OF_TRAINING)
        found = embed(name, pinned, decode_inputs(expected))
    else:  # of the base, transformers would want the same commit: it gets a folder
        from huggingface_hub import snapshot_download

        place = snapshot_download(name, **pinned) if pinned else name
        found = embed(place, {}, decode_inputs(expected))
    report = {**found, **pinned, "versions": library_versions()}
    Path(answer).write_text(json.dumps(report), encoding="utf-8")


def hide(packages: tuple[str, ...]) -> None:
    """Packages look as if they were not installed."""
    sys.modules.update(dict.fromkeys(packages))


def embed(name: str, pinned: dict[str, str], inputs: list[Any]) -> dict[str, Any]:
    """Embeddings by the Auto classes, on the CPU in the precision of the weights, and what the weights lacked."""
    import torch
    from transformers import AutoModel, AutoProcessor

    options = {"trust_remote_code": True, **pinned}
    model, info = AutoModel.from_pretrained(name, output_loading_info=True, dtype="auto", **options)
    processor = AutoProcessor.from_pretrained(name, **options)
    with torch.no_grad():
        # One by one, as when they were made: in half precision a batch rounds otherwise.
        rows = [model.eval()(**processor.process([item])).embeddings[0] for item in inputs]
    dtypes = {"dtype": model.dtype, "embedding_dtype": rows[0].dtype}
    found = {name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()}
    keys = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return {"embeddings": [row.float().tolist() for row in rows], **found, **keys}


def decode_inputs(golden: dict[str, Any]) -> list[Any]:
    """The inputs of golden vectors, with images in place of their base64."""
    from PIL import Image

    def block(content: dict[str, str]) -> dict[str, Any]:
        if content["type"] == "text":
            return content
        return {"type": "image", "image": Image.open(BytesIO(base64.b64decode(content["image"])))}

    return [
        [{"role": message["role"], "content": list(map(block, message["content"]))} for message in messages]
        for messages in golden["inputs"]
    ]


def library_versions(libraries: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of libraries, by default of those that can move an embedding; of what is installed."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in libraries:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    main(sys.argv[1:])
