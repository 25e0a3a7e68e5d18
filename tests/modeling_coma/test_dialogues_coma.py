"""Stage 1: a dialogue sees the compression tokens and its own past, nothing else, whichever path computes it.

The oracle is written with loops, a row at a time: one sequence, one dense mask, positions counted by hand, and the
stock backbone run on them.
"""

import pytest
import torch
import torch.nn.functional as F

from modeling_coma import loss_coma
from tests.checkpointing import set_checkpointing


K = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
one_backbone = pytest.mark.parametrize("model_type", ["qwen2_5_vl"])  # where another would show nothing new


def rows_of(batch: dict) -> list[dict[str, torch.Tensor]]:
    """The rows of a padded batch, each without its padding."""
    rows, patches = [], 0
    grids = iter(batch["image_grid_thw"])
    merged = {"input_ids": "attention_mask", "dialogue_input_ids": "dialogue_attention_mask"}
    for index in range(len(batch["input_ids"])):
        row = {name: batch[name][index][batch[mask][index] == 1] for name, mask in merged.items()}
        row["labels"] = batch["labels"][index][batch["dialogue_attention_mask"][index] == 1]
        starts = batch["starts"][index]
        row["grids"] = [next(grids) for _ in range(starts)]
        count = sum(int(grid.prod()) for grid in row["grids"])
        row["pixels"] = batch["pixel_values"][patches : patches + count]
        patches += count
        rows.append(row)
    return rows


def count_positions(ids: list[int], grids: list, image_token: int) -> torch.Tensor:
    """Text steps all three axes; an image is a grid of merged patches that begins where the text has come to."""
    positions, place, index, grids = [], 0, 0, iter(grids)
    while index < len(ids):
        if ids[index] != image_token:
            positions.append((place, place, place))
            place, index = place + 1, index + 1
            continue
        frames, height, width = (int(side) for side in next(grids))
        for y in range(height // 2):
            for x in range(width // 2):
                positions.append((place, place + y, place + x))
        assert frames == 1
        index += height // 2 * (width // 2)
        place += max(height, width) // 2
    return torch.tensor(positions).T[:, None]  # (3, 1, length)


def oracle(model, row: dict) -> torch.Tensor:
    """Logits of the dialogue of one row, from the stock backbone under a dense mask."""
    ids = row["input_ids"].tolist() + row["dialogue_input_ids"].tolist()
    length, total = len(row["input_ids"]), len(ids)
    mask = torch.full((1, 1, total, total), torch.finfo(torch.float32).min)
    for query in range(total):
        for key in range(query + 1):
            if query < length or key >= length - K:
                mask[0, 0, query, key] = 0.0
    images = {"pixel_values": row["pixels"], "image_grid_thw": torch.stack(row["grids"])} if row["grids"] else {}
    positions = count_positions(ids, row["grids"], model.config.backbone_config.image_token_id)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": mask, "position_ids": positions, **images}
    return model.backbone(**inputs).logits[0, length:]


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    places = [place for place, label in enumerate(labels.tolist()) if label != -100]
    losses = [F.cross_entropy(logits[place - 1], labels[place]) for place in places]
    return sum(losses), len(losses)


def with_starts(model, batch: dict) -> dict:
    """Adds the number of images of each row."""
    starts = (batch["input_ids"] == model.config.backbone_config.vision_start_token_id).sum(dim=1)
    return {**batch, "starts": starts.tolist()}


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_gradients(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, f"{name} has no gradient at all"
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=2e-5 * max(scale, 1.0), rtol=1e-4, msg=name)


def test_both_passes_are_the_dense_mask_in_loss_and_every_gradient(coma, batch, run):
    model, _ = coma
    rows = rows_of(with_starts(model, batch()))
    sums, counts = zip(*(summed_loss(oracle(model, row), row["labels"]) for row in rows), strict=True)
    expected = sum(sums) / sum(counts)
    reference = gradients(model, expected)
    for side in ("left", "right"):
        for checkpointing in (False, True):
            output = run(model, batch(side), checkpointing)
            torch.testing.assert_close(output.loss, expected, **CLOSE)
            assert_same_gradients(gradients(model, output.loss), reference)


def test_dialogues_padded_on_the_left_are_the_same(coma, batch, run):
    model, _ = coma
    for checkpointing in (False, True):
        expected = run(model, batch(), checkpointing)
        other = run(model, batch("right", "left"), checkpointing)
        torch.testing.assert_close(other.loss, expected.loss, **CLOSE)
        torch.testing.assert_close(other.answer_states, expected.answer_states, **CLOSE)


@one_backbone
def test_checkpointing_takes_the_single_pass_and_only_in_training(coma, batch, monkeypatch, run):
    model, _ = coma
    passes = []
    original = type(model)._masked_pass
    monkeypatch.setattr(type(model), "_masked_pass", lambda self, *args: passes.append(1) or original(self, *args))
    run(model, batch(), checkpointing=False)
    assert not passes
    run(model, batch(), checkpointing=True)
    assert passes == [1]
    model.eval()(**batch())
    assert passes == [1]


@pytest.mark.parametrize("count", [1, 32, 256])
def test_two_passes_are_one_for_any_number_of_tokens(make_coma, mixed_inputs, mixed_dialogues, pad, count, run):
    model, processor = make_coma("qwen3_vl", count)
    dialogues = pad(processor.process_dialogues(mixed_dialogues))
    both = [run(model, {**processor.process(mixed_inputs), **dialogues}, flag) for flag in (False, True)]
    torch.testing.assert_close(both[0].loss, both[1].loss, **CLOSE)
    torch.testing.assert_close(both[0].answer_states, both[1].answer_states, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_eager_attention_is_the_same(make_coma, batch, coma, checkpointing, run):
    model, _ = coma
    losses = []
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        losses.append(run(model, batch(), checkpointing).loss)
    torch.testing.assert_close(*losses, **CLOSE)


def test_the_full_view_is_the_stock_backbone_without_the_tokens(coma, batch):
    """It counts its own positions and makes its own mask."""
    model, _ = coma
    inputs = batch()
    rows, states = rows_of(with_starts(model, inputs)), []
    for row in rows:
        ids = torch.cat([row["input_ids"][:-K], row["dialogue_input_ids"]])[None]
        images = {"pixel_values": row["pixels"], "image_grid_thw": torch.stack(row["grids"])} if row["grids"] else {}
        is_image = (ids == model.config.backbone_config.image_token_id).int()
        with torch.no_grad():
            logits = model.backbone(input_ids=ids, mm_token_type_ids=is_image, **images).logits
        states.append(logits[0, -len(row["labels"]) - 1 : -1][row["labels"] != -100])
    expected = F.cross_entropy(torch.cat(states), torch.cat([row["labels"][row["labels"] != -100] for row in rows]))
    for side in ("left", "right"):
        output = model(**batch(side), dialogue_view="full")
        torch.testing.assert_close(model.get_output_embeddings()(output.answer_states), torch.cat(states), **CLOSE)
        torch.testing.assert_close(output.loss, expected, **CLOSE)
        torch.testing.assert_close(output.embeddings, model(**batch(side)).embeddings, **CLOSE)
    assert abs(model(**inputs).loss - expected) > 1e-3  # and the compressed view is another


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_dialogue_does_not_change_the_embedding(coma, batch, checkpointing, run):
    model, _ = coma
    inputs = batch()
    output = run(model, inputs, checkpointing)
    encoder = {name: value for name, value in inputs.items() if name not in ("labels",) and "dialogue" not in name}
    expected = model.eval()(**encoder)
    torch.testing.assert_close(output.embeddings, expected.embeddings, **CLOSE)
    torch.testing.assert_close(output.compression_states, expected.compression_states, **CLOSE)


@pytest.mark.parametrize("kwargs", [{}, {"dialogue_view": "full"}, {"checkpointing": True}], ids=str)
def test_answers_do_not_see_what_is_said_later(coma, pad, kwargs):
    model, processor = coma
    if kwargs.pop("checkpointing", False):
        set_checkpointing(model.train())
    first = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "an apple"}]
    states = []
    for question, answer in (("red?", "no"), ("is it a tree?", "yes, below a sky"), (None, None)):
        later = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows = processor.process_dialogues([first + later * (question is not None)])
        states.append(model(**processor.process(["it"]), **pad(rows), **kwargs).answer_states)
    count = len(states[-1])
    assert count > 2
    for other in states[:-1]:
        torch.testing.assert_close(other[:count], states[-1], **CLOSE)
    assert (states[0][count] - states[1][count]).abs().max() > 1e-2  # they differ as soon as they may


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_image_reaches_an_answer_through_the_compression_tokens_only(coma, picture, pad, checkpointing, run):
    """The gradient from the answers to the image vanishes where the compression tokens' own look at it is cut.

    It is cut by detaching the states of the compression tokens after every layer: a dialogue that reads any other
    column of the input would still feel the image.
    """
    model, processor = coma
    inputs = {
        **processor.process([{"image": picture(84, 56, 1), "text": "it"}]),
        **pad(
            processor.process_dialogues([[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])
        ),
    }
    features = model.encode_images(inputs.pop("pixel_values"), image_grid_thw=inputs["image_grid_thw"])
    features["image"].pooler_output = [part.detach() for part in features["image"].pooler_output]
    leaf = features["image"].pooler_output[0].requires_grad_()
    (reached,) = torch.autograd.grad(run(model, {**inputs, "mm_encoder_outputs": features}, checkpointing).loss, leaf)
    assert reached.abs().max() > 1e-4

    length = inputs["input_ids"].shape[1]

    def cut(module, args, states):
        if states.shape[1] < length:  # the pass over the dialogue
            return states
        return torch.cat([states[:, : length - K], states[:, length - K : length].detach(), states[:, length:]], dim=1)

    for layer in model.backbone.model.language_model.layers:
        layer.register_forward_hook(cut)
    loss = run(model, {**inputs, "mm_encoder_outputs": features}, checkpointing).loss
    (left,) = torch.autograd.grad(loss, leaf, allow_unused=True)
    assert left is None or left.abs().max() == 0


@one_backbone
def test_chunks_and_items_reach_the_loss_of_the_model(coma, batch, monkeypatch, run):
    model, _ = coma
    inputs = batch()
    expected, count = model(**inputs).loss, int((inputs["labels"] != -100).sum())
    reference = gradients(model, expected)
    for checkpointing in (False, True):
        output = run(model, {**inputs, "num_items_in_batch": torch.tensor(2 * count)}, checkpointing)
        torch.testing.assert_close(output.loss, expected / 2, **CLOSE)
    monkeypatch.setattr(loss_coma, "CHUNK", 7)
    assert count > 3 * 7
    set_checkpointing(model, False)
    loss = model(**inputs).loss
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert_same_gradients(gradients(model, loss), reference)


@pytest.mark.parametrize("frozen", [True, False])
def test_features_computed_before_give_the_same_loss_and_gradients(coma, batch, frozen):
    model, _ = coma
    model.backbone.model.visual.requires_grad_(not frozen)
    inputs = batch()
    results = []
    for before in (False, True):
        model.zero_grad()
        given = dict(inputs)
        if before:
            features = model.encode_images(given.pop("pixel_values"), image_grid_thw=given["image_grid_thw"])
            given["mm_encoder_outputs"] = features
        loss = model(**given).loss
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss, grads))
    assert torch.equal(results[0][0], results[1][0])
    assert_same_gradients(results[1][1], results[0][1])
    assert any("visual" in name for name in results[0][1]) is not frozen
