"""How MMEB-V2 puts its prompts together, to the blank: what is scored depends on it.

A prompt is a text in which the mark `<|image_1|>` stands for the image. MMEB-v1 has its prompts in the data as they
are; V2 has instructions and texts apart, and puts them together in another way for each kind of set.
"""

from __future__ import annotations

from typing import Any


__all__ = ["IMAGE_MARK", "candidate_prompts", "query_prompt", "to_content"]

IMAGE_MARK = "<|image_1|>"


def query_prompt(assembly: str, set_name: str, instruction: str, text: str) -> str:
    r"""
    The prompt of a query.

    Args:
        assembly (`str`):
            `"to_text"` (classification, image to text): image, blank, instruction, blank, text. `"question"` (VQA)
            and `"to_image"` (image to image, grounding): the same with the instruction on a line of its own.
            `"from_text"` (text to image): instruction and text alone.
        set_name (`str`): VisDial ends with two line breaks, all others with one.
        instruction, text (`str`): of the row.

    Returns:
        `str`: the prompt, with a mark where the image stands.
    """
    if assembly == "from_text":
        return f"{instruction} {text}\n" + ("\n" if set_name == "VisDial" else "")
    instruction = instruction.replace(IMAGE_MARK, "")
    if assembly in ("question", "to_image"):
        instruction = "\n" + instruction.strip()
    return _with_image(f"{instruction} {text}" if text else instruction) + "\n"


def candidate_prompts(assembly: str, instruction: str, texts: list[str]) -> list[str]:
    """
    The prompts of the candidates of a row.

    Args:
        assembly (`str`): as in [`query_prompt`]; texts are candidates as they are, images have an instruction.
        instruction (`str`): for targets, of the row.
        texts (`list[str]`): of the candidates. If the first is blank, all candidates are images without a text; then
            only those of text queries end with a line break.

    Returns:
        `list[str]`: a prompt for each.
    """
    if assembly in ("to_text", "question"):
        return texts
    instruction = instruction.replace(IMAGE_MARK, "")
    if texts and texts[0].strip():
        return [_with_image(f"{instruction} {text}") + "\n" for text in texts]
    return [_with_image(instruction) + ("\n" if assembly == "from_text" else "")] * len(texts)


def to_content(prompt: str, image: str | None) -> list[dict[str, Any]]:
    """
    The content of a chat message: the prompt with the image where its mark is, or else before it.

    Args:
        prompt (`str`): with one mark or none.
        image (`str`, *optional*): path of the image.

    Returns:
        `list[dict]`: blocks.

    Raises:
        ValueError: for a mark without an image, several marks, and if there is nothing at all.
    """
    marks = prompt.count(IMAGE_MARK)
    if marks > 1 or (marks and image is None):
        images = "no image" if image is None else "one image"
        raise ValueError(f"has {marks} marks {IMAGE_MARK} and {images}: {prompt!r:.80}")
    before, _, after = prompt.rpartition(IMAGE_MARK)
    blocks = [{"type": "text", "text": before}, {"type": "image", "image": image}, {"type": "text", "text": after}]
    blocks = [block for block in blocks if block.get("text") or block.get("image")]
    if image is None and not prompt.strip():
        raise ValueError("has neither a text nor an image")
    return blocks


def _with_image(text: str) -> str:
    return f"{IMAGE_MARK} {text}".replace(" \n", "\n")
