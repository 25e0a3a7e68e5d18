"""Embedding many items gives what embedding each alone gives, and looks at each image once."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

import trainers.encoding.encoder
from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.inputs_coma import to_messages
from trainers.encoding.encode import embed_items, embed_shared, encode_batches
from trainers.encoding.tokenize import token_lengths


Coma = tuple[ComaForEmbedding, ComaProcessor]


@pytest.fixture
def coma(make_coma: Callable[..., Coma]) -> Coma:
    return make_coma("qwen2_5_vl")


def one_by_one(coma: Coma, items: list[Any]) -> torch.Tensor:
    model, processor = coma
    with torch.no_grad():
        return torch.cat([model(**processor.process([item])).embeddings for item in items])


@pytest.mark.parametrize(("batch_tokens", "num_workers"), [(1, 0), (60, 0), (10000, 0), (60, 2)])
def test_equals_one_by_one(coma: Coma, mixed_inputs: list[Any], batch_tokens: int, num_workers: int) -> None:
    options = {"batch_tokens": batch_tokens, "num_workers": num_workers}
    found = embed_items(*coma, mixed_inputs, **options)
    assert (found - one_by_one(coma, mixed_inputs)).abs().max() < 1e-5
    assert torch.equal(found, embed_items(*coma, mixed_inputs, **options))


def test_first_states_equal_one_by_one(coma: Coma, mixed_inputs: list[Any]) -> None:
    """Also beside their embeddings, for rows that are equal, and without those that are bad."""
    model, processor = coma
    items, failures = [*mixed_inputs, mixed_inputs[0], ""], {}
    found = embed_items(*coma, items, batch_tokens=60, num_vectors=3, failures=failures)
    assert found.shape == (len(items), 3, model.config.hidden_size)
    with torch.no_grad():
        states = [model(**processor.process([item])).compression_states[:, :3] for item in items[:-1]]
    expected = torch.nn.functional.normalize(torch.cat(states), dim=-1)
    assert (found[:-1] - expected).abs().max() < 1e-5
    assert found[-1].isnan().all() and list(failures) == [len(items) - 1]
    both = embed_shared(*coma, mixed_inputs, num_vectors=3)
    assert (both[:, 0] - one_by_one(coma, mixed_inputs)).abs().max() < 1e-5
    assert (both[:, 1:] - expected[:-1]).abs().max() < 1e-5
    batches = list(encode_batches(*coma, mixed_inputs, num_vectors=3))
    assert sum(len(batch.rows) for batch in batches) == len(mixed_inputs)
    assert all((batch.vectors - both[batch.rows]).abs().max() < 1e-5 for batch in batches)
    for number in (0, 5):
        with pytest.raises(ValueError, match=f"^{number} vectors of an input are not from 1 to 4"):
            embed_items(*coma, ["a"], num_vectors=number)


def test_lengths_are_those_of_the_processor(coma: Coma, mixed_inputs: list[Any]) -> None:
    _, processor = coma
    expected = processor.process(mixed_inputs)["attention_mask"].sum(dim=1)
    assert token_lengths(processor, mixed_inputs).tolist() == expected.tolist()
    processor.max_length = int(expected.max()) - 1
    expected = processor.process(mixed_inputs)["attention_mask"].sum(dim=1)
    assert token_lengths(processor, mixed_inputs).tolist() == expected.tolist()


def test_a_budget_of_nothing_is_refused(coma: Coma) -> None:
    with pytest.raises(ValueError, match="batch_tokens=0 must be 1 or more"):
        embed_items(*coma, ["a"], batch_tokens=0)
    assert len(embed_items(*coma, [])) == 0


def test_a_picture_is_decoded_once_and_not_to_measure_it(coma: Coma, picture: Callable, tmp_path: Path) -> None:
    model, processor = coma
    for place in range(6):
        picture(28 * (place + 1), 56, place).save(tmp_path / f"{place}.png")
    opened = [Image.open(tmp_path / f"{place}.png") for place in range(3)]
    items = [*opened, *({"image": str(tmp_path / f"{place}.png")} for place in range(3, 6))]
    assert len(set(token_lengths(processor, items))) > 3
    assert all(image._im is None for image in opened)  # Pillow has read no pixel of them

    seen = Counter()
    process_images = processor.process_images

    def count(images: list, rows: list[int], **kwargs: Any) -> dict:
        seen.update(str(getattr(image, "filename", image)) for image in images)
        return process_images(images, rows, **kwargs)

    processor.process_images = count
    found = embed_items(model, processor, items, batch_tokens=40)
    assert len(seen) == 6 and set(seen.values()) == {1}
    whole = [picture(28 * (place + 1), 56, place) for place in range(6)]
    assert (found - one_by_one(coma, whole)).abs().max() < 1e-5


def test_a_dataset_its_columns_and_a_list_are_the_same(coma: Coma, picture: Callable) -> None:
    pictures = [picture(28 + 28 * place, 56, place) for place in range(4)]
    texts = ["an apple", None, "a tree and a little sky", "it"]
    item = {"text": Value("string"), "image": ImageFeature()}
    data = {"query": [{"text": t, "image": i} for t, i in zip(texts, pictures, strict=True)]}
    data |= {"text": texts, "image": pictures, "other": [1, 2, 3, 4]}
    dataset = Dataset.from_dict(data, Features({"query": item, **item, "other": Value("int64")}))

    alone = one_by_one(coma, pictures)
    assert (embed_items(*coma, dataset["image"]) - alone).abs().max() < 1e-5
    assert (embed_items(*coma, dataset["query"]["image"], num_workers=1) - alone).abs().max() < 1e-5
    shown_first = one_by_one(coma, [{"image": i, "text": t} for t, i in zip(texts, pictures, strict=True)])
    assert (embed_items(*coma, dataset) - shown_first).abs().max() < 1e-5
    assert (embed_items(*coma, dataset["query"]) - shown_first).abs().max() < 1e-5
    with pytest.raises(ValueError, match="No column is called image, text or video among"):
        embed_items(*coma, dataset.select_columns(["other"]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_row_is_named_and_the_others_are_there(coma: Coma, mixed_inputs: list[Any], num_workers: int) -> None:
    items = [*mixed_inputs[:3], {"image": b"no image"}, *mixed_inputs[3:], " ", {"image": "/not/there.png"}]
    with pytest.raises(ValueError, match=r"^Row (3|8|9)\b"):
        embed_items(*coma, items, num_workers=num_workers)
    batches = list(encode_batches(*coma, items, batch_tokens=80, num_workers=num_workers, first_row=100))
    failures = {row: reason for batch in batches for row, reason in batch.failures.items()}
    assert {row: reason.split(":")[0] for row, reason in failures.items()} == {
        3: "Row 103",
        8: "Row 108 is empty",
        9: "Row 109",
    }
    rows = [row for batch in batches for row in batch.rows]
    assert sorted(rows) == [0, 1, 2, 4, 5, 6, 7]
    embeddings = torch.cat([batch.embeddings for batch in batches])
    assert (embeddings - one_by_one(coma, [items[row] for row in rows])).abs().max() < 1e-5


def test_rows_that_no_tokenizer_or_decoder_ends_with(coma: Coma, tmp_path: Path, picture: Callable) -> None:
    """A typed token, half a character, a pipe, a bomb: each is one failure, and the rows around them are there."""
    model, processor = coma
    os.mkfifo(tmp_path / "pipe.png")
    processor.max_image_pixels = 56 * 56
    good = ["a red apple", {"image": picture(56, 56)}]
    pipe = {"image": str(tmp_path / "pipe.png")}
    bad = ["is <|ctoken_pad_0|> red?", "a <|im_end|>", "\ud800", pipe, picture(56, 57)]
    batches = list(encode_batches(model, processor, [good[0], *bad, good[1]], batch_tokens=64, first_row=100))
    failures = {row: reason for batch in batches for row, reason in batch.failures.items()}
    assert sorted(failures) == [1, 2, 3, 4, 5] and sorted(row for batch in batches for row in batch.rows) == [0, 6]
    assert all(reason.startswith(f"Row {100 + row}: ") for row, reason in failures.items()), failures


def test_a_text_is_tokenized_once(coma: Coma, mixed_inputs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """… and what its length was counted by is what the model gets, however few rows are sorted at one time."""
    model, processor = coma
    expected, seen = one_by_one(coma, mixed_inputs), Counter()
    tokenizer_call = type(processor.tokenizer).__call__

    def count(self: Any, text: list[str], **kwargs: Any) -> dict:
        seen.update(text)
        return tokenizer_call(self, text, **kwargs)

    monkeypatch.setattr(type(processor.tokenizer), "__call__", count)
    for window in (1, 3, 100):
        monkeypatch.setattr(trainers.encoding.encoder, "WINDOW", window)
        seen.clear()
        assert (embed_items(model, processor, mixed_inputs, batch_tokens=80) - expected).abs().max() < 1e-5
        rendered = processor.apply_chat_template([to_messages(item) for item in mixed_inputs])
        assert seen == Counter(rendered)


def test_shared_by_one_process_it_is_embed_items(coma: Coma, mixed_inputs: list[Any]) -> None:
    """What two do together is in test_evaluate_distributed.py."""
    assert torch.equal(embed_shared(*coma, mixed_inputs), embed_items(*coma, mixed_inputs))


def test_the_model_is_left_as_it_was(coma: Coma) -> None:
    model, processor = coma
    for training in (True, False):
        model.train(training)
        embeddings = embed_items(model, processor, ["a", "b"])
        assert model.training is training and not embeddings.requires_grad
    assert embed_items(model, processor, []).shape == (0, model.config.hidden_size)


def test_half_precision_comes_back_in_fp32(coma: Coma, mixed_inputs: list[Any]) -> None:
    model, processor = coma
    expected = one_by_one(coma, mixed_inputs)
    found = embed_items(model.to(torch.bfloat16), processor, mixed_inputs)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > 0.995


def test_weights_that_are_not_finite_are_said_with_the_rows(coma: Coma) -> None:
    model, processor = coma
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"rows \[0, 1\].*not finite"):
        embed_items(model, processor, ["an apple", "it"])


def test_lengths_do_not_wait_for_what_is_no_file(make_coma: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert token_lengths(make_coma()[1], [{"image": str(tmp_path / "a.png")}]) > 0


def test_the_image_that_is_to_blame_is_found_by_the_limit_of_the_processor(coma: Coma) -> None:
    """Not by the default one, which is lower here for the first image, and higher for the second."""
    model, processor = coma
    processor.max_image_pixels = 40 * 40
    items = [{"image": [Image.new("RGB", (30, 30)), Image.new("RGB", (50, 50))]}]
    with pytest.raises(ValueError, match=r"^Row 0, image\[1\]: .*2500|^Row 0, image\[1\].*50x50"):
        embed_items(model, processor, items)
