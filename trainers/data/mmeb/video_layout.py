"""The 18 video sets of MMEB-V2: where rows, frames and files are, and how their prompts are worded, to the blank.

The folder `video-tasks` of the benchmark has rows in `data`, and below `frames` a folder for every video with some of
its frames; files of videos, where there are any, are below `videos`. Prompts are the video, a blank, the instruction,
a blank, the text of the row.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple


__all__ = ["VIDEO_LAYOUTS", "VideoLayout", "labels_of", "places_of_frames", "row_files", "subset_videos"]


class VideoLayout(NamedTuple):
    """
    How a set of videos is laid out.

    Args:
        family (`str`): meta-task.
        assembly (`str`): how a row is read. `"label"`: the label of a video, among all; `"choice"`: among those of the
            row; `"caption"`: the video of a caption, among all; `"moment"`: a clip of a video, among those in its
            folder; `"seek"`: the same with what is sought and the clips in the row; `"video_question"`: an answer
            among those of the row.
        folder (`str`): below `frames` and `videos`.
        file (`str`): in `data`, without its end; a folder of files where the set has parts.
        source (`tuple`): on the Hub its repository, configuration and split.
        instruction (`str`): before the text of a query.
        columns (`tuple[str, str, str]`, *optional*): of `"caption"`, those of the name of a video, of its file (none
            where it is the name), of its caption.
        most_rows (`int`, *optional*): so many from the first on are evaluated, by default all.
    """

    family: str
    assembly: str
    folder: str
    file: str
    source: tuple[str, str | None, str]
    instruction: str
    columns: tuple[str, str, str] = ("", "", "")
    most_rows: int | None = None


QUESTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "  # a second blank follows, as in the benchmark
)
MOMENT = "Find the clip that corresponds to the described scene in the given video:"

_CLASSES = {  # the blank at the end of the last one is the benchmark's
    "K700": ("K700", "k700", "Kinetics-700", "Recognize the category of the video content."),
    "UCF101": ("UCF101", "ucf101", "UCF101",
               "What activities or sports are being performed by the person in the video?"),
    "HMDB51": ("HMDB51", "hmdb51", "HMDB51",
               "What actions or objects interactions are the person in the video doing?"),
    "SmthSmthV2": ("SSv2", "ssv2", "SmthSmthV2",
                   "What actions or object interactions are being performed by the person in the video?"),
    "Breakfast": ("Breakfast", "breakfast", "Breakfast",
                  "Recognize the breakfast type that the person is cooking in the video. "),
}  # fmt: skip
_QUESTIONS = {
    "Video-MME": ("video-mme", None, "test"),
    "MVBench": ("mvbench", None, "train"),
    "NExTQA": ("nextqa", "MC", "test"),
    "EgoSchema": ("egoschema", "Subset", "test"),
    "ActivityNetQA": ("activitynetqa", None, "test"),
}
_CAPTIONS = {
    "MSR-VTT": ("msr-vtt", ("VLM2Vec/MSR-VTT", "test_1k", "test"), ("video_id", "video", "caption"),
                "Find a video that contains the following visual content:"),
    "MSVD": ("msvd", ("VLM2Vec/MSVD", None, "test"), ("video_id", "video", "caption"),
             "Find the video snippet that corresponds to the given summary:"),
    "DiDeMo": ("didemo", ("VLM2Vec/DiDeMo", None, "test"), ("video", "video", "caption"),
               "Find a video that includes the following described scenes:"),
    "YouCook2": ("youcook2-val", ("lmms-lab/YouCook2", None, "val"), ("id", "video_path", "sentence"),
                 "Find a video that demonstrates the following action while making a recipe:"),
    "VATEX": ("vatex", ("VLM2Vec/VATEX", None, "test"), ("videoID", "", "enCap"),
              "Select a video that fits the description provided:"),
}  # fmt: skip
_MOMENTS = {
    "QVHighlight": ("moment", "QVHighlight", "qvhighlight", MOMENT),
    "Charades-STA": ("moment", "Charades_STA", "charades_sta", MOMENT),
    "MomentSeeker": ("seek", "MomentSeeker", "momentseeker", ""),
}

VIDEO_LAYOUTS = {
    **{
        name: VideoLayout(
            "classification", "choice" if name == "SmthSmthV2" else "label", f"video_cls/{folder}", file,
            (f"VLM2Vec/{repository}", None, "test"), instruction, most_rows=1000 if name == "SmthSmthV2" else None,
        )
        for name, (folder, file, repository, instruction) in _CLASSES.items()
    },
    **{
        name: VideoLayout("qa", "video_question", f"video_qa/{name}", file, (f"VLM2Vec/{name}", *where), QUESTION)
        for name, (file, *where) in _QUESTIONS.items()
    },
    **{
        name: VideoLayout("retrieval", "caption", f"video_ret/{name}", file, source, instruction, columns)
        for name, (file, source, columns, instruction) in _CAPTIONS.items()
    },
    **{
        name: VideoLayout("moment", how, f"video_mret/{folder}", file, (f"VLM2Vec/{name}", None, "test"), instruction)
        for name, (how, folder, file, instruction) in _MOMENTS.items()
    },
}  # fmt: skip

# Where some archives of the benchmark put their frames, other than where its code looks for them.
_UNPACKED = {
    **{name: f"video_ret/data/ziyan/video_retrieval/{name}/frames" for name in _CAPTIONS},
    "Charades-STA": "video_mret/Charades-STA",
    "EgoSchema": "video_qa/egoschema",
}
# The leaderboard scores 1,602 rows, which later versions of the benchmark call so: there is a file of 1,800, too.
_NAMED_LATER = {"MomentSeeker": "momentseeker_1k6"}

# Of the parts of MVBench, in the order of the benchmark, where their videos are.
_STAR, _CLEVRER, _PERCEPTION = "star/Charades_v1_480", "clevrer/video_validation", "perception/videos"
_SUBSETS = {
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": "nturgbd",
    "character_order": _PERCEPTION,
    "egocentric_navigation": "vlnqa",
    "counterfactual_inference": _CLEVRER,
}


def places_of_frames(name: str) -> list[str]:
    """Where the frames of a set may be, below `frames`; the first is where they are written to."""
    return [VIDEO_LAYOUTS[name].folder, *([_UNPACKED[name]] if name in _UNPACKED else [])]


def row_files(name: str) -> list[str]:
    """What the file with the rows of a set may be called, without its end; the first that is there counts."""
    return [*([_NAMED_LATER[name]] if name in _NAMED_LATER else []), VIDEO_LAYOUTS[name].file]


def subset_videos() -> dict[str, str]:
    """The parts of MVBench in their order, and the folder of the videos of each."""
    return dict(_SUBSETS)


@functools.cache
def labels_of(name: str) -> tuple[str, ...]:
    """The labels among which those of a set are ranked, beside those that its rows have."""
    file = Path(__file__).with_name("video_labels.json")
    return tuple(json.loads(file.read_text(encoding="utf-8"))[name])
