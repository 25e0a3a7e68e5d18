"""One dialogue about one image, as in section 3.3 of the paper: ask for questions, then answer them turn by turn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from trainers.data.qa.chat import Chat, Fault, ImageFile, Message, Rejected, Reply
from trainers.data.qa.filters import Limits, answer_fault, is_refusal, question_fault
from trainers.data.qa.parsing import find_questions, without_thoughts
from trainers.data.qa.prompts import ANSWER_PROMPT, FORMATS, REQUESTS, QAFormat, draw, prompts_digest, question_prompt


__all__ = ["Dialogue", "QASettings", "Writing"]

T = TypeVar("T")
LONGEST_REPLY = 500_000  # characters, thoughts included
MOST_QUESTIONS = 100  # of one reply


@dataclass(frozen=True)
class QASettings:
    """
    What is to be written.

    Args:
        format (`str`, *optional*, defaults to `"multi-turn"`):
            One of [`FORMATS`]: questions and answers in turn; one of them; a caption; a description.
        at_least, at_most (`int`, *optional*, defaults to 3 and 5):
            Turns of a multi-turn dialogue. An image with fewer good ones has none.
        limits ([`Limits`], *optional*): lengths of questions and answers.
        attempts (`int`, *optional*, defaults to 3):
            How often the model may try before a question or an answer is given up.
        seed (`int`, *optional*, defaults to 0): seed of what is drawn, here and, if it takes one, by the model.
        max_image_pixels (`int`, *optional*): images with more are not decoded; by default 89478485.
    """

    format: QAFormat = "multi-turn"
    at_least: int = 3
    at_most: int = 5
    limits: Limits = field(default_factory=Limits)
    attempts: int = 3
    seed: int = 0
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} must be one of {', '.join(FORMATS)}.")
        if not 1 <= self.at_least <= self.at_most:
            raise ValueError(
                f"From {self.at_least} to {self.at_most} turns: give at least 1, and not more than at most."
            )
        if self.max_image_pixels is not None and self.max_image_pixels < 1:
            raise ValueError(f"max_image_pixels={self.max_image_pixels} must be 1 or more.")
        if self.attempts < 1 or min(self.limits) < 1:
            raise ValueError(f"attempts={self.attempts} and limits={self.limits} must be 1 or more.")

    @property
    def turns(self) -> tuple[int, int]:
        """At least and at most so many turns in this format."""
        return (self.at_least, self.at_most) if self.format == "multi-turn" else (1, 1)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for two runs to be one."""
        settings = asdict(self) | {"limits": list(self.limits), "prompts": prompts_digest()}
        del settings["at_least"], settings["at_most"], settings["max_image_pixels"]  # which other images may have
        return settings | {"turns": list(self.turns)}


@dataclass
class Dialogue:
    """
    What has been written about an image so far.

    Args:
        messages (`list[dict]`): turns of user and assistant.
        calls, retries (`int`): requests to the model, and how many were sent again because they failed.
        prompt_tokens, completion_tokens (`int`, *optional*): sums, if the model says how many.
        dropped (`Counter[str]`): what was thrown away, by its fault.
    """

    messages: list[Message] = field(default_factory=list)
    calls: int = 0
    retries: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)

    def count(self, reply: Reply) -> None:
        """Adds what a reply has cost."""
        self.calls += 1
        self.retries += reply.retries
        for name in ("prompt_tokens", "completion_tokens"):
            if getattr(reply, name) is not None:
                setattr(self, name, (getattr(self, name) or 0) + getattr(reply, name))

    def stats(self) -> dict[str, Any]:
        """Everything but the messages."""
        numbers = {name: value for name, value in vars(self).items() if name != "messages"}
        return numbers | {"dropped": dict(self.dropped)}


class Writing:
    """
    Writes one dialogue.

    Args:
        chat ([`Chat`]): who writes.
        image ([`ImageFile`]): about what.
        settings ([`QASettings`]): what.
        name (`str`): name of the row; the seeds of its requests depend on it and on nothing before or after it.
    """

    def __init__(self, chat: Chat, image: ImageFile, settings: QASettings, name: str) -> None:
        self.chat, self.image, self.settings, self.name = chat, image, settings, name
        self.dialogue = Dialogue()

    async def write(self) -> Dialogue:
        """
        Writes it.

        Returns:
            [`Dialogue`]

        Raises:
            Rejected: if the model gives no questions, or too few good answers, or cannot be reached.
        """
        at_least, at_most = self.settings.turns
        if self.settings.format in REQUESTS:
            await self._add_turn(draw(REQUESTS[self.settings.format], self._seed("request")), preface="")
        else:
            for question in await self._questions():
                if self.turns < at_most:
                    await self._add_turn(question, preface=f"{ANSWER_PROMPT}\n\n")
        if self.turns < at_least:
            why = ", ".join(f"{fault} ({number})" for fault, number in self.dialogue.dropped.most_common())
            raise Rejected("too few turns", f"{self.turns} of {at_least} are good; thrown away: {why}")
        return self.dialogue

    @property
    def turns(self) -> int:
        """Turns so far."""
        return len(self.dialogue.messages) // 2

    async def _questions(self) -> list[str]:
        """All good questions, even those that are more than was asked for: they stand in for bad answers."""
        ask = {"role": "user", "content": question_prompt(*self.settings.turns), "image": self.image}

        def check(reply: Reply) -> list[str]:
            faults = {"empty": not reply.text, "cut off": reply.cut_off, "refusal": is_refusal(reply.text)}
            for fault in (name for name, found in faults.items() if found):
                raise Fault(fault, f"asked for questions, the model wrote {reply.text[-200:]!r}")
            good: list[str] = []
            questions = find_questions(reply.text)
            if len(questions) > MOST_QUESTIONS:
                self.dialogue.dropped["question: too many"] += len(questions) - MOST_QUESTIONS
            for question in questions[:MOST_QUESTIONS]:
                if fault := question_fault(question, good, self.settings.limits):
                    self.dialogue.dropped[f"question: {fault}"] += 1
                else:
                    good.append(question)
            if len(good) < self.settings.turns[0]:
                raise Fault("too few", f"{len(good)} good questions are in {reply.text[:300]!r}")
            return good

        try:
            return await self._try("questions", [ask], check)
        except Fault as fault:
            raise Rejected(f"questions: {fault.reason}", fault.detail) from fault

    async def _add_turn(self, question: str, preface: str) -> None:
        """Adds a turn if its answer is good; without it the next one is asked as if this had not been."""
        kept = self.dialogue.messages
        messages = [*kept, {"role": "user", "content": question}]
        messages[0] = messages[0] | {"content": preface + messages[0]["content"], "image": self.image}
        answers = [message["content"] for message in kept[1::2]]

        def check(reply: Reply) -> str:
            fault = answer_fault(question if preface else None, reply.text, answers, self.settings.limits)
            if fault := fault or ("cut off" if reply.cut_off else None):
                raise Fault(fault, f"{question!r} was answered {reply.text[-200:]!r}")
            return reply.text

        try:
            answer = await self._try("answer", messages, check)
        except Fault:  # it has been counted
            return
        kept += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    async def _try(self, what: str, messages: list[Message], check: Callable[[Reply], T]) -> T:
        """The first reply that passes the check; the fault of the last one, if none of the attempts does."""
        attempts = self.settings.attempts
        while True:
            reply = await self.chat.complete(messages, self._seed(f"call {self.dialogue.calls}"))
            self.dialogue.count(reply)
            attempts -= 1
            try:
                if len(reply.text) > LONGEST_REPLY:
                    raise Fault("too long", f"the reply has {len(reply.text)} characters")
                return check(reply._replace(text=without_thoughts(reply.text)))
            except Fault as fault:
                self.dialogue.dropped[f"{what}: {fault.reason}"] += 1
                if not attempts:
                    raise

    def _seed(self, what: str) -> int:
        text = f"{self.settings.seed} {self.name} {what}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1
