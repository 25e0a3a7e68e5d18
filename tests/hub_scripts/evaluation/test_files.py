"""Means are those of the benchmark, by arithmetic; files have the names and keys that the leaderboard reads."""

import json
import subprocess
from pathlib import Path

import pytest

from hub_scripts.evaluation.data import NamedSet
from hub_scripts.evaluation.files import ResultsFolder, git_commit, model_settings
from hub_scripts.evaluation.table import results_table
from trainers.data.mmeb.sets import SETS


GROUNDING = ["MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"]


def named(*names: str) -> list[NamedSet]:
    return [NamedSet(name, SETS[name].modality, SETS[name].metric, lambda: None) for name in names]


def written(folder: Path, scores: dict[str, float], model, processor) -> dict:
    results, sets = ResultsFolder(folder, model_settings("org/my-coma", model, processor)), named(*scores)
    for one in sets:
        results.write_scores(one, {one.metric: scores[one.name], "num_data": 10}, "digest")
    returned = results.write_results(sets, model)
    assert returned == json.loads((folder / "results.json").read_text())
    return returned


def test_means_by_hand(make_coma, tmp_path):
    """Each set has its place in the benchmark as its score."""
    image = {one.name: n for n, one in enumerate(SETS.values()) if one.modality == "image"}
    results = written(tmp_path, {name: n / 100 for name, n in image.items()}, *make_coma())
    means = results["means"]["image"]
    assert means["overall"] == pytest.approx(sum(range(36)) / 36 / 100)
    assert means["grounding"] == pytest.approx(sum(image[name] for name in GROUNDING) / 4 / 100)
    in_distribution = [n for name, n in image.items() if SETS[name].in_distribution]
    assert means["ind"] == pytest.approx(sum(in_distribution) / 20 / 100)
    assert 20 * means["ind"] + 16 * means["ood"] == pytest.approx(36 * means["overall"])
    assert results["metrics"]["image"]["MSCOCO"]["hit@1"] == image["MSCOCO"] / 100
    table = [line.split() for line in results_table(results)]
    assert ["image:", "overall", "mean", "17.5"] in table and ["MSCOCO", "10", "-", "32.0", "-", "-", "-"] in table


def test_the_mean_of_all_by_hand(make_coma, tmp_path, monkeypatch):
    """Every set counts the same, so that a modality counts as much as it has sets: 36, 18 and 24."""
    monkeypatch.setattr("hub_scripts.evaluation.files.git_commit", lambda: None)
    monkeypatch.setattr("hub_scripts.evaluation.files.library_versions", lambda names: {})
    of_modality = {"image": 0.6, "video": 0.3, "visdoc": 0.9}
    scores = {name: of_modality[of.modality] for name, of in SETS.items()}
    means = written(tmp_path, scores, *make_coma())["means"]
    assert means["MMEB-V2"]["overall"] == pytest.approx((36 * 0.6 + 18 * 0.3 + 24 * 0.9) / 78)
    assert {name: means[name]["overall"] for name in of_modality} == pytest.approx(of_modality)
    del scores["MSVD"]
    results = written(tmp_path / "part", scores, *make_coma())
    assert results["means"]["MMEB-V2"] == {"overall": None} and results["means"]["video"]["retrieval"] is None
    assert results["means"]["video"]["qa"] == pytest.approx(0.3)
    part = [line for line in results_table(results) if "mean of a part" in line]
    assert [line.split(" sets")[0] for line in part] == ["video: 17 of 18", "MMEB-V2: 77 of 78"]


def test_a_group_that_is_not_complete_has_no_mean(make_coma, tmp_path):
    scores = {**dict.fromkeys(GROUNDING, 0.5), "ImageNet-1K": 0.25, "VisRAG_PlotQA": 1.0}
    results = written(tmp_path, scores, *make_coma())
    there = {"classification", "vqa", "retrieval", "ind", "ood", "overall"}
    assert results["means"]["image"] == {**dict.fromkeys(there), "grounding": 0.5}
    assert set(results["means"]["visdoc"].values()) == {None}
    table = [line.split() for line in results_table(results)]
    assert ["image:", "grounding", "mean", "50.0"] in table
    assert table[0] == ["set", "queries", "candidates", "hit@1", "R@10", "NDCG@10", "NDCG@5", "chance"]
    assert ["VisRAG_PlotQA", "10", "-", "-", "-", "-", "100.0", "-"] in table
    assert not any("overall" in line for line in table)
    assert ["MMEB-V2:", "6", "of", "78"] in [line[:4] for line in table]


def test_files_are_as_the_leaderboard_reads_them(make_coma, tmp_path):
    model, processor = make_coma()
    results = written(tmp_path, {"ImageNet-1K": 0.25, "VisRAG_PlotQA": 1.0}, model, processor)
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.json")} == {
        "image/ImageNet-1K_score.json",
        "visdoc/VisRAG_PlotQA_score.json",
        "results.json",
    }
    metadata = results["metadata"]
    assert metadata["model_name"] == "my-coma" and metadata["embedding_dimension"] == 64
    assert metadata["model_backbone"] == "qwen2_5_vl" and metadata["data_source"] == "Self-Reported"
    assert metadata["settings"]["pixels"] == [784, 12544] and metadata["settings"]["pooling"] == "mean"
    assert set(results["metrics"]) == {"image", "visdoc"}


def test_what_was_made_with_other_settings_is_refused(make_coma, tmp_path):
    settings, (one,) = model_settings("org/my-coma", *make_coma()), named("VOC2007")
    folder = ResultsFolder(tmp_path, settings)
    assert folder.read_scores(one, "digest") is None
    folder.write_scores(one, {"hit@1": 1.0}, "digest")
    assert folder.read_scores(one, "digest")["hit@1"] == 1
    folder.check([one])
    with pytest.raises(ValueError, match="was made with another data: remove it"):
        folder.read_scores(one, "another")
    with pytest.raises(ValueError, match="was made with another max_length, pixels: remove it"):
        ResultsFolder(tmp_path, {**settings, "max_length": 3, "pixels": [1, 2]}).check([one])
    with pytest.raises(ValueError, match="was made with another video_frames: remove it"):
        folder.check([one._replace(shown={"video_frames": 8})])
    other = model_settings("org/my-coma", *make_coma("qwen2_vl"))
    with pytest.raises(ValueError, match="another probe"):
        ResultsFolder(tmp_path, other).read_scores(one, "digest")


def test_the_commit_is_that_of_the_checkout():
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if done.returncode or git_commit() is None:
        pytest.skip("no checkout with this file in it")
    assert git_commit().removesuffix("-dirty") == done.stdout.strip()
