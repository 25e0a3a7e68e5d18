"""The table of MMEB sets adds up to what the benchmark says of itself."""

from collections import Counter

from trainers.data.mmeb.sets import SETS, groups_of


def test_numbers_of_sets():
    assert {name: len(names) for name, names in groups_of("image").items()} == {
        "classification": 10,
        "vqa": 10,
        "retrieval": 12,
        "grounding": 4,
        "ind": 20,
        "ood": 16,
        "overall": 36,
    }
    of_documents = {"ViDoRe-V1": 10, "ViDoRe-V2": 4, "VisRAG": 6, "VisDoc-OOD": 4, "overall": 24}
    assert {name: len(names) for name, names in groups_of("visdoc").items()} == of_documents
    of_videos = {"classification": 5, "qa": 5, "retrieval": 5, "moment": 3, "overall": 18}
    assert {name: len(names) for name, names in groups_of("video").items()} == of_videos
    assert len(SETS) == 78


def test_what_the_sets_are():
    assembly = Counter(one.assembly for one in SETS.values())
    of_videos = {"label": 4, "choice": 1, "caption": 5, "moment": 2, "seek": 1, "video_question": 5}
    of_images = {"to_text": 12, "question": 10, "from_text": 6, "to_image": 8}
    assert assembly == {**of_images, **of_videos, "pages": 24}
    in_distribution = Counter((one.family, one.in_distribution) for one in SETS.values() if one.modality == "image")
    expected = {"classification": (5, 5), "vqa": (6, 4), "retrieval": (8, 4), "grounding": (1, 3)}
    assert {family: (in_distribution[family, True], in_distribution[family, False]) for family in expected} == expected
    assert {one.metric for one in SETS.values() if one.modality != "visdoc"} == {"hit@1"}
    assert {one.metric for one in SETS.values() if one.modality == "visdoc"} == {"ndcg_linear@5"}
    repositories = [one.repository for one in SETS.values() if one.modality == "visdoc"]
    assert len(set(repositories)) == 24 and None not in repositories
