"""Whether a model is the same model: golden vectors, a short probe of embeddings, and how far two may be apart.

Golden vectors are embeddings of a few fixed inputs (texts and an image) in a JSON file beside the weights, with the
versions of the libraries that they were made with. What is compared with them is computed by `clean_load.py`, in a
process that cannot import this package.

How far two embeddings are apart is the length of their difference as a share of the length of the one that is expected
(of unit vectors with the cosine c, `sqrt(2 - 2c)`). One table says how far those of one model may be:

| what is compared | limit | used by |
|---|---|---|
| the same weights, loaded again on this machine | `RELOADED`, 1e-5 | push, demo |
| one precision, but another machine, library or format | `TOLERANCES`, by precision | verify, convert, merge |
| float64, float32 | 1e-3 (float32 alone comes to 1e-6) | |
| float16 | 2e-2 (comes to 2e-3) | |
| bfloat16 | 5e-2 (comes to 2e-2) | |
| what may be of two precisions, or was rounded for a record | `ANY_PRECISION`, 8e-2 | search, embed, results, merge |

Other models are much further away: two that have nothing in common, about 1.4.
"""

import base64
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.image_size import image_size
from hub_scripts.hub.clean_load import GOLDEN_FILE, decode_inputs, library_versions


if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = [
    "ANY_PRECISION",
    "RELOADED",
    "TOLERANCES",
    "check_clean_load",
    "differences",
    "distances",
    "golden_embeddings",
    "golden_inputs",
    "identity",
    "input_rows",
    "load_cleanly",
    "probe",
    "read_golden",
    "same_embeddings",
    "version_changes",
    "weight_faults",
    "write_golden",
]

RELOADED = 1e-5
TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
ANY_PRECISION = 8e-2
PROBE_SIZE = 64
# A tied head shows the trained rows of the input embeddings a second time; adapters hold them once.
TIED_TOKENS = ".lm_head.token_adapter.trainable_tokens_delta"


def write_golden(folder: Path, model: "ComaForEmbedding", processor: "ComaProcessor", adapter: bool = False) -> None:
    """
    Writes the golden vectors of a model on the CPU.

    Args:
        folder (`Path`): where the model is saved.
        model ([`ComaForEmbedding`]): the model, or an adapted one.
        processor ([`ComaProcessor`]): its processor.
        adapter (`bool`, *optional*, defaults to `False`): whether the folder has an adapter only.
    """
    embeddings = golden_embeddings(model, processor)
    golden = {
        "adapter": adapter,
        **input_rows(),
        "embeddings": embeddings.float().tolist(),
        "dtype": str(embeddings.dtype).removeprefix("torch."),
        "versions": library_versions(),
    }
    (folder / GOLDEN_FILE).write_text(json.dumps(golden) + "\n", encoding="utf-8")


def golden_embeddings(model: "ComaForEmbedding", processor: "ComaProcessor") -> "Tensor":
    """Embeddings of the golden inputs, of shape `(4, hidden_size)`, each made alone: nothing of a batch is in them."""
    import torch

    return torch.stack([_embed(model, processor, item) for item in golden_inputs().values()])


def golden_inputs() -> dict[str, Any]:
    """The inputs by their names: texts, an image, both, and a text with an instruction, as chat messages."""
    inputs = input_rows()
    return dict(zip(inputs["names"], decode_inputs(inputs), strict=True))


def read_golden(file: Path) -> dict[str, Any]:
    """
    Reads golden vectors.

    Args:
        file (`Path`): as [`write_golden`] leaves it.

    Returns:
        `dict`

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        golden = json.loads(file.read_text(encoding="utf-8"))
        vectors = golden["embeddings"]
        counts = {len(golden["names"]), len(golden["inputs"]), len(vectors)}
        is_whole = len(counts) == 1 and 0 not in counts and isinstance(golden["versions"], dict)
        is_whole = is_whole and isinstance(golden["adapter"], bool) and golden["dtype"] in TOLERANCES
        is_whole = is_whole and all(math.isfinite(number) for vector in vectors for number in vector)
        decode_inputs(golden)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(f"{file.name} is damaged, as its golden vectors cannot be read: {error!r}") from error
    if not is_whole:
        raise ValueError(f"{file.name} is damaged: it must have a vector of numbers for every input.")
    return golden


def load_cleanly(
    name: str, commit: str | None = None, golden: dict[str, Any] | None = None, offline: bool = False
) -> dict[str, Any]:
    """
    Loads a model in a process where this package is not installed, and embeds golden inputs.

    Args:
        name (`str`): a folder, or a repository on the Hub. Its code is run.
        commit (`str`, *optional*): of a repository.
        golden (`dict`, *optional*): of [`read_golden`], with the inputs; by default, that of the folder.
        offline (`bool`, *optional*, defaults to `False`): whether the network must not be used.

    Returns:
        `dict`: `embeddings`, `golden`, `versions`, `dtype`, `embedding_dtype`, the commit as `revision`, and names of
        weights as `missing_keys`, `unexpected_keys`, `mismatched_keys`.

    Raises:
        ValueError: if the model does not load, with what Python said.
    """
    golden = read_golden(Path(name, GOLDEN_FILE)) if golden is None else golden
    with tempfile.TemporaryDirectory() as temporary:
        inputs, answer = Path(temporary, "inputs.json"), Path(temporary, "answer.json")
        inputs.write_text(json.dumps({"adapter": golden["adapter"], "inputs": golden["inputs"]}), encoding="utf-8")
        # Code of an earlier load must not stand in for what is missing in this one.
        environment = {**os.environ, "HF_MODULES_CACHE": temporary, "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        script = str(Path(__file__).with_name("clean_load.py"))
        command = [sys.executable, "-P", script, name, commit or "", str(inputs), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode or not answer.exists():
            raise ValueError(f"{name} does not load in a process without coma-embedding: {_said(done.stderr)}")
        return {**json.loads(answer.read_text(encoding="utf-8")), "golden": golden}


def check_clean_load(folder: Path, offline: bool = True) -> float:
    """
    Proves that a folder with golden vectors loads in a process without this package, as the model that it is.

    Args:
        folder (`Path`): with golden vectors that were made on this machine.
        offline (`bool`, *optional*, defaults to `True`): whether the network must not be used.

    Returns:
        `float`: the largest difference of a vector, see [`distances`].

    Raises:
        ValueError: if it does not load, weights are missing or not used, or it embeds differently.
    """
    report = load_cleanly(str(folder), offline=offline)
    faults, found = weight_faults(report), differences(report)
    if wrong := [f"{name} by {distance:.1e}" for name, distance in found.items() if distance > RELOADED]:
        faults.append(f"other embeddings of {', '.join(wrong)}")
    if faults:
        raise ValueError(
            f"Loaded by AutoModel, this would be another model, and is not published: {'; '.join(faults)}"
        )
    return max(found.values())


def differences(report: dict[str, Any]) -> dict[str, float]:
    """By name of the golden input, how far its vector is from the golden one; see [`distances`]."""
    golden = report["golden"]
    found = {}
    for name, vector, expected in zip(golden["names"], report["embeddings"], golden["embeddings"], strict=True):
        if len(vector) != len(expected):
            raise ValueError(f"The vector of {name} has {len(vector)} dimensions, the golden one {len(expected)}.")
        found[name] = max(distances(vector, expected)[0], found.get(name, 0.0))  # of inputs of one name, the furthest
    return found


def distances(found: Any, expected: Any) -> list[float]:
    """
    How far embeddings are from those that are expected.

    Args:
        found, expected (`torch.Tensor` or `list` of shape `(..., dim)`): the embeddings.

    Returns:
        `list[float]`: of each row, the length of the difference as a share of the length of the expected one. It is
        infinite, and so beyond any tolerance, where numbers are not finite, or no numbers, or not of one shape.
    """
    import torch

    try:
        found, expected = torch.as_tensor(found).double().cpu(), torch.as_tensor(expected).double().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return [math.inf]
    if found.shape != expected.shape or found.dim() == 0:
        return [math.inf]
    shares = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    return shares.nan_to_num(nan=math.inf, posinf=math.inf).reshape(-1).tolist()


def same_embeddings(found: Any, expected: Any, tolerance: float) -> bool:
    """
    Whether embeddings are of one model.

    Args:
        found, expected (`torch.Tensor` or `list` of shape `(..., dim)`): the embeddings.
        tolerance (`float`): of the table at the top of this file, as `TOLERANCES["bfloat16"]`.
    """
    return all(share <= tolerance for share in distances(found, expected))


def identity(name: str, model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, Any]:
    """Everything of a model that its embeddings depend on, and the name it was called by."""
    return {
        "model": name,
        "num_compression_tokens": model.config.num_compression_tokens,
        "pooling": model.config.pooling,
        "dtype": str(model.dtype).removeprefix("torch."),
        "pixels": image_size(processor),
        "max_length": processor.max_length,
        **_video_limits(processor),
        "probe": probe(model, processor),
    }


def _video_limits(processor: "ComaProcessor") -> dict[str, Any]:
    """Which frames of a video are seen, which no probe shows; nothing of a model that takes none."""
    names = ("video_fps", "max_video_frames", "max_video_pixels")
    return {} if processor.video_format is None else {name: getattr(processor, name) for name in names}


def probe(model: "ComaForEmbedding", processor: "ComaProcessor") -> list[float]:
    """
    The beginning of the embedding of an image with a text: every part of the model has a share in it. It is rounded,
    so that it is the same on machines that round differently, -0.0 being 0.0.
    """
    embedding = _embed(model, processor, golden_inputs()["an image and a text"])
    return [round(number, 3) + 0.0 for number in embedding[:PROBE_SIZE].tolist()]


def _embed(model: "ComaForEmbedding", processor: "ComaProcessor", item: Any) -> "Tensor":
    import torch

    with torch.no_grad():
        return model(**processor.process([item]).to(model.device)).embeddings[0]


def weight_faults(report: dict[str, Any]) -> list[str]:
    """What is wrong with the weights, a sentence each."""
    kinds = {"missing_keys": "missing", "unexpected_keys": "not used", "mismatched_keys": "of another shape"}
    faults = []
    for kind, what in kinds.items():
        names = [name for name in report[kind] if not (report["golden"]["adapter"] and TIED_TOKENS in name)]
        if names:
            faults.append(f"{len(names)} weights are {what}: {', '.join(names[:3])}{' …' if names[3:] else ''}")
    made_in, found_in = report["golden"].get("dtype"), report.get("embedding_dtype")
    if made_in and found_in and made_in != found_in:
        faults.append(f"they compute in {found_in}, and golden vectors were made in {made_in}")
    return faults


def version_changes(report: dict[str, Any]) -> list[str]:
    """Libraries that are not what the golden vectors were made with."""
    here, there = report["versions"], report["golden"]["versions"]
    names = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    return [f"{name} {here.get(name, 'not there')}, was {there.get(name, 'not there')}" for name in names]


def input_rows() -> dict[str, Any]:
    """Names and messages of the inputs; images are base64 of PNG, which loses nothing."""
    png = BytesIO()
    _image().save(png, "PNG")
    image = {"type": "image", "image": base64.b64encode(png.getvalue()).decode()}
    text = {"type": "text", "text": "A red bicycle leans on the wall of a bakery."}
    question = {"type": "text", "text": "Where does it stand?"}
    instruction = {"role": "system", "content": [{"type": "text", "text": "Find an image that shows this."}]}
    contents = {"a text": [text], "an image": [image], "an image and a text": [image, question]}
    inputs = [[{"role": "user", "content": content}] for content in contents.values()]
    inputs.append([instruction, {"role": "user", "content": [text]}])
    return {"names": [*contents, "a text with an instruction"], "inputs": inputs}


def _image() -> "Image":
    """Colours that run into each other, with sharp edges in between."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:168, 0:224]
    pixels = np.stack([x * 255 // 223, y * 255 // 167, ((x // 28 + y // 28) % 2) * 255], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def _said(errors: str) -> str:
    """The last exception that Python reported, message and all."""
    starts = [match.start() for match in re.finditer(r"^[\w.]+(?:Error|Exception)\b", errors, re.M)]
    return errors[starts[-1] :].strip() if starts else errors.strip()[-400:]
