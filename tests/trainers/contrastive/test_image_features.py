"""Features of some images are those that the tower would have made of these alone, in whatever form it gives them."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from trainers.contrastive.image_features import encode_visuals, select_visuals
from trainers.contrastive.packing import PackedImages, PackedInputs


IMAGE, BREAK = 7, 8
TOKENS = [3, 1, 4, 2]  # of each image


@dataclass
class Output(ModelOutput):
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | list[torch.Tensor] | None = None
    deepstack_features: list | None = None
    table: torch.Tensor | None = None


def one_tensor(vectors):
    return torch.cat(vectors)


def one_of_tiles(vectors):
    return torch.cat(vectors)[None]


def a_list(vectors):
    return [*vectors]


def a_list_of_halves(vectors):
    return [half for one in vectors for half in (one[:1], one[1:])]


FORMS = [one_tensor, one_of_tiles, a_list, a_list_of_halves]


def tower(form, seen):
    """A model whose image `n` has features (n, 0), (n, 1) … and, of its layers, 10 and 100 times as much."""

    def encode(pixel_values, sizes):
        seen.append(pixel_values.shape[1])
        numbers = [int(number) for number in sizes[:, 0]]
        assert pixel_values[0].tolist() == [number for number in numbers for _ in range(number + 1)]
        features = [torch.tensor([[number, token] for token in range(TOKENS[number])]) for number in numbers]
        layers = [form([factor * one for one in features]) for factor in (10, 100)]
        layers = [(3, layers[0]), layers[1]]  # with the number of a layer, and without
        hidden, table = torch.zeros(1000), torch.tensor([[1, 2]])
        return {"image": Output(hidden, form(features), layers, table)}

    config = SimpleNamespace(backbone_config=SimpleNamespace(image_token_id=IMAGE))
    return SimpleNamespace(encode_images=encode, config=config)


@pytest.fixture
def packed():
    """Image `n` has n + 1 columns of pixels, and a break after each of its tokens."""
    images = [
        {
            "input_ids": np.array([IMAGE, BREAK] * tokens),
            "pixel_values": np.full((1, number + 1), number),
            "sizes": np.array([[number, 0]]),
        }
        for number, tokens in enumerate(TOKENS)
    ]
    images = PackedImages.of(images, {"pixel_values": 1, "sizes": 0})
    return PackedInputs(torch.tensor([1]), torch.tensor([1]), torch.tensor([4]), torch.tensor([0]), images)


def flat(features):
    parts = [features] if isinstance(features, torch.Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts]).tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_tokens", [1, 5, 100])
def test_any_images_have_their_own_features(form, max_tokens, packed):
    seen = []
    features = encode_visuals(tower(form, seen), packed, max_tokens)
    assert seen == {1: [1, 2, 3, 4], 5: [3, 3, 4], 100: [10]}[max_tokens]
    for numbers in ([0], [3, 1], [2, 2, 0], [0, 1, 2, 3]):
        found = features["image"].select(torch.tensor(numbers))
        expected = [[number, token] for number in numbers for token in range(TOKENS[number])]
        assert flat(found.pooler_output) == expected
        assert isinstance(found.pooler_output, torch.Tensor) == isinstance(form([torch.zeros(2, 2)]), torch.Tensor)
        (layer, first), second = found.deepstack_features
        assert layer == 3 and flat(first) == [[10 * x, 10 * y] for x, y in expected]
        assert flat(second) == [[100 * x, 100 * y] for x, y in expected]
        assert found.table.tolist() == [[1, 2]] and found.last_hidden_state is None
        assert "last_hidden_state" not in found.keys()
    assert select_visuals(features, packed, torch.tensor([], dtype=torch.long)) == {}


def test_features_are_counted_by_the_tokens_of_the_model(packed):
    assert packed.images.num_features(IMAGE).tolist() == TOKENS
    assert packed.images.num_features(5).tolist() == [0] * 4


def test_other_numbers_of_features_than_of_tokens_are_refused(packed):
    model = tower(one_tensor, [])
    model.config.backbone_config.image_token_id = BREAK + 1
    with pytest.raises(ValueError, match="gives 10 features for 0 image tokens: use the processor"):
        encode_visuals(model, packed, 100)


def test_only_what_is_asked_for_is_taken(packed):
    taken = packed.images.select(torch.tensor([2, 0]), torch.device("cpu"), {"sizes", "input_ids", "other"})
    assert {name: tensor.tolist() for name, tensor in taken.items()} == {"sizes": [[2, 0], [0, 0]]}
