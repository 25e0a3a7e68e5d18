"""The commands take files of videos from end to end, and the video sets of MMEB-V2 as the benchmark lays them out."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hub_scripts.cli import main
from hub_scripts.common.folders import save_model
from hub_scripts.evaluate import evaluate_model
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.families.moving import decoded, sliding, write_video
from tests.mmeb_videos import CAPTIONS, rows_of, write_videos
from trainers.data.mmeb.footage import save_frames
from trainers.data.mmeb.sets import SETS
from trainers.evaluation.video_sets import read_video_set


TEXTS = ["a red apple", "a green tree", "what moves?", "an image"]
TRAINED = ["--max_steps", 1, "--per_device_train_batch_size", 2, "--report_to", "none", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def coma_folder(family_coma, tmp_path_factory):
    """A model that takes four frames of a file."""
    model, processor = family_coma("qwen2_5_vl")
    processor.max_video_frames = 4
    folder = tmp_path_factory.mktemp("coma") / "model"
    save_model(model, processor, folder)
    return folder


@pytest.fixture
def clips(tmp_path):
    """Files of 16 frames, and a table of them with their captions."""
    files = [write_video(tmp_path / f"{number}.mp4", sliding(seed=number)) for number in range(len(TEXTS))]
    lines = [f"{file.name},{text}" for file, text in zip(files, TEXTS, strict=True)]
    (tmp_path / "clips.csv").write_text("\n".join(["file,caption", *lines]))
    return tmp_path / "clips.csv"


def coma(capsys, *words):
    capsys.readouterr()
    code = main(list(map(str, words)))
    text, error = capsys.readouterr()
    assert code == 0, error
    return text


def test_each_command_takes_files(coma_folder, clips, tmp_path, capsys):
    talk = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "to the right"}]
    rows = [{"videos": [f"{number}.mp4"], "text": None, "messages": talk} for number in range(len(TEXTS))]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    index, model = tmp_path / "clips.parquet", ["--model", coma_folder]

    coma(capsys, "embed", coma_folder, clips, index, "--video-column", "file")
    found = coma(capsys, "search", coma_folder, index, "what moves?", "-k", 2)
    assert found.count(".mp4") == 2
    found = coma(capsys, "search", coma_folder, index, "--video", tmp_path / "2.mp4", "-k", 1)
    assert found.split()[-2:] == ["2", "2.mp4"] and "1.000" in found
    (tmp_path / "folder").mkdir()
    for number in range(2):
        shutil.copy(tmp_path / f"{number}.mp4", tmp_path / "folder")
    Image.new("RGB", (56, 56), "red").save(tmp_path / "folder" / "a.png")
    coma(capsys, "embed", coma_folder, tmp_path / "folder", tmp_path / "folder.parquet")
    found = coma(capsys, "search", coma_folder, tmp_path / "folder.parquet", "--video", tmp_path / "1.mp4")
    assert [line.split()[2] for line in found.splitlines()[1:]][0] == "1.mp4" and found.count("\n") == 4
    coma(capsys, "pretrain", *model, "--data", tmp_path / "talk.jsonl", "--output_dir", tmp_path / "1", *TRAINED)
    columns = ["--query_video", "file", "--positive_text", "caption"]
    coma(capsys, "finetune", *model, "--data", clips, *columns, "--output_dir", tmp_path / "2", *TRAINED)
    columns = ["--query-video", "file", "--positive-text", "caption"]
    table = coma(capsys, "evaluate", coma_folder, clips, "--output", tmp_path / "3", *columns)
    assert table.splitlines()[-2].split()[:3] == ["clips", "4", "4"]


def test_video_sets_of_mmeb(coma_folder, tmp_path):
    """The scores are those of embeddings that were made of the frames one by one, and compared by hand."""
    names = ["HMDB51", "SmthSmthV2", "MSVD", "QVHighlight", "MomentSeeker", "Video-MME"]
    tasks = write_videos(tmp_path / "video-tasks", names)
    told = []
    options = {"sets": names, "num_workers": 0, "video_frames": 4, "tell": told.append}
    results = evaluate_model(coma_folder, tmp_path, tmp_path / "out", **options)
    scores = results["metrics"]["video"]
    assert scores.keys() == set(names) and all(of["video_frames"] == 4 for of in scores.values())
    assert results["means"]["video"]["overall"] is None and results["means"]["MMEB-V2"] == {"overall": None}

    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)
    shown = [sorted((tasks / "frames/video_ret/MSVD" / f"clip_{n}").glob("*.jpg"), key=_number) for n in range(3)]
    videos = [[str(files[place]) for place in (0, 3, 6, 9)] for files in shown]
    text = {"type": "text", "text": " Understand the content of the provided video."}
    documents = [[{"role": "user", "content": [{"type": "video", "video": video}, text]}] for video in videos]
    asked = [f"Find the video snippet that corresponds to the given summary: {caption}" for caption in CAPTIONS]
    with torch.no_grad():
        found = model(**processor.process(asked)).embeddings @ model(**processor.process(documents)).embeddings.T
    hits = [int(row.argmax()) == number for number, row in enumerate(found)]
    assert scores["MSVD"]["hit@1"] == pytest.approx(sum(hits) / 3)

    evaluate_model(coma_folder, tmp_path, tmp_path / "out", **options)
    assert told[-1] == "  is finished already"
    with pytest.raises(ValueError, match="HMDB51 shows 5 frames of a video, and the model takes 4"):
        evaluate_model(coma_folder, tmp_path, tmp_path / "more", **{**options, "video_frames": 5})
    with pytest.raises(ValueError, match="HMDB51_score.json was made with another video_frames: remove it"):
        evaluate_model(coma_folder, tmp_path, tmp_path / "out", **{**options, "video_frames": 3})


def test_frames_are_made_of_files_where_they_are_missing(tmp_path):
    """As the benchmark makes them: of 100 frames every 1.5625th, or, of questions, 64 in a row."""
    name, videos = "MSR-VTT", tmp_path / "videos/video_ret/MSR-VTT"
    frames = write_videos(tmp_path, [name]) / "frames/video_ret/MSR-VTT"
    shutil.rmtree(frames / "video7021")
    with pytest.raises(ValueError, match="Row 1 of MSR-VTT, column video_id: found no frames in .*21, and no file"):
        read_video_set(rows_of(name), SETS[name], tmp_path)
    videos.mkdir(parents=True)
    brightening = [np.full((56, 84, 3), 20 + 2 * number, dtype=np.uint8) for number in range(100)]
    file = write_video(videos / "video7021.mp4", brightening)
    read_video_set(rows_of(name), SETS[name], tmp_path)
    assert {path.name for path in (frames / "video7021").iterdir()} == {f"frame_{n:04d}.jpg" for n in range(1, 65)}
    assert {path.name for path in frames.iterdir()} == {"video7020", "video7021", "video7022"}
    save_frames(file, tmp_path / "whole", whole_steps=True)
    original = decoded(file).mean(axis=(1, 2, 3))
    taken = {frames / "video7021": [n * 100 // 64 for n in range(64)], tmp_path / "whole": list(range(64))}
    for folder, numbers in taken.items():
        seen = [np.asarray(Image.open(path)).mean() for path in sorted(folder.iterdir())]
        assert [int(np.abs(original - brightness).argmin()) for brightness in seen] == numbers
    clip = tmp_path / "videos/video_mret/MomentSeeker/movie/p_0_0.mp4"
    clip.parent.mkdir(parents=True)
    shutil.copy(file, clip)
    shutil.rmtree(write_videos(tmp_path, ["MomentSeeker"]) / "frames/video_mret/MomentSeeker/video_frames/movie_p_0_0")
    made = read_video_set(rows_of("MomentSeeker"), SETS["MomentSeeker"], tmp_path).items[0]
    assert len(made[0]["content"][0]["video"]) == 8  # all that are written of a clip, and all that are shown
    file.write_bytes(b"no video")
    shutil.rmtree(frames / "video7021")
    with pytest.raises(ValueError, match="Row 1 of MSR-VTT, cannot decode the video"):
        read_video_set(rows_of(name), SETS[name], tmp_path)
    assert {path.name for path in frames.iterdir()} == {"video7020", "video7022"}


def _number(path):
    return int(path.stem.split("_")[1])
