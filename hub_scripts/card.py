"""The model card of a folder, from the template `model_card.md`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["write_model_card"]

TEMPLATE = Path(__file__).with_name("model_card.md")


def write_model_card(
    folder: Path,
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    model_id: str | None = None,
    training: str = "",
    results: str = "",
) -> None:
    """
    Writes `README.md` into the folder of a model. What can be read off model and processor is, never typed.

    Args:
        folder (`Path`): where the model is.
        model ([`ComaForEmbedding`]): the model.
        processor ([`ComaProcessor`]): its processor.
        model_id (`str`, *optional*): repository on the Hub; the folder's name by default.
        training (`str`, *optional*): Markdown that says how it was trained.
        results (`str`, *optional*): Markdown with results.
    """
    config, images = model.config, processor.image_processor
    token = (images.patch_size * images.merge_size) ** 2
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["coma", "custom_code", "multimodal-embedding", "sentence-transformers"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=(model_id or folder.name).rpartition("/")[2],
        model_id=model_id or folder.name,
        backbone=_public_name(config.backbone_config._name_or_path) or config.backbone_config.model_type,
        num_compression_tokens=config.num_compression_tokens,
        hidden_size=config.hidden_size,
        pooling=config.pooling,
        normalize=config.normalize,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
        min_tokens=images.size["shortest_edge"] // token,
        max_tokens=images.size["longest_edge"] // token,
        max_length=processor.max_length,
        dtype=str(model.dtype).removeprefix("torch."),
        image_instruction=json.dumps(processor.image_instruction),
        text_instruction=json.dumps(processor.text_instruction),
        training=training,
        results=results,
    )
    card.save(folder / "README.md")


def _public_name(backbone: str) -> str:
    """A name on the Hub as it is; of a folder only its name, since where it lay is nobody's business."""
    return Path(backbone).name if Path(backbone).is_absolute() else backbone
