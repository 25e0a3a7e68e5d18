"""Fixtures of the tests over backbone families: a folder of each, made once per process, and what it loads as."""

import copy
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.families.folders import make_folder
from trainers.backbone import model_from_backbone


# These tests are asked for by name (`norecursedirs` in pyproject.toml), so that what is missing is an error, no skip.
if importlib.util.find_spec("torchvision") is None:
    raise ModuleNotFoundError(
        "the processors of these families need torchvision: run `make test-vision`, which makes an environment with it"
    )


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family_folder(family)`: its folder, to be left as it is."""

    @functools.cache
    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        make_folder(family, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def load_family(family_folder: Callable[[str], Path]) -> Callable[[str], tuple[PreTrainedModel, ProcessorMixin]]:
    """`load_family(family)`: a copy of its model and its processor, as the Auto classes of transformers load them."""

    @functools.cache
    def load(family: str) -> tuple[PreTrainedModel, ProcessorMixin]:
        folder = family_folder(family)
        return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

    return lambda family: copy.deepcopy(load(family))


@pytest.fixture(scope="session")
def family_coma(family_folder: Callable[[str], Path]) -> Callable[[str], tuple[ComaForEmbedding, ComaProcessor]]:
    """`family_coma(family)`: a copy of the CoMa model that its folder becomes, with K = 4, and of its processor."""

    @functools.cache
    def make(family: str) -> tuple[ComaForEmbedding, ComaProcessor]:
        return model_from_backbone(family_folder(family), 4)

    return lambda family: copy.deepcopy(make(family))
