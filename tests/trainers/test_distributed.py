"""Several processes do what one does with the whole batch: values, gradients, training, evaluation."""

import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import multiprocessing

from modeling_coma import ComaForEmbedding, ComaProcessor
from trainers.adapters import lora_config
from trainers.contrastive.config import ComaContrastiveConfig
from trainers.contrastive.grad_cache import plan_mini_batches
from trainers.contrastive.trainer import ComaContrastiveTrainer
from trainers.distributed import gather_rows, gather_together
from trainers.evaluation import RetrievalCallback, RetrievalSet
from trainers.experimental.config import ExperimentalContrastiveConfig
from trainers.experimental.trainer import ExperimentalContrastiveTrainer


def test_one_process_gathers_nothing() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) == (rows, 0)
    (found, first, sizes), _ = gather_together(rows, rows[:1])
    assert (found is rows, first, sizes) == (True, 0, [3])


def spawn(work: Callable, processes: int, folder: Path, *args: Any) -> list[Any]:
    """
    What `work(rank, processes, *args)` returns in each of some processes that talk by gloo. They are forked from one
    that has imported what they need, once for all tests, and done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    workers = [
        context.Process(target=start, args=(work, rank, processes, folder, port, *args), daemon=True)
        for rank in range(processes)
    ]
    deadline = time.monotonic() + 300
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    hanging = [worker.pid for worker in workers if worker.is_alive()]
    for worker in workers:
        worker.kill()
    assert not hanging, "processes wait for each other"
    assert [worker.exitcode for worker in workers] == [0] * processes
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def start(work: Callable, rank: int, processes: int, folder: Path, port: str, *args: Any) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"})
    os.environ["MASTER_PORT"] = port
    torch.save(work(rank, processes, *args), folder / f"{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(rank: int, processes: int) -> dict[str, Any]:
    dist.init_process_group("gloo")
    rows = (torch.arange(2.0 * rank).reshape(rank, 2) + 10 * rank).requires_grad_()  # 0, 1, 2 rows
    everything, offset = gather_rows(rows)
    (everything * (rank + 1)).sum().backward()
    numbers = torch.full((2 - rank, 1, 2), rank), torch.arange(3 * rank)
    together = gather_together(*numbers)
    nothing, begin = gather_rows(torch.empty(0, 4))
    plan = plan_mini_batches(torch.tensor([[4, 4, 4], [1], [3, 2]][rank]), max_tokens=4)
    return {
        "rows": everything.detach(),
        "offset": offset,
        "gradient": rows.grad,
        "together": [(rows.tolist(), first, sizes) for rows, first, sizes in together],
        "nothing": (nothing.shape, begin),
        "plan": [part.tolist() for part in plan],
    }


@pytest.mark.distributed
def test_rows_and_gradients_cross_processes(tmp_path: Path) -> None:
    found = spawn(gather, 3, tmp_path)
    for rank, result in enumerate(found):
        assert result["rows"].tolist() == [[10, 11], [20, 21], [22, 23]]
        assert result["offset"] == [0, 0, 1][rank]
        assert result["gradient"].tolist() == [[6.0, 6.0]] * rank  # 1 + 2 + 3
        assert result["together"] == [
            ([[[0, 0]], [[0, 0]], [[1, 1]]], [0, 2, 3][rank], [2, 1, 0]),
            ([0, 1, 2, 0, 1, 2, 3, 4, 5], [0, 0, 3][rank], [0, 3, 6]),
        ]
        assert result["nothing"] == ((0, 4), 0)
        assert len(result["plan"]) == 3
        assert sorted(row for part in result["plan"] for row in part) == list(range([3, 1, 2][rank]))


def rows_of_stage_2() -> list[dict[str, Any]]:
    """Twelve rows, of every modality, with uneven numbers of negatives, groups, sources and an equal positive."""

    def item(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        size = (28 * (1 + seed % 3), 28 * (1 + seed % 2))
        pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        image, text = Image.fromarray(pixels.numpy()), f"{seed} red apples " * (1 + seed % 3)
        return [{"text": text}, {"image": image}, {"text": text, "image": image}][seed % 3]

    rows = [
        {
            "query": item(7 * n),
            "positive": item(7 * n + 1),
            "negatives": [item(7 * n + 2 + k) for k in range(max(0, n - 8))],
            "source": "ab"[n % 2],
            "group": "g" if n in (2, 9) else None,
            "messages": None,
        }
        for n in range(12)
    ]
    rows[10]["positive"] = rows[0]["positive"]
    rows[7]["query"] = rows[1]["query"]  # two answers, on two processes
    return rows


class InOrder(ExperimentalContrastiveTrainer):
    """Rows in their order, so that one process and several see the same batches."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


SETTINGS = {
    "cached": {"mini_batch_tokens": 60},
    "one mini-batch": {"mini_batch_tokens": 10000, "bidirectional": True},
    "adapter": {"mini_batch_tokens": 60, "bidirectional": True, "adapter": True, "temperature_per_source": True},
    # The tower is trained, but one process has no images, and neither has the last mini-batch of the other.
    "vision": {"mini_batch_tokens": 40, "freeze_vision": False, "text_only": 6},
    # Dialogues on one process only.
    "joint": {"mini_batch_tokens": 60, "joint_weight": 0.5},
    # Two pairs a batch: of the first step one process has only its second batch, the second step has no rows at all.
    "skipping": {"batch": 2, "bad": (1, 4, 5, 6, 7), "on_bad_row": "skip", "gradient_accumulation_steps": 2}
    | {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "bidirectional": True, "mini_batch_tokens": 60},
    "budgets": {"mini_batch_tokens": 60, "bidirectional": True, "late_interaction_budgets": ["1x1", "2x3"]},
    "restricted": {"same_source_negatives": True, "false_negative_margin": 0.1, "own_negatives_only": ["b"]},
}
# Nine rows in batches of four on two processes, with accumulation, an evaluation and a bad row.
UNEVEN = {"max_steps": -1, "num_train_epochs": 2, "mini_batch_tokens": 40, "gradient_accumulation_steps": 2}
UNEVEN |= {"eval_strategy": "epoch", "per_device_eval_batch_size": 4, "on_bad_row": "skip", "rows": 9}
UNEVEN |= {"per_device_train_batch_size": 4, "matryoshka_dims": [16]}


MESSAGE = {"role": Value("string"), "content": Value("string")}


def train(folder: str, settings: dict, processes: int) -> dict[str, Any]:
    settings = dict(settings)
    adapter, texts, number = (settings.pop(*pair) for pair in (("adapter", False), ("text_only", 0), ("rows", 12)))
    batch, bad = settings.pop("batch", 12), settings.pop("bad", ())
    model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
    defaults = {
        "output_dir": f"{folder}/out",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": batch // processes,
        "per_device_eval_batch_size": 4 - processes,
        "max_steps": 2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "learning_rate": 0.05,
        "temperature": 0.2,
        "temperature_learning_rate": 0.01,
    }
    rows = rows_of_stage_2()[:number]
    for place in range(texts):
        rows[place] |= {"query": {"text": f"q {place}"}, "positive": {"text": f"d {place}"}, "negatives": []}
    for place in range(1, 5):
        question, answer = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "apples " * place}
        rows[place]["messages"] = [question, answer]
    for place in bad:
        rows[place]["positive"] = {"image": b"no image"}
    if number == 9:
        rows[3]["positive"] = {"text": " "}
    item = {"text": Value("string"), "image": ImageFeature()}
    features = {"query": item, "positive": item, "negatives": [item], "source": Value("string")}
    dataset = Dataset.from_list(rows, Features({**features, "group": Value("string"), "messages": [MESSAGE]}))
    peft_config = lora_config(model, lora_dropout=0.0) if adapter else None
    config = ExperimentalContrastiveConfig(**{**defaults, **settings})
    datasets = {"train_dataset": dataset, "eval_dataset": dataset}
    trainer = InOrder(model, config, processing_class=processor, peft_config=peft_config, **datasets)
    trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(rows[:3])))
    trainer.train()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    weights = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    return {"weights": weights, "temperature": trainer.temperatures(), "logs": trainer.state.log_history}


def collectives(rank: int, processes: int, folder: str) -> dict[bool, list[int]]:
    """How often processes talk to each other in a step, forward and backward, with one direction and with both."""
    found = {}
    for bidirectional in (False, True):
        model, processor = ComaForEmbedding.from_pretrained(folder), ComaProcessor.from_pretrained(folder)
        args = ComaContrastiveConfig(f"{folder}/out", report_to="none", use_cpu=True, bidirectional=bidirectional)
        trainer = ComaContrastiveTrainer(model, args, processing_class=processor)
        batch = trainer.data_collator(rows_of_stage_2()[rank:8:2])
        with (
            mock.patch.object(dist, "all_gather", wraps=dist.all_gather) as gathers,
            mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduces,
        ):
            loss = trainer.compute_loss(trainer.model.train(), batch)
            forward = gathers.call_count + reduces.call_count
            loss.backward()
            found[bidirectional] = [forward, gathers.call_count + reduces.call_count - forward]
    return found


@pytest.mark.distributed
def test_processes_talk_no_more_than_they_must(folder: str, tmp_path: Path) -> None:
    """The number of mini-batches; sizes and rows of ids; sizes and rows of embeddings. Backward: the embeddings."""
    assert spawn(collectives, 2, tmp_path, folder) == [{False: [5, 1], True: [5, 1]}] * 2


def train_all(rank: int, processes: int, folder: str) -> dict[str, dict]:
    return {name: train(folder, settings, processes) for name, settings in {**SETTINGS, "uneven": UNEVEN}.items()}


@pytest.fixture(scope="module")
def folder(make_coma: Callable, tmp_path_factory: pytest.TempPathFactory) -> str:
    model, processor = make_coma("qwen3_vl")
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def on_two(folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    return spawn(train_all, 2, tmp_path_factory.mktemp("two"), folder)


@pytest.mark.distributed
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_are_one(folder: str, on_two: list[dict[str, dict]], name: str) -> None:
    expected, found = train(folder, SETTINGS[name], 1), [run[name] for run in on_two]
    losses = [[entry["loss"] for entry in run["logs"] if "loss" in entry] for run in (*found, expected)]
    if name == "skipping":
        assert all(math.isnan(of_run.pop(1)) for of_run in losses)  # the second step
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-5)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-3)  # something has been learnt
    for metric in ("in_batch_accuracy", "positive_similarity", "negatives", "masked_false_negatives"):
        assert found[0]["logs"][0][metric] == pytest.approx(expected["logs"][0][metric], rel=1e-5), metric
    if name == "skipping":
        logs = [next(entry for entry in run["logs"] if "eval_loss" in entry) for run in (*found, expected)]
        for metric in ("eval_loss", "eval_negatives", "eval_num_documents", "eval_rows_skipped"):
            assert [log[metric] for log in logs] == [pytest.approx(logs[2][metric], rel=1e-5)] * 3
        assert logs[2]["eval_rows_skipped"] == 5 and logs[2]["eval_num_documents"] < 6  # 2 rows, some with negatives
    if name == "budgets":
        for metric in ("loss/2x3", "in_batch_accuracy/2x3"):
            assert found[0]["logs"][0][metric] == pytest.approx(expected["logs"][0][metric], rel=1e-5), metric
    if name == "joint":
        assert found[0]["logs"][0]["answer_loss"] == pytest.approx(expected["logs"][0]["answer_loss"], rel=1e-5)
    for result in found:
        assert result["temperature"] == pytest.approx(expected["temperature"], rel=1e-5)
        for parameter, weight in expected["weights"].items():
            torch.testing.assert_close(result["weights"][parameter], weight, rtol=1e-5, atol=1e-6, msg=parameter)


@pytest.mark.distributed
def test_uneven_last_batches_do_not_hang(on_two: list[dict[str, dict]]) -> None:
    """All processes end, with one model."""
    first, second = (run["uneven"] for run in on_two)
    assert all(torch.equal(second["weights"][name], weight) for name, weight in first["weights"].items())
    assert any("eval_loss" in entry for entry in first["logs"])
    logs = [run["logs"] for run in (first, second)]
    retrieval = [[entry["eval_ndcg@10"] for entry in log if "eval_ndcg@10" in entry] for log in logs]
    assert len(retrieval[0]) == 2 and retrieval[0] == retrieval[1]
    assert any(entry.get("rows_skipped") for entry in first["logs"])


def test_several_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="takes one dtype, got .*torch.float32.*torch.int64"):
        gather_together(torch.ones(2), torch.ones(2, dtype=torch.long))
