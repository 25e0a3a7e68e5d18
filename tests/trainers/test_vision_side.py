"""What is vision and what is its merger, of any family; the same is frozen with an adapter and without."""

import pytest

from tests.trainers.families import FAMILIES, make_family, wrap
from trainers.adapters import add_adapter, freeze_vision_of_adapter, lora_config
from trainers.vision_side import freeze_vision, merger_parts, vision_is_frozen, vision_parts


MERGERS = {
    "llava": ["multi_modal_projector"],
    "llava_next": ["multi_modal_projector", "image_newline"],
    "llava_onevision": ["multi_modal_projector", "image_newline"],
    "gemma3": ["multi_modal_projector"],
    "gemma4": ["embed_vision"],
    "qwen3_vl_moe": ["visual.merger"],
    "qwen3_5": ["visual.merger"],
    "lfm2_vl": ["multi_modal_projector"],
    "ovis2": ["visual_embeddings_table"],
}
family = pytest.mark.parametrize("name", FAMILIES)


def trained(model) -> set[str]:
    """Names of what requires gradients, without those that an adapter puts around them."""
    names = (name for name, weight in model.named_parameters() if weight.requires_grad)
    return {name.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for name in names}


def below(names, parts) -> set[str]:
    return {name for name in names for part in parts if name == part or name.startswith(f"{part}.")}


@family
def test_all_but_the_language_model_is_frozen_and_the_merger_if_wanted(name):
    model = wrap(make_family(name), [5])
    assert merger_parts(model) == [f"backbone.model.{part}" for part in MERGERS[name]]
    assert not vision_is_frozen(model)
    names = {name for name, _ in model.named_parameters()}
    language = {name for name in names if ".language_model." in name or "lm_head" in name}
    assert below(names, vision_parts(model)) == names - language
    freeze_vision(model)
    assert trained(model) == language and vision_is_frozen(model)
    freeze_vision(model, train_merger=True)
    assert trained(model) == language | below(names, merger_parts(model)) != language
    assert not vision_is_frozen(model)


@family
@pytest.mark.parametrize(
    "settings",
    [
        {"train_merger": True},
        *(pytest.param(other, marks=pytest.mark.slow) for other in ({}, {"freeze_vision": False})),
    ],
    ids=str,
)
def test_an_adapter_trains_copies_of_the_same_modules(name, settings):
    model = wrap(make_family(name), [5])
    vision = below({name for name, _ in model.named_parameters()}, vision_parts(model))
    mergers = below(vision, merger_parts(model))
    bare = {name for name, _ in model.named_parameters() if name.endswith("image_newline")}  # which PEFT cannot copy
    expected = {"train_merger": mergers - bare, "freeze_vision": vision - bare}.get(next(iter(settings), ""), set())
    adapted = add_adapter(model, lora_config(model, r=2), **settings)
    assert below(trained(adapted), vision_parts(model)) == expected
    assert vision_is_frozen(model) is not bool(expected)
    freeze_vision_of_adapter(adapted, **settings)
    assert below(trained(adapted), vision_parts(model)) == expected
    freeze_vision_of_adapter(adapted)
    assert vision_is_frozen(model) and below(trained(adapted), ["backbone.model.language_model"])


def test_of_a_copied_vision_side_the_merger_alone_can_be_trained():
    model = wrap(make_family("llava"), [5])
    mergers = below({name for name, _ in model.named_parameters()}, merger_parts(model))
    adapted = add_adapter(model, lora_config(model, r=2), freeze_vision=False)
    freeze_vision_of_adapter(adapted, train_merger=True)
    assert below(trained(adapted), vision_parts(model)) == mergers


def test_a_merger_that_does_not_exist_is_refused():
    model = wrap(make_family("qwen3_5"), [5])
    del model.backbone.model.visual.merger
    message = r"vision side of this backbone has no merger.*\(backbone\.model\.visual\): leave train_merger as it is"
    with pytest.raises(ValueError, match=message):
        freeze_vision(model, train_merger=True)
    with pytest.raises(ValueError, match=message):
        add_adapter(model, lora_config(model), train_merger=True)
    freeze_vision(model)
    assert vision_is_frozen(model)
