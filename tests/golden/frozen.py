"""A frozen tiny model: its files are those of a saved folder, its weights come from a generator that never changes.

`RandomState` of numpy is frozen for good, and each weight has a seed of its own, made of its name in the checkpoint.
So the same model comes out everywhere, and a library that can no longer read such a folder, or reads it otherwise, is
caught, too.

    python -m tests.golden.frozen      # records the values anew; only if what moved was meant to move
"""

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from hub_scripts.tiny.backbone import MODEL_TYPES, BackboneSizes, create_tiny_backbone
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.backbone import model_from_backbone
from trainers.contrastive.loss import info_nce
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics


GOLDEN = Path(__file__).parent
SHARED = ("tokenizer.json", "tokenizer_config.json")  # the same for all backbones
VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "tokenizers": tokenizers.__version__,
    "pillow": PIL.__version__,
    "numpy": np.__version__,
}
SAMPLES = 64  # numbers that are kept of a large tensor
DIALOGUE = [
    {"role": "user", "content": "what is this?"},
    {"role": "assistant", "content": "a red apple"},
    {"role": "user", "content": "what is around it?"},
    {"role": "assistant", "content": "leaves, and a little sky"},
]


def build(name: str, folder: Path) -> tuple[ComaForEmbedding, ComaProcessor]:
    """Writes the folder of a frozen model, and loads it as anybody would."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    for one in SHARED:
        shutil.copy(GOLDEN / one, folder / one)
    shapes = json.loads((GOLDEN / name / "weights.json").read_text())
    save_file({key: draw(key, shape) for key, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    model, report = ComaForEmbedding.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval(), ComaProcessor.from_pretrained(folder)


def draw(name: str, shape: list[int]) -> torch.Tensor:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else 100)
    if len(shape) == 1 and name.endswith("weight"):  # of a norm
        values += 1
    return torch.from_numpy(values).float()


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Squares of colour in a size that no image processor has to change."""
    squares = np.random.RandomState(seed).randint(0, 256, (height // 4, width // 4, 3))
    return Image.fromarray(squares.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8))


def inputs(side: int) -> list[Any]:
    """One of every kind; a side is that of two image tokens."""
    wide, square = picture(2 * side, side, 1), picture(side, side, 2)
    blocks = [
        {"type": "text", "text": "left "},
        {"type": "image", "image": square},
        {"type": "text", "text": " right"},
    ]
    talk = [{"role": "system", "content": "Find it."}, {"role": "user", "content": [*blocks, *blocks[1:]]}]
    return ["a red apple on a green tree", wide, {"image": square, "text": "what is this?"}, talk, "it"]


def stages(model: ComaForEmbedding, processor: ComaProcessor) -> Iterator[tuple[str, torch.Tensor]]:
    """What happens to the inputs, step by step, so that the first of these that moved is where to look."""
    batch = processor.process(inputs(2 * processor.image_processor.patch_size * processor.image_processor.merge_size))
    yield "tokens", batch["input_ids"]
    yield "mask", batch["attention_mask"]
    yield "image grid", batch["image_grid_thw"]
    yield "pixels", batch["pixel_values"]
    is_image = (batch["input_ids"] == model.config.backbone_config.image_token_id).int()
    positions, _ = model.backbone.model.get_rope_index(
        batch["input_ids"], is_image, image_grid_thw=batch["image_grid_thw"], attention_mask=batch["attention_mask"]
    )
    present = batch["attention_mask"].bool()  # what is computed at padding means nothing
    yield "positions", positions[:, present]
    layers: dict[str, torch.Tensor] = {}
    for n, layer in enumerate(model.backbone.model.language_model.layers):
        layer.register_forward_hook(lambda module, args, out, n=n: layers.update({f"layer {n}": first(out)}))
    with torch.no_grad():
        features = model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])[
            "image"
        ].pooler_output
        yield "vision features", torch.cat(tuple(features)) if not torch.is_tensor(features) else features
        output = model(**batch)
        yield from ((name, states[present]) for name, states in layers.items())
        yield "states of the compression tokens", output.compression_states
        yield "embeddings", output.embeddings
        yield "scores", output.embeddings @ output.embeddings.T
        yield "loss of stage 1", stage_1_loss(model, processor, batch)
        queries, documents = output.embeddings[:3], output.embeddings[2:]
        yield "loss of stage 2", info_nce(queries, documents, temperature=0.03).loss
        metrics = retrieval_metrics(rank_embeddings(queries, documents, Relevance.single(range(3))))
        yield "retrieval metrics", torch.tensor(list(metrics.values()))


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def stage_1_loss(model: ComaForEmbedding, processor: ComaProcessor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    rows = processor.process_dialogues([DIALOGUE] * len(batch["input_ids"]))
    ids, is_answer = torch.tensor(rows["input_ids"]), torch.tensor(rows["assistant_masks"])
    labels = ids.masked_fill(is_answer == 0, -100)
    return model(**batch, dialogue_input_ids=ids, dialogue_attention_mask=torch.ones_like(ids), labels=labels).loss


def sample(tensor: torch.Tensor) -> list[float]:
    """Numbers from all over a tensor; of a small one, all."""
    flat = tensor.flatten().tolist()
    return flat if isinstance(flat[0], int) else flat[:: max(1, len(flat) // SAMPLES)]


def record() -> None:
    """Makes the files of the frozen models, unless they are there, and records their values."""
    texts = ["a red apple on a green tree", "what is this? what is around it?", "leaves, and a little sky"] * 4
    sizes = BackboneSizes(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=48)
    for name in MODEL_TYPES:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "model")
            if not (GOLDEN / name).exists():
                backbone = create_tiny_backbone(
                    Path(temporary, "backbone"),
                    texts=texts,
                    model_type=name,
                    sizes=sizes,
                    vocab_size=300,
                    spare_rows=8,
                )
                model, processor = model_from_backbone(str(backbone), 4)
                model.config.backbone_config._name_or_path = "frozen"
                for part in (model, processor):
                    part.save_pretrained(folder)
                keep(name, folder)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            values = {stage: sample(tensor) for stage, tensor in stages(*build(name, folder))}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rounded(value))}" for key, value in values.items())
        (GOLDEN / name / "values.json").write_text(f'{{"versions": {json.dumps(VERSIONS)},\n{lines}}}\n')


def rounded(values: list[float]) -> list[float]:
    return [value if isinstance(value, int) else float(f"{value:.7g}") for value in values]


def keep(name: str, saved: Path) -> None:
    shutil.copytree(saved, GOLDEN / name, ignore=shutil.ignore_patterns("*.py", "*.safetensors"))
    for one in SHARED:
        (GOLDEN / name / one).replace(GOLDEN / one)
    weights = load_file(saved / "model.safetensors")
    shapes = ",\n".join(f"{json.dumps(key)}: {list(weights[key].shape)}" for key in sorted(weights))
    (GOLDEN / name / "weights.json").write_text(f"{{{shapes}}}\n")


if __name__ == "__main__":
    record()
