"""Two processes (gloo) take the steps that one process takes with the same global batch, and resume as exactly."""

import pytest
import torch

from tests.trainers.compression.sharded_worker import compare_all
from tests.trainers.compression.worker import train, train_all
from tests.trainers.test_distributed import spawn


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def model_folder(make_coma, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in make_coma():
        part.save_pretrained(folder)
    return str(folder)


LONG = ("long", "long grouped")
SAME = ("adapter", "full", "checkpointing", "grouped")


@pytest.fixture(scope="module")
def two(model_folder, tmp_path_factory):
    """What the trainings end with on two processes."""
    out = tmp_path_factory.mktemp("two")
    names = [*SAME, *(name + suffix for name in LONG for suffix in ("", " resumed"))]
    return spawn(train_all, 2, out, model_folder, out, names)[0]


@pytest.mark.parametrize("name", SAME)
def test_two_processes_are_one_with_the_same_global_batch(two, name, model_folder, tmp_path):
    one = train(model_folder, tmp_path, name, 1)
    assert_same(two[name], one)
    assert two[name]["logs"][-2]["images_seen"] == one["logs"][-2]["images_seen"] > 0


def assert_same(found, expected):
    for name in ("loss", "kl", "grad_norm", "tokens_seen"):
        of_both = [[log[name] for log in result["logs"] if name in log] for result in (found, expected)]
        assert of_both[0] == pytest.approx(of_both[1], abs=1e-5, rel=1e-5), name
    for name in ("eval_loss", "eval_loss_without_tokens", "eval_answer_accuracy"):
        assert found["evaluation"][name] == pytest.approx(expected["evaluation"][name], abs=1e-5), name
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LONG)
def test_two_processes_resume_in_the_second_epoch(two, name):
    whole, resumed = two[name], two[f"{name} resumed"]
    assert resumed["logs"][:-1] == whole["logs"][:-1]
    for key, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][key], weight), key


def test_sharded_weights_take_the_same_step(model_folder, make_coma, tmp_path):
    """FSDP2, full fine-tuning with tied and untied embeddings and an adapter, training and evaluation."""
    for part in make_coma(tie_word_embeddings=False):
        part.save_pretrained(tmp_path / "untied")
    results, _ = spawn(compare_all, 2, tmp_path, model_folder, str(tmp_path / "untied"))
    assert set(results) == {"full tied", "full", "adapter"}
    for name, differences in results.items():
        assert differences.pop("largest gradient") > 1e-2, name
        assert all(difference < 1e-5 for difference in differences.values()), (name, differences)
