"""Tiny backbones load, run and reload like published checkpoints of their family."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from hub_scripts.tiny.backbone import DEMO, MODEL_TYPES, TINY, BackboneSizes, create_tiny_backbone


TEXTS = ["a red apple on a green tree", "grinning face with big eyes", "ein lachendes Gesicht", "笑顔 and 苹果"] * 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {
        name: create_tiny_backbone(root / name, texts=TEXTS, model_type=name, vocab_size=400) for name in MODEL_TYPES
    }


def picture(color: str, size: tuple[int, int] = (112, 112)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    image.paste(color, (10, 10, size[0] // 2, size[1] - 5))
    return image


def logits(folder: Path, image: Image.Image) -> torch.Tensor:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt")
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    tokens = int(pixels.image_grid_thw.prod()) // 4
    encoded = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * tokens), return_tensors="pt")
    is_image = (encoded.input_ids == model.config.image_token_id).long()
    assert is_image.sum() == tokens
    with torch.no_grad():
        return model(**encoded, **pixels, mm_token_type_ids=is_image).logits


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_runs_on_a_picture_and_reloads_bit_equal(folders: dict[str, Path], tmp_path: Path, model_type: str) -> None:
    folder = folders[model_type]
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert model.config.model_type == model_type
    assert not report["missing_keys"] and not report["unexpected_keys"]
    first = logits(folder, picture("red"))
    assert first.isfinite().all()
    assert (logits(folder, picture("blue"))[:, -1] - first[:, -1]).abs().max() > 1e-3  # the image is looked at

    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    assert torch.equal(logits(tmp_path, picture("red")), first)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_ids_in_the_config_are_those_of_the_tokenizer(folders: dict[str, Path], model_type: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[model_type])
    model = AutoModelForImageTextToText.from_pretrained(folders[model_type])
    tokens = {
        "<|image_pad|>": model.config.image_token_id,
        "<|video_pad|>": model.config.video_token_id,
        "<|vision_start|>": model.config.vision_start_token_id,
        "<|vision_end|>": model.config.vision_end_token_id,
        "<|im_end|>": model.config.get_text_config().eos_token_id,
        "<|endoftext|>": model.generation_config.pad_token_id,
    }
    for token, index in tokens.items():
        assert tokenizer(token)["input_ids"] == [index]
        assert index >= tokenizer.vocab_size  # above every token of plain text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) + 256
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_seed_decides_the_weights_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        create_tiny_backbone(tmp_path / name, texts=TEXTS, vocab_size=300, seed=seed)
    assert torch.equal(torch.rand(3), expected)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_without_spare_rows_or_tying(tmp_path: Path) -> None:
    folder = create_tiny_backbone(tmp_path, texts=TEXTS, vocab_size=300, spare_rows=0, tie_word_embeddings=False)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.get_input_embeddings().num_embeddings == len(AutoTokenizer.from_pretrained(folder)) == 300
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("size", [(112, 112), (8, 8), (700, 300), (400, 100)])
def test_pictures_stay_within_the_pixel_budget(
    folders: dict[str, Path], model_type: str, size: tuple[int, int]
) -> None:
    processor = AutoImageProcessor.from_pretrained(folders[model_type])
    grid = processor(images=[picture("red", size)], return_tensors="pt").image_grid_thw
    assert TINY.min_image_tokens <= int(grid.prod()) // 4 <= TINY.max_image_tokens


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_image_processor_file_names_no_backend(folders: dict[str, Path], model_type: str) -> None:
    saved = json.loads((folders[model_type] / "preprocessor_config.json").read_text())
    assert not saved["image_processor_type"].endswith("Pil")  # loads with and without torchvision


def test_sizes_reach_every_special_part_of_the_towers(tmp_path: Path) -> None:
    def vision(name: str, sizes: BackboneSizes) -> dict:
        folder = create_tiny_backbone(tmp_path / name, texts=TEXTS, model_type=name, sizes=sizes, vocab_size=300)
        return json.loads((folder / "config.json").read_text())["vision_config"]

    assert vision("qwen2_5_vl", TINY)["fullatt_block_indexes"] == [1]
    assert vision("qwen2_5_vl", DEMO)["fullatt_block_indexes"] == [1, 3]
    assert vision("qwen3_vl", TINY)["deepstack_visual_indexes"] == [0]
    assert vision("qwen3_vl", DEMO)["deepstack_visual_indexes"] == [0, 1]  # one for each layer of the language model


@pytest.mark.parametrize(
    ("model_type", "sections"),
    [("qwen2_vl", [16, 24, 24]), ("qwen2_5_vl", [16, 24, 24]), ("qwen3_vl", [24, 20, 20])],
)
def test_heads_of_the_published_size_split_their_positions_as_published(
    tmp_path: Path, model_type: str, sections: list[int]
) -> None:
    sizes = BackboneSizes(hidden_size=128, num_attention_heads=1, num_key_value_heads=1)
    create_tiny_backbone(tmp_path, texts=TEXTS, model_type=model_type, sizes=sizes, vocab_size=300)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["rope_parameters"]["mrope_section"] == sections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_type": "llava"}, "'llava' is not one of qwen2_vl"),
        ({"vocab_size": 263}, "vocab_size=263 is less than 264"),
        ({"spare_rows": -1}, "spare_rows=-1"),
        ({"model_type": "qwen2_vl", "sizes": BackboneSizes(vision_intermediate_size=65)}, "multiple of"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_tiny_backbone(tmp_path, texts=TEXTS, **arguments)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 72}, "choose a multiple of 64"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"min_image_tokens": 20}, "min_image_tokens=20"),
    ],
)
def test_bad_sizes_are_named(sizes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackboneSizes(**sizes)
