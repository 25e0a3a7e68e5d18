"""Videos made on the spot: files of every kind, and what a stock processor makes of the frames that are in them."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from trainers.data.emoji import load_emoji


__all__ = ["decoded", "metadata", "moving_emoji", "sliding", "write_video"]


def sliding(num_frames: int = 16, height: int = 56, width: int = 84, seed: int = 0) -> list[np.ndarray]:
    """A square that goes from the left to the right over coarse colours."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((height // 4, width // 6, 1), np.uint8))
    frames = [ground.copy() for _ in range(num_frames)]
    for number, frame in enumerate(frames):
        left = number * (width - 16) // max(1, num_frames - 1)
        frame[20:36, left : left + 16] = 255 - ground[20:36, left : left + 16]
    return frames


def write_video(
    path: Path, frames: list[np.ndarray], fps: int = 8, codec: str = "libx264", times: list[float] | None = None
) -> Path:
    """Encodes frames to the container of a file's name, at a rate or at times of their own, in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.max_b_frames = 0
        stream.codec_context.gop_size = 4 * fps
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> np.ndarray:
    """All frames of a file."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def metadata(frames: Any, fps: float) -> dict[str, Any]:
    """What a stock processor has to know of frames that are all there are."""
    return {
        "total_num_frames": len(frames),
        "fps": fps,
        "duration": len(frames) / fps,
        "frames_indices": list(range(len(frames))),
    }


def moving_emoji(numbers: Sequence[int], num_frames: int = 8, side: int = 56) -> list[tuple[np.ndarray, str]]:
    """Of every emoji two videos with what they show. Which it is lies in the order of the frames and nowhere else: one
    is the other backwards."""
    videos = []
    for row in load_emoji(["noto"]).with_format("arrow")[list(numbers)].to_pylist():
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGBA").resize((side // 2, side // 2))
        frames = []
        for number in range(num_frames):
            frame = Image.new("RGB", (side, side), "white")
            frame.paste(picture, (number * (side - picture.width) // (num_frames - 1), side // 4), picture)
            frames.append(np.asarray(frame))
        videos += [(np.stack(frames), "from left to right"), (np.stack(frames[::-1]), "from right to left")]
    return videos
