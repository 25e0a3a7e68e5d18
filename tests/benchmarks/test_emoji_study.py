"""The study runs from the command line; its arms differ in what their names say; its tables show mean and spread."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.emoji_study.arms import BUDGETS, COMA, JOINT, PLAIN, STUDIES, Arm
from benchmarks.emoji_study.report import table, table_of_budgets, table_of_ways
from benchmarks.emoji_study.results import spread
from benchmarks.emoji_study.runs import dialogues, pairs, without_keys
from benchmarks.emoji_study.setting import Emoji


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def emoji() -> Emoji:
    return Emoji(every=20)


def test_arms_of_one_key_are_one_arm():
    arms = [arm for study in STUDIES.values() for table in study.values() for arm in table]
    assert {arm.key for arm in arms if replace(arm, name="") == replace(COMA, name="")} == {COMA.key}
    settings = {arm.key: replace(arm, name="") for arm in arms}
    assert all(settings[arm.key] == replace(arm, name="") for arm in arms)


@pytest.mark.parametrize("study", STUDIES)
def test_no_arm_twice_in_a_table(study):
    for arms in STUDIES[study].values():
        assert len({arm.key for arm in arms}) == len({arm.name for arm in arms}) == len(arms)


def test_emoji_that_are_new_were_never_trained_on(emoji):
    trained = set(emoji.train["label"])
    assert not trained & {emoji.names[place] for place in emoji.new.tolist()}
    assert trained == {emoji.names[place] for place in emoji.seen.tolist()}
    assert set(emoji.train["style"]) == {"fluent-modern", "fluent-flat", "noto"}


def test_a_share_of_the_pairs_is_drawn_by_the_seed(emoji):
    few, again, others = (pairs(replace(PLAIN, share=0.3), seed, emoji) for seed in (0, 0, 1))
    assert len(few) == round(0.3 * len(emoji.train))
    names = [[item["text"] for item in rows["positive"]] for rows in (few, again, others)]
    assert names[0] == names[1] != names[2]


def test_hard_negatives_are_other_names_of_the_subgroup(emoji):
    rows = pairs(replace(PLAIN, hard_negatives=2), 0, emoji)
    subgroup = dict(zip(emoji.train["label"], emoji.train["subgroup"], strict=True))
    found = [
        (row["text"], negative["text"])
        for row, several in zip(rows["positive"], rows["negatives"], strict=True)
        for negative in several
    ]
    assert found
    assert all(name != negative and subgroup[name] == subgroup[negative] for name, negative in found)


def test_dialogues_of_the_joint_arm_are_about_its_pictures(emoji):
    rows = pairs(JOINT, 0, emoji)
    for positive, messages in zip(rows["positive"], rows["messages"], strict=True):
        assert positive["text"] in [message["content"] for message in messages if message["role"] == "assistant"]


@pytest.mark.parametrize(("form", "turns"), [("multi-turn", 3), ("single-turn", 1), ("caption", 1)])
def test_forms_of_dialogue(emoji, form, turns):
    rows = dialogues(form, 0, emoji)
    assert len(rows) == len(emoji.train)
    assert {len(messages) for messages in rows["messages"]} == {2 * turns}
    if form == "caption":
        label, tags = emoji.train["label"][0], emoji.train["tags"][0]
        assert rows["messages"][0][1]["content"] == f"{label}: {', '.join(tags)}"


def test_nothing_is_known_to_be_equal_without_keys():
    batch = {"query_keys": torch.tensor([1, 2]), "document_keys": torch.tensor([3, 3]), "owners": torch.tensor([0, 1])}
    assert {name: tensor.tolist() for name, tensor in without_keys(batch).items()} == {
        "query_keys": [-1, -1],
        "document_keys": [-1, -1],
        "owners": [0, 1],
    }


def test_a_table_shows_mean_and_standard_deviation():
    arm = Arm("some")
    columns = ("name P@1", "name R@10", "image P@1", "new P@1", "uniformity", "alignment")
    runs = [{**dict.fromkeys(columns, value), "seconds": {"compression": 1, "contrastive": 9}} for value in (1, 2, 3)]
    row = table("Title", [arm], {arm.key: runs}).splitlines()[-1]
    assert row == "| some | 2.0 ± 1.0 | 2.0 ± 1.0 | 2.0 ± 1.0 | 2.0 ± 1.0 | 2.00 ± 1.00 | 2.00 ± 1.00 | 10 | 3 |"
    assert spread([4.25], 1) == "4.2"


def test_a_table_of_budgets_has_one_vector_beside_them():
    budgets = {budget: dict.fromkeys(("name", "image", "new"), value) for value, budget in enumerate(BUDGETS)}
    run = {"name P@1": 7.0, "image P@1": 8.0, "new P@1": 9.0, "seconds": {"contrastive": 9}}
    plain, nested = Arm("plain"), Arm("nested", budgets=" ".join(BUDGETS))
    results = {plain.key: [{**run, "budgets": {}}], nested.key: [{**run, "budgets": budgets}]}
    text = table_of_budgets("Late", [plain, nested], results)
    assert "| plain | 7.0 | – | – | – | – | 9 | 1 |" in text
    assert "| nested | 9.0 | 0.0 | 1.0 | 2.0 | 3.0 | 9 | 1 |" in text


def test_tables_of_reranking_have_a_stage_1_of_its_own():
    def found(value: float) -> dict:
        ways = {way: {"P@1": value, "seconds": 0.5} for way in ("vector", "memory", "full view")}
        kept = {"float32": {"bytes": 512, "P@1": value}, "memory": {"bytes": 8448, "P@1": value + 1}}
        return {"in the top": 9.0, "reranked": ways, "reading seconds": 0.25, "kept": kept}

    arm = Arm("long, then contrastive", rerank=True)
    text = table_of_ways("T", [arm], {arm.key: [{"before": {"reranking": found(1.0)}, "reranking": found(3.0)}]})
    assert "| long alone | 9.0 | 1.0 | 1.0 | 1.0 | 0.500 | 0.500 | 0.250 | 1 |" in text
    assert "| long, then contrastive | 9.0 | 3.0 | 3.0 | 3.0 | 0.500 | 0.500 | 0.250 | 1 |" in text
    assert "| bytes | 512 | 8,448 |" in text and "| long, then contrastive | 3.0 | 4.0 |" in text


@pytest.mark.study
def test_the_claim_runs_and_does_nothing_twice(tmp_path):
    folder = tmp_path / "study"
    command = [
        sys.executable,
        "-m",
        "benchmarks.emoji_study",
        "claim",
        "--quick",
        "--seeds",
        "0",
        "--folder",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    files = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*.json")}
    assert len(files) == len({arm.key for arms in STUDIES["claim"].values() for arm in arms})
    for path in files:
        run = json.loads(path.read_text())
        assert 0 <= run["name P@1"] <= 100
        assert run["seconds"]["contrastive"] > 0
    assert (folder / "claim.md").read_text().count("| 1 |") == sum(map(len, STUDIES["claim"].values()))
    for picture in ("curves.png", "ablations.png"):
        assert (folder / picture).stat().st_size > 10_000
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in files} == files
