"""The size of batches is the fastest that fits, found on rows that are embedded anyway."""

from collections.abc import Callable

import pytest
import torch

import trainers.encoding.batch_size
from trainers.encoding.batch_size import SIZES, BatchSize
from trainers.encoding.encode import embed_items
from trainers.encoding.encoder import Encoder
from trainers.encoding.tokenize import TokenizedRow


def find(coma: tuple, monkeypatch: pytest.MonkeyPatch, rates: dict, number: int = 900, fits: int = 10**6) -> tuple:
    """What is chosen and left, on a device that does so many tokens a second in batches of each size."""
    clock, sizes = [0.0], []
    monkeypatch.setattr(trainers.encoding.batch_size.time, "perf_counter", lambda: clock[0])
    rows = [TokenizedRow(place, 100) for place in range(number)]
    embedded = []

    def embed(batch: list[TokenizedRow]) -> list[TokenizedRow]:
        tokens = sum(row.length for row in batch)
        if tokens > fits:
            raise torch.OutOfMemoryError
        size = next(size for size in SIZES if tokens <= size)
        clock[0] += tokens / rates.get(size, 1)
        sizes.append(size)
        return batch

    size = BatchSize(*coma)
    for batch in size.find(rows, list, embed):
        embedded += batch
    assert sorted(row.place for row in [*embedded, *rows]) == list(range(number))  # each once
    return size.tokens, sizes


@pytest.mark.parametrize(
    ("rates", "fits", "chosen", "tried"),
    [
        ({1024: 5, 4096: 10, 16384: 20}, 10**6, 16384, 16384),
        ({1024: 5, 4096: 10, 16384: 10.2}, 10**6, 4096, 16384),  # not worth its memory
        ({1024: 5, 4096: 4, 16384: 20}, 10**6, 1024, 4096),
        ({1024: 5, 4096: 10, 16384: 20}, 5000, 4096, 4096),
        ({1024: 5, 4096: 10, 16384: 20}, 2000, 1024, 1024),
    ],
)
def test_the_fastest_that_fits(
    make_coma: Callable, monkeypatch: pytest.MonkeyPatch, rates: dict, fits: int, chosen: int, tried: int
) -> None:
    assert find(make_coma(), monkeypatch, rates, fits=fits)[0] == chosen
    assert max(find(make_coma(), monkeypatch, rates, fits=fits)[1]) == tried


def test_few_rows_decide_nothing(make_coma: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(make_coma(), monkeypatch, {}, number=20)[0] is None


def test_trials_are_rows_of_the_corpus(make_coma: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is computed once, and the size is looked for once, however often items come."""
    coma = make_coma()
    texts = [f"{'a little ' * (place % 5)}apple {place}" for place in range(60)]
    expected = embed_items(*coma, texts, batch_tokens=1)
    monkeypatch.setattr(trainers.encoding.batch_size, "SIZES", (40, 160))
    monkeypatch.setattr(trainers.encoding.batch_size, "LEAST_TOKENS", 100)
    computed = []
    forward = coma[0].forward
    monkeypatch.setattr(coma[0], "forward", lambda **inputs: computed.append(inputs["input_ids"]) or forward(**inputs))
    encoder, looked = Encoder(*coma), []
    tries = encoder.batch_size.find
    monkeypatch.setattr(encoder.batch_size, "find", lambda *given: looked.append(1) or tries(*given))
    for _ in range(2):
        found = torch.empty_like(expected)
        for batch in encoder.batches(texts):
            found[batch.rows] = batch.embeddings
        assert (found - expected).abs().max() < 1e-6
        assert encoder.batch_size.tokens in (40, 160)
    assert looked == [1] and sum(map(len, computed)) == 2 * len(texts)
