"""What metrics say is wrong with a training, in plain words and with what to do: a sentence each.

Each is said when the trainer has evaluated, and the last ones once more at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.log_lines import say


__all__ = ["LARGEST_GAP", "LARGEST_SIMILARITY", "SMALLEST_GAIN", "Findings", "find"]

# Of the loss: with the tokens of another row it is at least so much higher where the tokens say something. A share,
# since the loss per token of easy words is small; 0.02 of a loss of 2 is a word in 25 of which half the doubt is gone.
SMALLEST_GAIN = 0.02
# Mean cosine of different documents. Embeddings of language models lie in a narrow cone, 0.6 to 0.9 before stage 2, so
# that a high one is no fault yet; above this, a temperature of 0.03 leaves less than e^2 between most documents.
LARGEST_SIMILARITY = 0.95
# Of the accuracy in training less that in evaluation. Some gap is usual; 20 rows of evaluation alone move it by 0.1.
LARGEST_GAP = 0.3

EVALUATION = "eval_"
ACCURACIES = ("answer_accuracy", "in_batch_accuracy")


class Findings(TrainerCallback):
    """
    Says what is wrong each time that the trainer has evaluated, and at the end of training.

    Attributes:
        sentences (`list[str]`):
            Those of the last evaluation.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._step = -1

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        new = find(metrics or {}, state.log_history)
        if state.global_step != self._step:  # else of another of several evaluation sets
            self.sentences, self._step = [], state.global_step
        self.sentences += new
        _say(new, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._step != state.global_step:
            _say(self.sentences, state)


def find(metrics: Mapping[str, float], history: Sequence[Mapping[str, float]] = ()) -> list[str]:
    """
    What is wrong, by the metrics of an evaluation.

    Args:
        metrics (`Mapping[str, float]`):
            Those of one evaluation set, as the trainer logs them.
        history (`Sequence[Mapping]`, *optional*):
            The `log_history` so far: the accuracy in training is that since the evaluation before.

    Returns:
        `list[str]`: a sentence for each finding.
    """
    found = []
    for name, value in metrics.items():
        if name.endswith("loss_shuffled_tokens"):
            found += _unread_tokens(name, metrics)
        elif name.endswith("document_similarity") and value > LARGEST_SIMILARITY:
            found.append(
                f"The embeddings have collapsed: the cosine of different documents is {value:.3f} on average "
                f"({name}). Early in a training, train on; else lower learning_rate, raise temperature or "
                "per_device_train_batch_size, and look whether the documents of the data differ."
            )
        elif accuracy := next((one for one in ACCURACIES if name.endswith(one)), None):
            found += _learnt_by_heart(name, value, _mean_since_evaluation(accuracy, history))
    return found


def _unread_tokens(name: str, metrics: Mapping[str, float]) -> list[str]:
    """Where the answers are the same whoever's compression tokens they are given from."""
    loss_name = name.removesuffix("_shuffled_tokens")
    loss, shuffled = metrics[loss_name], metrics[name]
    if not shuffled - loss < SMALLEST_GAIN * loss:
        return []
    return [
        f"The answers ignore the inputs: {loss_name} is {loss:.3f}, and {shuffled:.3f} with the tokens of other rows. "
        "Train longer or with a higher learning_rate (a random backbone: lora_r 0, freeze_vision false), and look "
        "whether the answers of the data need the image."
    ]


def _learnt_by_heart(name: str, value: float, in_training: float | None) -> list[str]:
    if in_training is None or not in_training - value > LARGEST_GAP:
        return []
    return [
        f"The training rows are learnt by heart: accuracy {in_training:.2f} in training, {value:.2f} in evaluation "
        f"({name}). Train less (early_stopping_patience), on more or more varied rows, or with a smaller lora_r, and "
        "look whether the evaluation data are of the same kind."
    ]


def _mean_since_evaluation(name: str, history: Sequence[Mapping[str, float]]) -> float | None:
    """The mean of the logs of training since the evaluation before this one."""
    values: list[float] = []
    for entry in reversed(history):
        is_evaluation = any(key.startswith(EVALUATION) for key in entry)
        if is_evaluation and values:
            break
        if name in entry:
            values.append(entry[name])
    return sum(values) / len(values) if values else None


def _say(sentences: Sequence[str], state: TrainerState) -> None:
    if state.is_world_process_zero:
        for sentence in sentences:
            say(f"warning  {sentence}")
