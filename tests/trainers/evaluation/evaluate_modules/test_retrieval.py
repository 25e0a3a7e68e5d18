"""`evaluate.load` takes the module from its folder, without a network, and it agrees with trec_eval."""

import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import pytrec_eval


ROOT = Path(__file__).resolve().parents[4]
FOLDER = str(ROOT / "trainers" / "evaluation" / "evaluate_modules" / "retrieval")


@pytest.fixture(scope="module")
def metric():
    return evaluate.load(FOLDER)


@pytest.mark.parametrize("seed", range(3))
def test_equals_trec_eval(metric, seed):
    """Queries with 5 to 40 candidates, grades from 0 to 3."""
    random = np.random.default_rng(seed)
    lengths = random.integers(5, 41, 30)
    scores = [random.permutation(n).astype(float).tolist() for n in lengths]
    gains = [[1, *random.integers(0, 4, n - 1).tolist()] for n in lengths]
    names = {"recip_rank": "mrr"}
    for k in (1, 5, 10):
        names |= {f"success_{k}": f"hit@{k}", f"recall_{k}": f"recall@{k}", f"ndcg_cut_{k}": f"ndcg@{k}"}
    judge = pytrec_eval.RelevanceEvaluator(
        {str(q): {str(d): int(gain) for d, gain in enumerate(row)} for q, row in enumerate(gains)},
        {"recip_rank", "success.1,5,10", "recall.1,5,10", "ndcg_cut.1,5,10"},
    )
    theirs = judge.evaluate({str(q): {str(d): score for d, score in enumerate(row)} for q, row in enumerate(scores)})
    expected = {own: np.mean([values[name] for values in theirs.values()]) for name, own in names.items()}
    assert metric.compute(predictions=scores, references=gains) == pytest.approx(expected)


def test_batches_add_up_and_ties_count_against_the_model(metric):
    metric.add_batch(predictions=[[0.9, 0.2, 0.4]], references=[[0, 0, 1]])
    metric.add(prediction=[1.0, 1.0], reference=[0, 3])
    assert metric.compute(cutoffs=[1, 2]) == {
        **dict.fromkeys(("mrr",), 0.5),
        **dict.fromkeys(("hit@1", "recall@1", "ndcg@1"), 0.0),
        **dict.fromkeys(("hit@2", "recall@2"), 1.0),
        "ndcg@2": pytest.approx(1 / np.log2(3)),
    }


def test_what_makes_no_sense_is_refused(metric):
    with pytest.raises(ValueError, match="Query 1 has 2 scores and 1 gains"):
        metric.compute(predictions=[[1.0], [1.0, 2.0]], references=[[1], [1]])
    with pytest.raises(ValueError, match="Query 0 has no relevant document"):
        metric.compute(predictions=[[1.0]], references=[[0]])


@pytest.mark.slow
def test_it_loads_in_a_process_without_a_network(tmp_path):
    code = f"import evaluate; metric = evaluate.load({FOLDER!r})\n"
    code += "print(metric.compute(predictions=[[2.0, 1]], references=[[1, 0]])['mrr'])"
    environment = {"HF_HUB_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    environment |= {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1.0", done.stderr[-2000:]
