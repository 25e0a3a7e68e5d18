"""Small sets of videos in the exact layout of MMEB-V2, three rows each, of frames or of files."""

import functools
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS, labels_of, subset_videos


NUM_FRAMES = 10
ROWS = range(3)
CAPTIONS = ["a man cooks", "a dog runs", "a boat sails"]
ACTIONS = ["Lifting something", "Closing something", "Folding something", "Opening something"]
CLIPS = ["query", "positive_clip", "negative_clip_0", "negative_clip_1"]
COLUMNS = {  # of captions
    "MSR-VTT": lambda n: {"video_id": f"video702{n}", "video": f"video702{n}.mp4", "caption": CAPTIONS[n]},
    "MSVD": lambda n: {"video_id": f"clip_{n}", "video": f"clip_{n}.avi", "caption": [CAPTIONS[n], "another"]},
    "DiDeMo": lambda n: {"video": f"test/5432@N00_{n}.mp4", "caption": CAPTIONS[n]},
    "YouCook2": lambda n: {"id": f"xHr8_{n}", "video_path": f"val/226/xHr8_{n}.mp4", "sentence": CAPTIONS[n]},
    "VATEX": lambda n: {"videoID": f"Ptf_{n}", "enCap": [CAPTIONS[n], "another"], "chCap": []},
}
QUESTIONS = {
    "Video-MME": lambda n: {
        "videoID": f"fFj_{n}",
        "question": f"What is seen {n}?",
        "options": [f"A. Apples {n}.", f"B. A hat {n}.", f"C. Mt. Fuji {n}.", f"D. Rain {n}."],
        "answer": "ABC"[n],
        "question_id": f"00{n}-1",
    },
    "EgoSchema": lambda n: {
        "video_idx": f"0074f737-{n}",
        "question": f"What does c do {n}?",
        "option": [f"A. C reads {n}.", f"B. C cooks {n}.", f"C. C sings {n}."],
        "answer": str(n),
        "question_idx": str(n),
    },
    "NExTQA": lambda n: {
        "video": 6233408665 + n,
        "question": f"why did they clap {n}",
        "answer": n,
        "qid": n,
        "type": "CW",
        **{f"a{k}": f"reason {k} of {n}" for k in range(5)},
    },
    "MVBench": lambda n: {
        "video": f"ZS9XR_{n}.mp4",
        "question": f"What happened after {n}?",
        "candidates": [f"Ate {n}.", f"Tidied {n}.", f"Slept {n}."],
        "answer": [f"Ate {n}.", f"Tidied {n}.", f"Slept {n}."][n],
    },
    "ActivityNetQA": lambda n: {
        "video_name": f"1QIUV7_{n}",
        "question": f"is the man tall {n}",
        "answer": ["yes", "no", "yes"][n],
        "question_id": str(n),
    },
}


@functools.cache
def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (56, 56), ((37 * seed) % 256, (91 * seed) % 256, (151 * seed) % 256)).save(file, "JPEG")
    return file.getvalue()


def write_frames(folder: Path, seed: int, number: int = NUM_FRAMES) -> None:
    """Frames whose order is that of the numbers in their names, not that of the alphabet."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(number):
        (folder / f"frame_{place + 1}.jpg").write_bytes(jpeg(100 * seed + place))
    (folder / "notes.txt").write_text("no frame")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a set; of MVBench those of its first part."""
    of = VIDEO_LAYOUTS[name]
    if of.assembly == "label":
        return [{"video_id": f"clip_{n}", "pos_text": labels_of(name)[n]} for n in ROWS]
    if of.assembly == "choice":
        return [{"video_id": 100 + n, "pos_text": ACTIONS[n], "neg_text": ACTIONS[n : n + 2][::-1]} for n in ROWS]
    if of.assembly == "moment":
        return [{"query": CAPTIONS[n], "video_path": f"/data/videos/v_{n}.mp4"} for n in ROWS]
    if of.assembly == "seek":
        return [
            {
                "query": CAPTIONS[n],
                "input_frames": ["", "scene/q_1.mp4", "scene_2.jpg"][n],
                "positive_frames": [{"output_path": f"movie/p_{n}_{k}.mp4"} for k in range(2)],
                "negative_frames": [{"output_path": f"movie/n_{n}_{k}.mp4"} for k in range(2)],
            }
            for n in ROWS
        ]
    return [({**COLUMNS, **QUESTIONS}[name])(n) for n in ROWS]


def frame_folders(name: str) -> list[str]:
    """The folders of frames of a set, below that of the set."""
    of = VIDEO_LAYOUTS[name]
    if of.assembly == "moment":
        return [
            f"v_{n}/{clip}" for n in ROWS for clip in ("query", "positive_clip", "negative_clip_0", "negative_clip_1")
        ]
    if of.assembly == "seek":
        clips = [f"video_frames/movie_{side}_{n}_{k}" for n in ROWS for side in "pn" for k in range(2)]
        return ["video_frames/scene_q_1", *clips]
    if name == "MVBench":
        return [f"{subset}/ZS9XR_{n}.mp4" for subset in subset_videos() for n in ROWS]
    start = {"SmthSmthV2": "10", "MSR-VTT": "video702", "DiDeMo": "5432@N00_", "YouCook2": "xHr8_", "VATEX": "Ptf_"}
    start |= {"Video-MME": "fFj_", "EgoSchema": "0074f737-", "NExTQA": "623340866", "ActivityNetQA": "v_1QIUV7_"}
    return [f"{start.get(name, 'clip_')}{n + 5 if name == 'NExTQA' else n}" for n in ROWS]


def write_videos(tasks: Path, names: list[str], frames: int = NUM_FRAMES) -> Path:
    """The folder `video-tasks` of the benchmark, with these sets in it."""
    (tasks / "data").mkdir(parents=True, exist_ok=True)
    for name in names:
        of = VIDEO_LAYOUTS[name]
        for seed, folder in enumerate(frame_folders(name)):
            write_frames(tasks / "frames" / of.folder / folder, seed, frames)
        if of.assembly == "seek":
            (tasks / "frames" / of.folder / "query_scene_2.jpg").write_bytes(jpeg(7))
        if name == "MVBench":
            (tasks / "data" / of.file).mkdir()
            for subset in subset_videos():
                (tasks / "data" / of.file / f"{subset}.json").write_text(json.dumps(rows_of(name)))
        else:
            lines = "".join(json.dumps(row) + "\n" for row in rows_of(name))
            (tasks / "data" / f"{of.file}.jsonl").write_text(lines, encoding="utf-8")
    return tasks
