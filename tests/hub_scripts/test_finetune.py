"""`coma finetune` trains what a YAML file says, and leaves what `coma merge` and AutoModel load."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel

from hub_scripts.finetune import _load, _parse
from hub_scripts.recipes import list_recipes
from trainers.data.rows import NumberedRows


@pytest.fixture
def pairs(picture: Callable, tmp_path: Path) -> Path:
    """A table of texts and paths of images, beside the images."""
    (tmp_path / "images").mkdir()
    lines = ["question,image,wrong,kind"]
    for number in range(6):
        picture(28, 28, number).save(tmp_path / "images" / f"{number}.png")
        lines.append(f'"what, {number}",images/{number}.png,{"" if number % 2 else "a tree"},{"ab"[number % 2]}')
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


SETTINGS = {"query_text": "question", "positive_image": "image", "negative_text": "wrong", "source": "kind"}
QUICK = {"max_steps": 2, "per_device_train_batch_size": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
QUICK |= {"save_steps": 1, "logging_steps": 1, "learning_rate": 0.01, "mini_batch_tokens": 40}


def write(folder: Path, **settings: object) -> Path:
    (folder / "my.yaml").write_text(yaml.safe_dump({**QUICK, **settings}))
    return folder / "my.yaml"


def test_an_adapter_from_my_own_pairs(coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = write(tmp_path, model=str(coma_folder), data=str(pairs), eval_data=str(pairs), **SETTINGS)
    words = ["finetune", "--config", config, "--output_dir", out, "--sub_batch_size", 2, "--lora_r", 4]
    code, text, error = coma_command(*words, "--eval_strategy", "epoch", "--instructions", '{"a": "Find it."}')
    assert code == 0, error
    assert f"coma merge {out}" in text
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert history[0]["negatives"] >= 2 and any("eval_ndcg@10" in entry for entry in history)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    code, text, error = coma_command("merge", out, tmp_path / "merged")
    assert code == 0, error
    assert AutoModel.from_pretrained(tmp_path / "merged").config.num_compression_tokens == 4
    assert (tmp_path / "merged" / "loss.png").read_bytes() == (out / "loss.png").read_bytes()
    assert "(loss.png)" in (tmp_path / "merged" / "README.md").read_text()

    code, _, error = coma_command(*words, "--max_steps", 3, "--resume_from_checkpoint", "true")
    assert code == 0, error
    assert [e["step"] for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in e] == [
        1,
        2,
        3,
    ]


@pytest.mark.slow
def test_the_best_by_retrieval_in_one_option(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    """Given on the command line alone: evaluations and checkpoints follow, and the end says what was kept."""
    config = write(tmp_path, model=str(coma_folder), data=str(pairs), eval_data=str(pairs), **SETTINGS)
    text = config.read_text().replace("save_steps: 1\n", "").replace("learning_rate: 0.01", "learning_rate: 0.0001")
    config.write_text(text)
    out = tmp_path / "out"
    words = ["finetune", "--config", config, "--output_dir", out, "--lora_r", 0, "--max_steps", 6]
    code, said, error = coma_command(*words, "--keep_best", "ndcg@10", "--early_stopping_patience", 1)
    assert code == 0, error
    state = json.loads((out / "trainer_state.json").read_text())
    values = {entry["step"]: entry["eval_ndcg@10"] for entry in state["log_history"] if "eval_ndcg@10" in entry}
    best = max(values, key=values.get)
    assert state["best_global_step"] == best and state["stateful_callbacks"]["EarlyStopping"]
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert lines["best"] == f"best     step {best}, eval_ndcg@10 {values[best]:.4g}: these weights were saved"
    assert lines["metrics"].endswith(f"(evaluation at step {max(values)})") and "ndcg@10 " in lines["metrics"]
    assert lines["steps"].startswith(f"steps    {max(values)} of 6")
    assert lines["next"] == f"next     coma evaluate {out} PAIRS --output RESULTS"
    code, _, error = coma_command(*words[:-4], "--output_dir", tmp_path / "2", "--keep_best", "ncdg@10")
    assert code == 1 and "keep_best='ncdg@10' is no metric" in error and "p@1, r@10, ndcg@10" in error


def test_a_whole_model(coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path) -> None:
    config = write(tmp_path, model=str(coma_folder), data=str(pairs), lora_r=0, save_strategy="no", **SETTINGS)
    code, _, error = coma_command("finetune", "--config", config, "--output_dir", tmp_path / "out")
    assert code == 0, error
    assert (tmp_path / "out" / "modules.json").exists()
    before, after = (AutoModel.from_pretrained(folder) for folder in (coma_folder, tmp_path / "out"))
    frozen = [n for n, p in before.named_parameters() if torch.equal(p, after.get_parameter(n))]
    assert frozen and all("visual" in name for name in frozen)


@pytest.mark.slow
def test_a_whole_model_from_an_adapter(coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path) -> None:
    """With `lora_r: 0` the adapter is merged into its base, and all that is not frozen is trained."""
    first, second = tmp_path / "first", tmp_path / "second"
    for model, out, lora_r in ((coma_folder, first, 2), (first, second, 0)):
        config = write(tmp_path, model=str(model), data=str(pairs), lora_r=lora_r, save_strategy="no", **SETTINGS)
        code, _, error = coma_command("finetune", "--config", config, "--output_dir", out)
        assert code == 0, error
    assert coma_command("merge", first, tmp_path / "merged")[0] == 0
    before, after = (AutoModel.from_pretrained(folder) for folder in (tmp_path / "merged", second))
    frozen = [name for name, weight in before.named_parameters() if torch.equal(weight, after.get_parameter(name))]
    assert frozen and all("visual" in name for name in frozen)
    stages = json.loads((second / "coma_training.json").read_text())
    assert [stage["adapter"] is None for stage in stages] == [False, True]


@pytest.mark.slow
def test_experiments_are_settings_as_others_are(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    rows = [
        {"query": {"text": f"q {n}"}, "positive": {"text": f"d {n}"}, "source": "ab"[n % 2], "messages": None}
        for n in range(6)
    ]
    rows[1]["messages"] = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "an apple"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"model": str(coma_folder), "data": str(tmp_path / "pairs.jsonl"), "save_strategy": "no"}
    config = write(tmp_path, **settings, joint_weight=0.5, temperature_per_source=True)
    out, words = tmp_path / "out", ["--temperature_learning_rate", "0.01", "--per_device_train_batch_size", "6"]
    code, _, error = coma_command("finetune", "--config", config, "--output_dir", out, *words)
    assert code == 0, error
    first, second, *_ = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert first["answer_loss"] > 0 and second["temperature/a"] != pytest.approx(0.03)
    (stage,) = json.loads((out / "coma_training.json").read_text())
    assert stage["stage"] == "contrastive"
    expected = {"joint_weight": 0.5, "temperature_learning_rate": 0.01, "temperature_per_source": True}
    assert expected.items() <= stage["settings"].items() and stage["settings"]["compression_instruction"]

    code, _, error = coma_command("finetune", "--config", write(tmp_path, **settings), "--output_dir", tmp_path / "2")
    assert code == 0, error
    first = json.loads((tmp_path / "2" / "trainer_state.json").read_text())["log_history"][0]
    assert "answer_loss" not in first and first["temperature"] == 0.03
    (stage,) = json.loads((tmp_path / "2" / "coma_training.json").read_text())
    assert stage["stage"] == "contrastive" and not {*expected, "compression_instruction"} & stage["settings"].keys()


def test_mmeb_triplets_and_shards(pairs: Path, tmp_path: Path, picture: Callable) -> None:
    """What `data_format` names is loaded, with its settings; training on it is that of any rows."""
    rows = [{"qry": "<|image_1|>\nWhat?", "qry_image_path": "images/0.png", "pos_text": "p", "pos_image_path": ""}]
    (tmp_path / "CIRR").mkdir()
    (tmp_path / "CIRR" / "diverse_instruction.jsonl").write_text("\n".join(map(json.dumps, rows * 3)))
    (tmp_path / "triplets.jsonl").write_text('{"anchor": "q", "positive": "p", "negative": "n"}\n')
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "images" / "0.png", "0.png")
        tar.add(pairs, "0.txt")
    mmeb = [
        "--config",
        "mmeb-finetune",
        "--mmeb_sets",
        "CIRR",
        "--mmeb_split",
        "diverse_instruction",
        "--bf16",
        "false",
    ]
    for data, words, number in (
        (tmp_path, mmeb, 3),
        (tmp_path / "triplets.jsonl", ["--data_format", "triplets"], 1),
        (tmp_path / "a.tar", "--data_format webdataset --query_image image --positive_text txt".split(), 1),
    ):
        arguments, config = _parse([*words, "--model", "m", "--data", str(data)])
        loaded = list(_load(arguments.data, arguments, config.on_bad_row))
        assert len(loaded) == number and loaded[0]["positive"]["text"] in ("p", pairs.read_text())
    assert _parse([*mmeb[:2], "--model", "m", "--data", "d", "--bf16", "false"])[0].data_format == "mmeb"


@pytest.mark.slow
def test_rows_for_evaluation_have_columns_of_their_own(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "held out").mkdir()
    (tmp_path / "held out" / "shop.csv").write_text("title,body\na red apple,an apple\na tree,a green tree\n")
    named = {"eval_query_text": "title", "eval_positive_text": "body"}
    settings = {"model": str(coma_folder), "data": str(pairs), "eval_data": str(tmp_path / "held out" / "shop.csv")}
    config = write(tmp_path, **settings, **named, lora_r=2, save_strategy="no", **SETTINGS)
    code, _, error = coma_command("finetune", "--config", config, "--output_dir", tmp_path / "out")
    assert code == 0, error
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert any(entry.get("eval_num_documents") == 2 for entry in history)


@pytest.mark.parametrize("recipe", list_recipes("finetune"))
def test_recipes_are_valid(recipe: str) -> None:
    arguments, config = _parse(["--config", recipe, "--model", "m", "--data", "d", "--bf16", "false"])
    assert (arguments.model, arguments.data) == ("m", "d") and config.temperature > 0


def test_the_recipe_of_the_demo_trains_on_three_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, _ = _parse(["--config", "emoji-finetune", "--model", "m"])
    train = _load(arguments.data, arguments, "raise")
    held_out = _load(arguments.eval_data, arguments, "raise", evaluation=True)
    assert len(train) == 3 * len(held_out)
    assert set(NumberedRows(train)[0]) == {"query", "positive", "negatives", "source", "row"}


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({"modle": "x"}, [], "has a setting that does not exist: modle; did you mean model?"),
        ({}, ["--config", "nothing"], "neither a file nor one of the recipes emoji-finetune, mmeb-finetune"),
        ({"query_text": "q", "positive_text": "question"}, ["--data", "pairs.csv"], "has no columns ['q']"),
        ({"query_text": "question"}, ["--data", "pairs.csv"], "Name the column of the positive"),
        ({}, ["--data", "pairs.csv"], "Name the columns of"),
        ({}, ["--data", "pairs.xls"], "must be a folder of `save_to_disk`, or a file"),
    ],
)
def test_what_is_wrong_is_said(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path, settings: dict, words: list, message: str
) -> None:
    config = write(tmp_path, **({"model": str(coma_folder)} if "--data" in words else {}), **settings)
    words = [str(tmp_path / word) if str(word).startswith("pairs") else word for word in words]
    code, _, error = coma_command("finetune", "--config", config, *words)
    assert code == 1 and message in error, error
