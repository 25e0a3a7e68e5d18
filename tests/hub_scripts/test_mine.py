"""`coma mine` writes negatives that `coma finetune` reads, and goes on after whatever stopped it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_from_disk

import hub_scripts.mine
from hub_scripts.mine import mine_negatives
from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.data.images import without_decoding
from trainers.files import one_writer


MARGIN = 0.01


@pytest.fixture
def pairs(picture: Callable, tmp_path: Path) -> Path:
    """A table of questions and images: every image answers two of them."""
    (tmp_path / "images").mkdir()
    lines = ["question,image,kind"]
    for number in range(12):
        picture(28, 28, number).save(tmp_path / "images" / f"{number}.png")
        lines += [f"{'what ' * (1 + n)}{number},images/{number}.png,{'ab'[number % 2]}" for n in range(2)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


COLUMNS = ["--query-text", "question", "--positive-image", "image", "--source", "kind", "--workers", 0]


def test_mined_negatives_are_the_nearest(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mined"
    words = ["mine", coma_folder, pairs, out, *COLUMNS, "--number", 2, "--relative-margin", MARGIN]
    code, text, error = coma_command(*words)
    assert code == 0, error
    rows = load_from_disk(str(out))
    assert len(rows) == 24 and set(rows.column_names) == {"query", "positive", "negatives", "source"}

    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)
    pictures = [rows[2 * number]["positive"]["image"] for number in range(12)]
    with torch.no_grad():
        documents = model(**processor.process(pictures)).embeddings
        queries = model(**processor.process(list(rows["query"]))).embeddings
    scores, counts = queries @ documents.T, []
    for number, row in enumerate(rows):
        own = number // 2
        limit = scores[number, own] - MARGIN * scores[number, own].abs()
        others = [n for n in range(12) if n % 2 == own % 2 and n != own and scores[number, n] <= limit]
        nearest = sorted(others, key=lambda n: -float(scores[number, n]))[:2]
        assert [one["image"].tobytes() for one in row["negatives"]] == [pictures[n].tobytes() for n in nearest]
        counts.append(len(nearest))
    fewer = sum(count < 2 for count in counts)
    assert 0 < fewer < 24 and f"fewer      {fewer} of 24 rows have fewer than 2 mined negatives" in text
    report = json.loads(out.with_name("mined.report.json").read_text())
    assert report["mined"] == sum(counts) and report["rows_by_number"]["2"] == counts.count(2)
    assert (report["queries"], report["documents"], report["relative_margin"]) == (24, 12, MARGIN)
    assert not out.with_name("mined.parts").exists()


def test_a_set_in_which_most_rows_found_nothing(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    """The setting that was in the way is named, and the value that it says would help does."""
    words = ["mine", coma_folder, pairs, tmp_path / "mined", *COLUMNS, "--number", 1, "--relative-margin"]
    code, text, _ = coma_command(*words, 1.5)
    report = json.loads((tmp_path / "mined.report.json").read_text())
    assert code == 0 and report["rows_with_mined"] < 12 and report["kept_out_by"]["relative_margin"] > 12
    (line,) = [line for line in text.splitlines() if line.startswith("WARNING")]
    (sentence,) = report["warnings"]
    value = report["would_help"]["relative_margin"]
    assert sentence in line and f"{24 - report['rows_with_mined']} of 24 rows found no negative" in sentence
    assert "--relative-margin 1.5 keeps out all of the 100 nearest" in sentence
    assert f"with --relative-margin {value} half of these would find one" in sentence and "--depth" not in sentence

    words[3] = tmp_path / "again"
    code, text, _ = coma_command(*words, value)
    again = json.loads((tmp_path / "again.report.json").read_text())
    assert again["rows_with_mined"] >= report["rows_with_mined"] + report["kept_out_by"]["relative_margin"] // 2
    assert "WARNING" not in text and again["warnings"] == []


def test_from_python(coma_folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    columns = {"query_text": "question", "positive_image": "image"}
    report = mine_negatives(str(coma_folder), pairs, tmp_path / "mined", columns=columns, number=3, relative_margin=-2)
    assert (report["rows"], report["mined"], report["number"]) == (24, 72, 3) and not capsys.readouterr().out
    assert report == json.loads((tmp_path / "mined.report.json").read_text())
    dataset = load_from_disk(str(tmp_path / "mined")).remove_columns("negatives")
    again = mine_negatives(coma_folder, dataset, tmp_path / "again", number=3, relative_margin=-2)
    assert again == report
    with pytest.raises(TypeError, match="depht"):
        mine_negatives(str(coma_folder), pairs, tmp_path / "other", depht=3)
    with pytest.raises(ValueError, match="part_rows=0 must be 1 or more"):
        mine_negatives(str(coma_folder), pairs, tmp_path / "other", part_rows=0)


@pytest.mark.slow
def test_mined_negatives_train(coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined"
    code, _, error = coma_command(
        "mine", coma_folder, pairs, out, *COLUMNS, "--number", 2, "--relative-margin", MARGIN
    )
    assert code == 0, error
    words = ["finetune", "--model", coma_folder, "--data", out, "--output_dir", tmp_path / "trained", "--max_steps", 1]
    words += ["--per_device_train_batch_size", 8, "--logging_steps", 1, "--lora_r", 4, "--report_to", "none"]
    code, _, error = coma_command(*words, "--use_cpu", "true", "--save_strategy", "no")
    assert code == 0, error
    history = json.loads((tmp_path / "trained" / "trainer_state.json").read_text())["log_history"]
    assert history[0]["negatives"] > 7  # without hard ones there would be 7


def test_stopped_and_started_again(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path, picture: Callable
) -> None:
    broken = tmp_path / "images" / "11.png"
    broken.write_bytes(b"no image")
    out = tmp_path / "mined"
    words = ["mine", coma_folder, pairs, out, *COLUMNS, "--part-rows", 5]
    code, _, error = coma_command(*words)
    assert code == 1 and "Row 22: positive: cannot decode" in error and not out.exists()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("mined.parts/*/*.arrow")}
    assert len(kept) == 5 + 2  # all of the queries, 10 of the documents

    picture(28, 28, 11).save(broken)
    states: dict[Path, int] = {}

    def remember(folder: str) -> None:
        states.update({file: file.stat().st_mtime_ns for file in tmp_path.glob("mined.parts/*/*.arrow")})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_scripts.mine, "shutil", SimpleNamespace(rmtree=remember))
        code, text, error = coma_command(*words)
    assert code == 0, error
    assert kept.items() < states.items() and len(states) == 5 + 3
    code, _, error = coma_command(*words)
    assert code == 1 and "nothing is overwritten" in error


def test_negatives_that_are_there_stay(
    coma_folder: Path, coma_command: Callable, tmp_path: Path, picture: Callable
) -> None:
    lines = [
        {"query": {"text": f"q {n}", "image": None}, "positive": {"text": f"p {n}", "image": None}} for n in range(5)
    ]
    for line in lines[:2]:
        line["negatives"] = [{"text": "p 4", "image": None}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"negatives": [], **line}) + "\n" for line in lines))
    words = ["mine", coma_folder, tmp_path / "pairs.jsonl", tmp_path / "mined", "--number", 4, "--workers", 0]
    code, text, error = coma_command(*words, "--relative-margin", -2)
    assert code == 0, error
    rows = without_decoding(load_from_disk(str(tmp_path / "mined")))
    found = [[one["text"] for one in row["negatives"]] for row in rows]
    assert found[0][0] == found[1][0] == "p 4"
    assert [sorted(one) for one in found] == [[f"p {other}" for other in range(5) if other != n] for n in range(5)]
    assert "fewer      2 of 5" in text  # for one of their negatives was there before


def test_emoji() -> None:
    rows = hub_scripts.mine._load("emoji", {}, None)
    assert len(rows) == 3 * 1595 and set(rows["source"]) == {"emoji-name"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--number", 5, "--depth", 4], "depth=4 must hold both"),
        (["--query-text", "nothing"], "nothing"),
        (["--instructions", '{"zzz": "Find it."}'], "--instructions names 'zzz', which no row has"),
        (["--instructions", '{"zzz": "Find it."}'], "The sources are 'a', 'b'."),
        (["--number", 6], "ask for more than there is: no query has more than 5 documents of its source"),
    ],
)
def test_what_is_wrong_is_said(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path, words: list, message: str
) -> None:
    code, _, error = coma_command("mine", coma_folder, pairs, tmp_path / "mined", *COLUMNS, *words)
    assert code == 1 and message in error and not (tmp_path / "mined").exists()


@pytest.mark.parametrize(
    "words",
    [
        *(
            [f"--{name}", value]
            for name in ("relative-margin", "absolute-margin", "max-score")
            for value in ("nan", "inf")
        ),
        ["--absolute-margin", "-0.1"],
        ["--absolute-margin", "2.1"],
        ["--max-score", "1.5"],
        ["--relative-margin", "much"],
        ["--skip", "-1"],
        ["--workers", "-1"],
        ["--instructions", "[1]"],
        ["--instructions", '{"a": 1}'],
        ["--instructions", "{"],
        ["--instructions", '{"a": "x", "a": "y"}'],
    ],
    ids=" ".join,
)
def test_an_option_that_means_nothing(
    coma_folder: Path, capsys: pytest.CaptureFixture, pairs: Path, tmp_path: Path, words: list
) -> None:
    with pytest.raises(SystemExit):
        hub_scripts.mine.main([str(coma_folder), str(pairs), str(tmp_path / "mined"), f"{words[0]}={words[1]}"])
    assert f"error: argument {words[0]}: {words[1]!r}" in capsys.readouterr().err


def test_only_one_process_writes_and_nothing_of_others_is_touched(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    out, report, parts = (tmp_path / f"mined{ending}" for ending in ("", ".report.json", ".parts"))
    words = ["mine", coma_folder, pairs, out, *COLUMNS, "--relative-margin", MARGIN]
    with one_writer(out):
        code, _, error = coma_command(*words)
    assert code == 1 and f"Another process is writing {out}" in error
    report.write_text('{"mine": "all mine"}')
    code, _, error = coma_command(*words)
    assert code == 1 and f"{report} is there already and is no report of coma mine" in error
    assert report.read_text() == '{"mine": "all mine"}'
    report.unlink()
    parts.mkdir()
    (parts / "thesis.npy").write_text("mine")
    code, _, error = coma_command(*words)
    assert code == 1 and f"{parts} is there already, and not from this command" in error
    assert (parts / "thesis.npy").read_text() == "mine" and not out.exists()


def test_what_was_begun_with_something_else_is_refused(
    coma_folder: Path, coma_command: Callable, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "images" / "11.png").write_bytes(b"no image")
    words = ["mine", coma_folder, pairs, tmp_path / "mined", *COLUMNS, "--relative-margin", MARGIN]
    assert coma_command(*words)[0] == 1
    (kept,) = tmp_path.glob("mined.parts/queries/*.arrow")
    code, _, error = coma_command(*words, "--dtype", "bfloat16")
    assert code == 1 and "mined.parts was begun with another dtype" in error and kept.exists()
    code, _, error = coma_command(*words, "--instructions", '{"a": "Find it."}')
    assert code == 1 and "was begun with another instructions (None, now {" in error and kept.exists()
    record = tmp_path / "mined.parts" / "begun_with.json"
    record.write_text(record.read_text()[:20])
    code, _, error = coma_command(*words)
    assert code == 1 and f"{record} is there already and is no record of this command, or a damaged one" in error
