"""Stage 2, and embedding many items, with every family: images are packed, cached and counted whatever they become."""

import pytest
import torch

from modeling_coma import processing_coma
from tests.families.folders import FAMILIES, STRANGERS
from trainers.compression.collator import ComaCompressionCollator
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.grad_cache import plan_mini_batches
from trainers.contrastive.targets import PairIds
from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.data.pixel_cache import CachingProcessor
from trainers.encoding.encode import embed_items
from trainers.encoding.tokenize import token_lengths
from trainers.vision_side import is_part_of, vision_parts


EVERY = [*FAMILIES, *STRANGERS]
LINEAR_ATTENTION = ("qwen3_5", "minicpmv4_6")  # it is summed in chunks, whose borders padding moves
every_family = pytest.mark.parametrize("family", EVERY)


@pytest.fixture(scope="session")
def items(picture):
    """A text, an image, two images, and images with a text, of sizes that make other numbers of tiles."""
    wide, high, square, small = picture(90, 30, 1), picture(40, 80, 2), picture(64, 64, 3), picture(28, 28, 4)
    return [
        {"text": "a red apple on a green tree", "image": None},
        {"text": None, "image": wide},
        {"text": None, "image": [small, high]},
        {"text": "what is this?", "image": high},
        {"text": "an apple and a leaf", "image": [square, wide]},
        {"text": "it", "image": None},
    ]


@pytest.fixture
def rows(items):
    """Every item is a query or a document, one of them both."""
    text, wide, two, both, several, word = items
    return [
        {"query": text, "positive": wide, "negatives": [word]},
        {"query": two, "positive": both},
        {"query": several, "positive": text},
    ]


@pytest.fixture
def trainer_of(tmp_path):
    """`trainer_of((model, processor), rows, **settings)`: a trainer whose mini-batches are as small as can be."""

    def make(coma, rows, **settings):
        options = {"output_dir": tmp_path, "report_to": "none", "use_cpu": True, "temperature": 0.1, **settings}
        trainer = ComaContrastiveTrainer(coma[0], ComaContrastiveConfig(**options), processing_class=coma[1])
        batch = trainer.data_collator(rows)
        trainer.args.mini_batch_tokens = int(batch["inputs"].lengths.max())
        return trainer, batch

    return make


def given(items):
    return [{name: value for name, value in item.items() if value is not None} for item in items]


def plain(trainer, batch, mini_batches):
    """Embeddings by plain autograd, of pixels, and the loss of them."""
    packed, pad = batch["inputs"], trainer.processing_class.tokenizer.pad_token_id
    parts = [trainer.model(**packed.batch(rows, pad)).embeddings[:, None] for rows in mini_batches]
    embeddings = torch.cat(parts)[torch.cat(mini_batches).argsort()]
    loss = trainer._loss_of_batch(embeddings[batch["queries"]], embeddings[batch["documents"]], PairIds.of(batch)).loss
    return embeddings, loss


def gradients(loss, model):
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def assert_same(found, expected, tolerance):
    """As vectors of all parameters together."""
    assert found.keys() == expected.keys()
    found, expected = (torch.cat([one[name].flatten() for name in sorted(one)]) for one in (found, expected))
    assert expected.norm() > 0.1
    assert (found - expected).norm() < tolerance * expected.norm()


@every_family
@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_cached_features_and_gradients_are_those_of_pixels_and_of_one_batch(
    family, vision, family_coma, trainer_of, rows, monkeypatch
):
    coma = family_coma(family)
    trainer, batch = trainer_of(coma, rows, freeze_vision=vision == "frozen")
    model, packed = trainer.model.train(), batch["inputs"]
    assert packed.images_per_row.tolist() == [0, 2, 2, 1, 1, 0]
    budget = trainer.args.mini_batch_tokens
    mini_batches, everything = plan_mini_batches(packed.lengths, budget), plan_mini_batches(packed.lengths, 10**6)
    assert len(mini_batches) > 2 and len(everything) == 1
    expected, loss = plain(trainer, batch, mini_batches)
    expected_gradients = gradients(loss, model)
    at_once = gradients(plain(trainer, batch, everything)[1], model)

    calls, encode = [], model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda *pixels, **others: calls.append(1) or encode(*pixels, **others))
    found = trainer._embed(model, packed)
    assert (found - expected).abs().max() < 1e-6
    assert 0 < len(calls) <= 4 or vision == "trained"
    found = gradients(trainer.compute_loss(model, batch), model)
    assert_same(found, expected_gradients, 1e-5)
    assert_same(found, at_once, 1e-3 if family in LINEAR_ATTENTION else 1e-4)
    assert any(is_part_of(name, vision_parts(model)) for name in found) == (vision == "trained")


@every_family
def test_embedding_many_is_embedding_each(family, family_coma, items):
    model, processor = family_coma(family)
    with torch.no_grad():
        expected = torch.cat([model(**processor.process([item])).embeddings for item in given(items)])
    tolerance = 1e-4 if family in LINEAR_ATTENTION else 1e-5
    for batch_tokens in (100, 10000):
        found = embed_items(model, processor, given(items), batch_tokens=batch_tokens)
        assert (found - expected).abs().max() < tolerance


def test_the_processor_of_the_backbone_is_made_once(family_coma, items, monkeypatch):
    model, processor = family_coma("smolvlm")
    vars(processor).pop("stock", None)
    made, make = [], processing_coma.make_stock_processor
    monkeypatch.setattr(processing_coma, "make_stock_processor", lambda *given: made.append(given) or make(*given))
    embed_items(model, processor, given(items), batch_tokens=50)
    assert len(made) == 1


@every_family
def test_lengths_that_are_counted_are_those_of_the_tensors(family, family_coma, items):
    _, processor = family_coma(family)
    lengths = token_lengths(processor, given(items))
    expected = processor.process(given(items))["attention_mask"].sum(dim=1).numpy()
    # One says how many tokens an image has as if those of its tiles were in the vocabulary.
    slack = [0, 8, 16, 8, 16, 0] if family == "aya_vision" else [0] * 6
    assert (abs(lengths - expected) <= slack).all(), (lengths, expected)


def test_images_of_about_one_size_are_made_once_to_count_their_tokens(family_coma, picture, monkeypatch):
    _, processor = family_coma("smolvlm")
    made, process_images = [], processor.process_images
    monkeypatch.setattr(processor, "process_images", lambda *given: made.append(given) or process_images(*given))
    lengths = token_lengths(
        processor, [picture(1000 + width, 40 + height) for width in (0, 1, 2) for height in (0, 1)]
    )
    assert len(made) == 2 and len(set(lengths[::2])) == 1


def test_a_batch_of_stage_one_says_how_many_images_it_has(family_coma, items):
    """And not how many tiles."""
    _, processor = family_coma("internvl")
    answer = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "it"}]
    images = [item["image"] if isinstance(item["image"], list) else [item["image"]] for item in items[1:5]]
    rows = [{"images": of_row, "text": None, "messages": answer} for of_row in images]
    collator = ComaCompressionCollator(processor)
    counted, batch = collator.counting_images()(rows), collator(rows)
    assert counted.pop("num_images") == 6 < len(batch["pixel_values"])
    assert counted.keys() == batch.keys()


@every_family
def test_a_caching_processor_is_the_processor(family, family_coma, items):
    _, processor = family_coma(family)
    caching = CachingProcessor.of(processor)
    for some in (given(items), given(items)[::-1], given(items)[2:4]):
        expected, found = processor.process(some), caching.process(some)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(caching.pixels) == 4
