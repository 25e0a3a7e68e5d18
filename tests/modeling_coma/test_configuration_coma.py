"""A configuration composes the backbone's, refuses what cannot be, and survives its JSON."""

import json

import pytest
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModel, AutoProcessor

from modeling_coma import ComaConfig
from modeling_coma.configuration_coma import TESTED_TRANSFORMERS


@pytest.fixture
def backbone_config(make_backbone, model_type):
    return AutoConfig.from_pretrained(make_backbone(model_type))


def test_round_trip_keeps_every_field(backbone_config, tmp_path):
    config = ComaConfig(backbone_config, [7, 3, 5], pooling="last", normalize=False, eos_token_id=2, pad_token_id=1)
    config.save_pretrained(tmp_path)
    for loaded in (ComaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ComaConfig
        assert (loaded.compression_token_ids, loaded.num_compression_tokens) == ([7, 3, 5], 3)
        assert (loaded.pooling, loaded.normalize, loaded.eos_token_id, loaded.pad_token_id) == ("last", False, 2, 1)
        assert type(loaded.backbone_config) is type(backbone_config)
        assert loaded.backbone_config.to_dict() == backbone_config.to_dict()


def test_what_others_look_for_is_at_the_top(backbone_config):
    config = ComaConfig(backbone_config.to_dict(), [3])
    text_config = backbone_config.get_text_config()
    assert config.hidden_size == text_config.hidden_size
    assert config.get_text_config() is config.backbone_config.get_text_config()
    assert config.tie_word_embeddings == backbone_config.tie_word_embeddings
    assert config.to_dict()["model_type"] == "coma"


@pytest.mark.parametrize("tied", [True, False])
def test_tying_is_the_backbones(make_backbone, tied):
    backbone_config = AutoConfig.from_pretrained(make_backbone())
    backbone_config.tie_word_embeddings = tied
    assert ComaConfig(backbone_config, [3], tie_word_embeddings=not tied).tie_word_embeddings is tied


def test_an_empty_configuration_can_be_made():
    """transformers makes one to compare with when it saves."""
    assert ComaConfig().num_compression_tokens == 0
    assert ComaConfig().backbone_config is None


@pytest.mark.parametrize("ids", [[], None, [3, 3], list(range(257)), [3, 10**6], [-1, 3]])
def test_impossible_ids_are_named(make_backbone, ids):
    with pytest.raises(ValueError, match="compression_token_ids must be 1 to 256 distinct ids below"):
        ComaConfig(AutoConfig.from_pretrained(make_backbone()), ids)


def test_impossible_pooling_is_named(make_backbone):
    with pytest.raises(ValueError, match="pooling='max' does not exist; choose 'mean' or 'last'"):
        ComaConfig(AutoConfig.from_pretrained(make_backbone()), [3], pooling="max")


def test_256_tokens_are_allowed(make_backbone):
    assert ComaConfig(AutoConfig.from_pretrained(make_backbone()), list(range(256))).num_compression_tokens == 256


LINE = "This model was tested with transformers {} to {}, and runs with " + transformers.__version__


@pytest.fixture
def saved(make_coma, tmp_path):
    model, processor = make_coma()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def state(folder, tested: list[str] | None):
    """Has the `config.json` of a folder say this range, or none."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["tested_transformers"]
    path.write_text(json.dumps(config if tested is None else {**config, "tested_transformers": tested}))


def test_a_folder_says_what_its_code_was_tested_with(saved):
    assert json.loads((saved / "config.json").read_text())["tested_transformers"] == list(TESTED_TRANSFORMERS)
    oldest, newest = map(Version, TESTED_TRANSFORMERS)
    assert oldest < newest


@pytest.mark.parametrize("tested", [["4.0.0", "4.1.0"], ["99.0.0", "99.1.0"]])
def test_outside_of_the_range_of_a_folder_one_line_is_logged(saved, tested, caplog, monkeypatch):
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    tested = [*tested[:1], f"{tested[1]}.{id(caplog)}"]  # a line is logged once in a process: here is another
    state(saved, tested)
    for _ in range(2):
        model, _ = AutoModel.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    lines = [record.message for record in caplog.records if "was tested with" in record.message]
    assert len(lines) == 1 and lines[0].startswith(LINE.format(*tested)) and "\n" not in lines[0]
    model.save_pretrained(saved)  # with the code that is here
    assert json.loads((saved / "config.json").read_text())["tested_transformers"] == list(TESTED_TRANSFORMERS)


@pytest.mark.parametrize("tested", [None, ["1.0.0", "99.0.0"], [transformers.__version__] * 2])
def test_old_folders_and_those_within_are_silent(saved, tested, caplog, monkeypatch):
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    state(saved, tested)
    AutoModel.from_pretrained(saved)
    assert not [record for record in caplog.records if "was tested with" in record.message]
