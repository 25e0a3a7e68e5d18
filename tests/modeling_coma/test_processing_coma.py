"""The processor loses nothing: not a token of an image, not a compression token, not a word without saying so."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, TensorType
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from modeling_coma import ComaProcessor
from modeling_coma.processing_coma import compression_tokens


K = 4
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
OLD_TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for block in message.content %}{% if block.type == 'image' %}{{ '" + IMAGE + "' }}"
    "{% else %}{{ block.text }}{% endif %}{% endfor %}{% endif %}{{ '' if loop.last else '\n' }}{% endfor %}"
)


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
    features = model.encode_images(batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])["image"]
    lengths = [len(part) for part in features.pooler_output]
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


def test_the_instruction_is_tokenized_once_in_a_call(qwen, mixed_inputs, monkeypatch):
    texts = []
    tokenize = type(qwen.tokenizer).__call__

    def counting(self, text, **kwargs):
        texts.extend([text] if isinstance(text, str) else text)
        return tokenize(self, text, **kwargs)

    monkeypatch.setattr(type(qwen.tokenizer), "__call__", counting)
    qwen.process(mixed_inputs, compression_instruction=True)
    assert sorted(text for text in texts if "few words" in text) == [qwen.image_instruction, qwen.text_instruction]
    assert len(texts) == len(mixed_inputs) + 2


def test_padding_on_either_side(processor, mixed_inputs, unpadded):
    left, right = (processor.process(mixed_inputs, padding_side=side) for side in ("left", "right"))
    assert unpadded(left) == unpadded(right)
    assert torch.equal(left["pixel_values"], right["pixel_values"])
    assert (left["attention_mask"][:, -1] == 1).all() and (right["attention_mask"][:, 0] == 1).all()
    pad = processor.tokenizer.pad_token_id
    for batch in (left, right):
        assert (batch["input_ids"][batch["attention_mask"] == 0] == pad).all()
    assert torch.equal(processor.process(mixed_inputs)["input_ids"], left["input_ids"])


def test_there_is_a_mask_whatever_the_tokenizer_returns_by_itself(qwen, mixed_inputs, monkeypatch):
    expected = qwen.process(mixed_inputs)["attention_mask"]
    monkeypatch.setattr(qwen.tokenizer, "model_input_names", ["input_ids"])
    assert torch.equal(qwen.process(mixed_inputs)["attention_mask"], expected)


def test_without_tensors_there_are_arrays(processor, mixed_inputs):
    arrays = processor.process(mixed_inputs, return_tensors=None)
    tensors = processor.process(mixed_inputs)
    for name, value in tensors.items():
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], value)


@pytest.mark.parametrize("inputs", ["abc", {"text": "a"}, None, [], (), np.zeros((2, 4, 4, 3), np.uint8)])
def test_one_input_is_not_a_list_of_inputs(qwen, inputs, picture):
    """A text would be embedded letter by letter, an array of images row by row."""
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


def test_compression_tokens_are_single_tokens_that_no_text_contains(qwen):
    tokens = compression_tokens(K)
    assert tokens == ["<|ctoken_pad_0|>", "<|ctoken_pad_1|>", "<|ctoken_pad_2|>", "<|ctoken_pad_3|>"]
    assert [qwen.tokenizer(token)["input_ids"] for token in tokens] == [
        [token] for token in qwen.compression_token_ids
    ]
    assert qwen.tokenizer.decode(qwen.compression_token_ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize(("text", "token"), [("<|image_pad|>", "<|image_pad|>"), (IMAGE, "<|vision_start|>")])
def test_an_image_typed_by_a_user_is_refused(qwen, picture, text, token):
    """It must not take the place of a real one, of its own row or of another."""
    typed = f"what is {text}?"
    for inputs in ([typed], [picture(), typed], [typed, picture()], [{"text": typed, "image": picture()}]):
        row = inputs.index(typed) if typed in inputs else 0
        with pytest.raises(ValueError, match=re.escape(f"Row {row}: its text types {token!r}, a special token of")):
            qwen.process(inputs)


def test_options_that_do_not_exist_are_refused(qwen, mixed_inputs):
    for options in ({"max_len": 5}, {"padding": "max_length"}, {"padding": False}, {"text_kwargs": {"pad": True}}):
        with pytest.raises(TypeError, match=r"ComaProcessor has no options \["):
            qwen.process(mixed_inputs, **options)
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

    def test_a_row_of_one_image_may_be_the_image(self, qwen, picture):
        images, texts = [picture(56, 56, 1), [picture(56, 56, 2), picture(84, 56, 3)]], [IMAGE, 2 * IMAGE]
        expected = qwen(images=[images[:1], images[1]], text=texts)
        for name, value in qwen(images=images, text=texts).items():
            assert np.array_equal(value, expected[name])

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

    def test_one_image_is_a_list_of_one(self, qwen, picture, tmp_path):
        image = picture(56, 56)
        image.save(tmp_path / "a.png")
        expected = qwen(images=[[image]], text=[IMAGE + "red"], return_tensors="pt")
        for one in (image, np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png"), [image], (image,)):
            for text in (IMAGE + "red", [IMAGE + "red"], (IMAGE + "red",)):
                found = qwen(images=one, text=text, return_tensors="pt")
                assert all(torch.equal(found[name], value) for name, value in expected.items())
        grey = np.asarray(image.convert("L"))
        assert qwen(images=grey)["image_grid_thw"].tolist() == [[1, 4, 4]]
        several = np.stack([np.asarray(picture(56, 56, seed)) for seed in (1, 2)])
        assert np.array_equal(qwen(images=several)["input_ids"], qwen(images=list(several))["input_ids"])
        assert qwen(images=several, text=[IMAGE, "a " + IMAGE])["image_grid_thw"].shape == (2, 3)

    @pytest.mark.parametrize("arguments", [{}, {"images": []}, {"text": []}, {"text": [], "images": []}, {"text": 5}])
    def test_nothing_to_process_is_said(self, qwen, arguments):
        with pytest.raises(ValueError, match=r"Give `images`, `text` \(a str or a list of them\), or both"):
            qwen(**arguments)

    @pytest.mark.parametrize("text", [["a", None], ["a", 5], ["a", ["b"]], ["a", b"b"]])
    def test_a_text_that_is_none_names_its_row(self, qwen, text):
        with pytest.raises(ValueError, match="Row 1: `text` is a str or a list of them, not"):
            qwen(text=text)

    def test_an_image_that_is_none_names_its_row(self, qwen, picture):
        for images in ([picture(), None], [[picture()], [None]]):
            with pytest.raises(ValueError, match="Row 1: cannot decode the image NoneType None: an image is"):
                qwen(images=images, text=[IMAGE, IMAGE])

    def test_words_of_transformers_for_the_same(self, qwen, mixed_inputs):
        expected = qwen.process(mixed_inputs)
        for same in (
            {"padding": "longest"},
            {"padding": True, "padding_side": "left"},
            {"padding": None, "padding_side": None, "truncation": None, "max_length": None},
            {"return_tensors": "pt", "common_kwargs": {"return_tensors": "pt"}, "text_kwargs": {"padding": "longest"}},
            {"common_kwargs": {"return_tensors": "pt"}, "audio_kwargs": {"padding": True}, "videos_kwargs": {}},
            {"padding": PaddingStrategy.LONGEST, "truncation": TruncationStrategy.LONGEST_FIRST},
            {"return_tensors": TensorType.PYTORCH},
            {"max_length": np.int64(10**6)},
        ):
            found = qwen.process(mixed_inputs, **same)
            assert all(torch.equal(found[name], value) for name, value in expected.items()), same
        arrays = qwen.process(mixed_inputs, return_tensors="np")
        assert all(np.array_equal(arrays[name], value) for name, value in expected.items())

    @pytest.mark.parametrize(
        "options",
        [
            {"padding_side": "middle"},
            {"padding_side": 1},
            {"truncation": "only_first"},
            {"truncation": "yes"},
            {"return_tensors": "tf"},
            {"return_tensors": "jax"},
            {"return_tensors": 5},
            {"compression_instruction": "Say it."},
            {"max_length": "16"},
            {"max_length": True},
            {"max_length": 16.0},
            {"max_length": 5, "text_kwargs": {"max_length": 6}},
            {"text_kwargs": {"padding_side": "left"}, "common_kwargs": {"padding_side": "right"}},
        ],
        ids=str,
    )
    def test_a_value_that_means_nothing_is_refused(self, qwen, options):
        with pytest.raises(ValueError, match="does not exist; choose|is no number of tokens|is given twice"):
            qwen.process(["a"], **options)

    @pytest.mark.parametrize(
        "options",
        [
            {"padding": "max_length", "max_length": 20},
            {"padding": False},
            {"padding": "do_not_pad"},
            {"foo": None},
            {"size": {"shortest_edge": 784, "longest_edge": 3136}},
            {"add_special_tokens": True},
            {"videos_kwargs": {"fps": 2}},
            {"audio_kwargs": {"sampling_rate": 16000}},
            {"common_kwargs": {"foo": 5}},
            *({"images_kwargs": {name: 2}} for name in ("foo", "patch_size", "merge_size", "max_pixels", "do_pad")),
            {"images_kwargs": {"return_tensors": "np"}},
        ],
        ids=str,
    )
    def test_what_would_do_nothing_is_refused(self, qwen, picture, options):
        for inputs in (["a"], [picture()]):
            with pytest.raises(TypeError, match="has no options|images_kwargs: there are no"):
                qwen.process(inputs, **options)

    def test_there_is_no_audio(self, qwen):
        with pytest.raises(TypeError, match="CoMa embeds texts, images and videos, and no audio"):
            qwen(text=["a"], audio=[np.zeros(8)])
        assert len(qwen(text=["a"], videos=None, audio=None)["input_ids"]) == 1

    @pytest.mark.parametrize("options", [{"size": s} for s in (None, 5, [56, 56], {"longest_edge": 3136})], ids=str)
    def test_a_budget_has_two_edges(self, qwen, picture, options):
        with pytest.raises(ValueError, match="lacks shortest_edge and longest_edge"):
            qwen.process([picture()], images_kwargs=options)
        for edges in (("a", 3136), (784, 1e6), (True, 3136), (5000, 4000), (1, 100), (0, 3136), (-1, 3136)):
            size = dict(zip(("shortest_edge", "longest_edge"), edges, strict=True))
            with pytest.raises(ValueError, match="The pixel budget, .* does not hold an image token"):
                qwen.process([picture()], images_kwargs={"size": size})

    @pytest.mark.parametrize(
        "options",
        [{"do_normalize": False}, {"image_mean": [0.0] * 3}, {"rescale_factor": 0.5}, {"resample": 0}],
        ids=str,
    )
    def test_a_setting_of_images_acts(self, qwen, picture, options):
        image = picture(60, 50).rotate(30)
        expected = qwen.process([image])["pixel_values"]
        assert (qwen.process([image], images_kwargs=options)["pixel_values"] - expected).abs().max() > 0.01


class TestMostPixels:
    """An image that would fill the memory is refused before it is decoded; how large that is, is a setting."""

    def test_it_acts_and_is_saved(self, qwen, picture, tmp_path):
        parts = {"num_compression_tokens": K, "max_image_pixels": 200}
        processor = ComaProcessor(qwen.image_processor, qwen.tokenizer, **parts)
        processor.save_pretrained(tmp_path)
        for loaded in (processor, ComaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
            assert loaded.max_image_pixels == 200
            assert len(loaded.process([picture(20, 10)])["input_ids"]) == 1
            with pytest.raises(
                ValueError, match="Row 1: .*21x10 pixels are over the limit of 200; .*max_image_pixels"
            ):
                loaded.process(["a", picture(21, 10)])
        changed = ComaProcessor.from_pretrained(tmp_path, max_image_pixels=300)
        assert len(changed.process([picture(21, 10)])["input_ids"]) == 1

    def test_a_folder_from_before_has_the_default(self, qwen, picture, tmp_path):
        qwen.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "processor_config.json").read_text())
        assert config.pop("max_image_pixels") == 89_478_485
        (tmp_path / "processor_config.json").write_text(json.dumps(config))
        (tmp_path / "chat_template.jinja").write_text(OLD_TEMPLATE)
        loaded = ComaProcessor.from_pretrained(tmp_path)
        assert loaded.max_image_pixels == 89_478_485 and loaded.chat_template["default"] == OLD_TEMPLATE
        inputs = ["a", {"image": picture(), "text": "b"}]
        assert torch.equal(loaded.process(inputs)["input_ids"], qwen.process(inputs)["input_ids"])
        with pytest.raises(ValueError, match="Row 0: a content block"):  # which the old template left out
            loaded.apply_chat_template(
                [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "a"}]}]
            )

    @pytest.mark.parametrize("limit", [0, -1, "10", 1.5, True, None])
    def test_it_is_a_number_of_pixels(self, qwen, limit):
        with pytest.raises(ValueError, match="max_image_pixels must be an int of 1 or more, got"):
            parts = {"num_compression_tokens": K, "max_image_pixels": limit}
            ComaProcessor(qwen.image_processor, qwen.tokenizer, **parts)


def test_a_template_may_be_given_as_a_text(qwen, unpadded, read):
    """As sentence-transformers and transformers name it."""
    parts = (qwen.image_processor, qwen.tokenizer)
    processor = ComaProcessor(*parts, chat_template="q: " + qwen.chat_template["default"], num_compression_tokens=K)
    assert read(processor, unpadded(processor.process(["red"]))[0]) == "q: red" + tail(processor)
    dialogue = [[{"role": "user", "content": "a"}]]
    assert processor.process_dialogues(dialogue)["input_ids"] == qwen.process_dialogues(dialogue)["input_ids"]
