"""Videos go the backbone's own way, as its stock processor and its model have them, alone and beside all else."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from hub_scripts.tiny.backbone import BackboneSizes, create_tiny_backbone
from modeling_coma import ComaProcessor
from modeling_coma.videos_coma import Sampling, read_frames
from tests.families.moving import decoded, metadata, moving_emoji, sliding, write_video
from tests.families.tokenizer import TEXTS
from trainers.backbone import model_from_backbone
from trainers.compression import ComaCompressionConfig, ComaCompressionTrainer
from trainers.contrastive import ComaContrastiveConfig, ComaContrastiveTrainer
from trainers.encoding.encode import embed_items
from trainers.encoding.tokenize import token_lengths


K = 4
WITH_VIDEO = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "smolvlm", "internvl"]
WITH_VIDEO += ["llava_onevision", "gemma4", "minicpmv4_6"]
LINEAR_ATTENTION = ("qwen3_5", "minicpmv4_6")  # it is summed in chunks, whose borders padding moves
every_family = pytest.mark.parametrize("family", WITH_VIDEO)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """16 frames in two seconds."""
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", sliding())


@pytest.fixture
def coma(family, family_coma):
    """A model and its processor, which takes every frame of the clip."""
    model, processor = family_coma(family)
    processor.video_fps, processor.max_video_frames = 8.0, 16
    return model, processor


@torch.no_grad()
def embed(model, processor, items, **options):
    return model(**processor.process(items, **options)).embeddings


@every_family
@torch.no_grad()
def test_states_are_those_of_the_stock_backbone(family, coma, clip, family_folder, load_family):
    """Of tokens and tensors that its own processor makes of the decoded frames, by its own positions and masks."""
    model, processor = coma
    stock = AutoProcessor.from_pretrained(family_folder(family))
    frames = decoded(clip)
    batch = processor.process([{"text": ["look:", " what is this?"], "video": str(clip)}])
    text = f"look: what is this?{processor.video_format['placeholder']}"
    text = text.replace(processor.video_format["token"], stock.video_token)
    options = {"do_sample_frames": False, "video_metadata": [metadata(frames, 8)]}
    theirs = stock(videos=[[frames]], text=[text], videos_kwargs=options, return_tensors="pt")
    tail = processor.compression_token_ids
    assert batch["input_ids"][0].tolist() == theirs["input_ids"][0].tolist() + tail
    # Which their own forward finds positions for, from what their processor says of the video.
    for name, value in {
        "input_ids": torch.tensor([tail]),
        "attention_mask": torch.ones(1, K, dtype=torch.long),
    }.items():
        theirs[name] = torch.cat([theirs[name], value], dim=1)
    if "mm_token_type_ids" in theirs:
        theirs["mm_token_type_ids"] = torch.nn.functional.pad(theirs["mm_token_type_ids"], (0, K))
    theirs = {name: value for name, value in theirs.items() if isinstance(value, torch.Tensor)}
    expected = model.backbone.model(**theirs, use_cache=False).last_hidden_state[:, -K:]
    torch.testing.assert_close(model(**batch).compression_states, expected, atol=1e-6, rtol=1e-6)


@every_family
def test_the_order_of_frames_is_seen(coma, clip):
    model, processor = coma
    frames = list(decoded(clip))
    forth, back, again = embed(model, processor, [{"video": frames}, {"video": frames[::-1]}, {"video": str(clip)}])
    assert (forth - back).abs().max() > 1e-3
    torch.testing.assert_close(forth, again, atol=1e-5, rtol=0)


@pytest.fixture(scope="session")
def items(clip, picture):
    image = picture(56, 56, 1)
    blocks = [{"type": "image", "image": image}, {"type": "text", "text": " then "}, {"type": "video", "path": clip}]
    return [
        "a red apple on a green tree",
        {"video": clip.read_bytes()},
        image,
        {"video": sliding(5, seed=1), "text": "what moves?"},
        {"image": [image, picture(28, 56, 2)], "video": {"frames": np.stack(sliding(3, seed=2)), "fps": 1}},
        [{"role": "user", "content": [*blocks, *blocks[1:]]}],
    ]


@every_family
def test_a_row_is_the_same_alone_and_in_a_batch_of_everything(family, coma, items):
    model, processor = coma
    alone = torch.cat([embed(model, processor, [item]) for item in items])
    atol = 1e-4 if family in LINEAR_ATTENTION else 1e-5
    for side in ("left", "right"):
        torch.testing.assert_close(embed(model, processor, items, padding_side=side), alone, atol=atol, rtol=0)
    torch.testing.assert_close(embed_items(model, processor, items, batch_tokens=300), alone, atol=atol, rtol=0)
    assert torch.pdist(alone).min() > 1e-3


@every_family
def test_the_limits_hold_and_lengths_are_known_from_headers(family, coma, clip, items, tmp_path, monkeypatch):
    _, processor = coma
    lengths = token_lengths(processor, items).tolist()
    assert lengths == processor.process(items)["attention_mask"].sum(dim=1).tolist()
    long = write_video(tmp_path / "long.mp4", sliding(40, seed=3))
    processor.max_video_frames = 4
    few = processor.process([{"video": str(long)}])
    assert len(processor.clip(str(long)).times) == 4
    assert few["input_ids"].shape[1] == token_lengths(processor, [{"video": str(long)}])[0] < lengths[1]
    processor.max_video_pixels = 4 * 28 * 42
    assert processor.clip(str(long)).size == (28, 42)
    monkeypatch.setattr("modeling_coma.videos_coma._decode", lambda *_: pytest.fail("decoded"))
    assert token_lengths(processor, [{"video": str(clip)}])[0] > K


@every_family
def test_what_is_saved_loads_again(family, coma, items, tmp_path):
    _, processor = coma
    processor.save_pretrained(tmp_path)
    loaded = ComaProcessor.from_pretrained(tmp_path)
    assert (loaded.video_fps, loaded.max_video_frames) == (8.0, 16)
    expected = processor.process(items)
    for name, tensor in loaded.process(items).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("family", ["llava", "idefics3", "gemma3", "glm4v"])
def test_a_backbone_without_a_way_for_videos_says_so(family, family_coma, clip):
    _, processor = family_coma(family)
    with pytest.raises(ValueError, match="Row 1 has a video. This model takes none: .* Give some frames as images"):
        processor.process(["a", {"video": str(clip)}])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "smolvlm"])
def test_both_stages_train_on_videos(family, coma, clip, picture, tmp_path, monkeypatch):
    """Features of a frozen tower are made once, and give the embeddings of pixels."""
    model, processor = coma
    items = [{"video": str(clip)}, {"video": sliding(6, seed=4)}, {"image": picture(56, 56, 1), "text": "an image"}]
    pairs = [{"query": item, "positive": {"text": text}} for item, text in zip(items, "abc", strict=True)]
    with torch.no_grad():
        expected = model(**processor.process([*items, *"abc"])).embeddings
    options = {"use_cpu": True, "report_to": "none", "max_steps": 6, "learning_rate": 3e-3, "logging_steps": 1}
    options |= {"per_device_train_batch_size": 3, "save_strategy": "no", "disable_tqdm": True}
    config = ComaContrastiveConfig(output_dir=tmp_path / "2", temperature=0.1, **options)
    trainer = ComaContrastiveTrainer(model, config, processing_class=processor, train_dataset=pairs)
    packed = trainer.data_collator(pairs)["inputs"]
    config.mini_batch_tokens = int(packed.lengths.max())
    name = "encode_videos" if processor.video_inputs else "encode_images"
    calls, encode = [], getattr(model, name)
    monkeypatch.setattr(model, name, lambda *pixels, **others: calls.append(1) or encode(*pixels, **others))
    with torch.no_grad():
        torch.testing.assert_close(trainer._embed(model.eval(), packed)[:, 0], expected, atol=1e-5, rtol=0)
    assert 0 < len(calls) <= 3
    talk = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "to the right"}]
    rows = [{"videos": [item["video"]], "text": None, "messages": talk} for item in items[:2]] * 2
    config = ComaCompressionConfig(output_dir=tmp_path / "1", **options)
    first = ComaCompressionTrainer(model, config, processing_class=processor, train_dataset=rows)
    for one in (trainer, first):
        one.train()
        losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
        assert losses[-1] < losses[0] / 2


def test_a_motion_is_learnt_and_found_in_emoji_that_were_not_shown(tmp_path):
    """Where one goes is in the order of the frames alone: in frames out of order nobody can find it."""
    sizes, says = BackboneSizes(num_hidden_layers=2), ["from left to right", "from right to left"]
    create_tiny_backbone(tmp_path / "b", texts=[*TEXTS, *says], model_type="qwen2_5_vl", sizes=sizes, vocab_size=400)
    torch.manual_seed(0)  # of the rows of the compression tokens
    model, processor = model_from_backbone(tmp_path / "b", K)
    processor.max_video_frames = 4
    shown = moving_emoji(range(0, 1500, 25), 4)
    rows = [{"query": {"video": frames}, "positive": {"text": text}} for frames, text in shown]
    options = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_steps": 90}
    options |= {"learning_rate": 2e-3, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}
    options |= {"per_device_train_batch_size": 16, "freeze_vision": False, "temperature": 0.1}
    config = ComaContrastiveConfig(output_dir=tmp_path / "o", **options)
    ComaContrastiveTrainer(model, config, processing_class=processor, train_dataset=rows).train()
    unseen, draw = moving_emoji(range(7, 1500, 37), 4), np.random.default_rng(0)
    texts = embed_items(model, processor, says)

    def found(videos):
        nearest = (embed_items(model, processor, [{"video": one} for one in videos]) @ texts.T).argmax(dim=1)
        return np.mean([says[number] == text for number, (_, text) in zip(nearest.tolist(), unseen, strict=True)])

    assert found([frames for frames, _ in unseen]) > 0.85
    assert 0.35 < found([frames[draw.permutation(4)] for frames, _ in unseen]) < 0.65


def test_the_snippet_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs/video.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["embeddings"].shape == (4, names["model"].config.hidden_size)


class TestFiles:
    """Whatever the container, a frame is the one that is seen at its time."""

    @pytest.fixture
    def grey(self):
        """Frames that are told apart by their brightness."""
        return [np.full((48, 64, 3), 20 + 5 * number, dtype=np.uint8) for number in range(40)]

    def frames(self, path, fps=2.0, max_frames=8):
        clip = Sampling(fps, max_frames, 2**24).clip(str(path))
        return clip, read_frames(str(path), clip).mean(axis=(1, 2, 3))

    @pytest.mark.parametrize(
        ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
    )
    def test_of_every_container(self, grey, tmp_path, name, codec):
        clip, means = self.frames(write_video(tmp_path / name, grey, codec=codec))
        assert clip.times == [0, 0.625, 1.25, 1.875, 2.5, 3.125, 3.75, 4.375] and clip.num_frames == 40
        assert np.abs(means - [20 + 5 * int(8 * time) for time in clip.times]).max() < 3

    def test_without_a_header_packets_are_counted(self, grey, tmp_path):
        clip, means = self.frames(write_video(tmp_path / "a.h264", grey))
        assert clip.num_frames == 40 and (np.diff(means) > 0).all()

    def test_of_a_variable_rate(self, grey, tmp_path):
        path = write_video(tmp_path / "a.mp4", grey[:5], fps=30, times=[0, 0.1, 0.2, 3.0, 3.9])
        clip, means = self.frames(path)
        assert len(clip.times) == 5  # none is taken more often than there are frames
        seen = [20, 30, 30, 30, 35]  # at 0, 0.8, 1.6, 2.4 and 3.1 s
        assert np.abs(means - seen).max() < 3

    def test_jumps_end_where_going_on_would(self, tmp_path, monkeypatch):
        frames = [np.full((48, 64, 3), 2 * number, dtype=np.uint8) for number in range(120)]
        path = write_video(tmp_path / "a.mp4", frames, fps=2)
        clip, jumped = self.frames(path, fps=1 / 7, max_frames=64)
        monkeypatch.setattr("modeling_coma.videos_coma.JUMP", 1e9)
        _, walked = self.frames(path, fps=1 / 7, max_frames=64)
        assert len(clip.times) == 9 and np.array_equal(jumped, walked)

    def test_a_long_one_takes_no_more_memory(self, tmp_path):
        """An hour at two frames a second: what is held at one time are the frames that are taken."""
        one = np.zeros((64, 64, 3), dtype=np.uint8)
        path = write_video(tmp_path / "hour.mp4", [one] * 7200, fps=2)
        tracemalloc.start()
        clip, means = self.frames(path, max_frames=16)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert clip.num_frames == 7200 and len(means) == 16
        assert peak < 6 * 16 * one.nbytes

    def test_sound_that_goes_on_is_no_part_of_it(self, tmp_path):
        import av

        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            pictures = container.add_stream("libx264", rate=2)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            for _ in range(4):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 64000), dtype=np.int16), format="s16", layout="mono")
            frame.rate = 8000
            container.mux(sound.encode(frame))
        clip, means = self.frames(path)
        assert (clip.duration, clip.num_frames, len(means)) == (2, 4, 4)

    def test_a_cover_is_no_video(self, grey, tmp_path):
        import av

        frames = [av.VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in grey]
        sound = [av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")]
        sound[0].rate = 16000
        video = {"rate": 8, "width": 64, "height": 48, "pix_fmt": "yuv420p"}
        size, is_cover = {"width": 40, "height": 30, "pix_fmt": "yuvj420p"}, av.stream.Disposition.attached_pic
        for name, codec, options, content in (("v", "libx264", video, frames), ("s", "aac", {"rate": 16000}, sound)):
            with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
                stream = container.add_stream(codec, **options)
                cover = container.add_stream("mjpeg", **size, disposition=is_cover)
                container.mux(cover.encode(av.VideoFrame(40, 30, "yuvj420p")))
                container.mux(cover.encode(None))
                for frame in content:
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        whole = (tmp_path / "v.mp4").read_bytes()
        start = whole.index(b"moov") - 4
        head, inner = whole[: start + 8], whole[start + 8 :]
        (tmp_path / "v.mp4").write_bytes(head + b"".join(sorted(_boxes(inner), key=lambda box: box[4:8] == b"trak")))
        with av.open(str(tmp_path / "v.mp4")) as container:
            assert container.streams.video[0].disposition == is_cover  # which now stands first
        clip, means = self.frames(tmp_path / "v.mp4")
        assert clip.size == (48, 64) and clip.num_frames == 40 and (np.diff(means) > 0).all()
        with pytest.raises(ValueError, match="it has no stream of pictures"):
            self.frames(tmp_path / "s.mp4")

    def test_a_turned_one_stands_upright(self, tmp_path):
        import av

        path = tmp_path / "turned.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.set_display_rotation(90)
            pixels = np.zeros((48, 64, 3), dtype=np.uint8)
            pixels[:, 48:] = 255  # the right end is on top when it is turned to the left
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        clip = Sampling(2.0, 8, 2**24).clip(str(path))
        (frame,) = read_frames(str(path), clip)
        assert frame.shape == (64, 48, 3) and frame[:12].mean() > 200 and frame[24:].mean() < 50

    def test_what_is_wrong_is_named(self, grey, tmp_path):
        whole = write_video(tmp_path / "a.mp4", grey).read_bytes()
        mkv = write_video(tmp_path / "a.mkv", [*np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)])
        (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "cut.mkv").write_bytes(mkv.read_bytes()[: mkv.stat().st_size // 4])
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:9,\nfile://{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n")
        Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
        for name in ("cut.mp4", "empty.mp4", "list.m3u8", "image.png", "missing.mp4"):
            with pytest.raises(ValueError, match=f"Row 7: cannot decode the video '.*{name}': "):
                Sampling(2.0, 8, 2**24).clip(str(tmp_path / name), 7)
        with pytest.raises(ValueError, match=r"cut\.mkv': it is cut off: it ends at 1\.\d s of 5\.0 s"):
            self.frames(tmp_path / "cut.mkv")
        with pytest.raises(ValueError, match="its frames have 64x48 pixels, which are over the limit of 1000"):
            Sampling(2.0, 8, 2**24).clip(whole, 0, 1000)


def _boxes(data):
    """The boxes of MP4 that follow one another."""
    while data:
        size = int.from_bytes(data[:4], "big")
        yield data[:size]
        data = data[size:]
