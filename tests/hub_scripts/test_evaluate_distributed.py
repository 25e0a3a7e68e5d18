"""Two processes (gloo) evaluate to the scores of one, each embedding its share, and name errors as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mmeb_folders import write_mmeb


ROOT = Path(__file__).resolve().parents[2]
FEW = "ImageNet-1K,MSCOCO_t2i,ViDoRe_docvqa"

pytestmark = pytest.mark.distributed


def on_two_processes(*words: object) -> tuple[int, str]:
    """Exit code and output; none of the processes stays, whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", "-m", "hub_scripts.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryFile("w+") as log:
        launched = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            launched.wait(timeout=240)
        finally:
            if launched.poll() is None:
                os.killpg(launched.pid, signal.SIGKILL)
        log.seek(0)
        return launched.returncode, log.read()


def scores_in(folder: Path) -> dict:
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    sets = {name: dict(scores) for sets in metrics.values() for name, scores in sets.items()}
    return {
        name: {key: value for key, value in scores.items() if "@" in key or key == "vectors"}
        for name, scores in sets.items()
    }


def test_two_processes_are_one(coma_folder: Path, coma_command: Callable, tmp_path: Path) -> None:
    write_mmeb(tmp_path / "mmeb", FEW.split(","))
    options = ["--sets", FEW, "--device", "cpu", "--workers", 0, "--vectors", "1,2x4", "--any-vectors"]
    words = ["evaluate", coma_folder, tmp_path / "mmeb", *options, "--output"]
    code, log = on_two_processes(*words, tmp_path / "two")
    assert code == 0, log[-4000:]
    assert all(scores["vectors"].keys() == {"1x1", "2x4"} for scores in scores_in(tmp_path / "two").values())
    assert coma_command(*words, tmp_path / "one")[0] == 0
    assert scores_in(tmp_path / "two") == scores_in(tmp_path / "one")
    assert log.count("ViDoRe_docvqa (3 of 3)") == 1

    (tmp_path / "two/image/MSCOCO_t2i_score.json").unlink()  # as if it had been stopped
    code, log = on_two_processes(*words, tmp_path / "two")
    assert code == 0 and log.count("is finished already") == 2
    assert scores_in(tmp_path / "two") == scores_in(tmp_path / "one")
