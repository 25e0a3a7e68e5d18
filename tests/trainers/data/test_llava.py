"""LLaVA's conversations, and the published dialogues of CoMa."""

import json
from pathlib import Path

import pytest

from trainers.compression.collator import ComaCompressionCollator
from trainers.data.llava import load_coma_sft, load_llava
from trainers.data.rows import BadRows, NumberedRows


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def test_a_list_as_llava_has_it(emoji_files: dict[str, Path], tmp_path: Path, make_coma) -> None:
    rows = [
        {"id": str(number), "image": file.name, "conversations": talk("<image>\nWhat is it?", name, "Sure?", "Yes")}
        for number, (name, file) in enumerate(emoji_files.items())
    ]
    names = [file.name for file in emoji_files.values()]
    rows[1] |= {"image": names[:2], "conversations": talk("<image>\n<image>\nWhich?", "Both", "Why?", "So")}
    rows[2]["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    rows.append({"id": "text", "conversations": talk("Why?", "So.")})
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    (tmp_path / "llava.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bad_rows = BadRows("skip")
    loaded = load_llava(tmp_path / "llava.json", next(iter(emoji_files.values())).parent, bad_rows)
    again = load_llava(tmp_path / "llava.jsonl", next(iter(emoji_files.values())).parent, "skip")
    assert loaded.with_format("arrow")[:] == again.with_format("arrow")[:]
    numbered = NumberedRows(loaded)
    assert list(bad_rows.reasons) == [len(emoji_files)]  # of text alone: nothing is there to be compressed
    assert [len(numbered[n]["images"]) for n in range(3)] == [1, 2, 1]
    assert numbered[0]["messages"][0] == {"role": "user", "content": "What is it?"}
    batch = ComaCompressionCollator(make_coma()[1])(numbered.__getitems__(range(len(loaded))))
    assert len(batch["image_grid_thw"]) == len(emoji_files) + 1


def test_the_dialogues_of_coma_need_no_placeholder(emoji_files: dict[str, Path], tmp_path: Path) -> None:
    file = next(iter(emoji_files.values()))
    rows = [
        {"id": 0, "image": file.name, "conversations": talk("What is it?", "A face.", "And?", "It grins.")},
        {"id": 1, "image": file.name, "conversations": talk("<image>\nWhat is it?", "A face.")},
    ]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = NumberedRows(load_coma_sft(tmp_path / "sft.jsonl", file.parent))
    assert [row["messages"][0]["content"] for row in loaded] == ["What is it?"] * 2
    assert loaded[0]["images"][0]["path"] == str(file)
    with pytest.raises(ValueError, match="^Row 0 .* conversations: found 0 placeholders for images, expected one for"):
        load_llava(tmp_path / "sft.jsonl", file.parent)
    rows[0]["conversations"] = talk("<image><image>What is it?", "A face.")
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="^Row 0 .* found 2 placeholders for images"):
        load_coma_sft(tmp_path / "sft.jsonl", file.parent)
