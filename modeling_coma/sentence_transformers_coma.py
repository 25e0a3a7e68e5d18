"""The three JSON files by which `SentenceTransformer(folder, trust_remote_code=True)` loads a CoMa folder.

They name the stock module of sentence-transformers and tell it two things: every input becomes chat messages, so that
texts, images and mixtures take one way through the processor, and the sentence embedding is the output field
`embeddings` of the model, which is already pooled and normalised.
"""

import json
from pathlib import Path


_EMBEDDINGS = {"method": "forward", "method_output_name": "embeddings"}
FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        # With "message" there, whatever is given becomes chat messages first.
        "modality_config": {
            "text": _EMBEDDINGS,
            "image": _EMBEDDINGS,
            "message": {**_EMBEDDINGS, "format": "structured"},
        },
        "module_output_name": "sentence_embedding",
        "unpad_inputs": False,
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
}


def write_sentence_transformers_files(folder: Path) -> list[str]:
    """Writes the files that are missing, and returns their names. Those that are there, which may hold somebody's
    prompts, and which sentence-transformers writes around the saving of a processor, are left as they are."""
    missing = [name for name in FILES if not (folder / name).exists()]
    for name in missing:
        (folder / name).write_text(json.dumps(FILES[name], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return missing


__all__ = ["FILES", "write_sentence_transformers_files"]
