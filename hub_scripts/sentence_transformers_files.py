"""The three JSON files by which `SentenceTransformer(folder, trust_remote_code=True)` loads a CoMa folder.

They name the stock module of sentence-transformers and tell it two things: every input becomes chat messages, so that
texts, pictures and mixtures take one way through the processor, and the sentence embedding is the output field
`embeddings` of the model, which is already pooled and normalised.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


__all__ = ["write_sentence_transformers_files"]

MODULE = "sentence_transformers.base.modules.transformer.Transformer"
EMBEDDINGS = {"method": "forward", "method_output_name": "embeddings"}


def write_sentence_transformers_files(folder: Path, prompts: Mapping[str, str] | None = None) -> list[str]:
    """
    Writes the files that are missing; those that are there, which may hold somebody's prompts, are left as they are.

    Args:
        folder (`Path`): a folder with a saved model and processor.
        prompts (`Mapping[str, str]`, *optional*): prompts by name, for `encode(…, prompt_name=…)`. `"query"` and
            `"document"` are those of `encode_query` and `encode_document`; both are empty by default.

    Returns:
        `list[str]`: names of the files that were written.
    """
    written = []
    for name, content in _contents(prompts or {}).items():
        if not (folder / name).exists():
            (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            written.append(name)
    return written


def _contents(prompts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": MODULE}],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            # With "message" there, whatever is given becomes chat messages first.
            "modality_config": {
                "text": EMBEDDINGS,
                "image": EMBEDDINGS,
                "message": {**EMBEDDINGS, "format": "structured"},
            },
            "module_output_name": "sentence_embedding",
            "unpad_inputs": False,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": "", **prompts},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
