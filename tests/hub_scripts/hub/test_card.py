"""The card says what files say, in words and in metadata that the Hub accepts; other models' results are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers.pipelines import SUPPORTED_TASKS

from hub_scripts.hub.card import training_section, write_model_card
from hub_scripts.hub.card_results import read_results, results_table
from hub_scripts.hub.golden import probe
from hub_scripts.hub.training_record import TRAINING_FILE, read_training_record, write_stages


STAGE = {
    "stage": "compression",
    "version": "1.2",
    "model": "org/base",
    "data": "dialogues.jsonl",
    "adapter": {"lora_r": 16},
    "steps": 30,
    "epochs": 1.5,
    "rows_per_step": 64,
    "settings": {"learning_rate": 5e-5, "compression_instruction": True, "kl_weight": 0.5},
    "last_log": {"loss": 1.23456, "eval_loss": 1.5},
    "libraries": {"torch": "2.13.0"},
}


@pytest.fixture
def coma_pair(make_coma: Callable) -> tuple:
    model, processor = make_coma()
    return model.eval(), processor


@pytest.fixture
def evaluated(coma_pair: tuple, tmp_path: Path) -> Path:
    """`results.json` as `coma evaluate` leaves it."""
    scores = {"hit@1": 0.75, "num_queries": 4, "chance_hit@1": 0.25, "settings": {}, "versions": {}, "commit": "abc"}
    settings = {"model": "my-coma", "probe": probe(*coma_pair)}
    metadata = {"settings": settings, "commit": "abc", "versions": {"torch": "2.13.0"}}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"metadata": metadata, "metrics": {"image": {"CIRR": scores}}, "means": {}}))
    return file


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    file = tmp_path / "plain.json"
    dataset = {"name": "Shop", "type": "org/shop", "split": "test", "revision": "f00"}
    result = {"task": "retrieval", "dataset": dataset, "metrics": {"ndcg_at_10": 0.61234567}, "command": "shop --all"}
    file.write_text(json.dumps([result]))
    return file


def test_the_card_of_a_trained_model(coma_pair: tuple, evaluated: Path, plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / TRAINING_FILE).write_text(json.dumps([STAGE, {**STAGE, "stage": "contrastive", "adapter": None}]))
    sources = {"license": "apache-2.0", "base_model": "org/backbone", "results_files": [evaluated, plain]}
    write_model_card(folder, *coma_pair, "org/my-coma", **sources)
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.base_model, data.base_model_relation) == ("apache-2.0", "org/backbone", "finetune")
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert data.pipeline_tag not in SUPPORTED_TASKS, "the Hub would show a pipeline that knows no compression tokens"
    found = {(one.dataset_name, one.metric_type): one for one in data.eval_results}
    assert found["CIRR", "hit@1"].metric_value == 0.75 and found["CIRR", "hit@1"].task_type == "image-retrieval"
    shop = found["Shop", "ndcg_at_10"]
    assert (shop.metric_value, shop.dataset_type) == (0.612346, "org/shop")
    assert (shop.dataset_split, shop.dataset_revision) == ("test", "f00")
    assert len(found) == 2, "the number of queries is no result, and what chance would score is none of the model"
    for words in (
        'AutoModel.from_pretrained("org/my-coma", trust_remote_code=True)',
        'SentenceTransformer("org/my-coma", trust_remote_code=True)',
        "coma search org/my-coma",
        "| compression tokens (K) | 4 |",
        "| dimensions | 64 |",
        "| prompt: compression_instruction | True |",
        "| steps | 30 of 64 rows, 1.50 epochs |",
        "### 2. matching: InfoNCE",
        "| image-retrieval | CIRR | 0.7500 |  |",
        "By `shop --all`.",
        "By `coma evaluate`, commit abc, torch 2.13.0.",
    ):
        assert words in card.text, words
    assert "{{" not in card.text and "Nothing was trained" not in card.text and "loss.png" not in card.text


def test_the_card_of_an_untrained_model(coma_pair: tuple, tmp_path: Path) -> None:
    """The backbone lay in a folder: its name is no name of the Hub, and where it lay is not told."""
    write_stages(tmp_path, [])
    write_model_card(tmp_path, *coma_pair)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None and card.data.eval_results is None and card.data.license is None
    assert "Nothing was trained" in card.text and "Not evaluated." in card.text and "binds" in card.text
    assert str(tmp_path.parent) not in card.content
    (tmp_path / TRAINING_FILE).unlink()
    write_model_card(tmp_path, *coma_pair)
    card = ModelCard.load(tmp_path / "README.md")
    assert "Nothing was trained" not in card.text and "Not recorded" in card.text, "who does not say is not untrained"


@pytest.mark.parametrize(
    ("memory", "told"), [("cache", "columns of key-value cache"), ("states", "last hidden states")]
)
def test_the_card_says_what_a_memory_is(coma_pair: tuple, tmp_path: Path, memory: str, told: str) -> None:
    model, processor = coma_pair
    model.config.memory = memory
    write_model_card(tmp_path, model, processor)
    assert f"The memory of an input is 4 {told}, from which" in (tmp_path / "README.md").read_text()


def test_the_card_of_an_adapter(coma_pair: tuple, tmp_path: Path) -> None:
    write_model_card(tmp_path, *coma_pair, "org/adapter", adapter_of="org/base")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("org/base", "adapter")
    assert 'pip install "peft>=0.20"' in card.text


def test_results_of_another_model(coma_pair: tuple, evaluated: Path) -> None:
    content = json.loads(evaluated.read_text())
    content["metadata"]["settings"]["probe"][0] += 0.1
    evaluated.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="results of another model, my-coma"):
        read_results([evaluated], *coma_pair)


@pytest.mark.parametrize("probe_of", ["nothing but NaN", "another size", "words", "no list"])
def test_results_whose_model_cannot_be_told(coma_pair: tuple, evaluated: Path, probe_of: str) -> None:
    """NaN is near nothing, and a shorter probe is of a smaller model."""
    content = json.loads(evaluated.read_text())
    mine = content["metadata"]["settings"]["probe"]
    others = {"nothing but NaN": [float("nan")] * len(mine), "another size": mine[1:], "words": ["a"] * len(mine)}
    content["metadata"]["settings"]["probe"] = others.get(probe_of, 0.5)
    evaluated.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="results of another model, my-coma"):
        read_results([evaluated], *coma_pair)


def test_a_task_is_named_once(coma_pair: tuple, evaluated: Path) -> None:
    """Sets of one's own are of the modality "retrieval"."""
    content = json.loads(evaluated.read_text())
    scores = {"hit@1": 0.5}
    content["metrics"] = {"retrieval": {"pairs": scores}, "image": {"CIRR": scores}, "visdoc": {"ViDoRe": scores}}
    evaluated.write_text(json.dumps(content))
    found = read_results([evaluated], *coma_pair)
    assert [score.task for score in found] == ["retrieval", "image-retrieval", "visdoc-retrieval"]
    assert "| retrieval | pairs | 0.5000 |" in results_table(found)


HOSTILE = "a|b <script>alert(1)</script> `x` *y*\n---\nlicense: mit\n# head [l](javascript:1): - #"


def test_words_of_others_stay_words(coma_pair: tuple, tmp_path: Path) -> None:
    """In names of data, models, metrics, commands and folders; in Markdown, HTML and YAML."""
    folder = tmp_path / f"model {HOSTILE.replace('/', '')[:40]}"
    folder.mkdir()
    stage = {**STAGE, "model": HOSTILE, "data": HOSTILE, "settings": {"instructions": {HOSTILE: HOSTILE}}}
    stage |= {"stage": HOSTILE, HOSTILE: 1, "adapter": {"r": HOSTILE}}
    (folder / TRAINING_FILE).write_text(json.dumps([stage]))
    result = {"task": HOSTILE, "dataset": {"name": HOSTILE, "split": HOSTILE}, "metrics": {HOSTILE: 0.5}}
    (tmp_path / "r.json").write_text(json.dumps({**result, "command": HOSTILE, "commit": HOSTILE}))
    coma_pair[0].config.backbone_config._name_or_path = f"/home/{HOSTILE}"
    write_model_card(folder, *coma_pair, results_files=[tmp_path / "r.json"])
    card = ModelCard.load(folder / "README.md")
    assert card.data.license is None and card.data.base_model is None
    (found,) = card.data.eval_results
    assert " ".join(HOSTILE.split()) in found.dataset_name and found.metric_value == 0.5

    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.text)
    children = [child for token in tokens for child in token.children or ()]
    assert not {"html_block", "hr"} & {token.type for token in tokens}
    assert "html_inline" not in {child.type for child in children}
    assert {child.attrs["href"] for child in children if child.type == "link_open"} == {
        "https://arxiv.org/abs/2511.08480"
    }
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:4] == ["Use", "Facts", "Training"] and headings[5:] == ["Results", "Limits"], headings
    tables = [token for token in tokens if token.type == "table_open"]
    assert len(tables) == 3, "facts, one stage, results"
    for code in (token.content for token in tokens if token.type == "fence"):
        compile(code, "snippet", "exec")


def test_a_line_on_sources_says_something(coma_pair: tuple, tmp_path: Path) -> None:
    result = {"task": "t", "dataset": "d", "metrics": {"n": 0.5}, "commit": None, "versions": {}}
    (tmp_path / "r.json").write_text(json.dumps(result))
    assert "By" not in results_table(read_results([tmp_path / "r.json"], *coma_pair))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "is no file of results"),
        ('[{"task": "t", "dataset": "d"}]', "is no file of results"),
        ('{"task": "t", "dataset": "d", "metrics": [1]}', "need names"),
        ('{"task": ["t"], "dataset": "d", "metrics": {"n": 0.5}}', "need names"),
        ('{"task": "t", "dataset": {"type": "d"}, "metrics": {"n": 0.5}}', "need names"),
        ('{"metadata": {}, "metrics": [1]}', "is not as `coma evaluate` leaves it"),
        ('{"metadata": {}, "metrics": {"image": {"CIRR": 1}}}', "is not as `coma evaluate` leaves it"),
        ('{"metadata": {"settings": 1}, "metrics": {}}', "is not as `coma evaluate` leaves it"),
        ("[" * 100_000, "is not JSON"),
        ('{"task": "t", "dataset": "d", "metrics": {"n": 3, "x": "high", "y": NaN}}', "no metrics that are numbers"),
    ],
)
def test_files_without_results(coma_pair: tuple, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results([tmp_path / "r.json"], *coma_pair)
    assert results_table([]) == ""


def test_no_record_is_no_section(tmp_path: Path) -> None:
    assert training_section(read_training_record(tmp_path)) == ""
