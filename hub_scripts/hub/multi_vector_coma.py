"""The module by which `MultiVectorEncoder(folder, trust_remote_code=True)` of sentence-transformers takes a model.

It stands after the module that runs the model, in folders of `coma convert --to-multi-vector`: of the states of the
compression tokens the first are kept, of a query and of a document as many as the model was trained to compare.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import cached_file


class FirstStates(torch.nn.Module):
    """
    The first compression states of each input, of length 1, in place of the states of its tokens.

    Args:
        queries (`int`): how many of a query, which is what `encode_query` is given.
        documents (`int`): how many of anything else.
    """

    forward_kwargs = {"task"}

    def __init__(self, queries: int, documents: int):
        super().__init__()
        self.queries, self.documents = queries, documents

    def forward(self, features: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        """Features with `token_embeddings` of shape `(batch_size, number, hidden_size)`, and a mask of as many."""
        states: Tensor = features["token_embeddings"][:, : self.queries if task == "query" else self.documents]
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        return features | {"token_embeddings": F.normalize(states, dim=-1), "attention_mask": mask}

    def save(self, output_path: str, *args, **kwargs):
        """Writes what it needs to be loaded again: its numbers, and this file beside the model."""
        content = json.dumps({"queries": self.queries, "documents": self.documents}, indent=2)
        (Path(output_path) / "config.json").write_text(content + "\n", encoding="utf-8")
        shutil.copy(__file__, Path(output_path).parent)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs) -> "FirstStates":
        """From a folder or a repository; other arguments say where that is."""
        places = {"token": kwargs.get("token"), "revision": kwargs.get("revision")}
        places |= {"cache_dir": kwargs.get("cache_folder"), "local_files_only": kwargs.get("local_files_only", False)}
        file = cached_file(model_name_or_path, "config.json", subfolder=subfolder, **places)
        return cls(**json.loads(Path(file).read_text(encoding="utf-8")))


__all__ = ["FirstStates"]
