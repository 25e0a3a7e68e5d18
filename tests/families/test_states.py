"""Stage 1 with a memory of states: of hybrid families, which have no other, and of some with attention alone."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpointing import CHECKPOINTING, set_checkpointing
from trainers.backbone import model_from_backbone
from trainers.compression import ComaCompressionConfig, ComaCompressionTrainer
from trainers.compression.collator import ComaCompressionCollator


HYBRID = ["lfm2_vl", "minicpmv4_6", "qwen3_5"]
OTHERS = ["aya_vision", "glm4v", "llava_next", "qwen3_vl_moe"]
K, STEPS = 4, 4
TURNS = [("what is this?", "a red apple"), ("is it red? or what else is it?", "no"), ("and?", "leaves and a sky")]


def image(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def rows() -> list[dict]:
    """Text, an image, both, several: each with another number of turns."""
    images = [[], [image(60, 50, 1)], [image(64, 64, 2)], [image(40, 80, 3), image(90, 30, 4)]]
    texts = ["a red apple on a tree", None, "what is this?", "two of them"]
    messages = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in TURNS]
    return [
        {"images": some, "text": text, "messages": [message for turn in messages[: 1 + n % 3] for message in turn]}
        for n, (some, text) in enumerate(zip(images, texts, strict=True))
    ]


@pytest.fixture(scope="module")
def made(family_folder):
    return {}, lambda family: model_from_backbone(family_folder(family), K, memory="states")


@pytest.fixture
def coma(made, family):
    models, make = made
    if family not in models:
        models[family] = make(family)
    return copy.deepcopy(models[family])


def padded(batch: dict, side: str) -> dict:
    """A batch of right-padded dialogues with these on another side."""
    if side == "right":
        return batch
    order = batch["dialogue_attention_mask"].argsort(dim=1, stable=True)
    names = ("dialogue_input_ids", "dialogue_attention_mask", "labels")
    return {**batch, **{name: batch[name].gather(1, order) for name in names}}


@torch.no_grad()
@pytest.mark.parametrize("view", ["compressed", "full"])
@pytest.mark.parametrize("family", [*HYBRID, *OTHERS])
def test_a_batch_is_its_rows(coma, family, view):
    """State runs through padding: it stands on the left of everything, wherever it was."""
    model, processor = coma
    collator = ComaCompressionCollator(processor)
    alone = [model(**collator([row]), dialogue_view=view).answer_states for row in rows()]
    for side in ("left", "right"):
        collator.options["padding_side"] = side
        for dialogue_side in ("left", "right"):
            output = model(**padded(collator(rows()), dialogue_side), dialogue_view=view)
            torch.testing.assert_close(output.answer_states, torch.cat(alone), atol=1e-4, rtol=1e-4)
            assert output.embeddings.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("family", HYBRID)
def test_the_full_view_is_the_stock_backbone(coma, family):
    """Its own masks and positions, over an input without compression tokens and a dialogue."""
    model, processor = coma
    batch = ComaCompressionCollator(processor)(rows()[:1])
    ids = torch.cat([batch["input_ids"][:, :-K], batch["dialogue_input_ids"]], dim=1)
    hidden = model.backbone.model(input_ids=ids).last_hidden_state[:, -batch["labels"].shape[1] - 1 : -1]
    found = model(**batch, dialogue_view="full").answer_states
    torch.testing.assert_close(found, hidden[batch["labels"] != -100], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", HYBRID)
def test_generation_is_greedy_by_recomputation(coma, family):
    """Of ragged questions, whose padding no state runs through."""
    model, processor = coma
    collator = ComaCompressionCollator(processor)
    inputs = {name: value for name, value in collator(rows()).items() if "dialogue" not in name and name != "labels"}
    memory = model.compress(**inputs)
    asked = [[{"role": "user", "content": question}] for question, _ in (*TURNS, TURNS[0])]
    questions = processor.process_dialogues(asked, add_generation_prompt=True)["input_ids"]
    width, expected = max(map(len, questions)), []
    for number, question in enumerate(questions):
        said = torch.tensor(question)
        for _ in range(STEPS):
            longer = torch.cat([said, said.new_zeros(1)])[None]
            labels = torch.full_like(longer, -100)
            labels[0, -1] = 0
            state = model.answer(
                memory.select(torch.tensor([number])), longer, torch.ones_like(longer), labels
            ).answer_states
            said = torch.cat([said, model.get_output_embeddings()(state).argmax(-1)])
        expected.append(said[len(question) :].tolist())
    ids = torch.tensor([[7] * (width - len(question)) + question for question in questions])
    mask = torch.tensor([[0] * (width - len(question)) + [1] * len(question) for question in questions])
    found = model.generate_from_memory(memory, ids, mask, max_new_tokens=STEPS, do_sample=False, eos_token_id=None)
    assert found.tolist() == expected


@pytest.mark.parametrize("family", HYBRID)
def test_checkpointing_changes_nothing(coma, family):
    model, processor = coma
    batch, found = ComaCompressionCollator(processor)(rows()), []
    for checkpointing in (False, True):
        model.zero_grad()
        loss = set_checkpointing(model.train(), checkpointing)(**batch).loss
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found.append((loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("settings", [{}, {CHECKPOINTING: True, "kl_weight": 0.5}], ids=["plain", "with a teacher"])
@pytest.mark.parametrize("family", HYBRID)
def test_ten_steps_lower_the_loss(coma, family, settings, tmp_path):
    model, processor = coma
    args = ComaCompressionConfig(
        tmp_path,
        max_steps=10,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    teacher = {"teacher": copy.deepcopy(model)} if "kl_weight" in settings else {}
    trainer = ComaCompressionTrainer(model, args, train_dataset=rows(), processing_class=processor, **teacher)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("family", HYBRID)
def test_with_a_cache_stage_1_is_refused_and_the_rest_works(coma, family):
    model, processor = coma
    model.config.memory = "cache"
    batch = ComaCompressionCollator(processor)(rows())
    inputs = {name: value for name, value in batch.items() if "dialogue" not in name and name != "labels"}
    assert model(**inputs).embeddings.isfinite().all()
    for is_training in (False, True):
        set_checkpointing(model.train(is_training))
        with pytest.raises(ValueError, match="made with memory='states'; embeddings and stage 2 do without"):
            model(**batch)
    with pytest.raises(ValueError, match="made with memory='states'"):
        model.compress(**inputs)
    assert model.eval()(**batch, dialogue_view="full").loss.isfinite()
