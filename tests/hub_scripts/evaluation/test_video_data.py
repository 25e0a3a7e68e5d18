"""Video sets are found in a clone of MMEB-V2, in folders as of other sets, and are named where they are not."""

import shutil
from pathlib import Path

import pytest

from hub_scripts.evaluation.data import open_sets
from hub_scripts.evaluation.video_data import Footage, video_part
from tests.mmeb_videos import write_videos
from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS


FEW = ["HMDB51", "MVBench"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clone")
    write_videos(root / "video-tasks", FEW)
    return root


def numbers(place: Path, **options: object) -> dict[str, int]:
    return {one.name: len(one.read().queries) for one in open_sets([str(place)], FEW, footage=Footage(**options))}


def test_a_clone_and_its_folder_of_videos(clone: Path) -> None:
    """MVBench has three rows in each of its 20 parts."""
    assert numbers(clone) == numbers(clone / "video-tasks") == {"HMDB51": 3, "MVBench": 60}
    with pytest.raises(ValueError, match="16 of 18 sets are missing: K700, UCF101, SmthSmthV2"):
        open_sets([str(clone)])


def test_of_two_files_of_momentseeker_that_of_the_leaderboard_counts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("momentseeker", "momentseeker_1k6"):
        (tmp_path / "data" / f"{name}.jsonl").touch()
        assert video_part(tmp_path, "MomentSeeker").stem == name


def test_folders_as_of_other_sets(clone: Path, tmp_path: Path) -> None:
    data = clone / "video-tasks/data"
    (tmp_path / "HMDB51").mkdir()
    shutil.copy(data / "hmdb51.jsonl", tmp_path / "HMDB51" / "test.jsonl")
    shutil.copytree(data / "mvbench", tmp_path / "MVBench")
    assert numbers(tmp_path, root=clone / "video-tasks") == {"HMDB51": 3, "MVBench": 60}
    with pytest.raises(ValueError, match="Row 0 of HMDB51, column video_id: found no frames in .*video root"):
        numbers(tmp_path)
    (tmp_path / "MVBench/scene_transition.json").unlink()
    with pytest.raises(ValueError, match="MVBench has no file of 1 of 20 parts: scene_transition"):
        numbers(tmp_path, root=clone / "video-tasks")


def test_how_many_frames_stands_beside_the_scores(clone: Path) -> None:
    (one,) = open_sets([str(clone)], ["HMDB51"], footage=Footage(num_frames=4))
    assert one.shown == {"video_frames": 4} and one.metric == "hit@1"
    (message,) = one.read().items[-1]
    assert len(message["content"][0]["video"]) == 4
    with pytest.raises(ValueError, match="0 frames of a video cannot be shown"):
        open_sets([str(clone)], ["HMDB51"], footage=Footage(num_frames=0))[0].read()


def test_sets_on_the_hub_need_the_folder_of_frames(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The rows of VLM2Vec/Kinetics-700 have no frames: .*--video-root"):
        open_sets(["video"])
    found = open_sets(["video"], footage=Footage(tmp_path))
    assert [one.name for one in found] == list(VIDEO_LAYOUTS)
