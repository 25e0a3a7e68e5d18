"""The sets of MMEB that are evaluated here, in one table: families, in and out of the training distribution, prompts.

MMEB-v1 has 36 sets of images, scored by hit@1 within the list of each row; V2 adds 18 sets of videos, scored by hit@1
as well, and 24 sets of visual documents, scored by NDCG@5 with linear gain over the whole corpus. Groups are plain
means of their sets, and so is the mean over all 78. The two "page" sets are those that were corrected on 2025-11-03.
"""

from __future__ import annotations

from typing import NamedTuple

from trainers.data.mmeb.video_layout import VIDEO_LAYOUTS


__all__ = ["PAGE_INSTRUCTION", "QUERY_INSTRUCTION", "SETS", "MmebSet", "groups_of"]

# Of the visual documents; those of the images stand in the data.
QUERY_INSTRUCTION = "Find a document image that matches the given query:"
PAGE_INSTRUCTION = "Understand the content of the provided document image."


class MmebSet(NamedTuple):
    """
    A set of the benchmark.

    Args:
        name (`str`): as in the data.
        modality (`str`): `"image"`, `"video"` or `"visdoc"`, as the leaderboard calls them.
        family (`str`): meta-task.
        in_distribution (`bool`, *optional*): whether it has a training set in the benchmark, where that is told.
        assembly (`str`): how prompts are put together, see `trainers.data.mmeb.prompts` and `video_layout`.
        repository (`str`, *optional*): where a set of videos or of visual documents is on the Hub.
        metric (`str`): what counts.
    """

    name: str
    modality: str
    family: str
    in_distribution: bool | None
    assembly: str
    repository: str | None = None

    @property
    def metric(self) -> str:
        return "ndcg_linear@5" if self.modality == "visdoc" else "hit@1"


# family: (how prompts are put together, sets in the training distribution, sets out of it)
_IMAGES = (
    ("classification", "to_text", "ImageNet-1K N24News HatefulMemes VOC2007 SUN397",
     "Place365 ImageNet-A ImageNet-R ObjectNet Country211"),
    ("vqa", "question", "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W", "ScienceQA VizWiz GQA TextVQA"),
    ("retrieval", "from_text", "VisDial VisualNews_t2i MSCOCO_t2i WebQA", "Wiki-SS-NQ EDIS"),
    ("retrieval", "to_text", "VisualNews_i2t MSCOCO_i2t", ""),
    ("retrieval", "to_image", "CIRR NIGHTS", "FashionIQ OVEN"),
    ("grounding", "to_image", "MSCOCO", "RefCOCO RefCOCO-Matching Visual7W-Pointing"),
)  # fmt: skip

_DOCUMENTS = {
    "ViDoRe-V1": {
        "ViDoRe_arxivqa": "vidore/arxivqa_test_subsampled_beir",
        "ViDoRe_docvqa": "vidore/docvqa_test_subsampled_beir",
        "ViDoRe_infovqa": "vidore/infovqa_test_subsampled_beir",
        "ViDoRe_tabfquad": "vidore/tabfquad_test_subsampled_beir",
        "ViDoRe_tatdqa": "vidore/tatdqa_test_beir",
        "ViDoRe_shiftproject": "vidore/shiftproject_test_beir",
        "ViDoRe_syntheticDocQA_artificial_intelligence": "vidore/syntheticDocQA_artificial_intelligence_test_beir",
        "ViDoRe_syntheticDocQA_energy": "vidore/syntheticDocQA_energy_test_beir",
        "ViDoRe_syntheticDocQA_government_reports": "vidore/syntheticDocQA_government_reports_test_beir",
        "ViDoRe_syntheticDocQA_healthcare_industry": "vidore/syntheticDocQA_healthcare_industry_test_beir",
    },
    "ViDoRe-V2": {
        "ViDoRe_esg_reports_human_labeled_v2": "vidore/esg_reports_human_labeled_v2",
        "ViDoRe_biomedical_lectures_v2_multilingual": "vidore/biomedical_lectures_v2",
        "ViDoRe_economics_reports_v2_multilingual": "vidore/economics_reports_v2",
        "ViDoRe_esg_reports_v2_multilingual": "vidore/esg_reports_v2",
    },
    "VisRAG": {
        f"VisRAG_{name}": f"openbmb/VisRAG-Ret-Test-{name}"
        for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")
    },
    "VisDoc-OOD": {
        "ViDoSeek-page": "VLM2Vec/ViDoSeek-page-fixed",
        "ViDoSeek-doc": "VLM2Vec/ViDoSeek",
        "MMLongBench-page": "VLM2Vec/MMLongBench-page-fixed",
        "MMLongBench-doc": "VLM2Vec/MMLongBench-doc",
    },
}

_IMAGE_SETS = tuple(
    MmebSet(name, "image", family, in_distribution, assembly)
    for family, assembly, *both in _IMAGES
    for in_distribution, names in zip((True, False), both, strict=True)
    for name in names.split()
)
_VIDEO_SETS = tuple(
    MmebSet(name, "video", of.family, None, of.assembly, of.source[0]) for name, of in VIDEO_LAYOUTS.items()
)
_DOCUMENT_SETS = tuple(
    MmebSet(name, "visdoc", family, None, "pages", repository)
    for family, sets in _DOCUMENTS.items()
    for name, repository in sets.items()
)
SETS = {one.name: one for one in (*_IMAGE_SETS, *_VIDEO_SETS, *_DOCUMENT_SETS)}


def groups_of(modality: str) -> dict[str, list[str]]:
    """
    The groups over which a modality is averaged.

    Args:
        modality (`str`): `"image"`, `"video"` or `"visdoc"`.

    Returns:
        `dict[str, list[str]]`: names of the sets of each family, of `ind` and `ood` where that is told, of `overall`.
    """
    groups: dict[str, list[str]] = {}
    sets = [one for one in SETS.values() if one.modality == modality]
    for one in sets:
        groups.setdefault(one.family, []).append(one.name)
    for name, in_distribution in (("ind", True), ("ood", False)):
        if names := [one.name for one in sets if one.in_distribution is in_distribution]:
            groups[name] = names
    return {**groups, "overall": [one.name for one in sets]}
