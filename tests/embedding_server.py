"""A server of embeddings in the manner of vLLM, on 127.0.0.1, that serves a backbone rightly, or with one fault."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from modeling_coma import ComaForEmbedding, ComaProcessor
from tests.chat_server import ChatServer, Happening, send


__all__ = ["EmbeddingServer", "Engine"]


class EmbeddingServer(ChatServer):
    """A context; `reply(body)` gives the vectors of a request, and `behave` may let something else happen to it."""

    path = "/v1/embeddings"

    def answer(self, request: BaseHTTPRequestHandler, body: dict, how: Happening) -> None:
        if how == "good":
            rows = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(self.reply(body))]
            how = send(json.dumps({"object": "list", "data": rows[::-1], "usage": {}}).encode())
        super().answer(request, body, how)


class Engine:
    """
    Embeds what a request has by the states of the backbone. `fault` is one of the methods below, or none.

    Texts of `input` go through the template too, as in an engine around sentence-transformers.
    """

    def __init__(self, model: ComaForEmbedding, processor: ComaProcessor, fault: str = "") -> None:
        self.model, self.processor, self.fault = model.eval(), processor, fault

    @torch.no_grad()
    def __call__(self, body: dict) -> list[list[float]]:
        if "messages" in body:
            return [self.embed([as_ours(message) for message in body["messages"]]).tolist()]
        conversations = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in body["input"]]
        if self.fault == "padding side":
            return self.padded_on_the_right(conversations).tolist()
        return [self.embed(messages).tolist() for messages in conversations]

    def embed(self, messages: list[dict]) -> Tensor:
        options: dict[str, Any] = {}
        if self.fault == "system prompt":
            text = {"type": "text", "text": "You are a helpful assistant."}
            messages = [{"role": "system", "content": [text]}, *messages]
        if self.fault == "pixel budget":
            options["images_kwargs"] = {"size": {"shortest_edge": 784, "longest_edge": 2000}}
        row = dict(self.processor.process([messages], **options))
        k = self.model.config.num_compression_tokens
        ids = row["input_ids"]
        if self.fault == "template":
            ids = ids[:, :-k]
        if self.fault == "generation prompt":
            prompt = self.processor.tokenizer("<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
            ids = torch.cat([ids, prompt], dim=1)
        row |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        state = self.pool(self.states(row)[0])
        return self.finish(state)

    def states(self, row: dict[str, Tensor]) -> Tensor:
        backbone = self.model.backbone
        types = (row["input_ids"] == backbone.config.image_token_id).int()
        if self.fault != "pre-norm":
            return backbone.model(**row, mm_token_type_ids=types).last_hidden_state
        norm = backbone.model.language_model.norm
        norm.forward, forward = (lambda states: states), norm.forward
        try:
            return backbone.model(**row, mm_token_type_ids=types).last_hidden_state
        finally:
            norm.forward = forward

    def pool(self, states: Tensor) -> Tensor:
        k = self.model.config.num_compression_tokens
        if self.fault == "mean of all":
            return states.mean(dim=0)
        is_mean = (self.model.config.pooling == "mean") != (self.fault == "other pooling")
        is_mean = is_mean and self.fault not in ("template", "generation prompt")
        return states[-k:].mean(dim=0) if is_mean else states[-1]

    def finish(self, state: Tensor) -> Tensor:
        if self.fault == "not normalised":
            return state
        return normalize(state[:16] if self.fault == "truncated" else state, dim=0)

    def padded_on_the_right(self, conversations: list[list[dict]]) -> Tensor:
        """The last column of a batch, as if it were padded on the left."""
        rows = self.processor.process(conversations, padding_side="right")
        return normalize(self.states(dict(rows))[:, -1], dim=-1)


def as_ours(message: dict) -> dict:
    """A message with the image that its address holds."""
    blocks = []
    for block in message["content"]:
        if block["type"] == "image_url":
            header, _, data = block["image_url"]["url"].partition(",")
            assert header == "data:image/png;base64"
            block = {"type": "image", "image": Image.open(BytesIO(base64.b64decode(data)))}
        blocks.append(block)
    return {"role": message["role"], "content": blocks}
