"""mteb's own conformance run passes, and what it is given are the embeddings of the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


mteb = pytest.importorskip("mteb")

from mteb.models import SentenceTransformerEncoderWrapper  # noqa: E402
from mteb.results import TaskResult  # noqa: E402
from mteb.types import PromptType  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from hub_scripts.mteb.emoji_task import EmojiT2IRetrieval, main  # noqa: E402
from hub_scripts.mteb.wrapper import ComaEncoder  # noqa: E402
from modeling_coma import ComaForEmbedding, ComaProcessor  # noqa: E402
from trainers.data.emoji import emoji_retrieval  # noqa: E402
from trainers.evaluation.metrics import Relevance, rank_embeddings, retrieval_metrics  # noqa: E402


@pytest.fixture(scope="module")
def encoder(coma_folder: Path) -> ComaEncoder:
    return ComaEncoder(str(coma_folder), device="cpu")


def test_a_task_of_ones_own_has_the_scores_of_our_metrics(coma_folder: Path, capsys: pytest.CaptureFixture) -> None:
    """With the instruction before names and none before images, by another library's metrics."""
    task = EmojiT2IRetrieval()
    task.number = 40
    score = main(str(coma_folder), task)
    emoji = emoji_retrieval("twemoji")
    model, processor = ComaForEmbedding.from_pretrained(coma_folder), ComaProcessor.from_pretrained(coma_folder)
    system = {"role": "system", "content": "Find the emoji with this name."}
    queries = [[system, {"role": "user", "content": name}] for name in emoji.names[:40]]
    with torch.no_grad():
        names = model(**processor.process(queries)).embeddings
        pictures = model(**processor.process([emoji.images[n] for n in range(40)])).embeddings
    expected = retrieval_metrics(rank_embeddings(names, pictures, Relevance.single(range(40))))["ndcg@10"]
    assert score == pytest.approx(expected, abs=1e-4) and score > 0
    assert f"nDCG@10 {100 * score:.1f}%" in capsys.readouterr().out


def test_a_picture_comes_before_its_text(encoder: ComaEncoder, picture: Callable) -> None:
    batch = {"text": ["a red apple", "it"], "image": [picture(56, 56, 1), picture(84, 56, 2)]}
    found = encoder.encode([batch], task_metadata=EmojiT2IRetrieval.metadata, hf_split="test", hf_subset="default")
    pairs = zip(batch["image"], batch["text"], strict=True)
    with torch.no_grad():
        inputs = encoder.processor.process([{"image": image, "text": text} for image, text in pairs])
        assert (found - encoder.model(**inputs).embeddings).abs().max() < 1e-6


def test_instructions_are_for_queries(encoder: ComaEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = EmojiT2IRetrieval.metadata.model_copy(update={"prompt": "Find it."})

    def encode(prompt_type: PromptType | None) -> torch.Tensor:
        options = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default", "prompt_type": prompt_type}
        return encoder.encode([{"text": ["it"]}], **options)

    plain = encode(None)
    assert torch.equal(encode(PromptType.document), plain)
    assert (encode(PromptType.query) - plain).abs().max() > 1e-3
    monkeypatch.setattr(encoder, "use_instructions", False)
    assert torch.equal(encode(PromptType.query), plain)


def test_what_mteb_is_told_of_the_model(encoder: ComaEncoder, coma_folder: Path) -> None:
    meta = encoder.mteb_model_meta
    assert meta.name == f"{coma_folder.parent.name}/{coma_folder.name}" and meta.embed_dim == 64
    assert (
        set(meta.modalities) - {"video"} == {"text", "image"} and meta.n_parameters == encoder.model.num_parameters()
    )


@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning")  # mteb calls it
def test_the_wrapper_of_mteb_for_sentence_transformers(encoder: ComaEncoder, coma_folder: Path) -> None:
    """It has to be told of images; then, without instructions, it scores as ours does."""
    wrapped = SentenceTransformerEncoderWrapper(SentenceTransformer(str(coma_folder), trust_remote_code=True))
    task = EmojiT2IRetrieval()
    task.number = 40
    task.metadata = task.metadata.model_copy(update={"prompt": None})
    with pytest.raises(ValueError, match=r"supports \['text'\], but none overlap"):
        mteb.evaluate(wrapped, [task], cache=None)
    wrapped.mteb_model_meta = wrapped.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    encoder = ComaEncoder(str(coma_folder), device="cpu", use_instructions=False)
    found, expected = (mteb.evaluate(m, [task], cache=None).task_results[0].get_score() for m in (wrapped, encoder))
    assert found == pytest.approx(expected, abs=1e-4) and found > 0


@pytest.mark.slow
def test_conformance(encoder: ComaEncoder) -> None:
    """Every mock task for texts and images that mteb has runs to its end, without a network."""
    from mteb.mocks.mock_run import mock_run

    results = mock_run(encoder)
    run = {name: result for name, result in results.items() if result is not None}
    failed = {name: result for name, result in run.items() if not isinstance(result, TaskResult)}
    assert not failed and len(run) >= 40, results.to_markdown()
