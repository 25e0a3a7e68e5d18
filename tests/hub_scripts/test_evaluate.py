"""`coma evaluate` gives the scores of the embeddings, names what is missing, and goes on after it was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hub_scripts.evaluate import evaluate_model
from hub_scripts.evaluation.data import open_sets
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.mmeb_folders import NUMBER, v1_rows, visual_documents, write_mmeb
from trainers.data.emoji import emoji_pairs, load_emoji
from trainers.data.mmeb.sets import SETS
from trainers.files import one_writer


ROOT = Path(__file__).resolve().parents[2]
FEW = ["ImageNet-1K", "MSCOCO_t2i", "ViDoRe_docvqa"]


@pytest.fixture(scope="module")
def mmeb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmeb(tmp_path_factory.mktemp("mmeb"), FEW)


def scores_in(folder: Path, name: str) -> dict:
    return json.loads((folder / SETS[name].modality / f"{name}_score.json").read_text())


def without_date(file: Path) -> dict:
    results = json.loads(file.read_text())
    results["metadata"].pop("report_generated_date")
    return results


@pytest.fixture(scope="module")
def embed(coma_folder: Path) -> Callable[[list], torch.Tensor]:
    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)

    def one_by_one(items: list) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(**processor.process([item])).embeddings for item in items])

    return one_by_one


def test_scores_are_those_of_the_embeddings(
    mmeb: Path, coma_folder: Path, coma_command: Callable, embed: Callable, tmp_path: Path
) -> None:
    """Recomputed row by row, each query with the candidates of its row, without any of the code that is tested."""
    code, text, _ = coma_command("evaluate", coma_folder, mmeb, "--output", tmp_path, "--sets", ",".join(FEW))
    assert code == 0
    hits = 0
    for row in v1_rows("ImageNet-1K", mmeb):
        query = {"image": str(mmeb / row["qry_img_path"]), "text": row["qry_text"].removeprefix("<|image_1|>")}
        hits += int((embed([query]) @ embed(row["tgt_text"]).T).argmax() == 0)
    scores = scores_in(tmp_path, "ImageNet-1K")
    assert scores["hit@1"] == pytest.approx(hits / NUMBER) and scores["num_data"] == NUMBER

    tables = visual_documents(mmeb)
    queries = embed(
        [f"Find a document image that matches the given query: {text}" for text in tables["queries"]["query"]]
    )
    about = " Understand the content of the provided document image."
    pages = embed([{"image": str(mmeb / f"noto/{n}.png"), "text": about} for n in range(NUMBER)])
    gains = torch.tensor([[0, 2, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 3.0]])
    discounts = 1 / torch.log2(torch.arange(2, 7))
    found = gains.gather(1, (queries @ pages.T).argsort(descending=True)[:, :5])
    best = gains.sort(descending=True).values[:, :5]
    ndcg = ((found * discounts).sum(1) / (best * discounts).sum(1)).mean()
    assert scores_in(tmp_path, "ViDoRe_docvqa")["ndcg_linear@5"] == pytest.approx(ndcg.item(), abs=1e-6)
    assert f"hit@1 {100 * hits / NUMBER:.1f}%" in text and "ViDoRe_docvqa" in text


def test_a_table_whose_columns_are_named(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("title,body\na red apple,an apple\na tree,a green tree\n")
    words = ["evaluate", coma_folder, tmp_path / "shop.csv", "--output", tmp_path / "out"]
    code, _, error = coma_command(*words, "--query-text", "title", "--positive-text", "body")
    assert code == 0, error
    results = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["retrieval"]["shop"]
    columns = {"query_text": "title", "positive_text": "body"}
    again = evaluate_model(coma_folder, tmp_path / "shop.csv", tmp_path / "again", columns=columns)
    assert again["metrics"]["retrieval"]["shop"]["hit@1"] == results["hit@1"] and results["num_data"] == 2


def test_several_vectors(coma_folder: Path, coma_command: Callable, embed: Callable, tmp_path: Path) -> None:
    """Beside the one vector, by MaxSim of budgets, written out; only where trained for, unless told."""
    texts = [f"a {color} {thing}" for color in ("red", "blue", "green") for thing in ("apple", "tree", "leaf")]
    rows = [{"query": text, "positive": f"{text} and a little sky"} for text in texts]
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["evaluate", coma_folder, tmp_path / "shop.jsonl", "--vectors", "1,2x4"]
    code, _, error = coma_command(*words, "--output", tmp_path / "refused")
    assert code == 1 and "has no record of a training with late_interaction_budgets, not for 1" in error
    assert not (tmp_path / "refused").exists()
    code, text, error = coma_command(*words, "--output", tmp_path / "out", "--any-vectors")
    assert code == 0, error
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["metrics"]["retrieval"]["shop"]
    plain = evaluate_model(coma_folder, tmp_path / "shop.jsonl", tmp_path / "plain")["metrics"]["retrieval"]["shop"]
    assert (
        plain["mrr"] == scores["mrr"]
        and plain["hit@1"] == scores["hit@1"]
        and scores["vectors"].keys() == {"1x1", "2x4"}
    )
    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)
    with torch.no_grad():
        queries, positives = (
            [model(**processor.process([row[side]])).compression_states[0] for row in rows]
            for side in ("query", "positive")
        )
    for budget, (q, d) in {"1x1": (1, 1), "2x4": (2, 4)}.items():
        ranks = []
        for number, query in enumerate(queries):
            similarities = [
                sum(max(torch.cosine_similarity(one, other, dim=0) for other in document[:d]) for one in query[:q])
                for document in positives
            ]
            ranks.append(1 + sum(other >= similarities[number] for other in similarities) - 1)
        of_budget = scores["vectors"][budget]
        assert of_budget["mrr"] == pytest.approx(sum(1 / int(rank) for rank in ranks) / len(ranks), abs=1e-6)
        assert of_budget["num_data"] == len(rows) and f"  {budget}" in text
    with pytest.raises(ValueError, match="was made with another vectors"):
        evaluate_model(coma_folder, tmp_path / "shop.jsonl", tmp_path / "out")


def test_from_python(mmeb: Path, coma_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told: list[str] = []
    arguments = {"model": coma_folder, "data": mmeb, "output": tmp_path, "sets": ["ImageNet-1K"]}
    results = evaluate_model(**arguments, tell=told.append)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["image"]["ImageNet-1K"] == scores_in(tmp_path, "ImageNet-1K")
    assert told[0] == "ImageNet-1K (1 of 1)" and told[1].startswith("  hit@1 ")
    again = evaluate_model(**arguments, tell=told.append)
    assert again["metrics"] == results["metrics"] and told[-1] == "  is finished already"
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="was made with another candidates"):
        evaluate_model(**arguments, among_all=True)
    with pytest.raises(ValueError, match="There is nothing to evaluate"):
        evaluate_model(coma_folder, [], tmp_path)


@pytest.mark.slow
def test_the_whole_benchmark(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    write_mmeb(tmp_path / "mmeb", [name for name, of in SETS.items() if of.modality != "video"], v2=True)
    words = ["evaluate", coma_folder, tmp_path / "mmeb", "--output", tmp_path / "out", "--workers", 0]
    code, text, _ = coma_command(*words)
    assert code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {modality: len(sets) for modality, sets in results["metrics"].items()} == {"image": 36, "visdoc": 24}
    assert "MMEB-V2: 60 of 78 sets were evaluated" in text and results["means"]["MMEB-V2"] == {"overall": None}
    assert "image: overall" in text and "visdoc: VisRAG" in text and None not in results["means"]["visdoc"].values()
    metadata = results["metadata"]
    assert metadata["settings"]["num_compression_tokens"] == 4 and metadata["settings"]["dtype"] == "float32"
    assert metadata["settings"]["pixels"] == [784, 12544] and metadata["versions"]["torch"] == torch.__version__
    assert metadata["commit"] is None or len(metadata["commit"].removesuffix("-dirty")) == 40


def test_missing_sets_are_named(mmeb: Path, coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = coma_command("evaluate", coma_folder, mmeb, "--output", tmp_path)
    assert code == 1 and "57 of 60 sets are missing: N24News, HatefulMemes" in error and not any(tmp_path.iterdir())
    sets = "ImageNet-1K,VOC2007,a typing error"
    code, _, error = coma_command("evaluate", coma_folder, mmeb, "--output", tmp_path, "--sets", sets)
    assert code == 1 and "2 of 3 sets are missing: VOC2007, a typing error." in error
    code, _, error = coma_command("evaluate", coma_folder, tmp_path, "--output", tmp_path / "out")
    assert code == 1 and "has no folder or file that is named like a set of MMEB" in error
    code, _, error = coma_command("evaluate", coma_folder, mmeb, mmeb, "--output", tmp_path)
    assert code == 1 and "The set ImageNet-1K is there twice" in error


def test_a_bad_picture_is_named(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    write_mmeb(tmp_path / "mmeb", ["ImageNet-1K"])
    (tmp_path / "mmeb" / "noto" / "3.png").write_bytes(b"no image")
    words = ["evaluate", coma_folder, tmp_path / "mmeb", "--output", tmp_path / "out", "--sets", "ImageNet-1K"]
    code, _, error = coma_command(*words, "--workers", 0)
    assert code == 1 and "cannot decode" in error and "noto/3.png" in error and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(
    mmeb: Path, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    def words(out: Path) -> list:
        return ["evaluate", coma_folder, mmeb, "--output", out, "--sets", ",".join(FEW), "--workers", 0]

    command = [sys.executable, "-m", "hub_scripts.cli", *map(str, words(tmp_path / "killed"))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (tmp_path / "killed/image/ImageNet-1K_score.json").exists():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed/results.json").exists()
    kept = scores_in(tmp_path / "killed", "ImageNet-1K")

    code, text, _ = coma_command(*words(tmp_path / "killed"))
    assert code == 0 and "ImageNet-1K (1 of 3)\n  is finished already" in text
    assert scores_in(tmp_path / "killed", "ImageNet-1K") == kept
    assert coma_command(*words(tmp_path / "whole"))[0] == 0
    assert without_date(tmp_path / "killed/results.json") == without_date(tmp_path / "whole/results.json")


def test_scores_of_other_settings_are_not_kept(
    mmeb: Path, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    words = ["evaluate", coma_folder, mmeb, "--output", tmp_path / "out", "--sets", "ImageNet-1K", "--workers", 0]
    assert coma_command(*words)[0] == 0
    code, _, error = coma_command(*words, "--dtype", "bfloat16")
    assert code == 1 and "ImageNet-1K_score.json was made with another dtype" in error
    assert "was made with another candidates" in coma_command(*words, "--among-all")[2]
    changed = tmp_path / "changed"
    shutil.copytree(mmeb, changed)
    rows = v1_rows("ImageNet-1K", changed)
    rows[0]["qry_text"] += "else"
    shutil.rmtree(changed / "ImageNet-1K")
    (changed / "ImageNet-1K.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words[2] = changed
    assert "was made with another data:" in coma_command(*words)[2]


def test_pairs_of_ones_own(coma_folder: Path, coma_command: Callable, embed: Callable, tmp_path: Path) -> None:
    pairs = emoji_pairs(load_emoji(["noto"]).select(range(12)))
    pairs.to_parquet(tmp_path / "shop.parquet")
    words = ["evaluate", coma_folder, tmp_path / "shop.parquet", "--output", tmp_path / "out", "--workers", 0]
    code, text, _ = coma_command(*words)
    results = json.loads((tmp_path / "out/results.json").read_text())
    queries, documents = (
        embed([row["image"] for row in pairs["query"]]),
        embed([row["text"] for row in pairs["positive"]]),
    )
    expected = ((queries @ documents.T).argmax(1) == torch.arange(12)).double().mean().item()
    assert code == 0 and results["metrics"]["retrieval"]["shop"]["hit@1"] == pytest.approx(expected)
    assert results["means"] == {} and text.splitlines()[-2].split()[:3] == ["shop", "12", "12"]

    words = [*words[:4], tmp_path / "instructed", "--instruction", "emoji-name=Find its name."]
    assert coma_command(*words)[0] == 0
    settings = json.loads((tmp_path / "instructed/results.json").read_text())["metadata"]["settings"]
    assert settings["instructions"] == {"emoji-name": "Find its name."}
    code, _, error = coma_command(*words, "--instruction", "Find its name.")
    assert code == 1 and "--instruction 'Find its name.' is not SOURCE=TEXT" in error


def test_the_packaged_emoji_are_a_set() -> None:
    (one,) = open_sets(["emoji"])
    made = one.read()
    assert one.name == "emoji" and len(made.queries) == len(made.documents) == 1595 and len(made.items) == 2 * 1595


def test_what_is_no_data(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    code, _, error = coma_command("evaluate", coma_folder, "nowhere", "--output", tmp_path)
    assert code == 1 and "nowhere is not there, and no name on the Hub" in error


@pytest.fixture
def shop(tmp_path: Path, picture: Callable) -> Path:
    """Twelve rows, every query and every document in two of them; the image of the rows 8 and 9 is broken."""
    lines = []
    for number in range(12):
        picture(28, 28, number // 2).save(tmp_path / f"{number // 2}.png")
        query, positive = {"text": f"what is {number // 3}?"}, {"image": f"{number // 2}.png"}
        lines.append({"query": query, "positive": positive, "source": "shop" if number % 2 else "mall"})
    (tmp_path / "4.png").write_bytes(b"no image")
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "shop.jsonl"


def test_a_bad_row_is_named_or_left_out_and_counted(
    coma_folder: Path, coma_command: Callable, shop: Path, tmp_path: Path
) -> None:
    words = ["evaluate", coma_folder, shop, "--workers", 0, "--output"]
    code, _, error = coma_command(*words, tmp_path / "out")
    assert code == 1 and "Row 8: positive: cannot decode" in error and "4.png" in error
    assert not (tmp_path / "out").exists()
    code, text, _ = coma_command(*words, tmp_path / "out", "--on-bad-row", "skip")
    assert code == 0 and "shop: 2 bad rows were left out of its scores" in text
    assert "left out: Row 8: positive: cannot decode" in text
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["metadata"]["settings"]["on_bad_row"] == "skip"
    scores = results["metrics"]["retrieval"]["shop"]
    assert scores["rows_skipped"] == 2 and scores["num_data"] == 10

    lines = shop.read_text().splitlines()
    shop.write_text("\n".join([*lines[:8], *lines[10:]]))
    assert coma_command(*words, tmp_path / "good")[0] == 0
    good = json.loads((tmp_path / "good/results.json").read_text())["metrics"]["retrieval"]["shop"]
    assert {name: value for name, value in good.items() if "@" in name} == {n: scores[n] for n in good if "@" in n}

    lines[2] = json.dumps({"query": {"text": " "}, "positive": {"text": "x"}, "source": "shop"})
    shop.write_text("\n".join(lines))
    code, text, _ = coma_command(*words, tmp_path / "three", "--on-bad-row", "skip")
    assert code == 0 and "3 bad rows" in text and "left out: Row 8: positive" in text  # of the file, not of the rest


def test_nothing_in_a_name_is_a_command_to_the_terminal(
    coma_folder: Path, coma_command: Callable, shop: Path, tmp_path: Path
) -> None:
    evil = "a\x1b[2J\x1b]0;t\x07\u202eb\x9b31m"
    named, mined = shop.rename(shop.with_name(f"{evil}.jsonl")), tmp_path / f"{evil} mined"
    output = ["--output", tmp_path / f"{evil} out", "--on-bad-row", "skip", "--workers", 0]
    code, text, error = coma_command("evaluate", coma_folder, named, *output)
    assert code == 0 and text.count(r"a\x1b[2J\x1b]0;t\x07\u202eb\x9b31m") >= 3, error
    (tmp_path / "4.png").write_bytes((tmp_path / "3.png").read_bytes())
    code, more, error = coma_command("mine", coma_folder, named, mined, "--number", 1, "--workers", 0)
    assert code == 0 and r"a\x1b[2J\x1b]0;t\x07" in more, error
    assert all(letter.isprintable() or letter == "\n" for letter in text + more)


def test_scores_of_a_benchmark_are_of_all_its_rows(
    mmeb: Path, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    words = ["evaluate", coma_folder, mmeb, "--output", tmp_path, "--sets", "ImageNet-1K", "--on-bad-row", "skip"]
    code, _, error = coma_command(*words)
    assert code == 1 and "Scores of ImageNet-1K are those of all its rows" in error


def test_a_source_that_no_row_has(
    mmeb: Path, coma_folder: Path, coma_command: Callable, shop: Path, tmp_path: Path
) -> None:
    words = ["evaluate", coma_folder, shop, "--output", tmp_path / "out", "--instruction"]
    code, _, error = coma_command(*words, "zzz=Find it.")
    assert code == 1 and "--instruction names 'zzz', which no row has" in error and "'mall', 'shop'" in error
    code, _, error = coma_command(*words, "=Find it.")
    assert code == 1 and "--instruction names rows without a source, which no row has" in error
    code, _, error = coma_command(*words, "shop=Find it.", "--instruction", "shop=Find that.")
    assert code == 1 and "--instruction is given twice for the source 'shop'" in error
    words = ["evaluate", coma_folder, mmeb, "--output", tmp_path / "out", "--sets", "ImageNet-1K", "--instruction"]
    code, _, error = coma_command(*words, "shop=Find it.")
    assert code == 1 and "--instruction names 'shop', which no row has" in error and not (tmp_path / "out").exists()


def test_only_one_process_writes_and_nothing_of_others_is_touched(
    coma_folder: Path, coma_command: Callable, shop: Path, picture: Callable, tmp_path: Path
) -> None:
    picture(28, 28, 4).save(tmp_path / "4.png")
    out = tmp_path / "out"
    words = ["evaluate", coma_folder, shop, "--output", out, "--workers", 0]
    with one_writer(out):
        code, _, error = coma_command(*words)
    assert code == 1 and f"Another process is writing {out}" in error
    results, scores = out / "results.json", out / "retrieval" / "shop_score.json"
    scores.parent.mkdir(parents=True)
    for file in (results, scores):
        for content in ('{"mine": "all mine"}', '{"metadata": ', "[1]", "\xff"):
            file.write_bytes(content.encode("latin-1"))
            code, _, error = coma_command(*words)
            assert code == 1 and f"{file} is there already and" in error
            assert "write elsewhere" in error or "give another --output" in error
        file.unlink()
    assert coma_command(*words)[0] == 0
    before = results.read_text()
    scores.unlink()
    code, _, error = coma_command(*words, "--instruction", "shop=Find it.")
    assert code == 1 and "results.json was made with another instructions" in error and results.read_text() == before
