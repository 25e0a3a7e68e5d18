"""The processor loses nothing: not a token of a picture, not a compression token, not a word without saying so."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_coma import ComaProcessor
from modeling_coma.processing_coma import compression_tokens


K = 4
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def image_tokens(processor, ids: list[int]) -> int:
    return ids.count(processor.tokenizer.convert_tokens_to_ids("<|image_pad|>"))


def tail(processor) -> str:
    return "".join(compression_tokens(processor.num_compression_tokens))


def test_rows_read_as_they_were_given(processor, mixed_inputs, unpadded, read):
    batch = processor.process(mixed_inputs)
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "image_grid_thw"}
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert [read(processor, ids) for ids in unpadded(batch)] == [
        text + tail(processor)
        for text in (
            "a red apple",
            IMAGE,
            IMAGE + "what is this?",
            "an apple and leaves below a little sky:" + IMAGE,
            3 * IMAGE,
            "Find it.\nleft " + IMAGE + " right" + IMAGE + " right",
            "it",
        )
    ]


def test_every_image_has_as_many_tokens_as_features(coma, mixed_inputs, unpadded):
    model, processor = coma
    batch = processor.process(mixed_inputs)
    lengths = [len(part) for part in model.encode_images(batch["pixel_values"], batch["image_grid_thw"])["image"][1]]
    rows = unpadded(batch)
    assert sum(lengths) == sum(image_tokens(processor, ids) for ids in rows)
    assert image_tokens(processor, rows[1]) == lengths[0] and image_tokens(processor, rows[4]) == sum(lengths[3:6])


def test_the_instruction_of_stage_1_stands_before_the_tokens(processor, mixed_inputs, unpadded, read):
    rows = unpadded(processor.process(mixed_inputs, compression_instruction=True))
    plain = unpadded(processor.process(mixed_inputs))
    for ids, without in zip(rows, plain, strict=True):
        has_image = image_tokens(processor, ids) > 0
        line = (
            "\nSummarize above image and text in a few words."
            if has_image
            else "\nSummarize above text in a few words."
        )
        assert read(processor, ids) == read(processor, without[:-K]) + line + tail(processor)


def test_padding_on_either_side(processor, mixed_inputs, unpadded):
    left, right = (processor.process(mixed_inputs, padding_side=side) for side in ("left", "right"))
    assert unpadded(left) == unpadded(right)
    assert torch.equal(left["pixel_values"], right["pixel_values"])
    assert (left["attention_mask"][:, -1] == 1).all() and (right["attention_mask"][:, 0] == 1).all()
    pad = processor.tokenizer.pad_token_id
    for batch in (left, right):
        assert (batch["input_ids"][batch["attention_mask"] == 0] == pad).all()
    assert torch.equal(processor.process(mixed_inputs)["input_ids"], left["input_ids"])


def test_without_tensors_there_are_arrays(processor, mixed_inputs):
    arrays = processor.process(mixed_inputs, return_tensors=None)
    tensors = processor.process(mixed_inputs)
    for name, value in tensors.items():
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], value)


@pytest.mark.parametrize("inputs", ["abc", {"text": "a"}, None, [], (), np.zeros((2, 4, 4, 3), np.uint8)])
def test_one_input_is_not_a_list_of_inputs(qwen, inputs, picture):
    """A text would be embedded letter by letter, an array of pictures row by row."""
    for given in (inputs, picture()):
        with pytest.raises(ValueError, match="Give a list of inputs, even if of one, not"):
            qwen.process(given)


def test_the_row_of_a_bad_input_is_named(qwen, picture):
    with pytest.raises(ValueError, match="Row 2 is empty"):
        qwen.process(["a", "b", " "])
    with pytest.raises(ValueError, match="Row 1: cannot embed int"):
        qwen.process(["a", 5])
    with pytest.raises(ValueError, match="Row 2: cannot decode the image"):
        qwen.process(["a", picture(), {"image": b"\x89PNG\r\n\x1a\nbroken"}])
    with pytest.raises(ValueError, match="Row 3: cannot decode the image"):
        image = [{"type": "image", "image": picture()}, {"type": "image", "path": "missing.png"}]
        qwen.process(["a", picture(), {"image": [picture(), picture()]}, [{"role": "user", "content": image}]])
    with pytest.raises(ValueError, match="Row 1: 0x9 pixels"):
        qwen.process(["a", Image.new("RGB", (0, 9))])


def test_an_image_processor_may_speak_tensors(qwen, mixed_inputs):
    """As those of transformers do where torchvision is installed."""

    class AsWithTorchvision(type(qwen.image_processor)):
        def __call__(self, images, **kwargs):
            return super().__call__(images, **{**kwargs, "return_tensors": "pt"})

    image_processor = AsWithTorchvision(**qwen.image_processor.to_dict())
    processor = ComaProcessor(image_processor, qwen.tokenizer, num_compression_tokens=K)
    for return_tensors in ("pt", None):
        expected = qwen.process(mixed_inputs, return_tensors=return_tensors)
        for name, value in processor.process(mixed_inputs, return_tensors=return_tensors).items():
            assert type(value) is type(expected[name])
            assert (value == expected[name]).all()


def test_modes_of_pictures_do_not_matter_beyond_their_colours(qwen, picture):
    grey = picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    same = [grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("LA"), grey.convert("P"), deep]
    patches = qwen.process(same)["pixel_values"].unflatten(0, (len(same), -1))
    assert (patches == patches[0]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (3, 3), (100, 1), (3, 100), (1, 200), (200, 1)])
def test_thin_pictures_are_resized_like_any_other(processor, size):
    """The axis of three pixels must not pass for the colours."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    batch = processor.process([image])
    _, height, width = batch["image_grid_thw"][0].tolist()
    patch = processor.image_processor.patch_size
    resized = image.resize((width * patch, height * patch), Image.Resampling.BICUBIC)
    # PIL gives the same numbers; torchvision, where it is installed, rounds elsewhere.
    torch.testing.assert_close(processor.process([resized])["pixel_values"], batch["pixel_values"], atol=0.1, rtol=0)


def test_too_thin_pictures_are_refused(processor):
    with pytest.raises(ValueError, match="Row 1: 201x1 pixels"):
        processor.process(["a", Image.new("RGB", (201, 1))])


def test_the_pixel_budget_acts_and_is_saved(processor, picture, tmp_path, unpadded):
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    big, small = picture(40 * side, 30 * side), picture(8, 8)

    def tokens(of_processor, image, **kwargs) -> int:
        return image_tokens(of_processor, unpadded(of_processor.process([image], **kwargs))[0])

    assert (tokens(processor, big), tokens(processor, small)) == (12, 1)  # 4 by 3 of at most 16
    budget = {"shortest_edge": 4 * side**2, "longest_edge": 9 * side**2}
    assert (tokens(processor, big, images_kwargs={"size": budget}), tokens(processor, big)) == (6, 12)
    assert tokens(processor, small, images_kwargs={"size": budget}) == 4
    processor.image_processor.size = budget
    processor.save_pretrained(tmp_path)
    for loaded in (ComaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert (tokens(loaded, big), tokens(loaded, small)) == (6, 4)


def test_a_budget_without_room_for_one_token_is_refused(processor):
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    for size in (
        {"shortest_edge": 1, "longest_edge": side**2 - 1},
        {"shortest_edge": 2 * side**2, "longest_edge": side**2},
    ):
        processor.image_processor.size = size
        with pytest.raises(ValueError, match=f"The pixel budget.* does not hold an image token.* {side}x{side}"):
            ComaProcessor(processor.image_processor, processor.tokenizer, num_compression_tokens=K)


@pytest.mark.parametrize("missing", [1, 28])
def test_a_tokenizer_without_the_tokens_is_refused(qwen, missing):
    with pytest.raises(ValueError, match=r"The tokenizer lacks \['<\|ctoken_pad_4\|>'.*from_backbone adds them"):
        ComaProcessor(qwen.image_processor, qwen.tokenizer, num_compression_tokens=K + missing)


@pytest.mark.parametrize("count", [0, 257])
def test_an_impossible_k_is_refused(make_backbone, count):
    with pytest.raises(ValueError, match=f"num_compression_tokens must be 1 to 256, got {count}"):
        ComaProcessor.from_backbone(make_backbone(), count)


def test_compression_tokens_are_single_tokens_that_no_text_contains(qwen):
    tokens = compression_tokens(K)
    assert tokens == ["<|ctoken_pad_0|>", "<|ctoken_pad_1|>", "<|ctoken_pad_2|>", "<|ctoken_pad_3|>"]
    assert [qwen.tokenizer(token)["input_ids"] for token in tokens] == [
        [token] for token in qwen.compression_token_ids
    ]
    assert qwen.tokenizer.decode(qwen.compression_token_ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize("token", ["<|image_pad|>", IMAGE])
def test_an_image_typed_by_a_user_is_refused(qwen, picture, token):
    """It must not take the place of a real one, of its own row or of another."""
    typed = f"what is {token}?"
    for inputs in ([typed], [picture(), typed], [typed, picture()], [{"text": typed, "image": picture()}]):
        row = inputs.index(typed) if typed in inputs else 0
        with pytest.raises(ValueError, match=re.escape(f"Row {row}: its text types {token!r}, a special token of")):
            qwen.process(inputs)


def test_options_that_do_not_exist_are_refused(qwen, mixed_inputs):
    for options in ({"max_len": 5}, {"padding": "max_length"}, {"padding": False}, {"text_kwargs": {"pad": True}}):
        with pytest.raises(TypeError, match=r"ComaProcessor has no options \["):
            qwen.process(mixed_inputs, **options)
    with pytest.raises(TypeError, match="videos"):
        qwen(text=["a"], videos=[np.zeros((2, 8, 8, 3))])
    with pytest.raises(ValueError, match="padding_side='centre' does not exist; choose .*'left' or 'right'"):
        qwen.process(mixed_inputs, padding_side="centre")
    with pytest.raises(TypeError, match="colour"):
        qwen.process(mixed_inputs, images_kwargs={"colour": True})
    assert qwen.process(mixed_inputs, padding=True, videos=None)["input_ids"].shape[0] == len(mixed_inputs)


class TestCall:
    """The manner of transformers: rendered texts, and images flat or by row."""

    def test_flat_and_nested_images_are_the_same(self, qwen, picture):
        a, b, c = picture(56, 56, 1), picture(84, 56, 2), picture(56, 84, 3)
        texts = [IMAGE + "x" + IMAGE, "no image", IMAGE]
        flat = qwen(images=[a, b, c], text=texts, return_tensors="pt")
        nested = qwen(images=[[a, b], [], [c]], text=texts, return_tensors="pt")
        for name, value in qwen.process([{"image": [a], "text": "x"}, "no image", c]).items():
            assert name in flat and value is not None
        for name, value in nested.items():
            assert torch.equal(flat[name], value)
        assert flat["image_grid_thw"].tolist() == [[1, 4, 4], [1, 4, 6], [1, 6, 4]]

    def test_defaults(self, qwen, picture):
        alone, listed = qwen(text="a red apple"), qwen(text=["a red apple"])
        assert np.array_equal(alone["input_ids"], listed["input_ids"])
        images = [picture(56, 56, 1), picture(84, 56, 2)]
        without_text = qwen(images=images, return_tensors="pt")
        assert torch.equal(without_text["input_ids"], qwen.process(images)["input_ids"])

    @pytest.mark.parametrize(
        ("count", "texts"), [(1, [IMAGE] * 2), (3, [IMAGE] * 2), (1, ["a"]), (0, [IMAGE]), (2, [2 * IMAGE, IMAGE])]
    )
    def test_more_or_fewer_images_than_placeholders_are_refused(self, qwen, picture, count, texts):
        for images in ([picture()] * count, [[picture()] * count] + [[] for _ in texts[1:]]):
            with pytest.raises(ValueError, match="The texts have these numbers of image placeholders"):
                qwen(images=images, text=texts)

    def test_an_image_in_the_wrong_row_is_refused(self, qwen, picture):
        for images in ([[picture(), picture()], []], [[], [picture(), picture()]]):
            with pytest.raises(ValueError, match=r"image placeholders: \[1, 1\]; the rows of images: "):
                qwen(images=images, text=[IMAGE, IMAGE])

    def test_options_may_come_in_groups(self, qwen):
        text = "what is this? it is an apple."
        grouped = qwen(
            text=[text, "it"],
            text_kwargs={"padding": True, "truncation": "longest_first", "max_length": 9, "padding_side": "right"},
            common_kwargs={"return_tensors": "pt"},
            videos_kwargs={},
            audio_kwargs={"padding": True},
        )
        plain = qwen(text=[text, "it"], max_length=9, padding_side="right", return_tensors="pt")
        assert torch.equal(grouped["input_ids"], plain["input_ids"])
        assert grouped["input_ids"].shape[1] == 9
