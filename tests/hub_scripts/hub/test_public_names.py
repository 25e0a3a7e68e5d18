"""Names that are published tell what something is called, and nothing of whose machine it lay on."""

import pytest

from hub_scripts.hub.public_names import is_hub_id, public_name, public_record, public_text


PRIVATE = ("alice", "secret", "hunter2", "token=abc", "hf_abcdefgh1234")


@pytest.mark.parametrize(
    ("typed", "public"),
    [
        ("../home_alice/secretproject/dial.jsonl", "dial.jsonl"),
        ("/home/alice/secret/dial.jsonl", "dial.jsonl"),
        ("~/secret/model/", "model"),
        ("./dial.jsonl", "dial.jsonl"),
        ("secret/dial.jsonl", "dial.jsonl"),
        ("alice/secret/model", "model"),
        ("C:\\Users\\alice\\dial.csv", "dial.csv"),
        ("https://alice:hunter2@host/secret/dial.jsonl?token=abc", "dial.jsonl"),
        ("s3://alice-bucket/secret/shard-{000..9}.tar", "shard-{000..9}.tar"),
        ("secret/shards/*.tar", "*.tar"),
        ("org/model", "org/model"),
        ("emoji", "emoji"),
        ("a\n---\nlicense: mit", "a --- license: mit"),
    ],
)
def test_of_a_path_the_name_stays(typed: str, public: str) -> None:
    assert public_name(typed) == public
    assert public_name(public) == public


def test_a_folder_here_is_no_name_on_the_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("alice/backbone") and public_name("alice/backbone") == "alice/backbone"
    (tmp_path / "alice" / "backbone").mkdir(parents=True)
    assert not is_hub_id("alice/backbone") and public_name("alice/backbone") == "backbone"
    assert public_name(".") == public_name("alice/..") == tmp_path.name


@pytest.mark.parametrize(
    "command",
    [
        "python /home/alice/secret/run.py --data ../alice/secret/x.jsonl",
        "python run.py --api_key hunter2hunter2 --url https://alice:hunter2@host/v1/run?token=abc",
        "HF_TOKEN=hf_abcdefgh1234 python run.py --out=~/secret/x",
        "curl host -H hf_abcdefgh1234",
    ],
)
def test_of_a_command_the_words_stay(command: str) -> None:
    public = public_text(command)
    assert not any(word in public for word in PRIVATE), public
    assert public.count(" ") == command.count(" ") and ("run" in public or "curl host" in public)


@pytest.mark.parametrize("text", ["shop --all", "Shop, of 2025", "org/model and/or 1/2", "coma evaluate"])
def test_what_is_not_private_stays(text: str) -> None:
    assert public_text(text) == text


def test_a_record_of_an_earlier_version() -> None:
    """Prompts are prompts, whatever is in them; where things lay goes."""
    record = [
        {
            "stage": "contrastive",
            "model": "../alice/secret/model",
            "data": "../home_alice/secret/dial.jsonl",
            "image_root": "../home_alice/secret",
            "settings": {"instructions": {"a": "/home or ~/garden?"}, "accelerate": "/home/alice/fsdp.yaml"},
            "steps": 3,
        }
    ]
    (stage,) = public_record(record)
    assert stage == {
        "stage": "contrastive",
        "model": "model",
        "data": "dial.jsonl",
        "settings": {"instructions": {"a": "/home or ~/garden?"}, "accelerate": "fsdp.yaml"},
        "steps": 3,
    }
    assert public_record([stage]) == [stage]
