"""Videos as some of their frames, at equal distances in time, with the times at which these are seen.

Which frames these are, and how large, is said by the header of a file, before anything is decoded. Then the file is
gone through from one of them to the next, by jumps where they are far apart, and no more than these is ever held: a
video of an hour takes as much memory as one of a minute.
"""

import importlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from .inputs_coma import DECODE_ERRORS, MAX_IMAGE_PIXELS, describe_input, open_image, open_regular_file, to_rgb


# Containers of one file. Others are lists of files, and would open what they name, be it on this disk or the network.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf,gif"
TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
SAME_TIME = 0.001  # seconds: containers round the times of frames
JUMP = 4.0  # seconds: about as far apart as the frames from which decoding can begin


class Clip(NamedTuple):
    """
    What a video is taken as.

    Args:
        times (`list[float]`): of the frames that are taken, in seconds from the first frame of all.
        size (`tuple[int, int]`): their height and width, in pixels.
        num_frames (`int`): how many the whole video has.
        duration (`float`): how many seconds it lasts.
    """

    times: list[float]
    size: tuple[int, int]
    num_frames: int
    duration: float

    def metadata(self) -> dict[str, Any]:
        """The same as video processors of transformers take it. Frames are numbered as if all lasted as long."""
        taken = len(self.times)
        return {
            "total_num_frames": self.num_frames,
            "fps": self.num_frames / self.duration,
            "duration": self.duration,
            "height": self.size[0],
            "width": self.size[1],
            "frames_indices": [number * self.num_frames // taken for number in range(taken)],
        }


class Sampling(NamedTuple):
    """
    Which frames of a video are taken.

    Args:
        fps (`float`): how many of a second of a file; and how many a list of frames is said to have, where it does not
            say so itself. Of a list all are taken.
        max_frames (`int`): how many at most; a longer video has them farther apart.
        max_pixels (`int`): of all frames that are taken together; larger ones are shrunk before they are kept.
        least (`int`): how many at least; of fewer some are taken again.
    """

    fps: float
    max_frames: int
    max_pixels: int
    least: int = 1

    def clip(self, video: Any, row: int = 0, max_image_pixels: int = MAX_IMAGE_PIXELS) -> Clip:
        """
        What a video is taken as, without decoding it.

        Args:
            video: the path or the bytes of a file; a list of frames, each an image as `to_rgb` takes it; an array
                `(num_frames, height, width, 3)`; or `{"frames": one of these two, "fps": float}`.
            row (`int`): place in the batch, for error messages.
            max_image_pixels (`int`): larger frames are refused.
        Raises `ValueError` for what is no video, or has no frames; `ImportError` where PyAV is needed and missing.
        """
        with naming(video, row):
            if is_file(video):
                num_frames, duration, height, width = _header(video)
                taken = min(max(1, round(duration * self.fps)), num_frames)
            else:
                frames, fps = frames_of(video, self.fps)
                with open_image(frames[0], row, max_image_pixels) as first:
                    height, width = first.height, first.width
                num_frames = taken = len(frames)
                duration = num_frames / fps
            _check_size(height, width, max_image_pixels)
        taken = max(min(taken, self.max_frames), self.least)
        shrink = min(1.0, math.sqrt(self.max_pixels / (taken * height * width)))
        size = (max(1, int(height * shrink)), max(1, int(width * shrink)))
        return Clip([number * duration / taken for number in range(taken)], size, num_frames, duration)


def read_frames(video: Any, clip: Clip, row: int = 0, max_image_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """
    The frames of a clip, `(num_frames, height, width, 3)` in uint8.

    Args:
        video, row, max_image_pixels: as of [`Sampling.clip`].
        clip ([`Clip`]): of this video.
    Raises `ValueError` for a video that cannot be decoded, and for a file that ends long before its header says so.
    """
    with naming(video, row):
        if is_file(video):
            images = list(_decode(video, clip))
        else:
            frames, _ = frames_of(video, 1.0)
            numbers = clip.metadata()["frames_indices"]
            seen = {number: _as_seen(frames[number], clip, row, max_image_pixels) for number in dict.fromkeys(numbers)}
            sizes, images = zip(*(seen[number] for number in numbers), strict=True)
            if others := set(sizes) - {sizes[0]}:
                width, height = others.pop()
                raise ValueError(f"its frames differ in size: one has {width}x{height} pixels")
        return np.stack([np.asarray(image) for image in images])


def _as_seen(image: Image.Image, clip: Clip, row: int, max_image_pixels: int) -> tuple[tuple[int, int], Image.Image]:
    """The size of a frame of a list, and the frame, no larger than it is needed."""
    rgb, (height, width) = to_rgb(image, row, max_image_pixels), clip.size
    is_turned = (rgb.width > rgb.height) != (width > height)  # by its EXIF, which the size in its header leaves out
    return rgb.size, _shrunk(rgb, (width, height) if is_turned else (height, width))


@contextmanager
def naming(video: Any, row: int) -> Iterator[None]:
    """Makes whatever is wrong with a video one `ValueError` that names the row and the file."""
    try:
        yield
    except DECODE_ERRORS as error:
        why = str(error) or type(error).__name__
        prefix = f"Row {row}: cannot decode the "
        why = why.removeprefix(prefix) if why.startswith(prefix) else why.removeprefix(f"Row {row}: ")
        why = " ".join(why.split())[:200]
        raise ValueError(f"{prefix}video {describe_input(video)}: {why}") from error


def is_file(video: Any) -> bool:
    """Whether a video is the path or the bytes of a file, and no list of frames."""
    return isinstance(video, str | os.PathLike | bytes)


def frames_of(video: Any, fps: float) -> tuple[Any, float]:
    """Frames in their order, and how many of them a second has."""
    if isinstance(video, dict) and video.keys() <= {"frames", "fps"}:
        given = video.get("fps")
        video, fps = video.get("frames"), fps if given is None else given
    is_array = isinstance(video, np.ndarray) and video.ndim == 4
    if not is_array and not isinstance(video, list | tuple):
        raise TypeError("a video is the path or the bytes of a file, a list of frames, or {'frames': …, 'fps': …}")
    if not len(video):
        raise ValueError("it has no frames")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise ValueError(f"fps={fps!r} is no number of frames a second")
    return video, float(fps)


def _header(video: Any) -> tuple[int, float, int, int]:
    """Frames, seconds, height and width of a file as its header says; what it does not say is found by going through
    its packets, which are not decoded."""
    with _opened(video) as (_, container, stream):
        rate = stream.average_rate or stream.guessed_rate
        duration = stream.duration and stream.duration * stream.time_base
        duration = duration or _duration_of_file(container, stream)
        num_frames = stream.frames or (duration and rate and round(duration * rate))
        if not num_frames or not duration:
            num_frames = sum(1 for packet in container.demux(stream) if packet.size)
            duration = duration or (rate and num_frames / rate)
        if not num_frames or not duration or duration < 0:
            raise ValueError("it has no frames")
        return num_frames, float(duration), stream.codec_context.height, stream.codec_context.width


def _duration_of_file(container: Any, stream: Any) -> float | None:
    """Where streams have no durations: that of the file, or of its pictures by a tag of Matroska."""
    ends = [container.duration / 1_000_000] if container.duration else []
    if tag := TIME.match(stream.metadata.get("DURATION", "")):
        ends.append(int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]))
    return min(filter(None, ends), default=None)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if min(height, width) < 1 or max(height, width) > 200 * min(height, width):  # the limit of images, too
        raise ValueError(f"its frames have {width}x{height} pixels, at least 1x1 and at most 1:200 can be used")
    if height * width > max_pixels:
        raise ValueError(f"its frames have {width}x{height} pixels, which are over the limit of {max_pixels}")


@contextmanager
def _opened(video: Any) -> Iterator[tuple[Any, Any, Any]]:
    """PyAV, the container of a file, and its first stream of pictures that move: a cover is none."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        way_out = "`pip install av`, or give a video as the list of its frames"
        raise ImportError(f"Files of videos are decoded by PyAV, which is not there: {way_out}.") from error
    file: BinaryIO = BytesIO(video) if isinstance(video, bytes) else open_regular_file(video)
    try:
        with file, av.open(file, container_options={"format_whitelist": FORMATS}, metadata_errors="replace") as found:
            cover = av.stream.Disposition.attached_pic
            pictures = next((one for one in found.streams.video if not one.disposition & cover), None)
            if pictures is None:
                raise ValueError("it has no stream of pictures")
            yield av, found, pictures
    except av.FFmpegError as error:
        why = error.strerror or type(error).__name__
        raise ValueError(f"{why} (what can be read: {FORMATS.replace(',', ' ')})") from error


def _decode(video: Any, clip: Clip) -> Iterator[Image.Image]:
    """The frame that is seen at each time of a clip."""
    with _opened(video) as (_, container, stream):
        reader = _Reader(container, stream)
        shown = image = None
        for time in clip.times:
            frame = reader.at(time)
            reader.check_end(time, clip.duration)
            if frame is not shown:
                shown = frame
                image = _shrunk(frame.to_image(), clip.size)
                if frame.rotation:
                    image = image.rotate(frame.rotation, expand=True)
            yield image


class _Reader:
    """Goes forward through the frames of a stream, holding the one that is seen and the next one."""

    def __init__(self, container: Any, stream: Any):
        self.container, self.stream = container, stream
        self.interval = 1 / float(stream.average_rate or stream.guessed_rate or 1)
        self.start = float((stream.start_time or 0) * stream.time_base)
        self.jump = JUMP
        self.begin()

    def begin(self):
        """Reads on at the place where the container is."""
        self.frames = self.container.decode(self.stream)
        self.shown, self.time, self.next = None, -math.inf, next(self.frames, None)

    def at(self, time: float) -> Any:
        """The frame that is seen at a time, not before that of the last call."""
        if self.shown is not None and time - self.time > self.jump:
            self.leap(time)
        while self.next is not None and (self.shown is None or self.time_of(self.next) <= time + SAME_TIME):
            self.shown, self.time = self.next, self.time_of(self.next)
            self.next = next(self.frames, None)
        if self.shown is None:
            raise ValueError("it has no frames")
        return self.shown

    def leap(self, time: float):
        """Goes to the last place before a time where decoding can begin; back to the first one, to go on frame by
        frame, where that cannot be found. Where these places are so far apart that it led back, leaps are longer."""
        before = self.time
        self.container.seek(int((self.start + time) / self.stream.time_base), stream=self.stream)
        self.begin()
        first = None if self.next is None else self.next.time
        if first is None or first - self.start > time + SAME_TIME:
            self.container.seek(0)
            self.begin()
            self.jump = math.inf
        elif first - self.start < before:
            self.jump *= 2

    def time_of(self, frame: Any) -> float:
        """Seconds from the beginning. Streams without a container have no times: their frames last equally long."""
        if frame.time is not None:
            return frame.time - self.start
        self.jump = math.inf
        return 0.0 if self.shown is None else self.time + self.interval

    def check_end(self, time: float, duration: float):
        """Raises where the frames have ended long before a time; the last one may be seen for a while."""
        frame = self.shown
        lasts = max(float(frame.duration * frame.time_base) if frame.duration and frame.time is not None else 0, 0)
        slack = max(1.0, 2 * self.interval, 0.05 * duration)
        if self.next is None and time > self.time + lasts + slack:
            raise ValueError(f"it is cut off: it ends at {self.time:.1f} s of {duration:.1f} s")


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


__all__ = ["Clip", "Sampling", "frames_of", "is_file", "naming", "read_frames"]
