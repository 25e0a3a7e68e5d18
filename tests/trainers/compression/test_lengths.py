"""Lengths that are counted without decoding are those of the tensors."""

import io

import pytest
from datasets import Dataset, Features, Image, List, Value

from trainers.compression.collator import ComaCompressionCollator
from trainers.compression.lengths import add_lengths


@pytest.fixture
def dataset(compression_rows):
    rows = compression_rows(9)
    for row in rows:
        row["images"] = [{"bytes": png(image), "path": None} for image in row["images"]]
    role = {"role": Value("string"), "content": Value("string")}
    features = {"images": List(Image()), "text": Value("string"), "messages": List(role)}
    return Dataset.from_list(rows, features=Features(features))


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "settings", [{}, {"max_length": 30, "dialogue_max_length": 40}, {"compression_instruction": False}]
)
def test_they_are_those_of_the_tensors(model_type, make_coma, dataset, settings):
    processor = make_coma(model_type)[1]
    lengths = add_lengths(dataset, processor, **settings)["length"]
    collator = ComaCompressionCollator(processor, **settings)
    for row, (of_input, of_dialogue) in zip(dataset, lengths, strict=True):
        batch = collator([row])
        assert batch["input_ids"].shape == (1, of_input)
        found = batch["dialogue_input_ids"].shape[1]
        assert found == of_dialogue if "dialogue_max_length" not in settings else found <= of_dialogue <= 40
    assert len({of_input for of_input, _ in lengths}) > 4


def test_the_limit_of_the_processor_counts_and_its_processor_stays_as_it_is(make_coma, dataset):
    processor = make_coma()[1]
    processor.max_length = 31
    assert max(of_input for of_input, _ in add_lengths(dataset, processor)["length"]) == 31
    assert max(of_input for of_input, _ in add_lengths(dataset, processor, max_length=32)["length"]) == 32
    assert processor.max_length == 31


def test_nothing_is_decoded_and_nothing_bad_stops_it(make_coma, dataset):
    processor = make_coma()[1]
    good = add_lengths(dataset, processor)
    rows = good.cast_column("images", List(Image(decode=False))).to_list()
    data = rows[0]["images"][0]["bytes"]
    rows[0]["images"][0]["bytes"] = data[: len(data) // 2]  # the header is whole, the image is not
    rows[1]["messages"] = []
    rows[2] |= {"images": [], "text": None}
    rows[3]["messages"] = [{"role": "user", "content": "<|image_pad|>"}, {"role": "assistant", "content": "a"}]
    for row in rows:
        row.pop("length")
    bad = add_lengths(Dataset.from_list(rows, features=dataset.features), processor)["length"][:]
    expected = good["length"][:]
    expected[1][1] = expected[2][0] = expected[3][1] = 0
    assert bad == expected


def test_batches_of_a_training_keep_the_budget(make_coma, dataset, compression_trainer):
    model, processor = make_coma()
    sizes = []

    class Collator(ComaCompressionCollator):
        def __call__(self, rows):
            batch = super().__call__(rows)
            sizes.append((len(batch["labels"]), batch["input_ids"].numel() + batch["labels"].numel()))
            return batch

    settings = {"train_sampling_strategy": "group_by_length", "max_tokens_per_batch": 300, "max_steps": -1}
    rows = add_lengths(dataset, processor)
    compression_trainer(
        (model, processor), rows, data_collator=Collator(processor), num_train_epochs=1, **settings
    ).train()
    assert sum(rows for rows, _ in sizes) == 9
    assert max(tokens for _, tokens in sizes) <= 300 and len(sizes) < 9
