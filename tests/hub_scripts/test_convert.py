"""A checkpoint in the published format, and ours that is made of it, embed alike; and so does what is made of that."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from hub_scripts.convert import convert_model


K = 5
TOKENS = "".join(f"<|ctoken_pad_{index}|>" for index in range(K))


@pytest.fixture(scope="module")
def published(make_backbone: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Qwen2.5-VL checkpoint whose tokenizer has K tokens, and whose embeddings have rows for them."""
    folder = tmp_path_factory.mktemp("published")
    tokenizer = AutoTokenizer.from_pretrained(make_backbone("qwen2_5_vl"))
    tokenizer.add_tokens([f"<|ctoken_pad_{index}|>" for index in range(K)], special_tokens=True)
    model = AutoModelForImageTextToText.from_pretrained(make_backbone("qwen2_5_vl"))
    assert len(tokenizer) <= model.config.get_text_config().vocab_size
    for part in (model, tokenizer, AutoImageProcessor.from_pretrained(make_backbone("qwen2_5_vl"))):
        part.save_pretrained(folder)
    return folder


@torch.no_grad()
def by_hand(folder: Path, text: str, image: Image.Image | None = None) -> torch.Tensor:
    """The embedding as it is described: the tokens follow the text directly; the mean of the last hidden states at
    the tokens, L2-normalised. Nothing of ours is used."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer, options = AutoTokenizer.from_pretrained(folder), {}
    if image is not None:
        options = dict(AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt"))
        pads = "<|image_pad|>" * int(options["image_grid_thw"].prod() // 4)
        text = f"<|vision_start|>{pads}<|vision_end|>{text}"
    ids = tokenizer(text + TOKENS, return_tensors="pt", add_special_tokens=False)["input_ids"]
    options["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    states = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).last_hidden_state[0]
    names = tokenizer.convert_ids_to_tokens(ids[0])
    ours = torch.tensor([name.startswith("<|ctoken_pad_") for name in names])
    assert ours.sum() == K
    return normalize(states[ours].mean(dim=0), dim=0)


@torch.no_grad()
def by_coma(folder: Path, item: object) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(folder)
    return AutoModel.from_pretrained(folder).eval()(**processor.process([item])).embeddings[0]


def test_there_and_back(published: Path, coma_command: Callable, tmp_path: Path, picture: Callable) -> None:
    image, text = picture(112, 84, 3), "what is this?"
    code, said, _ = coma_command("convert", published, tmp_path / "ours")
    assert code == 0 and f"{K} compression tokens" in said
    expected = {"a red apple": by_hand(published, "a red apple"), "both": by_hand(published, text, image)}
    inputs = {"a red apple": "a red apple", "both": {"image": image, "text": text}}
    for name, item in inputs.items():
        assert torch.allclose(by_coma(tmp_path / "ours", item), expected[name], atol=1e-6), name
    assert (expected["both"] - expected["a red apple"]).abs().max() > 0.01

    code, said, _ = coma_command("convert", tmp_path / "ours", tmp_path / "plain", "--to-backbone")
    assert code == 0
    assert torch.allclose(by_hand(tmp_path / "plain", text, image), expected["both"], atol=1e-6)
    assert {path.name for path in (tmp_path / "plain").iterdir()} >= {"config.json", "preprocessor_config.json"}
    for file in (tmp_path / "plain").iterdir():
        assert file.suffix != ".py" and (file.suffix != ".json" or "coma.Coma" not in file.read_text()), file
    settings = json.loads((tmp_path / "plain" / "preprocessor_config.json").read_text())
    assert settings["processor_class"] == "Qwen2_5_VLProcessor"
    # An engine renders prompts by the template of the tokenizer, and the tokens are at their end.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    content = [{"type": "image"}, {"type": "text", "text": "a red apple"}]
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert rendered == f"<|vision_start|><|image_pad|><|vision_end|>a red apple{TOKENS}"


def test_what_cannot_be_converted(
    published: Path, make_backbone: Callable, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, error = coma_command("convert", make_backbone("qwen2_5_vl"), out)
    assert code == 1 and "has no <|ctoken_pad_0|>: `coma create" in error
    code, _, error = coma_command("convert", coma_folder, out)
    assert code == 1 and "in our format already" in error
    tokenizer = AutoTokenizer.from_pretrained(published)
    tokenizer.add_tokens([f"filler{index}" for index in range(900)])
    tokenizer.add_tokens([f"<|ctoken_pad_{index}|>" for index in range(K, 256)], special_tokens=True)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in published.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(broken)
    code, _, error = coma_command("convert", broken, out)
    assert code == 1 and "none for its token <|ctoken_pad_255|>" in error
    assert not out.exists()
    with pytest.raises(SystemExit):
        coma_command("convert", coma_folder, out, "--to-backbone", "--pooling", "last")


def test_from_python_it_prints_nothing_and_refuses_what_does_not_act(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    converted = convert_model(published, tmp_path / "ours", max_pixels=9408, dtype="bfloat16")
    assert converted.num_compression_tokens == K and 0 < converted.difference < 0.05
    assert AutoProcessor.from_pretrained(tmp_path / "ours").image_processor.size["longest_edge"] == 9408
    for settings in ({"pooling": "mean"}, {"min_pixels": 784}, {"max_pixels": 9408}, {"revision": "v1"}):
        with pytest.raises(ValueError, match="from the model: leave them out|--revision is for plain checkpoints"):
            convert_model(tmp_path / "ours", tmp_path / "plain", to_backbone=True, **settings)
    back = convert_model(tmp_path / "ours", tmp_path / "plain", to_backbone=True)
    assert back.num_compression_tokens == K and (tmp_path / "plain" / "config.json").exists()
    assert not capsys.readouterr().out


def test_embeddings_that_change_are_not_converted(
    published: Path, coma_command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hub_scripts.hub.golden

    monkeypatch.setitem(hub_scripts.hub.golden.TOLERANCES, "float32", -1.0)
    code, _, error = coma_command("convert", published, tmp_path / "out")
    assert code == 1 and "embeddings differ by" in error and not (tmp_path / "out").exists()
