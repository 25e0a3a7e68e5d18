"""A task with videos of one's own runs through mteb's evaluation, from files, with the scores of our metrics."""

import math
from pathlib import Path

import mteb
import mteb.mocks
import pytest
import torch
from datasets import Dataset, Video
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from hub_scripts.common.folders import save_model
from hub_scripts.mteb.wrapper import ComaEncoder
from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.families.moving import decoded, sliding, write_video
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics


TEXTS = ["a red apple", "a green tree", "what moves?", "an image", "it is here"]


class Clips(AbsTaskRetrieval):
    """A caption finds its video."""

    metadata = TaskMetadata(
        name="ClipsT2VRetrieval",
        description="Captions and videos.",
        dataset={"path": "local/clips", "revision": "1"},
        type="Any2AnyRetrieval",
        category="t2v",
        modalities=["text", "video"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        prompt={"query": "Find the video."},
    )
    files: list[Path]

    def load_data(self, num_proc: int | None = None, **kwargs) -> None:
        ids = [f"v{number}" for number in range(len(self.files))]
        corpus = Dataset.from_dict({"id": ids, "video": list(map(str, self.files))})
        data = RetrievalSplitData(
            queries=Dataset.from_dict({"id": ids, "text": TEXTS}),
            corpus=corpus.cast_column("video", Video()),
            relevant_docs={one: {one: 1} for one in ids},
            top_ranked=None,
        )
        self.dataset, self.data_loaded = {"default": {"test": data}}, True


@pytest.fixture(scope="module")
def coma_folder(family_coma, tmp_path_factory):
    model, processor = family_coma("qwen2_5_vl")
    folder = tmp_path_factory.mktemp("coma")
    processor.max_video_frames = 4
    save_model(model, processor, folder)
    return folder


def test_a_task_with_videos(coma_folder, tmp_path):
    task = Clips()
    task.files = [write_video(tmp_path / f"{seed}.mp4", sliding(seed=seed)) for seed in range(len(TEXTS))]
    encoder = ComaEncoder(str(coma_folder), device="cpu")
    assert encoder.mteb_model_meta.modalities == ["text", "image", "video"]
    score = mteb.evaluate(encoder, [task], cache=None).task_results[0].get_score()

    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)
    system = {"role": "system", "content": "Find the video."}
    with torch.no_grad():
        queries = model(
            **processor.process([[system, {"role": "user", "content": text}] for text in TEXTS])
        ).embeddings
        videos = model(**processor.process([{"video": str(file)} for file in task.files])).embeddings
    expected = retrieval_metrics(rank_embeddings(queries, videos, Relevance.single(range(len(TEXTS)))))["ndcg@10"]
    assert score == pytest.approx(expected, abs=1e-4) and 0 < score

    frames = torch.from_numpy(decoded(task.files[0])).permute(0, 3, 1, 2)  # as mteb has those that it decoded itself
    options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    found = encoder.encode([{"video": [frames[::4]], "text": ["it"]}], **options)
    with torch.no_grad():
        inputs = processor.process([{"video": list(decoded(task.files[0])[::4]), "text": "it"}])
        torch.testing.assert_close(found, model(**inputs).embeddings, atol=1e-6, rtol=0)


VIDEO_TASKS = ["Classification", "ClusteringTask", "MultilabelClassificationTask", "ZeroshotClassificationTask"]
VIDEO_TASKS += ["PairClassificationTask", "RetrievalV2T", "RetrievalT2V"]


def test_mtebs_own_tasks_with_videos_run_to_their_end(coma_folder):
    tasks = [getattr(mteb.mocks, f"MockVideo{kind}")() for kind in VIDEO_TASKS]
    results = mteb.evaluate(ComaEncoder(str(coma_folder), device="cpu"), tasks, cache=None, co2_tracker=False)
    assert len(results.task_results) == 7 and all(math.isfinite(one.get_score()) for one in results.task_results)
