"""How likely a text is as the answer to a turn, given a memory or the whole input: what a reranking goes by."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from modeling_coma import ComaForEmbedding, ComaOutput, ComaProcessor, CompressionMemory


__all__ = ["answer_log_likelihoods", "as_answer", "likelihoods_from_memory"]

IGNORED = -100
POSITIONS = 1024  # whose logits are alive at one time


def as_answer(processor: ComaProcessor, text: str, turn: str) -> dict[str, torch.Tensor]:
    """
    A dialogue of two turns, of which the second is labelled.

    Args:
        processor ([`ComaProcessor`]): that of the model.
        text (`str`): what is said by the assistant.
        turn (`str`): what the user says before it.

    Returns:
        `dict`: `dialogue_input_ids`, `dialogue_attention_mask` and `labels`, each of shape `(1, length)`; the tokens
        of the text and its end of turn are labelled, as in stage 1.

    Raises:
        ValueError: for a text with a special token.
    """
    messages = [{"role": "user", "content": turn}, {"role": "assistant", "content": text}]
    rows = processor.process_dialogues([messages])
    ids, is_answer = torch.tensor(rows["input_ids"]), torch.tensor(rows["assistant_masks"]).bool()
    labels = ids.masked_fill(~is_answer, IGNORED)
    return {"dialogue_input_ids": ids, "dialogue_attention_mask": torch.ones_like(ids), "labels": labels}


@torch.no_grad()
def likelihoods_from_memory(
    model: ComaForEmbedding, memory: CompressionMemory, dialogue: dict[str, torch.Tensor]
) -> torch.FloatTensor:
    """
    The likelihood of one text given each of several memories, of [`answer_log_likelihoods`].

    Args:
        model ([`ComaForEmbedding`]): in evaluation mode.
        memory ([`CompressionMemory`]): of as many rows as there are candidates, on its device.
        dialogue (`dict`): of [`as_answer`].

    Returns:
        `torch.FloatTensor` of shape `(len(memory),)`, on its device.
    """
    dialogue = {name: rows.to(model.device).expand(len(memory), -1) for name, rows in dialogue.items()}
    return answer_log_likelihoods(model, model.answer(memory, **dialogue), dialogue["labels"])


@torch.no_grad()
def answer_log_likelihoods(model: ComaForEmbedding, output: ComaOutput, labels: torch.Tensor) -> torch.FloatTensor:
    r"""
    The likelihood of the answer of each row, a mean per token, so that short and long texts can be compared:

    $$s(d) = \frac{1}{|q|} \sum_{i \le |q|} \log p(q_i \mid q_{<i}, t, M_d)$$

    with the tokens $q$ of the answer, the turn $t$ before it and what the dialogue sees, $M_d$: the memory of a
    document, or all of it (query likelihood, Ponte and Croft 1998; as a reranking, Sachan et al. 2022). With other
    labels, -100, it is minus the loss of a row. Logits are in fp32.

    Args:
        model ([`ComaForEmbedding`]): what answered.
        output ([`ComaOutput`]): what came of the dialogues.
        labels (`torch.LongTensor` of shape `(num_rows, length)`): of the dialogues, each with an answer.

    Returns:
        `torch.FloatTensor` of shape `(num_rows,)`
    """
    is_answer, head = labels != IGNORED, model.get_output_embeddings()
    parts = zip(output.answer_states.split(POSITIONS), labels[is_answer].split(POSITIONS), strict=True)
    losses = [F.cross_entropy(head(states).float(), tokens, reduction="none") for states, tokens in parts]
    rows = is_answer.nonzero()[:, 0]
    sums = torch.zeros(len(labels), device=labels.device).index_add_(0, rows, torch.cat(losses).to(labels.device))
    return -sums / is_answer.sum(dim=1)
