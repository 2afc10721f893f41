"""Layer surgery: memories in place of the attention layers of pretrained decoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from os import PathLike
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.cache_utils import Cache

import ttr
from ttr.integrations.transformers.cached_mixer import CachedMixer
from ttr.layer.architecture import Architecture
from ttr.layer.mixer import Mixer
from ttr.problem import Problem

Memory = str | Architecture | Problem

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The linear maps by which an attention layer is known, and which a memory takes over where they fit."""

GROUPED = {"key_heads": "k_proj", "value_heads": "v_proj"}
"""The projections whose heads may be grouped, by what a Mixer calls their number."""

CONVERTED = "ttr_memories"
"""The field of a saved configuration that lists what was converted: {layer: memory}."""


class MemoryAttention(CachedMixer):
    """A memory that is called like an attention layer of transformers.

    Rotary embeddings are left out: memories that need positions have their own.
    """

    def __init__(self, attention: nn.Module, memory: Memory, layer: int, layers: int) -> None:
        known = ttr.catalogue[memory] if isinstance(memory, str) else memory
        fresh = _fresh(attention, known, layer, layers)
        super().__init__(_with_projections(fresh(), attention), layer)
        self.fresh = fresh

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_k: Int[Tensor, " bounds"] | None = None,
        **others: Any,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """The output of the layer, and no attention weights."""
        packed = {"cu_seq_lens_q": cu_seq_lens_q, "cu_seq_lens_k": cu_seq_lens_k}
        if attention_mask is None:  # a mask that transformers has made says the same, and more of padding
            packed["position_ids"] = position_ids
        return self.mixed(hidden_states, past_key_values, attention_mask=attention_mask, **packed), None


def _fresh(
    attention: nn.Module, memory: Architecture | Problem, layer: int, layers: int
) -> Callable[[], Mixer]:
    """What makes layers with the memory and the heads of an attention layer; a memory that takes no grouped
    keys and values gets them once for every head.

    Raises:
        ValueError: if the memory does not fit, or its tokens read later ones.
    """
    size, like = attention.head_dim, attention.o_proj.weight
    make = partial(
        Mixer,
        like.shape[0],
        memory,
        heads=like.shape[1] // size,
        key_size=size,
        value_size=size,
        layer=layer,
        layers=layers,
    )
    grouped = {name: getattr(attention, GROUPED[name]).out_features // size for name in GROUPED}
    try:
        mixer, make = make(**grouped), partial(make, **grouped)
    except ValueError:
        mixer = make()
    if not mixer.problem.function.causal:
        raise ValueError(
            f"In the memory for layer {layer} every token reads the ones after it, so it cannot predict or "
            "generate them. Use a causal memory."
        )
    return partial(_transparent, make)


@torch.no_grad()
def _transparent(make: Callable[[], Mixer]) -> Mixer:
    """A layer whose parts before the memory leave what is projected nearly as it is."""
    mixer = make()
    for field, name, part in mixer.before:
        tensors = getattr(mixer, field)[name]
        for tensor, numbers in part.transparent(mixer.sizes).items():
            tensors.get_parameter(tensor).copy_(numbers)
    return mixer


def _with_projections(mixer: Mixer, attention: nn.Module) -> Mixer:
    """The mixer with the projections of an attention layer, where they fit, and like them."""
    like = attention.o_proj.weight
    for name in PROJECTIONS:
        fresh, known = getattr(mixer, name, None), copy.deepcopy(getattr(attention, name))
        if name in GROUPED.values() and mixer.sizes.key_heads == mixer.sizes.heads:
            heads = known.out_features // attention.head_dim
            known = _repeated(known, mixer.sizes.heads // heads, attention.head_dim)
        if fresh is not None and fresh.weight.shape == known.weight.shape:
            setattr(mixer, name, known)
    return mixer.to(like.device, like.dtype)


def _repeated(linear: nn.Linear, times: int, size: int) -> nn.Linear:
    """The map that gives every group of ``size`` channels so many times, one after the other."""
    wide = nn.Linear(linear.in_features, times * linear.out_features, bias=linear.bias is not None)
    wide.load_state_dict(
        {
            name: x.unflatten(0, (-1, size)).repeat_interleave(times, 0).flatten(0, 1)
            for name, x in linear.state_dict().items()
        },
        assign=True,
    )
    return wide


def convert(
    model: PreTrainedModel, layers: Sequence[int] | None = None, *, to: Memory | Sequence[Memory]
) -> PreTrainedModel:
    """Put memories in place of attention layers of a decoder of transformers, in the model itself.

    Projections of queries, keys, values and outputs are kept where they have the same shape (grouped heads
    too); gates, convolutions and norms of the memory are new. Convolutions and token shifts begin as those
    that read the newest token alone: queries, keys and values are at first nearly what the projections say. A
    converted model has to be trained, as by ``distill``. It trains, generates, and is saved like any other;
    ``from_pretrained`` here loads it.

    Args:
        layers: which ones, counted from 0; negative numbers count from the last. None for all.
        to: a memory of ``ttr.catalogue``, an Architecture or a Problem, or one for each of the layers.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no such layers, or a memory does not fit; then nothing is changed.
    """
    blocks = decoder_layers(model)
    numbers = range(len(blocks)) if layers is None else [_number(layer, len(blocks)) for layer in layers]
    memories = list(to) if isinstance(to, list | tuple) else [to] * len(numbers)
    if len(memories) != len(numbers):
        raise ValueError(
            f"to names {len(memories)} memories for {len(numbers)} layers. Name one for each, or one for all."
        )
    made = []
    for number, memory in zip(numbers, memories):
        name, attention = attention_of(blocks[number], number)
        made.append((blocks[number], name, MemoryAttention(attention, memory, number, len(blocks))))
    for block, name, layer in made:
        setattr(block, name, layer)
    known = dict(getattr(model.config, CONVERTED, {}))
    known |= {str(number): _described(memory) for number, memory in zip(numbers, memories)}
    setattr(model.config, CONVERTED, known)
    return model


def from_pretrained(folder: str | PathLike[str], **arguments: Any) -> PreTrainedModel:
    """A converted model from the folder where ``save_pretrained`` put it; ``arguments`` as of transformers.

    Raises:
        ValueError: if the model was not converted.
    """
    config = AutoConfig.from_pretrained(folder, return_unused_kwargs=True, **arguments)[0]
    memories = getattr(config, CONVERTED, None)
    if memories is None:
        raise ValueError(
            f"The model in {folder} has no converted layers. Load it by AutoModelForCausalLM.from_pretrained."
        )
    original = getattr(transformers, config.architectures[0])

    class Converted(original):
        def __init__(self, config: Any, *rest: Any, **more: Any) -> None:
            super().__init__(config, *rest, **more)
            made = [_memory(each) for each in memories.values()]
            convert(self, [int(number) for number in memories], to=made)

    wanted = arguments.pop("output_loading_info", False)
    model, report = Converted.from_pretrained(folder, config=config, output_loading_info=True, **arguments)
    model.__class__ = original
    for name, layer in model.named_modules():
        if isinstance(layer, MemoryAttention):
            _draw(layer, [key.removeprefix(f"{name}.mixer.") for key in report["missing_keys"]])
    return (model, report) if wanted else model


@torch.no_grad()
def _draw(layer: MemoryAttention, missing: Sequence[str]) -> None:
    """Give tensors of a memory that were not saved the values of a fresh one, as transformers does with those
    that it knows."""
    tensors = dict(chain(layer.mixer.named_parameters(), layer.mixer.named_buffers()))
    if found := tensors.keys() & set(missing):
        fresh = layer.fresh()
        for name, tensor in chain(fresh.named_parameters(), fresh.named_buffers()):
            if name in found:
                tensors[name].copy_(tensor)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of a decoder."""
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    for module in decoder.modules():
        if isinstance(getattr(module, "layers", None), nn.ModuleList):
            return module.layers
    raise ValueError(f"{type(model).__name__} has no list of layers. Convert a decoder of transformers.")


def convertible(model: nn.Module) -> list[int]:
    """The layers that ``convert`` takes, counted from 0.

    Raises:
        ValueError: if the model has no list of layers.
    """
    found = []
    for number, block in enumerate(decoder_layers(model)):
        with suppress(ValueError):
            attention_of(block, number)
            found.append(number)
    return found


def _number(layer: int, layers: int) -> int:
    if not -layers <= layer < layers:
        raise ValueError(f"The model has no layer {layer}. Its layers are 0 to {layers - 1}.")
    return layer % layers


def attention_of(block: nn.Module, number: int) -> tuple[str, nn.Module]:
    """The attention layer of a block, and its name there."""
    for name, module in block.named_children():
        known = all(hasattr(getattr(module, each, None), "in_features") for each in PROJECTIONS)
        if not known or not hasattr(module, "head_dim"):
            continue
        window = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
        if window is not None:
            raise ValueError(
                f"Layer {number} reads a window of {window} tokens, and its masks hide older ones from a "
                "memory. Leave it out of the layers to convert."
            )
        return name, module
    raise ValueError(
        f"Layer {number} has no attention with the projections {', '.join(PROJECTIONS)}. Leave it out of "
        "the layers to convert."
    )


def _described(memory: Memory) -> Any:
    """A memory in a JSON-ready form."""
    return memory if isinstance(memory, str) else memory.to_dict()


def _memory(description: Any) -> Memory:
    if isinstance(description, str):
        return description
    return (Problem if "weights" in description else Architecture).from_dict(description)
