"""A push is one commit that leaves nothing of an earlier model, and goes on where it was interrupted."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCardData

from hub_scripts.hub.card_results import Score
from hub_scripts.hub.upload import upload


REPO = "org/my-coma"


def test_everything_is_in_one_commit(hub, folder):
    commit = upload(folder, REPO, "the first", tag="v1")
    repo = hub.repos[REPO]
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "the first"]
    files = repo.files("v1")
    assert {name: blob.content for name, blob in files.items() if name != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert {name for name, blob in files.items() if blob.lfs} == {path.name for path in folder.glob("*.safetensors")}
    assert repo.branches["main"] == repo.tags["v1"] == commit.oid
    assert not repo.private


def test_what_a_loader_could_mistake_is_gone_and_the_rest_stays(hub, folder):
    (folder / "model.safetensors").write_bytes(b"the old weights, in one file")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "plot.png").write_bytes(b"an image for the card")
    upload(folder, REPO, "the first")
    for name in ("model.safetensors", "adapter_config.json", "plot.png"):
        (folder / name).unlink()
    upload(folder, REPO, "the second")
    left = hub.repos[REPO].files()
    assert set(left) == {path.name for path in folder.iterdir()} | {".gitattributes", "plot.png"}


def test_a_branch_a_pull_request_and_a_private_repository(hub, folder):
    upload(folder, REPO, "the first", private=True)
    repo = hub.repos[REPO]
    assert repo.private
    (folder / "config.json").write_text('{"model_type": "coma", "more": 1}')
    upload(folder, REPO, "on a branch", revision="next")
    pull = upload(folder, REPO, "proposed", create_pr=True)
    assert pull.pr_revision == "refs/pr/1"
    assert repo.branches["main"] != repo.branches["next"]
    contents = {ref: repo.files(ref)["config.json"].content for ref in ("main", "next", "refs/pr/1")}
    assert contents["next"] == contents["refs/pr/1"] == (folder / "config.json").read_bytes() != contents["main"]


def test_who_may_read_may_propose(hub, folder, as_reader):
    upload(folder, REPO, "the first")
    as_reader()
    (folder / "config.json").write_text("{}")
    assert upload(folder, REPO, "proposed", create_pr=True).pr_url.endswith("/discussions/1")


def test_an_interrupted_upload_goes_on(hub, folder):
    """The small file of weights has arrived when the large one fails: the second try sends the large one alone."""
    hub.fail("PUT", "/lfs/part/.*/2", status=403, message="not now")
    with pytest.raises(OSError, match="may not do this"):
        upload(folder, REPO, "the first")
    assert hub.asked("PUT", "/lfs/whole/") == [200] and hub.asked("PUT", "/lfs/part/") == [200, 403]
    assert set(hub.repos[REPO].files()) == {".gitattributes"}, "half a model is published"
    upload(folder, REPO, "the first")
    assert hub.asked("PUT", "/lfs/whole/") == [200], "what had arrived was sent again"
    assert hub.asked("PUT", "/lfs/part/") == [200, 403, 200, 200, 200]
    assert {path.name for path in folder.iterdir()} < set(hub.repos[REPO].files())


def test_large_weights_go_in_parts_and_not_twice(hub, folder):
    upload(folder, REPO, "the first")
    assert hub.asked("PUT", "/lfs/part/") == [200, 200, 200] and hub.asked("PUT", "/lfs/whole/") == [200]
    (folder / "config.json").write_text("{}")
    upload(folder, REPO, "the second")
    assert len(hub.asked("PUT", "/lfs/")) == 4, "unchanged weights are sent again"


def test_nothing_is_sent_for_a_tag_that_is_taken(hub, folder):
    upload(folder, REPO, "the first", tag="v1")
    before = len(hub.requests)
    with pytest.raises(ValueError, match="has a tag v1 already"):
        upload(folder, REPO, "the second", tag="v1")
    assert not [path for _, path, _ in hub.requests[before:] if "/lfs" in path or "/commit/" in path]


def test_a_public_repository_does_not_become_private(hub, folder):
    upload(folder, REPO, "the first")
    with pytest.raises(ValueError, match="is public"):
        upload(folder, REPO, "the second", private=True)


def test_a_card_with_results_is_accepted(hub, folder):
    """By the checks that the Hub makes of metadata, which are part of the server; a wrong one is refused by them."""
    score = Score("retrieval", {"name": "Shop, of 2025"}, {"ndcg_at_10": 0.5, "recall_at_10": 0.75})
    data = {"license": "apache-2.0", "base_model": "org/backbone", "base_model_relation": "finetune"}
    card = ModelCardData(model_name="my-coma", eval_results=score.eval_results(), tags=["coma"], **data)
    (folder / "README.md").write_text(f"---\n{card.to_yaml()}\n---\n# My CoMa\n")
    upload(folder, REPO, "the first")
    assert "Shop, of 2025" in hub.cards[-1] and hub.repos[REPO].files()["README.md"].content.decode() == hub.cards[-1]
    (folder / "README.md").write_text("---\nbase_model: /home/me/backbone\n---\n# My CoMa\n")
    with pytest.raises(ValueError, match="is not valid. Use a model id"):
        upload(folder, REPO, "the second")


def test_the_token_never_goes_to_the_cdn(hub, folder):
    """Weights are on another host. The server refuses a token there."""
    from huggingface_hub import hf_hub_download

    upload(folder, REPO, "the first", private=True)
    name = "model-00001-of-00002.safetensors"
    assert Path(hf_hub_download(REPO, name)).read_bytes() == (folder / name).read_bytes()
    assert hub.asked("GET", "/lfs/object/") == [200]
