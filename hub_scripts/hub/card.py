"""The model card of a folder, from the template `model_card.md`. What can be read off model and files is not typed."""

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from hub_scripts.hub.card_results import read_results, results_table
from hub_scripts.hub.card_training import NOT_RECORDED, training_section, used_instruction
from hub_scripts.hub.markdown import code, plain
from hub_scripts.hub.public_names import CONTROL, is_hub_id, public_name, public_record
from hub_scripts.hub.training_record import read_training_record


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["CardSources", "write_model_card"]

TEMPLATE = Path(__file__).with_name("model_card.md")
# The Hub's own snippet for these two is `SentenceTransformer(…).encode`, which works. For `feature-extraction` it
# would be a pipeline of transformers, which knows no compression tokens.
HUB_TAGS = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}


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
    model_id = CONTROL.sub(" ", model_id or folder.name)
    name = model_id.rpartition("/")[2]
    scores = read_results(sources.results_files, model, processor)
    record = read_training_record(folder)
    record = record if record is None else public_record(record)
    backbone = sources.base_model or public_name(model.config.backbone_config._name_or_path)
    data = ModelCardData(
        **HUB_TAGS,
        license=sources.license,
        **_base(backbone, sources.adapter_of),
        tags=["coma", "custom_code", "multimodal-embedding", "sentence-transformers", "transformers"],
        model_name=name if scores else None,
        eval_results=[result for score in scores for result in score.eval_results()] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=plain(name),
        model_string=json.dumps(model_id, ensure_ascii=False),
        command=lambda words: code(words.replace("MODEL", shlex.quote(model_id))),
        backbone=plain(backbone or model.config.backbone_config.model_type),
        license=sources.license and plain(sources.license),
        adapter_of=sources.adapter_of,
        training=sources.training or training_section(record) or NOT_RECORDED,
        results=sources.results or results_table(scores) or "Not evaluated.",
        **_facts(model, processor),
        **_instructions(processor, used_instruction(record)),
    )
    card.save(folder / "README.md")


def _base(backbone: str, adapter_of: str | None) -> dict[str, str]:
    """Metadata by which the Hub shows what a model was made of; of what is not there, nothing."""
    if adapter_of:
        return {"base_model": adapter_of, "base_model_relation": "adapter"}
    return {"base_model": backbone, "base_model_relation": "finetune"} if is_hub_id(backbone) else {}


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
    }


def _instructions(processor: "ComaProcessor", were_used: bool) -> dict[str, object]:
    """The lines of stage 1, in code spans."""
    lines = {"image_instruction": processor.image_instruction, "text_instruction": processor.text_instruction}
    spans = {name: code(json.dumps(line, ensure_ascii=False)) for name, line in lines.items()}
    return {"instructions_were_used": were_used, **spans}
