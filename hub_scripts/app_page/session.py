"""What the page can do, without the page: search by words, image or row, and ask the memory of an image."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from hub_scripts.app_page.pictures import Pictures
from hub_scripts.app_page.random_pairs import RandomPairs
from hub_scripts.ask import answer_from_memory
from hub_scripts.embedding.lance_index import LanceIndex
from hub_scripts.embedding.nearest import Hit
from hub_scripts.embedding.opened import OpenStore
from hub_scripts.search import embed_query
from modeling_coma import ComaForEmbedding, ComaProcessor
from modeling_coma.inputs_coma import to_rgb
from modeling_coma.states_coma import keeps_keys_and_values


__all__ = ["Answer", "Session"]


class Answer(NamedTuple):
    """What a memory answers, and what it is read from: so many compression tokens, so many bytes."""

    text: str
    num_columns: int
    num_bytes: int


class Session:
    """
    An index with the model that made it, loaded once.

    Args:
        index ([`~hub_scripts.embedding.opened.OpenStore`] or [`~hub_scripts.embedding.lance_index.LanceIndex`]): open.
        coma (`tuple[ComaForEmbedding, ComaProcessor]`): the model that made it.
        image_root (`Path`): the folder below which its images lie.

    Raises:
        ValueError: for a folder that is not there, and for an index that is damaged.
    """

    def __init__(
        self, index: OpenStore | LanceIndex, coma: tuple[ComaForEmbedding, ComaProcessor], image_root: Path
    ) -> None:
        self.index, self.coma = index, coma
        self.model, self.processor = coma
        self.num_rows = index.count()
        self.pictures = Pictures(image_root, self.processor.max_image_pixels)
        self.pairs = RandomPairs.of_index(index)
        config = self.model.config
        self.can_answer = config.memory == "states" or keeps_keys_and_values(config)

    def search(self, words: str, upload: str | None, k: int) -> list[Hit]:
        """
        What is nearest to words, to an image, or to an image followed by words.

        Args:
            words (`str`): a text; blank for none.
            upload (`str`, *optional*): the path of an image.
            k (`int`): how many rows.

        Raises:
            ValueError: if there is neither, or if they cannot be embedded.
        """
        if not words.strip() and upload is None:
            raise ValueError("Type some words, or give an image, or both.")
        try:
            query = embed_query(self.coma, words if words.strip() else None, upload)
        except ValueError as error:
            raise ValueError(_without_folder(str(error), upload)) from error
        return self.index.nearest(query, k)

    def more_like(self, number: int, k: int) -> tuple[dict[str, Any], list[Hit]]:
        """A row of the index, and what is nearest to its embedding there, without the row itself."""
        row, vector = self.index.find_row(number)
        whole = torch.zeros(self.index.metadata["dim"])  # of which the search takes the first numbers again
        whole[: len(vector)] = vector
        hits = self.index.nearest(whole, k + 1)
        return row, [hit for hit in hits if hit.row["row"] != number][:k]

    def given(self, upload: str) -> Image.Image:
        """An image that was given, decoded; `ValueError` if that is not possible."""
        try:
            return to_rgb(upload, max_pixels=self.processor.max_image_pixels)
        except ValueError as error:
            raise ValueError(_without_folder(str(error).removeprefix("Row 0: "), upload)) from error

    def in_hand(self, chosen: dict[str, Any] | None) -> tuple[str, Image.Image]:
        """
        The name and the image of what was given or clicked last.

        Args:
            chosen (`dict`, *optional*): has an `upload`, the path of an image, or a `row` of the index.

        Raises:
            ValueError: if there is no such image, or it cannot be decoded.
        """
        if chosen is None:
            raise ValueError("Give an image, or click a result.")
        if "upload" in chosen:
            return "your image", self.given(chosen["upload"])
        row, _ = self.index.find_row(chosen["row"])
        if row["image"] is None:
            raise ValueError(f"{row['id']} has no image path in the index.")
        return row["id"], self.pictures.open(row["image"])

    @torch.no_grad()
    def ask(self, image: Image.Image, question: str) -> Answer:
        """
        Compresses an image, and answers a question from its compression tokens alone.

        Args:
            image (`PIL.Image.Image`): the image.
            question (`str`): the question.

        Raises:
            ValueError: for a question without words, or with a special token of the tokenizer.
        """
        if not question.strip():
            raise ValueError("Type a question.")
        memory = self.model.compress(**self.processor.process([image]).to(self.model.device))
        return Answer(answer_from_memory(self.coma, memory, question), memory.num_columns, memory.num_bytes)


def _without_folder(message: str, upload: str | None) -> str:
    """An error about a file that was given, with the name that it had, not the place where it lies for now."""
    return message if upload is None else re.sub(re.escape(upload), Path(upload).name, message)
