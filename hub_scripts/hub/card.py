"""The model card of a folder, from the template `model_card.md`. What can be read off model and files is not typed."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from hub_scripts.common.image_size import describe_image_size, image_size, image_tokens
from hub_scripts.hub.card_results import Score, read_results, results_table
from hub_scripts.hub.markdown import code, plain, row
from hub_scripts.hub.multi_vector_files import is_multi_vector
from hub_scripts.hub.public_names import CONTROL, is_hub_id, public_name, public_record
from hub_scripts.hub.trained_dims import trained_budgets
from hub_scripts.hub.training_record import read_training_record
from trainers.files import LOSS_PICTURE


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["training_section", "write_model_card"]

TEMPLATE = Path(__file__).with_name("model_card.md")
NOT_TRAINED = "Nothing was trained: these are the weights of the backbone and freshly drawn compression tokens."
NOT_RECORDED = "Not recorded: there is no `coma_training.json`, as `coma pretrain` and `coma finetune` leave it."
TITLES = {
    "compression": "compression: dialogues are answered from the compression tokens alone",
    "contrastive": "matching: InfoNCE over queries and documents",
    "unknown": "earlier stages are not known: their record could not be fetched",
}
# Settings that are prompts: how inputs were worded in training, and should be in use.
PROMPTS = ("compression_instruction", "instructions")
# What has a row of its own, or is not for the card.
SHOWN_APART = {
    *("stage", "layout", "version", "settings", "adapter", "last_log", "libraries", "steps", "epochs"),
    *("rows_per_step", "rows_skipped", "weights_of_step", "processes", "model", "model_revision"),
    *("data", "data_digest", "data_rows", "eval_data", "eval_data_digest", "eval_data_rows"),
    *("num_compression_tokens", "pixels", "max_length", "dtype", "mixed_precision"),
}
# The first layout kept what was typed, or would have been: of the model made before, or of emoji, it may be untrue.
TYPED = ("num_compression_tokens", "min_pixels", "max_pixels", "dtype", "cache_pixels")


def write_model_card(  # noqa: PLR0913 - what can be said
    folder: Path,
    model: "ComaForEmbedding",
    processor: "ComaProcessor",
    model_id: str | None = None,
    *,
    training: str | None = None,
    results: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    results_files: Sequence[Path] = (),
    adapter_of: str | None = None,
) -> None:
    """
    Writes `README.md` into the folder of a model.

    Args:
        folder (`Path`): where the model is, and the record of its training.
        model ([`ComaForEmbedding`]): the model.
        processor ([`ComaProcessor`]): its processor.
        model_id (`str`, *optional*): repository on the Hub; the folder's name by default.
        training, results (`str`, *optional*): Markdown, in place of what files tell.
        license (`str`, *optional*): identifier of the Hub.
        base_model (`str`, *optional*): backbone on the Hub; by default, what the model was made of, if it is there.
        results_files (`Sequence[Path]`, *optional*): see [`read_results`].
        adapter_of (`str`, *optional*): base on the Hub, if the folder has an adapter.

    Raises:
        ValueError: for results that cannot be read, or are of another model.
    """
    model_id = CONTROL.sub(" ", model_id or folder.name)
    name = model_id.rpartition("/")[2]
    scores = read_results(results_files, model, processor)
    record = public_record(read_training_record(folder))
    backbone = base_model or public_name(model.config.backbone_config._name_or_path)
    card = ModelCard.from_template(
        _metadata(name, license, backbone, adapter_of, scores),
        template_path=str(TEMPLATE),
        model_name=plain(name),
        model_string=json.dumps(model_id, ensure_ascii=False),
        command=lambda words: code(words.replace("MODEL", shlex.quote(model_id))),
        backbone=plain(backbone or model.config.backbone_config.model_type),
        license=license and plain(license),
        adapter_of=adapter_of,
        training=training or training_section(record) or NOT_RECORDED,
        loss_picture=LOSS_PICTURE if (folder / LOSS_PICTURE).exists() else None,
        results=results or results_table(scores) or "Not evaluated.",
        config=model.config,
        budgets=", ".join(f"{queries}x{documents}" for queries, documents in trained_budgets(str(folder))),
        is_multi_vector=is_multi_vector(folder),
        dtype=str(model.dtype).removeprefix("torch."),
        max_length=processor.max_length,
        pixels=_pixels(processor),
        instructions=_instructions(processor, record),
    )
    card.save(folder / "README.md")


def _metadata(
    name: str, license: str | None, backbone: str, adapter_of: str | None, scores: list[Score]
) -> ModelCardData:
    """What the Hub shows beside the card; of a backbone that is not there, nothing."""
    base_model = adapter_of or (backbone if is_hub_id(backbone) else None)
    relation = "adapter" if adapter_of else "finetune"
    return ModelCardData(
        # The Hub's own snippet for these two is `SentenceTransformer(…).encode`, which works. For `feature-extraction`
        # it would be a pipeline of transformers, which knows no compression tokens.
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        license=license,
        base_model=base_model,
        base_model_relation=relation if base_model else None,
        tags=["coma", "custom_code", "multimodal-embedding", "sentence-transformers", "transformers"],
        model_name=name if scores else None,
        eval_results=[result for score in scores for result in score.eval_results()] or None,
    )


def _pixels(processor: "ComaProcessor") -> str:
    """How large images are, in pixels and in tokens."""
    size = image_size(processor)
    if isinstance(size, dict):
        return f"{describe_image_size(size)}; of 512 x 384 pixels, {image_tokens(processor, 512, 384)} tokens"
    least, most = size
    token = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
    return f"{describe_image_size(size)}, {max(1, least // token)} to {most // token} tokens"


def _instructions(processor: "ComaProcessor", record: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The two lines of stage 1, if a stage says that dialogues followed them."""
    if not any(stage.get("settings", {}).get("compression_instruction") for stage in record or ()):
        return []
    lines = (processor.image_instruction, processor.text_instruction)
    return [code(json.dumps(line, ensure_ascii=False)) for line in lines]


def training_section(record: Sequence[Mapping[str, Any]] | None) -> str:
    """
    Markdown with a table for each stage, empty without a record.

    Args:
        record (`Sequence[Mapping]`, *optional*): see [`read_training_record`].
    """
    if record is None:
        return ""
    return "\n\n".join(_stage(number, stage) for number, stage in enumerate(record, 1)) or NOT_TRAINED


def _stage(number: int, stage: Mapping[str, Any]) -> str:
    rows = _sources(stage) | (_facts(stage) if "layout" in stage else {})
    untrue = () if "layout" in stage else TYPED + (() if stage.get("data") == "emoji" else ("turns",))
    rows |= {name: value for name, value in stage.items() if name not in {*SHOWN_APART, *untrue}}
    if "steps" in stage:
        rows |= _course(stage)
    table = "\n".join(row(plain(name), _cell(value)) for name, value in rows.items())
    title = TITLES.get(stage["stage"], plain(stage["stage"]))
    return f"### {number}. {title}\n\n| | |\n|---|---|\n{table}"


def _sources(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Model and data by name and by what they hold."""
    rows = {}
    if "model" in stage:
        revision = stage.get("model_revision")
        rows["model"] = f"{stage['model']}{f' at {revision}' if revision else ''}"
    for name in ("data", "eval_data"):
        if name in stage:
            count, digest = stage.get(f"{name}_rows"), stage.get(f"{name}_digest")
            parts = [str(stage[name]), f"{count} rows" if count else None, digest]
            rows[name] = ", ".join(part for part in parts if part)
    return rows


def _facts(stage: Mapping[str, Any]) -> dict[str, Any]:
    mixed = stage.get("mixed_precision", "no")
    return {
        "compression tokens (K)": stage["num_compression_tokens"],
        "pixels of an image": describe_image_size(stage["pixels"]),
        "limit of an input": f"{stage['max_length']} tokens" if stage.get("max_length") else "none",
        "weights": f"{stage['dtype']}{'' if mixed == 'no' else f', computed in {mixed}'}",
    }


def _course(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What was done, and how it ended."""
    settings, adapter = stage.get("settings", {}), stage.get("adapter")
    at_most = "at most " if "max_tokens_per_batch" in settings else ""
    processes = f" on {stage['processes']} processes" if stage.get("processes", 1) > 1 else ""
    epochs = f", {stage['epochs']:.2f} epochs" if stage.get("epochs") is not None else ""
    rows = {"steps": f"{stage['steps']} of {at_most}{stage.get('rows_per_step', '?')} rows{processes}{epochs}"}
    if "weights_of_step" in stage:
        rows["weights of step"] = f"{stage['weights_of_step']}, the best of the evaluations"
    if "rows_skipped" in stage:
        rows["rows left out"] = f"{stage['rows_skipped']}, each time that they came up"
    rows["adapter"] = _inline(adapter) if adapter else "none: weights were trained themselves"
    rows |= {f"prompt: {name}": settings[name] for name in PROMPTS if name in settings}
    rows["settings"] = _inline({name: value for name, value in settings.items() if name not in PROMPTS})
    if stage.get("last_log"):
        rows["at the end"] = _inline(stage["last_log"])
    made_with = _inline(stage.get("libraries", {}), " ")
    return rows | {"made with": f"coma-embedding {stage.get('version', '?')}, {made_with}"}


def _inline(values: Mapping[str, Any], between: str = "=") -> str:
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name}{between}{value}" for name, value in numbers.items())


def _cell(value: Any) -> str:
    value = "none" if value is None else _inline(value, ": ") if isinstance(value, Mapping) else value
    return plain(str(value).replace("\n", "\\n"))
