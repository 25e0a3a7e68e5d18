"""`MultiVectorEncoder` loads what `coma convert --to-multi-vector` makes, and scores as we do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import MultiVectorEncoder

from hub_scripts.common.loading import load_model
from hub_scripts.convert import convert_to_multi_vector
from hub_scripts.hub.training_record import TRAINING_FILE
from hub_scripts.push import publish_model
from trainers.encoding.encode import embed_items
from trainers.encoding.maxsim import maxsim


QUERIES = ["what is it", "an apple on a green tree, and a blue one below it"]


def test_scores_are_ours_also_when_it_is_saved_and_pushed(
    nested: Path, coma_command: Callable, picture: Callable, tmp_path: Path, without_process: None
) -> None:
    out = tmp_path / "vectors"
    code, text, error = coma_command("convert", nested, out, "--to-multi-vector")
    assert code == 0 and "2 vectors of a query and 3 of a document" in text, error
    documents = ["a red apple", {"image": picture(56, 84, 1)}, {"image": picture(84, 56, 2), "text": "what is this?"}]
    coma = load_model(str(nested))
    expected = maxsim(embed_items(*coma, QUERIES, num_vectors=2), embed_items(*coma, documents, num_vectors=3))

    def check(folder: Path) -> MultiVectorEncoder:
        encoder = MultiVectorEncoder(str(folder), device="cpu", trust_remote_code=True)
        queries, found = encoder.encode_query(QUERIES), encoder.encode_document(documents)
        assert [len(vectors) for vectors in (*queries, *found)] == [2, 2, 3, 3, 3]
        assert (encoder.similarity(queries, found) - expected).abs().max() < 1e-5
        return encoder

    check(out).save(str(tmp_path / "again"))
    check(tmp_path / "again")
    publish_model(out, "me/vectors", dry_run=tmp_path / "pushed")
    check(tmp_path / "pushed")
    again = load_model(str(out))  # a model like any other
    assert (embed_items(*again, documents) - embed_items(*coma, documents)).abs().max() < 1e-6
    assert (out / TRAINING_FILE).exists()


def test_what_was_not_trained_is_refused(
    nested: Path, coma_folder: Path, coma_command: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="has no record of a training with late_interaction_budgets: give --vectors"):
        convert_to_multi_vector(coma_folder, out)
    code, _, error = coma_command("convert", nested, out, "--to-multi-vector", "--vectors", "4x4")
    assert code == 1 and "was trained for 1x1, 2x3 vectors, not for 4x4" in error and not out.exists()
    assert convert_to_multi_vector(coma_folder, out, vectors="1x4", any_vectors=True) == (1, 4)
    for words in (
        ["--to-multi-vector", "--to-backbone"],
        ["--vectors", "2"],
        ["--to-multi-vector", "--revision", "v1"],
        ["--to-multi-vector", "--pooling", "last"],
    ):
        with pytest.raises(SystemExit):
            coma_command("convert", nested, tmp_path / "none", *words)
