"""CoMa: a vision-language model whose compression tokens carry its input, as an embedding and as a memory."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForImageTextToText, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_coma import (
    check_features,
    count_positions,
    encode_visuals,
    first_axis,
    input_position_ids,
    text_positions,
    token_types,
    tower_inputs,
    visual_types,
)
from .cache_coma import cache_argument
from .configuration_coma import ComaConfig
from .generation_coma import sequences_per_row, with_new_token_limits, with_special_ids
from .loss_coma import IGNORE_INDEX, answer_cross_entropy
from .masking_coma import add_dialogue, find_compression_tokens, join_dialogue
from .memory_coma import CompressionMemory, gather_columns, padding_first
from .states_coma import behind_states, keeps_keys_and_values, pad_left


@dataclass
class ComaOutput(ModelOutput):
    """What [`ComaForEmbedding`] returns; `loss` is the answer cross-entropy of stage 1, where `labels` are given."""

    loss: torch.FloatTensor | None = None  # ()
    embeddings: torch.FloatTensor | None = None  # (batch_size, hidden_size)
    compression_states: torch.FloatTensor | None = None  # (batch_size, K, hidden_size), last hidden states
    answer_states: torch.FloatTensor | None = None  # (num_answer_tokens, hidden_size), row-major, predict `labels`
    # Of the input, not of a dialogue: for the embeddings and after every layer; of every layer.
    hidden_states: tuple[torch.FloatTensor, ...] | None = None  # (batch_size, sequence_length, hidden_size) each
    attentions: tuple[torch.FloatTensor, ...] | None = None  # (batch_size, num_heads, sequence_length, …) each


class ComaForEmbedding(PreTrainedModel):
    """A vision-language backbone with K compression tokens ("Compression then Matching", arXiv 2511.08480): any of
    transformers whose `model` has `get_image_features`, and whose `forward` takes what that gives."""

    config_class = ComaConfig
    base_model_prefix = "backbone"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _tied_weights_keys: dict = {}  # none but the backbone's, which PEFT looks for where this is a dict
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ComaConfig):
        super().__init__(config)
        self.backbone = AutoModelForImageTextToText.from_config(config.backbone_config)
        if config.memory == "states":
            self.memory_projection = torch.nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module):
        super()._init_weights(module)
        if module is getattr(self, "memory_projection", None):
            torch.nn.init.eye_(module.weight)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: torch.nn.Module):
        self.backbone.set_output_embeddings(new_embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        dialogue_input_ids: torch.LongTensor | None = None,
        dialogue_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        dialogue_view: str = "compressed",
        inputs_embeds: torch.FloatTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **visuals: torch.Tensor | None,
    ) -> ComaOutput:
        r"""
        Embeds a batch and, where a dialogue is given, answers it from the compression tokens alone.

        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Rows of [`ComaProcessor`], padded on either side; each ends with its K compression tokens.
            pixel_values (`torch.FloatTensor`): all images, as the backbone's own processor lays them out.
            mm_encoder_outputs (`dict[str, ModelOutput]`): results of `encode_images` and `encode_videos`, instead.
            dialogue_input_ids, dialogue_attention_mask, labels (`torch.LongTensor` of shape `(batch_size, length)`):
                A dialogue per row, with its mask; labels are its answer tokens in their own columns, -100 elsewhere.
            num_items_in_batch (`int` or scalar `torch.Tensor`): divisor of the loss; by default its number of labels.
            dialogue_view (`str`): what a dialogue sees besides its own past: `"compressed"`, the compression tokens
                alone (section 3.1); `"full"`, all of the input but them, which is the backbone as it was.
            inputs_embeds: cannot be used, because rows are told by their ids.
            output_attentions, output_hidden_states (`bool`): whether to return `attentions`, which "eager" attention
                alone keeps, and `hidden_states`, of the input and not of a dialogue; by default what the config says.
            visuals (`torch.Tensor`): what else its processor makes of them, `image_grid_thw`, `image_sizes` …, and of
                videos: `pixel_values_videos` …
            return_dict (`bool`): `False` for a tuple instead of a [`ComaOutput`]; by default what the config says.
        Raises `ValueError` for rows without exactly K compression tokens, and for embeddings that are not finite;
        `TypeError` for what the backbone does not know.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("Compression tokens are found by their ids: pass `input_ids`, and no `inputs_embeds`.")
        if dialogue_input_ids is None and labels is not None:
            raise ValueError("`labels` belong to a dialogue: pass `dialogue_input_ids` too.")
        inputs, columns = self._prepare(input_ids, attention_mask, pixel_values, mm_encoder_outputs, **visuals)
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        inputs |= {name: getattr(self.config, name) if flag is None else flag for name, flag in flags.items()}
        if dialogue_attention_mask is None and dialogue_input_ids is not None:
            dialogue_attention_mask = torch.ones_like(dialogue_input_ids)
        if dialogue_input_ids is None:
            outputs, states = self._run(inputs, columns)
            output = ComaOutput(embeddings=self.pool(states), compression_states=states)
        elif dialogue_view == "compressed" and (self.config.memory == "states" or not self._is_checkpointing):
            memory, outputs = self._compress(inputs, columns)
            output = self.answer(memory, dialogue_input_ids, dialogue_attention_mask, labels, num_items_in_batch)
        else:  # checkpointing does without a key-value cache: the two passes become one, behind a mask
            mask = dialogue_attention_mask
            is_split = dialogue_view == "full" and not self._has_columns
            run = self._full_view if is_split else self._masked_pass
            outputs, states, hidden = run(inputs, columns, dialogue_input_ids, mask, dialogue_view)
            output = self._output(states, hidden, mask, labels, num_items_in_batch)
        output.hidden_states = outputs.hidden_states
        output.attentions = outputs.attentions
        return output

    def encode_images(self, pixel_values: Tensor, **images: Tensor) -> dict[str, ModelOutput]:
        """Image features, to pass as `mm_encoder_outputs`. A frozen vision tower runs without gradients."""
        return {"image": encode_visuals(self.backbone, "image", pixel_values, **images)}

    def encode_videos(self, pixel_values_videos: Tensor, **videos: Tensor) -> dict[str, ModelOutput]:
        """The same of videos, for a backbone that has a way of its own for them."""
        return {"video": encode_visuals(self.backbone, "video", pixel_values_videos, **videos)}

    def compress(self, *args, **kwargs) -> CompressionMemory:
        """Compresses a batch to its [`CompressionMemory`]; inputs as in `forward`, without a dialogue."""
        inputs, columns = self._prepare(*args, **kwargs)
        memory, _ = self._compress(inputs, columns)
        return memory

    def answer(
        self,
        memory: CompressionMemory,
        dialogue_input_ids: torch.LongTensor,
        dialogue_attention_mask: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> ComaOutput:
        """Second half of `forward`: dialogues that see a memory and their own past."""
        function = type(self.backbone.model).forward
        inputs, columns = self._behind(memory, dialogue_input_ids, dialogue_attention_mask, function)
        if columns is None:
            inputs["input_ids"] = dialogue_input_ids
        hidden = self.backbone.model(**inputs, use_cache=columns is None, return_dict=True).last_hidden_state
        hidden = hidden if columns is None else gather_columns(hidden, columns)
        return self._output(memory.compression_states, hidden, dialogue_attention_mask, labels, num_items_in_batch)

    @torch.no_grad()
    def generate_from_memory(
        self, memory: CompressionMemory, dialogue_input_ids: Tensor, dialogue_attention_mask: Tensor, **kwargs
    ) -> torch.LongTensor | ModelOutput:
        r"""
        Continues dialogues from a memory. (A remote model with a method `generate` is made another class by
        transformers, which cannot be pickled.)

        Args:
            memory ([`CompressionMemory`]): of as many rows as there are dialogues.
            dialogue_input_ids, dialogue_attention_mask (`torch.LongTensor` of shape `(batch_size, length)`):
                Dialogues, padded on the left, that end where the answers begin.
            kwargs: settings of the backbone's `generate`: `max_new_tokens`, `num_beams`, `do_sample`, `streamer`, a
                `generation_config` … `max_length` counts the tokens of the dialogue, too.
        Returns the new tokens only, of shape `(batch_size * num_return_sequences, length)`; with
        `return_dict_in_generate` they are the `sequences` of what the backbone returns.
        Raises `ValueError` for settings that a memory cannot serve, `TypeError` for arguments that nothing knows.
        """
        if not dialogue_attention_mask[:, -1].all():
            raise ValueError("Dialogues to be continued are padded on the left; a row here ends with padding.")
        copies = sequences_per_row(kwargs, self.backbone.generation_config)
        function = GenerationMixin.prepare_inputs_for_generation
        inputs, _ = self._behind(memory, dialogue_input_ids, dialogue_attention_mask, function, copies)
        if not memory.layers:
            kwargs = with_new_token_limits(kwargs, self.backbone.generation_config, dialogue_input_ids.shape[1])
        output = self.backbone.generate(
            dialogue_input_ids,  # also beside embeddings: some settings go by the tokens of the dialogue
            **inputs,
            **with_special_ids(kwargs, eos_token_id=self.config.eos_token_id, pad_token_id=self.config.pad_token_id),
        )
        if isinstance(output, Tensor):
            return output[:, dialogue_input_ids.shape[1] :]
        output.sequences = output.sequences[:, dialogue_input_ids.shape[1] :]
        return output

    def pool(self, states: Tensor) -> Tensor:
        """Embeddings `(batch_size, hidden_size)` from the states of the compression tokens (paper, section 3.2)."""
        embeddings = states.mean(dim=1) if self.config.pooling == "mean" else states[:, -1]
        if (bad := ~embeddings.isfinite().all(dim=1)).any():
            raise ValueError(f"The embedding of row {int(bad.nonzero()[0])} is not finite: are there NaN weights?")
        return F.normalize(embeddings, dim=-1) if self.config.normalize else embeddings

    def _prepare(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        **visuals: Tensor | None,
    ) -> tuple[dict, Tensor]:
        """Inputs of the backbone, with explicit positions, and the columns of the compression tokens."""
        visuals |= {"pixel_values": pixel_values}
        visuals = {name: tensor for name, tensor in visuals.items() if tensor is not None}
        pixels = tower_inputs(self.backbone, visuals)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        types = visual_types(self.backbone, input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **token_types(self.backbone, types)}
        inputs["position_ids"] = input_position_ids(self.backbone, input_ids, attention_mask, types, visuals)
        features = dict(mm_encoder_outputs or {})
        features |= self.encode_images(**pixels["image"]) if "image" in pixels else {}
        features |= self.encode_videos(**pixels["video"]) if "video" in pixels else {}
        check_features(types, features)
        inputs["mm_encoder_outputs"] = features
        return inputs, find_compression_tokens(input_ids, attention_mask, self.config.compression_token_ids)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """As in [`PreTrainedModel`], whose own warns: PEFT asks for it under this name."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    @property
    def _is_checkpointing(self) -> bool:
        layers = self.backbone.get_decoder().modules()
        return self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers)

    def _run(self, inputs: dict, columns: Tensor, use_cache: bool = False) -> tuple[ModelOutput, Tensor]:
        """What the backbone makes of its inputs, and the last hidden states of the compression tokens."""
        outputs = self.backbone.model(**inputs, use_cache=use_cache, return_dict=True)
        return outputs, gather_columns(outputs.last_hidden_state, columns)

    def _compress(self, inputs: dict, columns: Tensor) -> tuple[CompressionMemory, ModelOutput]:
        next_position = first_axis(inputs["position_ids"]).gather(1, columns[:, -1:])[:, 0] + 1
        if self.config.memory == "states":
            outputs, states = self._run(inputs, columns)
            return CompressionMemory([], next_position, states), outputs
        self._check_cache()
        cache = DynamicCache()  # without a config it keeps whole layers, also those with a sliding window
        argument = cache_argument(type(self.backbone.model).forward)
        outputs, states = self._run({**inputs, argument: cache}, columns, use_cache=True)
        return CompressionMemory.from_cache(cache, columns, next_position, states), outputs

    @functools.cached_property
    def _has_columns(self) -> bool:
        return keeps_keys_and_values(self.config)

    def _check_cache(self):
        if not self._has_columns:
            raise ValueError(
                "Some layers of this backbone keep more of an input than keys and values: stage 1 needs a model that "
                "was made with memory='states'; embeddings and stage 2 do without."
            )

    def _behind(
        self, memory: CompressionMemory, input_ids: Tensor, mask: Tensor, function: Callable, copies: int = 1
    ) -> tuple[dict, Tensor | None]:
        """Arguments of a function of the backbone for dialogues behind a memory, of which it wants so many copies; and
        the columns in which the dialogues stand then, if they were moved."""
        if len(memory) != len(mask):
            message = f"{len(mask)} dialogues cannot be answered from a memory of {len(memory)} rows"
            raise ValueError(f"{message}: `memory.select(rows)` takes, and repeats, some of them.")
        if not memory.layers:
            soft_tokens = self.memory_projection(memory.compression_states)
            return behind_states(self.backbone, soft_tokens, memory.next_position, input_ids, mask)
        if self._is_checkpointing:
            raise ValueError("Layers with gradient checkpointing would pass the memory over: `eval()` the model.")
        positions = memory.next_position.to(mask.device)[:, None] + count_positions(mask)
        order = padding_first(mask, memory.num_columns)
        mask = F.pad(mask, (memory.num_columns, 0), value=1)
        mask = mask if order is None else mask.take_along_dim(order, 1)
        if copies > 1:  # the backbone repeats the rows of everything but a cache
            memory = memory.select(torch.arange(len(memory)).repeat_interleave(copies))
            order = None if order is None else order.repeat_interleave(copies, dim=0)
        return {
            "attention_mask": mask,
            "position_ids": text_positions(self.backbone, positions),
            cache_argument(function): memory.to_cache(order),
        }, None

    def _masked_pass(
        self, inputs: dict, columns: Tensor, dialogue_input_ids: Tensor, mask: Tensor, view: str
    ) -> tuple[ModelOutput, Tensor, Tensor]:
        """Input and dialogue in one pass. States and attentions of the layers are given of the input alone."""
        if view == "compressed":
            self._check_cache()
        length = inputs["input_ids"].shape[1]
        inputs = add_dialogue(inputs, columns, dialogue_input_ids, mask, view, self.backbone)
        outputs, states = self._run(inputs, columns)
        if outputs.hidden_states:  # `output_hidden_states` may select layers; the others are None
            layers = (None if layer is None else layer[:, :length] for layer in outputs.hidden_states)
            outputs.hidden_states = tuple(layers)
        if outputs.attentions:
            outputs.attentions = tuple(weights[..., :length, :length] for weights in outputs.attentions)
        return outputs, states, outputs.last_hidden_state[:, length:]

    def _full_view(
        self, inputs: dict, columns: Tensor, dialogue_input_ids: Tensor, mask: Tensor, view: str
    ) -> tuple[ModelOutput, Tensor, Tensor]:
        """The same where no mask can hide the compression tokens: the dialogue has a pass of its own without them."""
        outputs, states = self._run(inputs, columns)
        both, _, is_seen = join_dialogue(inputs, columns, dialogue_input_ids, mask, view, self.backbone)
        both, places = pad_left(both, both["attention_mask"] * is_seen)
        places = places[:, inputs["input_ids"].shape[1] :]
        return outputs, states, self._run(both, places)[1]

    def _output(self, states: Tensor, hidden: Tensor, mask: Tensor, labels: Tensor | None, items: Any) -> ComaOutput:
        """Embeddings of the states of the compression tokens, and the loss of a dialogue that has labels."""
        output = ComaOutput(compression_states=states)
        if states.shape[1] > 0:  # not where it is asked what is answered from nothing
            output.embeddings = self.pool(states)
        if labels is not None:
            is_answer = labels != IGNORE_INDEX
            is_predicted = F.pad(mask[:, 1:].bool() & mask[:, :-1].bool(), (1, 0))
            if (is_answer & ~is_predicted).any():
                raise ValueError("Nothing predicts padding, or the first token of a dialogue: label them -100.")
            rows, columns = is_answer.nonzero(as_tuple=True)
            output.answer_states = hidden[rows.to(hidden.device), columns.to(hidden.device) - 1]
            head = self.get_output_embeddings()
            output.loss = answer_cross_entropy(output.answer_states, head, labels[rows, columns], items)
        return output


__all__ = ["ComaForEmbedding", "ComaOutput"]
