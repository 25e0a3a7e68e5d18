"""The drawn world is what it says; arms, pairs and results are told apart; the study runs and does nothing twice."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.world_study.arms import ARMS, PAIRS, QUICK_ARMS, SIZE_ARMS, Arm, compared_with, plan, without
from benchmarks.world_study.backbone import Lessons, study
from benchmarks.world_study.examination import Exam, right_answers
from benchmarks.world_study.fast_processor import WorldProcessor
from benchmarks.world_study.pictures import RGB, STAMP, corner, draw_picture, stamp
from benchmarks.world_study.questions import ATTRIBUTE_OF_KIND, KINDS, ask, describe
from benchmarks.world_study.random_backbone import TOKENS, write_random
from benchmarks.world_study.report import gains, write_report
from benchmarks.world_study.results import append_result, missing, read_results
from benchmarks.world_study.runs import Dialogues, JointPairs, dialogue
from benchmarks.world_study.scenes import MOST, PLACES, SHAPES, SIZES, TEXTURES, UNSEEN, draw_scene
from benchmarks.world_study.settings import BACKBONES, QUICK, USUAL_SIZE, Sizes
from benchmarks.world_study.tasks import IND_ANSWERS, OOD_ANSWERS, Pairs, chance, embed, make_tasks, precision
from benchmarks.world_study.tower import GROUPS, IGNORED, targets
from trainers.backbone import model_from_backbone
from trainers.encoding.maxsim import maxsim


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    write_random(folder, Sizes())
    return model_from_backbone(str(folder), 2)


def scenes(number, unseen=False):
    draw = random.Random(0)
    return [draw_scene(draw, unseen) for _ in range(number)]


def test_unseen_combinations_are_in_no_scene_of_training_and_once_in_each_of_the_others():
    for unseen in (False, True):
        for scene in scenes(300, unseen):
            assert sum((thing.shape, thing.colour) in UNSEEN for thing in scene.things) == unseen
            assert len({thing.place for thing in scene.things} | {scene.word_place}) == len(scene.things) + 1


def test_things_are_drawn_where_and_as_they_are_said_to_be():
    for scene in scenes(50):
        pixels = draw_picture(scene)
        for thing in scene.things:
            top, left = corner(thing.place)
            part = pixels[top : top + STAMP, left : left + STAMP].reshape(-1, 3).tolist()
            assert list(RGB[thing.colour]) in part
        for place in set(range(len(PLACES))) - {scene.word_place} - {thing.place for thing in scene.things}:
            top, left = corner(place)
            assert (pixels[top : top + STAMP, left : left + STAMP] == RGB[scene.background]).all()


def test_a_moved_thing_stays_whole_and_in_its_place():
    for size, shape, texture in itertools.product(SIZES, SHAPES, TEXTURES):
        mask = stamp(shape, size, texture)
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert mask.max() == 1 and not edge.any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_and_answered_with_a_candidate(kind):
    draw = random.Random(1)
    asked = [ask(scene, kind, draw) for scene in scenes(60)]
    found = [one for one in asked if one is not None]
    assert len(found) > 20 and kind in ATTRIBUTE_OF_KIND
    if kind != "thing at place":
        assert {one.answer for one in found} <= {*IND_ANSWERS, *OOD_ANSWERS}
        assert len({one.answer for one in found}) > 1


def test_relations_and_unique_things_are_answered_by_the_facts():
    draw = random.Random(2)
    for scene in scenes(80):
        by_colour = {thing.colour: thing for thing in scene.things}
        if (one := ask(scene, "further north", draw)) is not None:
            named = [colour for colour in by_colour if colour in one.question]
            assert one.answer == min(named, key=lambda colour: by_colour[colour].place // 3)
        if (one := ask(scene, "colour of shape", draw)) is not None:
            (thing,) = [thing for thing in scene.things if thing.shape in one.question]
            assert one.answer == thing.colour


def test_each_word_of_the_world_is_one_token(loaded):
    tokenizer = loaded[1].tokenizer
    for scene in scenes(100):
        text = f" {describe(scene)}"
        assert len(tokenizer(text)["input_ids"]) == len(text.replace(",", " ,").split())
    assert all(
        len(tokenizer(f" {answer}")["input_ids"]) == len(answer.split()) for answer in (*IND_ANSWERS, *OOD_ANSWERS)
    )


def test_the_fast_processor_makes_what_the_stock_one_makes(loaded):
    images = [draw_picture(scene) for scene in scenes(3)]
    stock, fast = loaded[1].process(images), WorldProcessor.of(loaded[1]).process(images)
    assert (stock["input_ids"] == loaded[0].config.backbone_config.image_token_id).sum() == 3 * TOKENS
    assert stock.keys() == fast.keys()
    for name, tensor in stock.items():
        torch.testing.assert_close(fast[name], tensor, atol=1e-5, rtol=0)


def test_an_answer_is_right_if_greedy_decoding_would_give_it(loaded):
    model, processor = loaded
    exam = Exam(WorldProcessor.of(processor), 1)
    batch = exam.collate(exam.rows[:1])
    inputs = {name: value for name, value in batch.items() if not name.startswith(("dialogue", "labels"))}
    prompt = batch["dialogue_input_ids"][:, : int((batch["labels"][0] != -100).nonzero()[0])]
    said = model.generate_from_memory(
        model.compress(**inputs), prompt, torch.ones_like(prompt), max_new_tokens=3, eos_token_id=-1
    )
    for change, expected in ((0, True), (1, False)):
        answer = said.clone()
        answer[0, -1] += change
        ids = torch.cat([prompt, answer], dim=1)
        labels = torch.cat([torch.full_like(prompt, -100), answer], dim=1)
        dialogue = {"dialogue_input_ids": ids, "dialogue_attention_mask": torch.ones_like(ids), "labels": labels}
        assert right_answers(model, inputs | dialogue, "compressed").tolist() == [expected]


def test_pairs_go_round_and_say_nothing_of_other_attributes():
    pairs = Pairs(20, 60, seed=0)
    epochs = [[pairs[epoch * 20 + place]["positive"]["text"] for place in range(20)] for epoch in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) and epochs[0] != epochs[1]
    assert sorted(epochs[0]) != sorted(Pairs(20, 60, seed=1)[place]["positive"]["text"] for place in range(20))
    said = " ".join(text for text in epochs[0])
    assert not any(word in said.split() for word in (*SIZES, *TEXTURES, "background", "word"))


def test_the_dialogues_of_the_joint_arm_are_about_the_pictures_of_its_pairs():
    for number in range(12):
        row, alone = JointPairs(20, 20, seed=0).pair(number), Pairs(20, 20, seed=0).pair(number)
        assert (row["query"]["image"] == alone["query"]["image"]).all() and row["positive"] == alone["positive"]
        draw = random.Random(f"pairs 0 {number}")
        facts = {*describe(draw_scene(draw)).replace(",", "").split(), "two", "three", "four"}
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert len(answers) == 5 and all(set(answer.split()) <= facts for answer in answers)


def test_the_tower_is_taught_what_is_where():
    for scene in scenes(20):
        found = targets(scene)
        said = [
            {group: GROUPS[group][of_group[place]] for group, of_group in found.items() if of_group[place] != IGNORED}
            for place in range(len(PLACES))
        ]
        assert [one["place"] for one in said] == list(PLACES)
        assert said[scene.word_place]["written"] == scene.word and all("written" in one for one in said) is False
        for thing in scene.things:
            assert (
                said[thing.place].items()
                >= {"what": "thing", "colour": thing.colour, "shape": thing.shape, "texture": thing.texture}.items()
            )


def test_every_query_of_a_task_has_an_answer():
    ind, ood = make_tasks(30)
    assert [task.name for task in ind] == ["description to scene", "question to answer"]
    for task in (*ind, *ood):
        assert task.relevant.shape == (len(task.queries), len(task.candidates))
        assert task.relevant.any(dim=1).all()
    assert 0 < chance(ind) < chance(ood) < 50


def test_lessons_are_drawn_by_their_number():
    lessons = Lessons(100)
    assert str(lessons[7]) == str(Lessons(100)[7]) != str(lessons[8])
    assert MOST + 1 < len(PLACES)


def test_arms_have_keys_of_their_own():
    arms = plan()
    assert len({arm.key for arm in arms}) == len(arms)
    assert all(Arm(pairs, 0.0) in arms for pairs in PAIRS) and all(arm in arms for arm in ARMS.values())
    for arm in arms:  # whatever has a stage 1 has another to be compared with
        assert without(arm).stage_1 == 0 and (without(arm) in arms or arm in ARMS.values())
    assert without(Arm(300), extra=1.0).key == "pairs=300 stage_1=0 extra=1.0"


def row(arm, seed, value, study="r", counts=True, weights="w"):
    answers = dict.fromkeys([*KINDS, "mean"], 50.0)
    return {
        "arm": arm.key,
        "seed": seed,
        "study": study,
        "weights": weights,
        "ind": {"mean": value, "description to scene": value, "question to answer": value},
        "ood": {"mean": value / 2},
        "carried": {"own": 1.0, "shuffled": 2.0, "none": 3.0} if arm.stage_1 else None,
        "counts": counts,
        "answers": {"before stage 2": answers, "after stage 2": answers},
        "seconds": {"stage 1": 1.0, "stage 2": 1.0},
    }


def test_results_are_lines_and_gains_are_seed_by_seed(tmp_path):
    file, arm = tmp_path / "results.jsonl", Arm(300)
    for one in (row(without(arm), 0, 10.0), row(arm, 0, 14.0), row(arm, 1, 99.0), row(arm, 0, 0.0, "other")):
        append_result(file, one)
    rows = read_results(file, "r")
    assert gains(rows, arm, without(arm), "ind") == [4.0] and gains(rows, arm, without(arm), "ood") == [2.0]
    assert [(one.key, seed) for one, seed in missing(rows, [arm, without(arm)], [0, 1])] == [(without(arm).key, 1)]
    rows[1]["counts"] = False  # tokens that carry nothing say nothing about the claim
    assert gains(rows, arm, without(arm), "ind") == []
    write_report({USUAL_SIZE: rows}, tmp_path)
    assert "1 do not count" in (tmp_path / "report.md").read_text()
    append_result(file, row(arm, 0, 1.0))
    with pytest.raises(ValueError, match="line 5: the run .* is there already"):
        read_results(file, "r")


def test_by_states_is_maxsim_of_all_of_them_and_with_one_state_that_of_the_embedding(loaded, tmp_path):
    ind, ood = make_tasks(12)
    model, processor = loaded
    fast, right = WorldProcessor.of(processor), {}
    for task in (*ind, *ood):
        queries, candidates = (embed(model, fast, items, states=True) for items in (task.queries, task.candidates))
        assert queries.shape == (len(task.queries), 2, model.config.hidden_size)
        best = maxsim(queries, candidates).argmax(dim=1)
        right[task.name] = round(100 * task.relevant.gather(1, best[:, None]).float().mean().item(), 2)
    found = precision(model, fast, [*ind, *ood], states=True)
    assert {name: found[name] for name in right} == right
    write_random(tmp_path, Sizes())
    one, processor = model_from_backbone(str(tmp_path), 1)
    fast = WorldProcessor.of(processor)
    assert precision(one, fast, ind, states=True) == precision(one, fast, ind)


def test_what_others_are_compared_with_is_run_again_with_other_weights_of_the_backbone():
    control, other, another = without(Arm(1_000)), Arm(1_000), Arm(1_000, 4.0)
    assert set(compared_with(other)) >= {control} and another not in compared_with(other)
    assert compared_with(control) == [] and without(Arm(300)) in compared_with(ARMS["stage 1, K = 8"])
    rows = [row(control, 0, 10.0), row(other, 0, 14.0)]
    arms = [control, other, another]
    assert missing(rows, arms, [0], "w") == [(another, 0)]
    assert missing(rows, arms, [0], "v") == [(control, 0), (another, 0)]
    rows.append(row(another, 0, 20.0))
    assert missing(rows, arms, [0], "w") == missing(rows, arms, [0], "v") == []  # nothing is begun with new weights
    assert gains([row(control, 0, 10.0, weights="v"), rows[1]], other, control, "ind") == []
    assert gains([row(control, 0, 11.0, weights="v"), *rows], other, control, "ind") == [4.0]


def test_backbones_of_another_size_are_another_study_of_fewer_arms(tmp_path):
    of_size = {name: Sizes().of_size(name) for name in BACKBONES}
    assert of_size[USUAL_SIZE] == Sizes() and len(set(map(study, of_size.values()))) == len(BACKBONES)
    assert set(SIZE_ARMS) < set(plan())
    weights = {}
    for name, sizes in of_size.items():
        write_random(tmp_path / name, sizes)
        layers = model_from_backbone(str(tmp_path / name), 1)[0].backbone.model.language_model.layers
        assert len(layers) == sizes.layers
        weights[name] = sum(weight.numel() for weight in layers.parameters())
    assert weights["deep"] == 2 * weights["usual"] and round(weights["large"] / weights["usual"]) == 10


def test_the_report_has_a_line_for_each_backbone_that_there_are_runs_of(tmp_path):
    rows = [row(SIZE_ARMS[1], 0, 30.0), row(SIZE_ARMS[0], 0, 10.0)]
    write_report({"usual": rows, "deep": [], "large": rows[:1]}, tmp_path)
    lines = [line for line in (tmp_path / "report.md").read_text().splitlines() if " through " in line][-4:]
    assert lines[0] == "| 4 | 128 | 4 through states | 50.0 (1) | 10.0 (1) | 20.0 (1) | – | – |"
    assert lines[2] == "| 8 | 288 | 4 through states | 50.0 (1) | – | – | – | – |"


@pytest.mark.study
def test_the_study_of_reranking_runs_and_examines_nothing_twice(tmp_path):
    command = [sys.executable, "-m", "benchmarks.world_study.reranking", "--quick", "--seeds", "0"]
    command += ["--folder", str(tmp_path)]
    said = [subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    tables = [text[text.index("| description to scene") :].split("\n\n")[:2] for text in said]
    assert tables[0] == tables[1] and "stage 1, then both; whole description" in tables[0][0]
    assert len(list((tmp_path / "reranking").glob("*.json"))) == 2 and (tmp_path / "bytes.png").exists()


def test_with_texts_every_second_scene_is_described_and_asked_about_like_the_others():
    rows = Dialogues("images and texts", 20, seed=0)
    assert [bool(rows[number]["images"]) for number in range(4)] == [True, False] * 2
    row, scene = rows[1], draw_scene(random.Random("images and texts 0 1"))
    assert row["text"] == describe(scene) and len(row["messages"]) == 10


def test_mixed_dialogues_are_several_questions_or_a_description():
    scene, draw = draw_scene(random.Random(0)), random.Random(0)
    lengths = [len(dialogue("mixed", scene, draw)) for _ in range(200)]
    assert set(lengths) == {2, 10} and 30 < lengths.count(2) < 70
    assert dialogue("mixed", scene, random.Random(1)) != dialogue("multi-turn", scene, random.Random(1))
    assert len(dialogue("single-turn", scene, draw)) == 2
    with pytest.raises(KeyError):
        dialogue("multi turn", scene, draw)


@pytest.mark.study
@pytest.mark.parametrize("size", [USUAL_SIZE, "large"])
def test_the_study_runs_and_does_nothing_twice(size, tmp_path):
    command = [sys.executable, "-m", "benchmarks.world_study", "--quick", "--seeds", "0", "--folder", str(tmp_path)]
    command += ["--size", size]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    lines = (tmp_path / "results.jsonl").read_text()
    assert len(lines.splitlines()) == len(QUICK_ARMS)
    assert all(json.loads(line)["study"] for line in lines.splitlines())
    assert len(json.loads((tmp_path / "backbone" / "backbone.json").read_text())["curve"]) == QUICK.backbone_steps
    assert (tmp_path / "map.png").stat().st_size > 10_000
    probe = [*command[:2], "benchmarks.world_study.probe", "--scenes", "60", "20", "--folder", str(tmp_path)]
    table = subprocess.run(probe, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    folders = list((tmp_path / "stage-1").iterdir())
    assert len(folders) > 2 and len(table) == 3 + 2 * (1 + len(folders))
    assert all(line.count("|") == table[0].count("|") for line in table)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "results.jsonl").read_text() == lines
