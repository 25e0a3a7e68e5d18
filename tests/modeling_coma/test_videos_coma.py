"""Which frames of a video are taken, without any library that decodes; and what is said where one is missing.

Files, and backbones that take videos, are in tests/families/test_videos.py, where both libraries are.
"""

import sys

import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers.utils import is_torchvision_available

from modeling_coma import ComaProcessor
from modeling_coma.videos_coma import Sampling, read_frames
from trainers.encoding.encode import embed_items


K = 4
SAMPLING = Sampling(fps=2.0, max_frames=4, max_pixels=2**24)
FRAMES = [np.full((6, 8, 3), number, dtype=np.uint8) for number in range(10)]


def taken(video, sampling=SAMPLING):
    clip = sampling.clip(video)
    return clip.times, read_frames(video, clip)[:, 0, 0, 0].tolist()


def test_frames_of_a_list_are_all_taken_or_as_many_as_may_be():
    assert taken(FRAMES[:3]) == ([0, 0.5, 1], [0, 1, 2])
    assert taken(FRAMES) == ([0, 1.25, 2.5, 3.75], [0, 2, 5, 7])
    assert taken({"frames": np.stack(FRAMES), "fps": 10}) == ([0, 0.25, 0.5, 0.75], [0, 2, 5, 7])
    assert taken({"frames": FRAMES[:2], "fps": None}, SAMPLING._replace(least=4))[1] == [0, 0, 1, 1]


def test_frames_are_shrunk_to_the_pixels_of_all_together():
    clip = SAMPLING._replace(max_pixels=4 * 3 * 4).clip(FRAMES)
    assert clip.size == (3, 4) and read_frames(FRAMES, clip).shape == (4, 3, 4, 3)


def test_frames_that_their_exif_turns_stand_upright_and_keep_their_shape(tmp_path):
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = 255  # the right half is below when it is turned to the right
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    video = [tmp_path / "turned.png"] * 2
    for sampling, shape in ((SAMPLING, (60, 40)), (SAMPLING._replace(max_pixels=2 * 30 * 20), (30, 20))):
        frames = read_frames(video, sampling.clip(video))
        assert frames.shape == (2, *shape, 3)
        assert frames[:, : shape[0] // 4].max() == 0 and frames[:, -(shape[0] // 4) :].min() == 255


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "it has no frames"),
        (5, "a video is the path or the bytes of a file, a list of frames, or"),
        ({"frames": FRAMES, "fps": 0}, "of 10 frames: fps=0 is no number of frames a second"),
        ({"frames": FRAMES, "rate": 2}, "a video is the path"),
        ([FRAMES[0], np.zeros((6, 9, 3), np.uint8)], "of 2 frames: its frames differ in size: one has 9x6 pixels"),
        ([FRAMES[0], b"no image"], "of 2 frames: .*it is in no format that Pillow can read"),
        (np.zeros((2, 0, 8, 3), np.uint8), "its frames have 8x0 pixels, at least 1x1"),
        ([b"no image"], "of 1 frames: .*it is in no format that Pillow can read"),
    ],
)
def test_what_is_no_video_names_the_row(video, message):
    with pytest.raises(ValueError, match=f"^Row 3: cannot decode the video .*{message}"):
        read_frames(video, SAMPLING.clip(video, 3), 3)


def test_without_pyav_a_file_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # by which Python says of a module that it is not there
    with pytest.raises(ImportError, match="^Files of videos are decoded by PyAV, which is not there: `pip "):
        SAMPLING.clip(b"a file")


@pytest.mark.parametrize("name", ["video_fps", "max_video_frames", "max_video_pixels"])
@pytest.mark.parametrize("value", [0, -1, "2", True, None])
def test_limits_are_numbers(make_coma, name, value):
    _, processor = make_coma()
    with pytest.raises(ValueError, match=f"{name} must be"):
        ComaProcessor(processor.image_processor, processor.tokenizer, num_compression_tokens=K, **{name: value})


def without_videos(make_coma):
    model, processor = make_coma()
    processor.video_format = None
    return model, processor


def test_a_model_that_takes_none_says_so_and_what_to_do(make_coma):
    model, processor = without_videos(make_coma)
    item = {"video": FRAMES}
    message = "This model takes none: .* Give some frames as images"
    with pytest.raises(ValueError, match=f"Row 1 has a video. {message}"):
        processor.process(["a", item])
    with pytest.raises(ValueError, match=f"Row 0 has a video. {message}"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}])
    with pytest.raises(ValueError, match=message):
        processor(text=["a"], videos=[[FRAMES]])
    failures = {}
    embeddings = embed_items(model, processor, ["a", item], failures=failures)
    assert embeddings[0].isfinite().all() and list(failures) == [1]


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is there")
def test_without_torchvision_videos_ask_for_it(make_coma):
    _, made = make_coma()
    assert made.video_format is None, "a model made without it takes none"
    settings = {"processor_class": "Qwen2_5_VLProcessor"}
    settings["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
    token = "<|video_pad|>"
    known = {"token": token, "placeholder": token, "stock_token": token, "inputs": {}, "same_length": False}
    known["processor"] = settings
    parts = {"num_compression_tokens": K, "video_format": known}
    processor = ComaProcessor(made.image_processor, made.tokenizer, **parts)
    assert len(processor.process(["a"])["input_ids"]) == 1
    asks = r"^Videos of this backbone need its Qwen2_5_VLProcessor, and \w+ requires the Torchvision library [^\n]*: "
    with pytest.raises(ImportError, match=asks + r"install what is missing \(`pip install torchvision`\)\.$"):
        processor.process([{"video": FRAMES}])
