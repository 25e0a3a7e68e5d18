"""Model and processor, each pushed by itself, are a repository of sentence-transformers, whose prompts stay."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from modeling_coma.sentence_transformers_coma import FILES
from tests.hub.repositories import Blob


REPO = "org/my-coma"
PROMPTS = "config_sentence_transformers.json"


@pytest.mark.parametrize("by_saving", [False, True])
def test_pushed_apart_they_are_a_folder_of_sentence_transformers(hub, make_coma, tmp_path, by_saving):
    model, processor = make_coma()
    for part, name in ((processor, "processor"), (model, "model")):
        if by_saving:
            part.save_pretrained(str(tmp_path / name), push_to_hub=True, repo_id=REPO)
        else:
            part.push_to_hub(REPO)
    files = hub.repos[REPO].files()
    assert FILES.keys() < files.keys()
    for name, blob in files.items():
        (tmp_path / "cloned" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cloned" / name).write_bytes(blob.content)
    cloned = SentenceTransformer(str(tmp_path / "cloned"), device="cpu", trust_remote_code=True)
    found = cloned.encode("a red apple")
    with torch.no_grad():
        assert np.abs(found - model(**processor.process(["a red apple"])).embeddings[0].numpy()).max() < 1e-6


@pytest.mark.parametrize("by_saving", [False, True])
def test_prompts_of_a_repository_stay(hub, make_coma, tmp_path, by_saving):
    _, processor = make_coma()
    processor.push_to_hub(REPO)
    own = {"prompts": {"query": "Find: ", "document": ""}}
    repo = hub.repos[REPO]
    repo.commit("main", {**repo.files(), PROMPTS: Blob(json.dumps(own).encode())}, "prompts")
    processor.max_length = 77
    if by_saving:
        processor.save_pretrained(str(tmp_path / "other"), push_to_hub=True, repo_id=REPO)
    else:
        processor.push_to_hub(REPO)
    files = repo.files()
    assert json.loads(files[PROMPTS].content) == own
    assert json.loads(files["processor_config.json"].content)["max_length"] == 77
