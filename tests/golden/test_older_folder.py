"""A folder that an older version of this package has saved loads, in its own code and in ours, and gives the same.

`older_folder/` is what `save_pretrained` of model and processor left then, code and all, and `values.json` what that
code made of it. Weights come from the generator of the other frozen models, and files of code have names of text, so
that no tool takes them for ours.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

from hub_scripts.hub.model_files import belonging
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.clean_process import libraries, run_isolated
from tests.golden.examine import examine
from tests.golden.frozen import GOLDEN, draw


SAVED = GOLDEN / "older_folder"
VALUES = json.loads((SAVED / "values.json").read_text())
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As it was saved."""
    folder = shutil.copytree(SAVED, tmp_path / "model", ignore=shutil.ignore_patterns("values.json", "weights.json"))
    for code in folder.glob("*.py.txt"):
        code.rename(code.with_suffix(""))
    shapes = json.loads((SAVED / "weights.json").read_text())
    save_file(
        {name: draw(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def assert_as_recorded(found: dict[str, list]) -> None:
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(values), **CLOSE, msg=name)


def test_the_installed_classes_read_it(folder: Path, tmp_path: Path) -> None:
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is ComaForEmbedding and type(processor) is ComaProcessor
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert (processor.max_length, processor.image_instruction) == (200, "\nSay what is there in a few words.")
    assert_as_recorded(examine(model.eval(), processor))


@pytest.mark.slow
def test_its_own_code_still_runs_and_saved_anew_it_has_that_of_today(folder: Path, tmp_path: Path) -> None:
    """Saved in its own place: of the files that lie there, those of today are what counts. One process runs both."""
    anew = shutil.copytree(folder, tmp_path / "anew")
    model = AutoModel.from_pretrained(anew, attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(anew)
    model.save_pretrained(anew), processor.save_pretrained(anew)
    code = [(place / "modeling_coma.py").read_text() for place in (folder, anew)]
    assert code[0] == (SAVED / "modeling_coma.py.txt").read_text() != code[1]
    words = [str(GOLDEN / "examine.py"), f"{folder}{os.pathsep}{anew}", *libraries()]
    found = run_isolated(words, tmp_path).splitlines()[-2:]
    for values in found:
        assert_as_recorded(json.loads(values))


def test_all_of_it_belongs_to_the_model(folder: Path) -> None:
    """And is fetched from the Hub: its code needs every file that it had."""
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert "options_coma.py" in files and belonging(folder).keys() == files


def test_the_recorded_values_say_something() -> None:
    embeddings = torch.tensor(VALUES["embeddings"])
    assert torch.pdist(embeddings).min() > 0.01 and 1 < VALUES["loss"][0] < 20
    assert sum(file.stat().st_size for file in SAVED.rglob("*") if file.is_file()) < 200_000
