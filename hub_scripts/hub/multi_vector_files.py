"""The files by which `MultiVectorEncoder(folder, trust_remote_code=True)` loads a CoMa folder.

The module that runs the model gives the states of the compression tokens in place of those of all tokens, and one of
ours, whose code lies in the folder, keeps the first of them. `meanmaxsim` is MaxSim as `trainers.encoding.maxsim` has
it. For everything else the folder is a CoMa model like any other.
"""

import json
from pathlib import Path
from typing import Any

from hub_scripts.hub.model_files import MULTI_VECTOR_CODE
from hub_scripts.hub.multi_vector_coma import FirstStates
from modeling_coma.sentence_transformers_coma import FILES


__all__ = ["is_multi_vector", "write_multi_vector_files"]

MODULE = "1_FirstStates"


def write_multi_vector_files(folder: Path, queries: int, documents: int) -> None:
    """
    Writes the files, in place of those for [`SentenceTransformer`].

    Args:
        folder (`Path`): of a CoMa model.
        queries, documents (`int`): how many states of each side are compared.
    """
    kind = f"{MULTI_VECTOR_CODE.removesuffix('.py')}.{FirstStates.__name__}"
    modules = [*FILES["modules.json"], {"idx": 1, "name": "1", "path": MODULE, "type": kind}]
    transformer, model = FILES["sentence_bert_config.json"], FILES["config_sentence_transformers.json"]
    inputs = {
        name: {**how, "method_output_name": "compression_states"}
        for name, how in transformer["modality_config"].items()
    }
    _write(folder / "modules.json", modules)
    _write(
        folder / "sentence_bert_config.json",
        {**transformer, "modality_config": inputs, "module_output_name": "token_embeddings"},
    )
    config = {**model, "model_type": "MultiVectorEncoder", "similarity_fn_name": "meanmaxsim"}
    _write(folder / "config_sentence_transformers.json", config)
    (folder / MODULE).mkdir()
    FirstStates(queries, documents).save(str(folder / MODULE))


def is_multi_vector(folder: Path) -> bool:
    """Whether the files in a folder are these."""
    return (folder / MODULE / "config.json").exists()


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
