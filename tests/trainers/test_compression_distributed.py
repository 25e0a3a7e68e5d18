"""Two processes (gloo) take the steps that one process takes with the same global batch, and resume as exactly."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("compression_worker.py")

pytestmark = pytest.mark.distributed


def load_worker():
    spec = importlib.util.spec_from_file_location("compression_worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker


@pytest.fixture(scope="module")
def model_folder(make_coma, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in make_coma():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def launch(model_folder, tmp_path_factory):
    """`launch(names, *launcher)`: results of trainings on two processes."""

    def run(names, *launcher):
        out = tmp_path_factory.mktemp("two")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = launcher or (
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--master-addr=127.0.0.1",
            "--master-port=PORT",
        )
        command = [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in launcher), str(WORKER)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with open(out / "log", "w+") as log:
            launched = subprocess.Popen(
                [*command, str(model_folder), str(out), json.dumps(names), "2"],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                launched.wait(timeout=300)
            finally:
                if launched.poll() is None:
                    os.killpg(launched.pid, signal.SIGKILL)  # the workers too
            assert launched.returncode == 0, (out / "log").read_text()[-6000:]
        return {name: torch.load(out / f"{name}.pt") for name in names}

    return run


LONG = ("long", "long grouped")
SAME = ("adapter", "full", "checkpointing", "grouped")


@pytest.fixture(scope="module")
def two(launch):
    return launch([*SAME, *(name + suffix for name in LONG for suffix in ("", " resumed"))])


@pytest.mark.parametrize("name", SAME)
def test_two_processes_are_one_with_the_same_global_batch(two, name, model_folder, tmp_path):
    one = load_worker().train(str(model_folder), tmp_path, name, 1)
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
