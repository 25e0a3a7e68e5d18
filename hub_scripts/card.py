"""The model card of a folder, from the template `model_card.md`. What can be read off model and files is not typed."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from hub_scripts.card_results import read_results, results_table
from hub_scripts.card_training import training_section
from hub_scripts.training_record import read_training_record


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["CardSources", "write_model_card"]

TEMPLATE = Path(__file__).with_name("model_card.md")
NOT_TRAINED = "Nothing was trained: these are the weights of the backbone and freshly drawn compression tokens."


@dataclass
class CardSources:
    """
    What a card says beyond what the model itself tells.

    Args:
        training, results (`str`): Markdown, in place of what files tell.
        license (`str`, *optional*): identifier of the Hub.
        base_model (`str`, *optional*): backbone on the Hub; by default, what the model was made of, if it is there.
        results_files (`Sequence[Path]`): see [`read_results`].
        adapter_of (`str`, *optional*): base on the Hub, if the folder has an adapter.
    """

    training: str = ""
    results: str = ""
    license: str | None = None
    base_model: str | None = None
    results_files: Sequence[Path] = ()
    adapter_of: str | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace, adapter_of: str | None = None) -> "CardSources":
        """From the command line of `coma push`."""
        options = {"license": arguments.license, "base_model": arguments.base_model}
        return cls(results_files=arguments.results, adapter_of=adapter_of, **options)


def write_model_card(
    folder: Path,
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    model_id: str | None = None,
    sources: CardSources | None = None,
) -> None:
    """
    Writes `README.md` into the folder of a model.

    Args:
        folder (`Path`): where the model is, and the record of its training.
        model ([`ComaForEmbedding`]): the model.
        processor ([`ComaProcessor`]): its processor.
        model_id (`str`, *optional*): repository on the Hub; the folder's name by default.
        sources ([`CardSources`], *optional*): what else there is to say.

    Raises:
        ValueError: for results that cannot be read, or are of another model.
    """
    sources = sources or CardSources()
    model_id = model_id or folder.name
    name = model_id.rpartition("/")[2]
    scores = read_results(sources.results_files, model, processor)
    backbone = sources.base_model or _public_name(model.config.backbone_config._name_or_path)
    base = sources.adapter_of or (backbone if "/" in backbone else None)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        license=sources.license,
        base_model=base,
        base_model_relation=("adapter" if sources.adapter_of else "finetune") if base else None,
        tags=["coma", "custom_code", "multimodal-embedding", "sentence-transformers"],
        model_name=name if scores else None,
        eval_results=[result for score in scores for result in score.eval_results()] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=name,
        model_id=model_id,
        backbone=backbone or model.config.backbone_config.model_type,
        license=sources.license,
        adapter_of=sources.adapter_of,
        training=sources.training or training_section(read_training_record(folder)) or NOT_TRAINED,
        results=sources.results or results_table(scores) or "Not evaluated.",
        **_facts(model, processor),
    )
    card.save(folder / "README.md")


def _facts(model: "ComaForEmbedding", processor: "ComaProcessor") -> dict[str, object]:
    """What the configurations say."""
    config, images = model.config, processor.image_processor
    token = (images.patch_size * images.merge_size) ** 2
    least, most = images.size["shortest_edge"], images.size["longest_edge"]
    return {
        "num_compression_tokens": config.num_compression_tokens,
        "hidden_size": config.hidden_size,
        "pooling": config.pooling,
        "normalize": config.normalize,
        "min_pixels": least,
        "max_pixels": most,
        "min_tokens": max(1, least // token),
        "max_tokens": most // token,
        "max_length": processor.max_length,
        "dtype": str(model.dtype).removeprefix("torch."),
        "image_instruction": json.dumps(processor.image_instruction),
        "text_instruction": json.dumps(processor.text_instruction),
    }


def _public_name(backbone: str) -> str:
    """A name on the Hub as it is; of a folder only its name, since where it lay is nobody's business."""
    return Path(backbone).name if Path(backbone).is_absolute() or Path(backbone).exists() else backbone
