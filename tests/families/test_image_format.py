"""What is found of a backbone's own processor, and what is refused of it."""

import json
import shutil

import numpy as np
import pytest

from trainers.backbone import model_from_backbone
from trainers.image_format import image_format


@pytest.fixture
def changed(family_folder, tmp_path):
    """`changed(family)`: a copy of its folder, to be changed."""
    return lambda family: shutil.copytree(family_folder(family), tmp_path / family)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "gemma3"])
def test_a_chat_template_that_the_processor_alone_has(family, family_coma, changed):
    """As many older repositories keep it: in a file that a tokenizer does not read."""
    folder = changed(family)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    (model, processor), (expected_model, expected) = model_from_backbone(folder, 4), family_coma(family)
    assert processor.chat_template == expected.chat_template
    assert processor.image_placeholder == expected.image_placeholder
    assert model.config.eos_token_id == expected_model.config.eos_token_id


def test_rows_are_padded_where_the_tokenizer_names_no_padding(family_coma, changed):
    folder = changed("llava")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    model, processor = model_from_backbone(folder, 4)
    assert processor.tokenizer.pad_token == processor.tokenizer.eos_token
    items = ["an apple", "a red apple on a long green table"]
    found = model(**processor.process(items)).embeddings
    expected_model, expected = family_coma("llava")
    assert (found - expected_model(**expected.process(items)).embeddings).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llava_next", "idefics3", "mistral3"])
def test_a_processor_that_fills_small_images_up_otherwise_is_refused(family, load_family, monkeypatch):
    """Ours would join its images with other numbers than the vision tower knows."""
    backbone, stock = load_family(family)
    make = type(stock).__call__

    def with_ones(self, images=None, *args, **kwargs):
        made = make(self, images, *args, **kwargs)
        if len(images) > 1:
            pixels = made["pixel_values"]
            pixels[pixels == 0] = 1
        return made

    monkeypatch.setattr(type(stock), "__call__", with_ones)
    with pytest.raises(ValueError, match=r"makes other \['pixel_values'\] of two images of different sizes"):
        image_format(stock, stock.image_processor, backbone, stock.tokenizer)


def test_what_stands_for_an_image_must_be_a_token(load_family):
    backbone, stock = load_family("llava")
    stock.image_token = "<picture>"
    with pytest.raises(ValueError, match="'<picture>', which stands for an image, is no token"):
        image_format(stock, stock.image_processor, backbone, stock.tokenizer)


def test_the_axis_of_joining_is_found(family_coma):
    assert family_coma("minicpmv4_6")[1].image_inputs == {"pixel_values": 3, "target_sizes": 0}
    assert set(family_coma("idefics3")[1].image_inputs.values()) == {0}
    assert np.asarray([*family_coma("llava_next")[1].image_inputs.values()]).sum() == 0
