"""CoMa models in mteb: one file that needs nothing of this package, as mteb keeps them for the models it knows.

  import mteb
  from hub_scripts.mteb.wrapper import ComaEncoder

  mteb.evaluate(ComaEncoder("org/coma"), mteb.get_benchmark("MIEB(lite)"))

Inputs are chat messages, the image and the video before the text as in training. The instruction of a task stands
before queries, as a system message; documents have none. Videos are files that the processor of the model decodes, by
its settings of frames; the sound in them is not heard.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Video
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor


if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput


__all__ = ["ComaEncoder", "coma_meta"]

SHOWN = ("image", "video", "text")  # in this order


class ComaEncoder(AbsEncoder):
    """
    A CoMa model as mteb calls it.

    Args:
        model_name (`str`): name on the Hub, or folder.
        revision (`str`, *optional*): branch, tag or commit.
        device (`str`, *optional*): by default the accelerator, if there is one.
        use_instructions (`bool`, *optional*, defaults to `True`): whether queries have the instruction of their task.
        model_prompts (`dict[str, str]`, *optional*): instructions by name or type of task, instead of those of mteb.
        kwargs: passed to `AutoModel.from_pretrained`.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        device: str | None = None,
        use_instructions: bool = True,
        model_prompts: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"revision": revision, "trust_remote_code": True}
        self.model = AutoModel.from_pretrained(model_name, **options, **kwargs).eval()
        self.processor = AutoProcessor.from_pretrained(model_name, **options)
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model.to(device or accelerator)
        self.use_instructions, self.prompts_dict = use_instructions, model_prompts
        self.mteb_model_meta = coma_meta(model_name, self.model, self.processor, revision)

    def encode(
        self,
        inputs: "DataLoader[BatchedInput]",
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Embeds the inputs of a task.

        Args:
            inputs (`DataLoader`): batches with `text`, `image`, `video` or several.
            task_metadata (`TaskMetadata`): where the instruction is.
            hf_split, hf_subset (`str`): not used.
            prompt_type (`PromptType`, *optional*): whether these are queries.
            kwargs: `show_progress_bar`.

        Returns:
            `torch.FloatTensor` of shape `(num_inputs, hidden_size)`, on the CPU.

        Raises:
            ValueError: for batches that have none of these, such as sounds alone.
        """
        instruction = None
        if self.use_instructions and prompt_type == PromptType.query:
            instruction = self.get_task_instruction(task_metadata, prompt_type)
        embeddings = []
        for batch in tqdm(_undecoded(inputs), desc="Encoding", disable=not kwargs.get("show_progress_bar", True)):
            columns = [[(name, value) for value in batch[name]] for name in SHOWN if batch.get(name) is not None]
            if not columns:
                raise ValueError(f"Found {sorted(batch)} in a batch of {task_metadata.name}; expected any of {SHOWN}.")
            rows = [_messages(row, instruction) for row in zip(*columns, strict=True)]
            features = self.processor.process(rows)
            with torch.inference_mode():
                embeddings.append(self.model(**features.to(self.model.device)).embeddings.float().cpu())
        return torch.cat(embeddings)


def coma_meta(model_name: str, model: Any, processor: Any, revision: str | None = None) -> ModelMeta:
    """What mteb writes beside results: read off the model where it can be."""
    parts = Path(model_name).parts[-2:]
    known = {
        "loader": ComaEncoder,
        "name": "/".join(parts if len(parts) == 2 else ("local", *parts)),
        "revision": revision or "main",
        "n_parameters": model.num_parameters(),
        "memory_usage_mb": round(model.get_memory_footprint() / 2**20),
        "max_tokens": model.config.get_text_config().max_position_embeddings,
        "embed_dim": model.config.hidden_size,
        "open_weights": True,
        "framework": ["PyTorch", "Transformers", "Sentence Transformers"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": True,
        "modalities": ["text", "image", *(["video"] if getattr(processor, "video_format", None) else [])],
    }
    return ModelMeta.create_empty(known)


def _undecoded(inputs: "DataLoader[BatchedInput]") -> "DataLoader[BatchedInput]":
    """The same batches, with videos as the files that they are."""
    dataset = getattr(inputs, "dataset", None)
    if not isinstance((getattr(dataset, "features", None) or {}).get("video"), Video):
        return inputs
    files = dataset.cast_column("video", Video(decode=False))
    options = {"batch_size": inputs.batch_size, "collate_fn": inputs.collate_fn, "num_workers": inputs.num_workers}
    return DataLoader(files, **options)


def _messages(row: tuple[tuple[str, Any], ...], instruction: str | None) -> list[dict[str, Any]]:
    shown = [(name, _video(value) if name == "video" else value) for name, value in row if value is not None]
    content = [{"type": name, name: value} for name, value in shown if name != "text" or value]
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": content}]


def _video(value: Any) -> Any:
    """A file, by its bytes or its path; or frames, of which mteb has the colours before rows and columns."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["path"] if value["bytes"] is None else value["bytes"]
    return value.permute(0, 2, 3, 1).cpu().numpy() if isinstance(value, torch.Tensor) else value
