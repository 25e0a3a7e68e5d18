"""An example of a task of one's own in mteb: names of emoji, and which of the images of an unseen style they name.

  python -m hub_scripts.mteb.emoji_task demo/model

Everything is local. To make it a task about other data, change `load_data` and the metadata.
"""

import sys
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from hub_scripts.common.training import UNSEEN
from hub_scripts.mteb.wrapper import ComaEncoder
from trainers.data.emoji import load_emoji


__all__ = ["EmojiT2IRetrieval", "main"]


class EmojiT2IRetrieval(AbsTaskRetrieval):
    """A name finds its image among all of them."""

    metadata = TaskMetadata(
        name="EmojiT2IRetrieval",
        description="Names of emoji and their images in one drawing style.",
        dataset={"path": "local/emoji", "revision": "1"},
        type="Any2AnyRetrieval",
        category="t2i",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        prompt={"query": "Find the emoji with this name."},
    )

    number: int | None = None  # of emoji; all by default

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Queries, images, and which belong together."""
        emoji = load_emoji([UNSEEN])
        emoji = emoji.select(range(self.number or len(emoji)))
        ids = list(emoji["id"])
        data = RetrievalSplitData(
            queries=Dataset.from_dict({"id": ids, "text": list(emoji["label"])}),
            corpus=emoji.select_columns(["id", "image"]),
            relevant_docs={one: {one: 1} for one in ids},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


def main(model_name: str, task: AbsTaskRetrieval | None = None) -> float:
    """Evaluates a model on the task, without a cache of results; returns and prints its score."""
    results = mteb.evaluate(ComaEncoder(model_name), [task or EmojiT2IRetrieval()], cache=None)
    score = results.task_results[0].get_score()
    print(f"{model_name}: nDCG@10 {100 * score:.1f}%")
    return score


if __name__ == "__main__":
    main(sys.argv[1])
