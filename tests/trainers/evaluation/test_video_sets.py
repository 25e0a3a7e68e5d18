"""Video sets of MMEB-V2 are read as the benchmark lays them out and words them; what is scored is checked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mmeb_videos import frame_folders, rows_of, write_frames, write_videos
from trainers.data.mmeb.footage import frames_in
from trainers.data.mmeb.sets import SETS
from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS, labels_of
from trainers.evaluation.retrieval import RetrievalSet, score_set
from trainers.evaluation.video_sets import read_video_set


ALL = list(VIDEO_LAYOUTS)
ASK = (
    " Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question:  "
)
VIDEO, CLIP = " Understand the content of the provided video.", " Understand the content of the provided video clip."
MOMENT = " Find the clip that corresponds to the described scene in the given video: a dog runs"
# Of row 1: the text of the query after the video, and those of its candidates, as the benchmark has them.
WORDED = {
    "K700": (" Recognize the category of the video content.", ["fly_tying"]),
    "UCF101": (" What activities or sports are being performed by the person in the video?", ["PlayingDaf"]),
    "HMDB51": (" What actions or objects interactions are the person in the video doing?", ["wave"]),
    "SmthSmthV2": (
        " What actions or object interactions are being performed by the person in the video?",
        ["Folding something", "Closing something"],
    ),
    "Breakfast": (" Recognize the breakfast type that the person is cooking in the video. ", ["cereal"]),
    "MSR-VTT": ("Find a video that contains the following visual content: a dog runs", [VIDEO]),
    "MSVD": ("Find the video snippet that corresponds to the given summary: a dog runs", [VIDEO]),
    "DiDeMo": ("Find a video that includes the following described scenes: a dog runs", [VIDEO]),
    "YouCook2": ("Find a video that demonstrates the following action while making a recipe: a dog runs", [VIDEO]),
    "VATEX": ("Select a video that fits the description provided: a dog runs", [VIDEO]),
    "QVHighlight": (MOMENT, [VIDEO] * 3),
    "Charades-STA": (MOMENT, [VIDEO] * 3),
    "MomentSeeker": (
        " Find the clip that corresponds to the given sentence and video segment: a dog runs",
        [CLIP] * 4,
    ),
    "Video-MME": (
        f"{ASK}What is seen 1?\nA. Apples 1.\nB. A hat 1.\nC. Mt. Fuji 1.\nD. Rain 1.",
        ["Apples 1", "A hat 1", "Mt. Fuji 1", "Rain 1"],
    ),
    "EgoSchema": (
        f"{ASK}What does c do 1?A. C reads 1. B. C cooks 1. C. C sings 1.",
        ["C reads 1", "C cooks 1", "C sings 1"],
    ),
    "NExTQA": (
        f"{ASK}why did they clap 1\nOptions:\n(A) reason 0 of 1\n(B) reason 1 of 1\n(C) reason 2 of 1\n"
        "(D) reason 3 of 1\n(E) reason 4 of 1",
        [f"reason {k} of 1" for k in range(5)],
    ),
    "MVBench": (
        f"{ASK}What happened after 1?\nOptions:\n(A) Ate 1.\n(B) Tidied 1.\n(C) Slept 1.",
        ["(A) Ate 1.", "(B) Tidied 1.", "(C) Slept 1."],
    ),
    "ActivityNetQA": (f"{ASK}is the man tall 1? (A) yes; (B) no.", ["yes", "no"]),
}


def read(name: str, root: Path, **options: Any) -> RetrievalSet:
    rows = [{**row, "subset": "episodic_reasoning"} if name == "MVBench" else row for row in rows_of(name)]
    return read_video_set(rows, SETS[name], root, **options)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos") / "video-tasks", ALL)


def blocks_of(retrieval: RetrievalSet, place: int) -> tuple[str, list[str]]:
    """The text of an input, and the frames that stand before it."""
    (message,) = retrieval.items[place]
    *shown, text = message["content"]
    assert text["type"] == "text" and [block["type"] for block in shown] in ([], ["video"])
    return text["text"], shown[0]["video"] if shown else []


@pytest.mark.parametrize("name", ALL)
def test_rows_are_worded_and_shown_as_in_the_benchmark(name: str, tasks: Path) -> None:
    retrieval = read(name, tasks)
    text, shown = blocks_of(retrieval, int(retrieval.queries[1]))
    assert text == WORDED[name][0]
    numbers = retrieval.relevance.documents[1].tolist() if retrieval.candidates is None else retrieval.candidates[1]
    of_row = [blocks_of(retrieval, int(number)) for number in numbers if number >= 0]
    assert sorted(text for text, _ in of_row) == sorted(WORDED[name][1])
    frames = tasks / "frames" / VIDEO_LAYOUTS[name].folder
    videos = [paths for _, paths in [(text, shown), *of_row] if paths]
    folders = {Path(paths[0]).parent.relative_to(frames).as_posix() for paths in videos}
    assert folders and folders <= set(frame_folders(name))
    of_ten = [1, 2, 3, 4, 6, 7, 8, 10]  # 0, 9/7, 18/7 … 9, without what is behind the point, counted from 1
    expected = range(1, 11) if name == "MomentSeeker" else of_ten
    for paths in videos:
        assert [Path(path).name for path in paths] == [f"frame_{number}.jpg" for number in expected]


@pytest.mark.parametrize("name", ALL)
def test_scores_by_hand(name: str, tasks: Path) -> None:
    """The first query finds what is right, the second what is wrong, the third a document of another row and then what
    is right: a hit only where those of its own row are ranked."""
    retrieval, among_all = read(name, tasks), VIDEO_LAYOUTS[name].assembly in ("label", "caption")
    number = len(retrieval.documents)
    labels = {"K700": 700, "UCF101": 101, "HMDB51": 51, "Breakfast": 10}
    assert number == labels.get(name, number) and (name not in labels or number == len(labels_of(name)))
    every = torch.arange(number).expand(3, number)
    own = [set(row.tolist()) - {-1} for row in (every if among_all else retrieval.candidates)]
    right = [set(row.tolist()) - {-1} for row in retrieval.relevance.documents]
    assert [len(found) for found in right] == [2 if name == "MomentSeeker" else 1] * 3
    assert (retrieval.candidates is None) == among_all
    has_strangers = len(own[2]) < number  # not where the answers of all rows are yes and no
    stranger = min(set(range(number)) - (own[2] if has_strangers else right[2]))
    embeddings = torch.zeros(len(retrieval.items), number)
    embeddings[:number] = torch.eye(number)
    first, second, third = retrieval.queries.tolist()
    embeddings[first, max(right[0])] = embeddings[second, min(own[1] - right[1])] = 1
    embeddings[third, stranger], embeddings[third, max(right[2])] = 0.8, 0.6
    scores = score_set(retrieval, embeddings)
    assert scores["hit@1"] == pytest.approx((2 if has_strangers else 1) / 3) and scores["num_data"] == 3


def test_what_is_sought_stands_beside_an_image_or_alone(tasks: Path) -> None:
    retrieval = read("MomentSeeker", tasks)
    assert blocks_of(retrieval, int(retrieval.queries[0])) == (
        "Find the clip that corresponds to the given text: a man cooks",
        [],
    )
    (message,) = retrieval.items[int(retrieval.queries[2])]
    assert message["content"] == [
        {"type": "image", "image": str(tasks / "frames/video_mret/MomentSeeker/query_scene_2.jpg")},
        {"type": "text", "text": " Select the video clip that aligns with the given text and image: a boat sails"},
    ]


def test_the_digest_knows_frames(tmp_path: Path) -> None:
    tasks = write_videos(tmp_path, ["MSVD"])
    before = read("MSVD", tasks).digest
    assert read("MSVD", tasks).digest == before != read("MSVD", tasks, num_frames=4).digest
    (tasks / "frames/video_ret/MSVD/clip_1/frame_1.jpg").write_bytes(b"another length")
    assert read("MSVD", tasks).digest != before


def test_of_equal_options_the_last_is_right(tasks: Path) -> None:
    """As in the benchmark, which goes on looking: letters tell them apart."""
    row = {**rows_of("MVBench")[0], "subset": "action_antonym", "candidates": ["Yes.", "No.", "Yes."]}
    retrieval = read_video_set([{**row, "answer": "Yes."}], SETS["MVBench"], tasks)
    assert [blocks_of(retrieval, number)[0] for number in retrieval.relevance.documents[0]] == ["(C) Yes."]


def test_a_part_whose_videos_are_folders(tmp_path: Path) -> None:
    """An empty one is no video that could be left out."""
    rows = [{**rows_of("MVBench")[0], "subset": "episodic_reasoning"}]
    folder = tmp_path / "videos/video_qa/MVBench/tvqa/frames_fps3_hq" / rows[0]["video"]
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="Row 0 of MVBench, column video: found no frames in .*nor frames in it"):
        read_video_set(rows, SETS["MVBench"], tmp_path)
    write_frames(folder, 0)
    retrieval = read_video_set(rows, SETS["MVBench"], tmp_path)
    assert Path(blocks_of(retrieval, int(retrieval.queries[0]))[1][0]).parent == folder


@pytest.mark.parametrize(
    ("name", "unpacked"),
    [("MSVD", "video_ret/data/ziyan/video_retrieval/MSVD/frames"), ("EgoSchema", "video_qa/egoschema")],
)
def test_frames_where_the_archives_put_them(name: str, unpacked: str, tmp_path: Path) -> None:
    frames = write_videos(tmp_path, [name]) / "frames"
    before = read(name, tmp_path).items
    (frames / unpacked).parent.mkdir(parents=True, exist_ok=True)
    (frames / VIDEO_LAYOUTS[name].folder).rename(frames / unpacked)
    assert str(read(name, tmp_path).items) == str(before).replace(VIDEO_LAYOUTS[name].folder, unpacked)


def test_fewer_frames_than_are_shown_are_all_shown(tmp_path: Path) -> None:
    write_frames(tmp_path / "few", 0, 3)
    assert [Path(path).name for path in frames_in(tmp_path / "few", 8)] == [f"frame_{n}.jpg" for n in (1, 2, 3)]
    assert frames_in(tmp_path / "none") == [] == frames_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("HMDB51", {"video_id": "gone"}, r"Row 1 of HMDB51, column video_id: found no frames in .*gone, and no file"),
        ("HMDB51", {"video_id": "../../x"}, "Row 1 of HMDB51, column video_id: .*expected a path inside"),
        ("MSVD", {"caption": 5}, "Row 1 of MSVD, column caption: found int 5, expected a text"),
        ("SmthSmthV2", {"pos_text": "Waving"}, r"Row 1 of SmthSmthV2, what is right, \['Waving'\], is not among"),
        ("Video-MME", {"answer": "E"}, "Row 1 of Video-MME, column answer: found .*expected one of 4 options"),
        ("NExTQA", {"answer": "why"}, "column answer: found 'why', expected the number of an option"),
        ("MVBench", {"subset": "cooking"}, "column subset: found 'cooking', expected one of episodic_reasoning"),
        ("MVBench", {"answer": "Flew."}, "column answer: found 'Flew.', expected one of Ate 1."),
        ("MomentSeeker", {"positive_frames": None}, "column positive_frames: found nothing, expected a list"),
        ("MomentSeeker", {"input_frames": None}, "column input_frames: found nothing, expected a video, an image, or"),
        ("QVHighlight", {"video_path": None}, "column video_path: found nothing, expected a text"),
    ],
)
def test_what_is_malformed_is_named(name: str, change: dict[str, Any], told: str, tasks: Path) -> None:
    rows = [{"subset": "action_antonym", **row} if name == "MVBench" else row for row in rows_of(name)]
    rows[1] = {**rows[1], **change}
    with pytest.raises(ValueError, match=told):
        read_video_set(rows, SETS[name], tasks)
