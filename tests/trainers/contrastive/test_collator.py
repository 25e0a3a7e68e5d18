"""Rows to a packed batch: what its docstring says, equal inputs once, instructions, relations, bad rows."""

import random
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from modeling_coma import ComaProcessor
from trainers.contrastive.collator import ComaContrastiveCollator
from trainers.contrastive.targets import ContrastiveTargets, PairIds
from trainers.data.rows import NumberedRows


@pytest.fixture
def processor(make_coma: Callable) -> ComaProcessor:
    return make_coma()[1]


def text(content: str) -> dict[str, Any]:
    return {"text": content, "image": None}


def row(query: str, positive: str, negatives: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"query": text(query), "positive": text(positive), "negatives": [text(one) for one in negatives], **more}


def targets_of(batch: dict, same_source_negatives: bool = False) -> ContrastiveTargets:
    return PairIds.of(batch).targets(same_source_negatives)


def negatives_of(batch: dict, same_source_negatives: bool = False) -> list[list[int]]:
    """For every query, the documents that are its negatives."""
    masks = targets_of(batch, same_source_negatives).masks(slice(None))
    return [mask.nonzero()[:, 0].tolist() for mask in masks.negative]


def decoded(processor: ComaProcessor, batch: dict) -> list[str]:
    rows = batch["inputs"].input_ids.split(batch["inputs"].lengths.tolist())
    return [processor.tokenizer.decode(ids[: -processor.num_compression_tokens]) for ids in rows]


def test_the_example_of_the_documentation(processor: ComaProcessor, picture: Callable) -> None:
    cat, dog = picture(28, 28, 1), picture(56, 28, 2)
    rows = [
        {"query": {"image": cat}, "positive": {"text": "cat"}, "negatives": [{"text": "dog"}]},
        {"query": {"image": dog}, "positive": {"text": "dog"}, "negatives": []},
    ]
    batch = ComaContrastiveCollator(processor)(rows)
    image = "<|vision_start|>{}<|vision_end|>"
    pictures = [image.format("<|image_pad|>" * tokens) for tokens in (1, 2)]
    assert decoded(processor, batch) == [*pictures, "cat", "dog"]
    assert batch["queries"].tolist() == [0, 1]
    assert batch["documents"].tolist() == [2, 3, 3]
    assert batch["owners"].tolist() == [0, 1, 0]
    assert batch["sources"].tolist() == batch["groups"].tolist() == [-1, -1]
    assert not batch["restricted"].any() and len(set(batch["document_keys"].tolist())) == 2
    assert len(set(batch["query_keys"].tolist()) | set(batch["document_keys"].tolist())) == 4
    images, expected = batch["inputs"].images.tensors, processor.process([cat, dog])
    assert all(torch.equal(images[name], expected[name]) for name in processor.image_inputs)


def test_equal_pictures_are_one_input_in_whatever_form(processor: ComaProcessor, picture: Callable) -> None:
    image = picture(56, 56, 1)
    rows = [{"query": {"image": image}, "positive": {"image": image.copy()}}, row("a", "b")]
    rows += [{"query": {"image": [image, image], "text": "b"}, "positive": {"text": "b"}}]
    batch = ComaContrastiveCollator(processor)(rows)
    assert len(batch["inputs"].lengths) == 4 and batch["inputs"].images_per_row.tolist() == [1, 0, 2, 0]


def test_instructions_are_those_of_the_source_and_of_queries_only(processor: ComaProcessor) -> None:
    collator = ComaContrastiveCollator(processor, instructions={"a": "Find it.", "b": "What?"})
    rows = [row("x", "y", source="a"), row("x", "y", source="b"), row("x", "y", source="c"), row("x", "x")]
    batch = collator(rows)
    found = decoded(processor, batch)
    queries = [found[number] for number in batch["queries"]]
    assert queries == ["Find it.\nx", "What?\nx", "x", "x"]
    assert [found[number] for number in batch["documents"]] == ["y", "y", "y", "x"]
    # Other instructions, other embeddings; but what a query asks about is the same.
    assert len(batch["inputs"].lengths) == 4 and len(set(batch["query_keys"].tolist())) == 1
    assert len(set(batch["asked_keys"].tolist())) == 3
    assert negatives_of(batch) == [[], [], [], []]  # the last two are one query with two answers


def test_equal_content_is_no_negative(processor: ComaProcessor) -> None:
    rows = [row("a", "A", ("B", "a", "c")), row("b", "B"), row("c", "A")]
    # Documents: A B A B a c. Not their own positive or one equal to it, nor what equals the query.
    assert negatives_of(ComaContrastiveCollator(processor)(rows)) == [[1, 3, 5], [0, 2, 4, 5], [1, 3, 4]]


def test_another_instruction_asks_something_else(processor: ComaProcessor) -> None:
    rows = [row("x", "A", source="a"), row("x", "B", source="b"), row("x", "C", source="a"), row("y", "D")]
    batch = ComaContrastiveCollator(processor, instructions={"a": "Find it.", "b": "What?"})(rows)
    assert negatives_of(batch) == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    masks = targets_of(batch).masks(slice(None))
    assert masks.positive[0].tolist() == masks.positive[2].tolist() == [True, False, True, False]


def relations_by_hand(rows: list[dict], instructions: dict[str, str], same_source: bool, own_only: str) -> dict:
    """Row by row, document by document, in words; what the masks say of queries and documents."""

    def asks(one: dict) -> tuple:
        return instructions.get(one["source"]), one["query"]["text"]

    documents = [(number, one["positive"]["text"], True) for number, one in enumerate(rows)]
    documents += [(number, item["text"], False) for number, one in enumerate(rows) for item in one["negatives"]]
    found = {"positive": [], "negative": []}
    for number, one in enumerate(rows):
        equal = [other for other in rows if asks(other) == asks(one)]
        groups = {other["group"] for other in equal if other["group"]}
        answering = [n for n, other in enumerate(rows) if asks(other) == asks(one) or other["group"] in groups]
        answers = {rows[n]["positive"]["text"] for n in answering} | {one["query"]["text"]}
        positive = [is_positive and owner in answering for owner, _, is_positive in documents]
        negative = [words not in answers for _, words, _ in documents]
        for place, (owner, _, _) in enumerate(documents):
            sources = {one["source"], rows[owner]["source"]}
            if same_source and None not in sources and len(sources) > 1:
                negative[place] = False
            if one["source"] == own_only and owner != number:
                negative[place] = False
        found["positive"].append(positive)
        found["negative"].append(negative)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_relations_are_those_of_an_oracle(processor: ComaProcessor, seed: int) -> None:
    """Equal queries and documents, groups that overlap with them, instructions, sources; in both directions."""
    dice = random.Random(seed)
    words = [f"w{n}" for n in range(dice.choice([3, 8]))]
    rows = [
        row(
            dice.choice(words),
            dice.choice(words),
            tuple(dice.choices(words, k=dice.choice([0, 0, 2]))),
            source=dice.choice([None, "a", "b", "c"]),
            group=dice.choice([None, None, "1", words[0]]),  # a group is no query, whatever it is called
        )
        for _ in range(dice.randint(1, 12))
    ]
    instructions = dice.choice([{}, {"a": "Find it.", "b": "Find it."}, {"a": "Find it.", "b": "What?"}])
    same_source, own_only = dice.random() < 0.3, dice.choice(["c", "none"])
    batch = ComaContrastiveCollator(processor, instructions=instructions, own_negatives_only=[own_only])(rows)
    targets = targets_of(batch, same_source)
    expected = relations_by_hand(rows, instructions, same_source, own_only)
    masks, transposed = (side.masks(slice(None)) for side in (targets, targets.transposed()))
    for name, relation in expected.items():
        assert getattr(masks, name).tolist() == relation, name
        assert getattr(transposed, name).T.tolist() == relation, name
    for start in range(0, len(rows), 5):  # block by block as at once
        block = targets.masks(slice(start, start + 5))
        assert block.negative.tolist() == expected["negative"][start : start + 5]


def test_a_group_has_several_positives(processor: ComaProcessor) -> None:
    batch = ComaContrastiveCollator(processor)([row("a", "A", group="1"), row("b", "B"), row("c", "C", group="1")])
    positive = targets_of(batch).masks(slice(None)).positive
    assert positive.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert negatives_of(batch) == [[1], [0, 2], [1]]


def test_restricted_rows_have_no_negatives_but_their_own(processor: ComaProcessor) -> None:
    rows = [row("a", "A", ("X", "Y"), source="classes"), row("b", "B", ("Z",)), row("c", "C", source="classes")]
    batch = ComaContrastiveCollator(processor, own_negatives_only=["classes"])(rows)  # A B C X Y Z
    assert negatives_of(batch) == [[3, 4], [0, 2, 3, 4, 5], []]
    # In the other direction the documents keep to the rows that are not restricted.
    transposed = targets_of(batch).transposed().masks(slice(None)).negative
    assert transposed[:3].int().tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_negatives_of_the_same_source(processor: ComaProcessor) -> None:
    rows = [row("a", "A", ("X",), source="1"), row("b", "B", source="2"), row("c", "C", source="1"), row("d", "D")]
    batch = ComaContrastiveCollator(processor)(rows)  # A B C D X
    assert negatives_of(batch, same_source_negatives=True) == [[2, 3, 4], [3], [0, 3, 4], [0, 1, 2, 4]]


def test_rows_of_a_dataset_are_those_of_a_list(processor: ComaProcessor, contrastive_rows: Callable) -> None:
    item = {"text": Value("string"), "image": Image()}
    features = Features({"query": item, "positive": item, "negatives": [item], "source": Value("string")})
    rows = contrastive_rows("mixed", 5)
    expected = ComaContrastiveCollator(processor)(rows)
    numbered = NumberedRows(Dataset.from_list(rows, features=features))
    stored = numbered[0]["positive"]["image"] or numbered[1]["positive"]["image"]
    assert set(stored) == {"bytes", "path"}  # decoded by the processor, if at all
    found = ComaContrastiveCollator(processor)(numbered.__getitems__(range(5)))
    for name in ("queries", "documents", "owners", "sources"):
        assert torch.equal(found[name], expected[name])
    assert torch.equal(found["inputs"].input_ids, expected["inputs"].input_ids)
    images = found["inputs"].images.tensors, expected["inputs"].images.tensors
    assert images[0].keys() == images[1].keys() and all(
        torch.equal(images[0][name], images[1][name]) for name in images[0]
    )


BAD = [
    ({"query": {"text": None, "image": None}}, "query is empty"),
    ({"positive": {"text": "  "}}, "positive is empty"),
    ({"negatives": [{"text": "a"}, {}]}, "negative 1 is empty"),
    ({"query": "a"}, "query must be"),
    ({"query": {"image": b"no image"}}, "cannot decode"),
    ({"positive": {"sound": 1}}, "positive must be"),
    ({"positive": {"video": 1}}, "cannot decode the video int 1: a video is the path"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_row_is_named_or_skipped(processor: ComaProcessor, bad: dict, message: str) -> None:
    rows = [{**row(f"q{n}", f"d{n}", ("n",)), "row": 100 + n} for n in range(4)]
    rows[2] |= bad
    with pytest.raises(ValueError, match=f"Row 102 of the data set is bad: .*{message}"):
        ComaContrastiveCollator(processor)(rows)
    collator = ComaContrastiveCollator(processor, on_bad_row="skip")
    batch = collator(rows)
    assert collator.bad_rows.skipped == 1 and len(batch["queries"]) == 3
    assert decoded(processor, batch) == decoded(processor, collator([rows[0], rows[1], rows[3]]))
    nothing = collator([rows[2]])  # a batch that weighs nothing
    assert [len(nothing[name]) for name in ("queries", "documents", "owners", "asked_keys", "restricted")] == [0] * 5
    assert nothing["owners"].dtype == torch.long and len(nothing["inputs"].lengths) == 1
    assert collator.bad_rows.skipped == 2 and set(collator.bad_rows.reasons) == {102}


def test_a_picture_and_a_limit(processor: ComaProcessor, picture: Callable) -> None:
    buffer = BytesIO()
    picture(56, 56).save(buffer, "PNG")
    rows = [{"query": {"image": buffer.getvalue(), "text": "an apple " * 20}, "positive": {"text": "a"}}]
    batch = ComaContrastiveCollator(processor, max_length=20)(rows)
    assert batch["inputs"].lengths.max() == 20
    with pytest.raises(ValueError, match="Row 0 of the data set is bad: .*max_length is 7"):
        ComaContrastiveCollator(processor, max_length=7)(rows)
