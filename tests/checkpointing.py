"""Gradient checkpointing by the name that this version of transformers has for it; the other one may warn."""

from dataclasses import fields

from transformers import TrainingArguments


NEW, OLD = "activation_checkpointing", "gradient_checkpointing"
CHECKPOINTING = NEW if NEW in {field.name for field in fields(TrainingArguments)} else OLD  # as a training argument


def set_checkpointing(model, on: bool = True):
    """Turns it on or off in a model, adapted or not, and returns the model."""
    getattr(model, f"{CHECKPOINTING}_{'enable' if on else 'disable'}")()
    return model
