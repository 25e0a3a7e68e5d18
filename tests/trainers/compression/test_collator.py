"""Rows of stage 1 to tensors: every answer labelled, limits that cut between turns, bad rows by number."""

import copy
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from trainers.compression.collator import ComaCompressionCollator
from trainers.data.rows import NumberedRows
from trainers.samplers import LengthGroupedBatches


def messages(*turns):
    pairs = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in turns]
    return [message for pair in pairs for message in pair]


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.fixture
def processor(make_coma):
    return make_coma()[1]


def test_the_docstring_shows_what_comes_out(make_coma, picture):
    processor = make_coma("qwen2_5_vl", 2)[1]
    shown = {}
    for line in ComaCompressionCollator.__doc__.splitlines():
        if found := re.match(r" *(input_ids|dialogue_input_ids|labels) {2,}(.*)", line):
            shown[found[1]] = re.sub(" +", "", found[2]).replace("\\n", "\n")
    row = {"images": [picture(28, 28)], "text": None, "messages": messages(("What?", "A cat."))}
    batch = ComaCompressionCollator(processor, compression_instruction=False)([row])
    assert set(shown) == {"input_ids", "dialogue_input_ids", "labels"}
    for name in ("input_ids", "dialogue_input_ids"):
        assert decoded(processor.tokenizer, batch[name][0]).replace(" ", "") == shown[name]
    labels = batch["labels"][0].tolist()
    answers = [n for n, label in enumerate(labels) if label != -100]
    assert answers == list(range(answers[0], len(labels) - 1))
    text = decoded(processor.tokenizer, labels[answers[0] : -1]).replace(" ", "")
    assert f"-100…{text}-100" == shown["labels"]
    assert batch["attention_mask"].all() and batch["dialogue_attention_mask"].all()


def test_every_answer_is_labelled_with_its_end_of_turn_and_nothing_else(processor, compression_rows):
    rows = compression_rows(6)
    batch = ComaCompressionCollator(processor)(rows)
    for row, ids, mask, labels in zip(
        rows, batch["dialogue_input_ids"], batch["dialogue_attention_mask"], batch["labels"], strict=True
    ):
        is_label = labels != -100
        assert torch.equal(labels[is_label], ids[is_label]) and mask[is_label].all()
        starts = torch.nonzero(is_label & ~torch.cat([torch.tensor([False]), is_label[:-1]])).flatten().tolist()
        spans = [ids[start : start + int((~is_label[start:]).long().argmax())] for start in starts]
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert [decoded(processor.tokenizer, span) for span in spans] == [f"{answer}<|im_end|>" for answer in answers]


def test_padding_is_left_of_inputs_and_right_of_dialogues(processor, compression_rows):
    batch = ComaCompressionCollator(processor)(compression_rows(6))
    k = processor.num_compression_tokens
    assert batch["input_ids"][:, -k:].tolist() == [processor.compression_token_ids] * 6
    assert batch["attention_mask"].diff(dim=1).min() == 0 and batch["attention_mask"][:, 0].min() == 0
    assert batch["dialogue_attention_mask"].diff(dim=1).max() == 0 and batch["dialogue_attention_mask"].min() == 0


def test_the_instruction_is_that_of_the_processor(processor):
    row = {"images": [], "text": "leaves", "messages": messages(("what?", "leaves"))}
    with_it, without = (
        ComaCompressionCollator(processor, compression_instruction=wanted)([row])["input_ids"][0]
        for wanted in (True, False)
    )
    before = decoded(processor.tokenizer, with_it[: -processor.num_compression_tokens])
    assert before == "leaves" + processor.text_instruction
    assert decoded(processor.tokenizer, without[: -processor.num_compression_tokens]) == "leaves"


@pytest.mark.parametrize("spare", [0, 1, 5])
def test_dialogues_are_cut_after_an_answer_and_counted(processor, spare):
    turns = [("what is this?", "an apple"), ("red?", "it is red"), ("sky?", "a little")]
    rows = [{"images": [], "text": "a", "messages": messages(*turns[:n])} for n in (3, 2, 1)]
    two_turns = processor.process_dialogues([rows[1]["messages"]])["input_ids"][0]
    limit = len(two_turns) - 1 + spare  # without the line break after the last end of turn
    collator = ComaCompressionCollator(processor, dialogue_max_length=limit)
    batch = collator(rows)
    kept = two_turns[: batch["dialogue_attention_mask"][0].sum()]
    assert batch["dialogue_input_ids"][0, : len(kept)].tolist() == kept
    assert len(two_turns) - len(kept) in (0, 1) and len(kept) <= limit
    assert decoded(processor.tokenizer, kept).rstrip("\n").endswith("it is red<|im_end|>")
    assert collator.bad_rows.cut == 1
    short = ComaCompressionCollator(processor, dialogue_max_length=8)
    with pytest.raises(ValueError, match=r"Row 0 .* first answer ends at token \d+ .* beyond dialogue_max_length=8"):
        short(rows)


def test_cut_turns_are_counted_once_when_another_row_is_bad(processor):
    turns = [("what is this?", "an apple"), ("red?", "it is red")]
    good = {"images": [], "text": "a", "messages": messages(*turns)}
    limit = len(processor.process_dialogues([good["messages"]])["input_ids"][0]) - 3
    collator = ComaCompressionCollator(processor, dialogue_max_length=limit, on_bad_row="skip")
    assert len(collator([good, {**good, "messages": []}, good])["labels"]) == 2
    assert collator.bad_rows.cut == 2 and collator.bad_rows.skipped == 1


GOOD = {"images": [], "text": "a", "messages": messages(("red?", "no"))}
BAD = {
    "no messages": ({"images": [], "text": "a"}, "take turns"),
    "two questions": ({**GOOD, "messages": GOOD["messages"][:1] * 2 + GOOD["messages"][1:]}, "take turns"),
    "ends with a question": ({**GOOD, "messages": GOOD["messages"] + GOOD["messages"][:1]}, "take turns"),
    "a message is a string": ({**GOOD, "messages": ["red?", "no"]}, "take turns"),
    "blank answer": ({**GOOD, "messages": messages(("red?", " "))}, "without text"),
    "corrupt image": ({**GOOD, "images": [b"no image"]}, "cannot decode"),
    "missing image": ({**GOOD, "images": [None]}, r"images \[0\] of 1 are missing"),
    "missing file": ({**GOOD, "images": ["no/such/file.png"]}, "cannot decode"),
    "image not in a list": ({**GOOD, "images": np.zeros((28, 28, 3), np.uint8).tobytes()}, "must be lists"),
    "nothing to compress": ({**GOOD, "text": None}, "neither"),
    "nothing but blanks": ({**GOOD, "text": "  "}, "it is empty"),
    "image token in the dialogue": ({**GOOD, "messages": messages(("<|image_pad|>", "no"))}, "Dialogues are text"),
}


@pytest.mark.parametrize("bad, reason", BAD.values(), ids=BAD)
def test_a_bad_row_raises_with_its_number_in_the_data_set(processor, bad, reason):
    rows = NumberedRows([GOOD] * 4 + [bad] + [GOOD] * 3)
    with pytest.raises(ValueError, match=f"^Row 4 of the data set is bad: .*{reason}"):
        ComaCompressionCollator(processor)(rows.__getitems__([2, 4, 5]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_rows_are_skipped_and_counted_over_workers(processor, num_workers, caplog):
    rows = [copy.copy(GOOD) for _ in range(12)]
    for place in (1, 6, 7):
        rows[place]["images"] = [b"no image"]
    collator = ComaCompressionCollator(processor, on_bad_row="skip")
    loader = DataLoader(NumberedRows(rows), 4, collate_fn=collator, num_workers=num_workers)
    assert [len(batch["labels"]) for batch in loader] == [3, 2, 4]
    assert collator.bad_rows.skipped == 3


def test_a_batch_of_bad_rows_only_weighs_nothing(processor):
    bad = {**GOOD, "images": [b"no image"]}
    collator = ComaCompressionCollator(processor, on_bad_row="skip")
    batch = collator([bad, bad])
    assert (batch["labels"] == -100).all() and len(batch["input_ids"]) == len(batch["labels"]) == 1
    assert collator.bad_rows.skipped == 2 and "column images[0]: found 8 bytes" in collator.bad_rows.reasons[0]
    with pytest.raises(ValueError, match="on_bad_row='ignore' does not exist"):
        ComaCompressionCollator(processor, on_bad_row="ignore")


def test_a_process_without_rows_has_a_batch_that_weighs_nothing(processor):
    """Of five rows in batches of one, two processes cannot have equally many."""
    sampler = LengthGroupedBatches([1] * 5, batch_size=1, num_processes=2)
    collator = ComaCompressionCollator(processor)
    loader = DataLoader(NumberedRows(Dataset.from_list([GOOD] * 5)), batch_sampler=sampler, collate_fn=collator)
    answers = [int((batch["labels"] != -100).sum()) for batch in loader]
    assert len(answers) == 6 and sorted(map(bool, answers)) == [False, *[True] * 5]
