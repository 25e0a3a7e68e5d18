"""Compression tokens have rows in every table that is indexed by token ids, and the configuration knows of them."""

import copy
import functools

import pytest
import torch

from modeling_coma import ComaForEmbedding
from tests.trainers.families import FAMILIES, VOCAB_SIZE, make_family, wrap
from trainers.token_rows import make_rows, token_tables


NEW = list(range(VOCAB_SIZE, VOCAB_SIZE + 4))
family = pytest.mark.parametrize("name", FAMILIES)
backbone_of = functools.cache(make_family)


def test_a_table_per_layer_is_one_and_tables_of_the_tower_are_none():
    for name in FAMILIES:
        ends = ["embed_tokens", "embed_tokens_per_layer"][: 2 if name == "gemma4" else 1]
        assert [table.rpartition(".")[2] for table in token_tables(backbone_of(name))] == ends
    backbone = make_family("llava")
    positions = backbone.get_encoder("image").embeddings.position_embedding
    backbone.config.text_config.vocab_size = positions.num_embeddings
    assert token_tables(backbone) == ["model.language_model.embed_tokens"]


@family
def test_all_tables_grow_and_a_saved_model_has_the_rows(name, tmp_path):
    stock = backbone_of(name)
    backbone = copy.deepcopy(stock)
    make_rows(backbone, VOCAB_SIZE, VOCAB_SIZE + 4)
    model = wrap(backbone, NEW)
    model.save_pretrained(tmp_path)
    again = ComaForEmbedding.from_pretrained(tmp_path)
    tied = stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    for made in (model, again):
        assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) is tied
        assert len(made.get_output_embeddings().weight) == VOCAB_SIZE + 4
        assert made.config.get_text_config().vocab_size == VOCAB_SIZE + 4
        assert getattr(made.config.backbone_config, "vocab_size", VOCAB_SIZE + 4) == VOCAB_SIZE + 4
        for table in token_tables(made.backbone):
            weight, before = made.backbone.get_submodule(table).weight, stock.get_submodule(table).weight
            assert len(weight) == VOCAB_SIZE + 4 and torch.equal(weight[:VOCAB_SIZE], before)
            assert torch.equal(weight, model.backbone.get_submodule(table).weight)
    ids = torch.tensor([[5, 6, *NEW]])
    # Copied, since where the weights of experts lie in memory, those of a file for instance, tells in the last digit.
    models = [copy.deepcopy(made).eval() for made in (model, again)]
    states = [made.backbone.model(input_ids=ids).last_hidden_state for made in models]
    assert torch.equal(*states) and states[0].isfinite().all()


@family
def test_rows_have_the_mean_and_the_deviation_of_the_others(name):
    backbone = copy.deepcopy(backbone_of(name))
    tables = token_tables(backbone)
    with torch.no_grad():
        for table in tables:
            backbone.get_submodule(table).weight[:, 0] += 5.0
            backbone.get_submodule(table).weight[:, 1] *= 10.0
    known = {table: backbone.get_submodule(table).weight.detach().clone() for table in tables}
    make_rows(backbone, VOCAB_SIZE, VOCAB_SIZE + 256)
    for table in tables:
        drawn = backbone.get_submodule(table).weight[VOCAB_SIZE:]
        torch.testing.assert_close(drawn.std(dim=0), known[table].std(dim=0), rtol=0.25, atol=0.0)
        errors = (drawn.mean(dim=0) - known[table].mean(dim=0)).abs() / known[table].std(dim=0)
        assert errors.max() < 0.3


@pytest.mark.parametrize("name", ["llava", "gemma4"])
def test_spare_rows_are_taken_and_what_is_in_them_does_not_matter(name):
    used, drawn = VOCAB_SIZE - 6, []
    for content in (0.0, 1000.0):
        backbone = make_family(name)
        weights = [backbone.get_submodule(table).weight for table in token_tables(backbone)]
        with torch.no_grad():
            for weight in weights:
                weight[used:] = content
        make_rows(backbone, used, used + 4)
        for table, weight in zip(token_tables(backbone), weights, strict=True):
            assert backbone.get_submodule(table).weight is weight
        assert all((weight[used + 4 :] == content).all() for weight in weights)  # those of no token are left alone
        drawn.append([weight[used : used + 4].clone() for weight in weights])
    assert all(torch.equal(a, b) and a.abs().max() < 100 for a, b in zip(*drawn, strict=True))


def test_known_tokens_keep_everything():
    backbone, stock = make_family("gemma4"), backbone_of("gemma4")
    make_rows(backbone, VOCAB_SIZE, VOCAB_SIZE)
    assert all(torch.equal(weight, stock.get_parameter(name)) for name, weight in backbone.named_parameters())


def test_tables_of_several_lengths_are_refused(monkeypatch):
    """Of a table that ends before the vocabulary, a token at the end of it would have no row of its own."""
    per_layer = {**FAMILIES["gemma4"]["text_config"], "vocab_size_per_layer_input": VOCAB_SIZE - 10}
    monkeypatch.setitem(FAMILIES, "gemma4", {**FAMILIES["gemma4"], "text_config": per_layer})
    message = rf"embed_tokens_per_layer has {VOCAB_SIZE - 10} rows and cannot grow with the vocabulary to {VOCAB_SIZE}"
    with pytest.raises(ValueError, match=message):
        make_rows(make_family("gemma4"), VOCAB_SIZE - 4, VOCAB_SIZE)
    with pytest.raises(ValueError, match="tokenizer whose spare tokens have rows in all"):
        make_rows(make_family("gemma4"), VOCAB_SIZE, VOCAB_SIZE + 4)
    make_rows(make_family("gemma4"), VOCAB_SIZE - 20, VOCAB_SIZE - 10)
