"""Layer surgery: memories in place of the attention layers of pretrained decoders, and their distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache

import ttr
from ttr.layer.architecture import Architecture
from ttr.layer.mixer import Mixer
from ttr.models.cache import MemoryLayer
from ttr.models.packing import packing_of
from ttr.problem import Problem
from ttr.state import State

Memory = str | Architecture | Problem

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The linear maps by which an attention layer is known, and which a memory takes over where they fit."""

CONVERTED = "ttr_memories"
"""The field of a saved configuration that lists what was converted: {layer: memory}."""


class MemoryAttention(nn.Module):
    """A memory that is called like an attention layer of transformers, and keeps its state in the same cache.

    Rotary embeddings are left out: memories that need positions have their own.
    """

    def __init__(self, attention: nn.Module, memory: Memory, layer: int, layers: int) -> None:
        super().__init__()
        self.layer_idx = layer
        self.mixer = _mixer(
            attention, ttr.catalogue[memory] if isinstance(memory, str) else memory, layer, layers
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **others: Any,
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """The output of the layer, and no attention weights."""
        memory = None if past_key_values is None else self._place_in(past_key_values)
        state = None if memory is None else memory.state
        shape = hidden_states.shape[0], hidden_states.shape[1]
        packing = packing_of(
            shape, attention_mask=attention_mask, read=None if state is None else state.position
        )
        x, cu_seqlens = packing.pack(hidden_states), packing.cu_seqlens
        if memory is None:
            return packing.unpack(self.mixer(x, cu_seqlens=cu_seqlens)), None
        memory.begin(self, x, cu_seqlens)
        if memory.state is not None and cu_seqlens is None and shape[1] == 1:
            y, memory.next = self.mixer.step(x[:, 0], memory.state, inplace=memory.owned)
            y = y[:, None]
        else:
            y, memory.next = self.read(x, memory.state, cu_seqlens)
        problem = self.mixer.problem
        endless = not (problem.weights.horizon or memory.next.capacity)
        memory.commit(problem, endless, shape[1], packing)
        return packing.unpack(y), None

    def read(
        self, x: Float[Tensor, "B T D"], state: State | None, cu_seqlens: Int[Tensor, " bounds"] | None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The output of the layer, and its state after x."""
        return self.mixer(x, state, return_state=True, cu_seqlens=cu_seqlens)

    def _place_in(self, cache: Cache) -> MemoryLayer:
        """The state of this layer in a cache, which made place for keys and values."""
        while len(cache.layers) <= self.layer_idx:  # caches without a configuration grow as they are used
            cache.layers.append(cache.layer_class_to_replicate())
        if not isinstance(cache.layers[self.layer_idx], MemoryLayer):
            cache.layers[self.layer_idx] = MemoryLayer()
        return cache.layers[self.layer_idx]


def _mixer(attention: nn.Module, memory: Architecture | Problem, layer: int, layers: int) -> Mixer:
    """A layer with a memory that has the heads and, where they fit, the projections of an attention layer.

    A memory that takes no grouped keys and values gets them once for every head.
    """
    size, like = attention.head_dim, attention.o_proj.weight
    heads = like.shape[1] // size
    grouped = {name: getattr(attention, name).out_features // size for name in ("k_proj", "v_proj")}
    make = partial(
        Mixer,
        like.shape[0],
        memory,
        heads=heads,
        key_size=size,
        value_size=size,
        layer=layer,
        layers=layers,
    )
    try:
        mixer = make(key_heads=grouped["k_proj"], value_heads=grouped["v_proj"])
    except ValueError:
        mixer = make()
    for name in PROJECTIONS:
        fresh, known = getattr(mixer, name, None), copy.deepcopy(getattr(attention, name))
        if name in grouped and mixer.sizes.key_heads == heads:
            known = _repeated(known, heads // grouped[name], size)
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
    too); gates, convolutions and norms of the memory are new. So a converted model has to be trained, as by
    ``distill``. It trains, generates, and is saved like any other; ``from_pretrained`` here loads it.

    Args:
        layers: which ones, counted from 0; negative numbers count from the last. None for all.
        to: a memory of ``ttr.catalogue``, an Architecture or a Problem, or one for each of the layers.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no such layers, or a memory does not fit; then nothing is changed.
    """
    blocks = _blocks(model)
    numbers = range(len(blocks)) if layers is None else [_number(layer, len(blocks)) for layer in layers]
    memories = [to] * len(numbers) if isinstance(to, Memory) else list(to)
    if len(memories) != len(numbers):
        raise ValueError(
            f"to names {len(memories)} memories for {len(numbers)} layers. Name one for each, or one for all."
        )
    made = []
    for number, memory in zip(numbers, memories):
        name, attention = _attention(blocks[number], number)
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
    config = AutoConfig.from_pretrained(folder)
    memories = getattr(config, CONVERTED, None)
    if memories is None:
        raise ValueError(
            f"The model in {folder} has no converted layers. Load it by AutoModelForCausalLM.from_pretrained."
        )
    original = AutoModelForCausalLM._model_mapping[type(config)]

    def __init__(self: PreTrainedModel, config: Any, *rest: Any, **more: Any) -> None:
        original.__init__(self, config, *rest, **more)
        convert(self, [int(number) for number in memories], to=[_memory(each) for each in memories.values()])

    loaded = type(original.__name__, (original,), {"__init__": __init__, "__module__": original.__module__})
    return loaded.from_pretrained(folder, config=config, **arguments)


def _blocks(model: nn.Module) -> nn.ModuleList:
    """The layers of a decoder."""
    for module in model.modules():
        if isinstance(getattr(module, "layers", None), nn.ModuleList):
            return module.layers
    raise ValueError(f"{type(model).__name__} has no list of layers. Convert a decoder of transformers.")


def _number(layer: int, layers: int) -> int:
    if not -layers <= layer < layers:
        raise ValueError(f"The model has no layer {layer}. Its layers are 0 to {layers - 1}.")
    return layer % layers


def _attention(block: nn.Module, number: int) -> tuple[str, nn.Module]:
    """The attention layer of a block, and its name there."""
    for name, module in block.named_children():
        if all(isinstance(getattr(module, each, None), nn.Linear) for each in PROJECTIONS):
            if hasattr(module, "head_dim"):
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


# ----------------------------------------------------------------------------------------------- distillation
def distill(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Iterable[Int[Tensor, "B T"]],
    *,
    steps: int,
    lr: float = 1e-3,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the converted layers of ``model`` to give the outputs of the attention layers of ``teacher``.

    Every layer learns at once, each from the teacher's inputs of that layer, so that none has to wait for the
    ones before it (the attention transfer of Zhang et al., LoLCATs, arXiv 2410.10254). Afterwards train the
    whole model on text for a while, as usual.

    Args:
        teacher: the model before ``convert``, for example a ``copy.deepcopy`` of it.
        batches: token ids; at least one, repeated as often as needed.
        lr: the learning rate of AdamW at its highest, reached linearly in a tenth of the steps; it falls to
            0 as half a cosine.
        on_step: called with the number of the step, from 1, and its loss.

    Returns:
        The loss of every step: squared error over the squared outputs of the teacher, the mean over layers.

    Raises:
        ValueError: if ``model`` has no converted layers.
    """
    students = {layer.layer_idx: layer for layer in model.modules() if isinstance(layer, MemoryAttention)}
    if not students:
        raise ValueError("This model has no converted layers. Call convert on a copy of the teacher first.")
    learned = [p for layer in students.values() for p in layer.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup)),
        ],
        milestones=[warmup],
    )
    losses: list[float] = []
    for ids in _cycle(batches, steps):
        with torch.no_grad(), _recorded(teacher, students) as calls:
            teacher.eval()(input_ids=ids.to(teacher.device), use_cache=False)
        errors = [_error(students[number](**inputs)[0], outputs) for number, inputs, outputs in calls]
        loss = torch.stack(errors).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(len(losses), losses[-1])
    return losses


def _error(y: Tensor, wanted: Tensor) -> Tensor:
    return (y.float() - wanted.float()).square().mean() / wanted.float().square().mean()


def _cycle(batches: Iterable[Tensor], steps: int) -> Iterator[Tensor]:
    """So many batches, from the first again after the last."""
    kept = []
    for batch in batches:
        kept.append(batch)
        yield batch
        if len(kept) == steps:
            return
    if not kept:
        raise ValueError("batches is empty. Give at least one batch of token ids.")
    for number in range(len(kept), steps):
        yield kept[number % len(kept)]


@contextmanager
def _recorded(
    teacher: nn.Module, numbers: Iterable[int]
) -> Iterator[list[tuple[int, dict[str, Any], Tensor]]]:
    """The inputs and outputs of attention layers, by the calls inside the block."""
    blocks, calls = _blocks(teacher), []
    hooks = []
    for number in numbers:
        _, attention = _attention(blocks[number], number)

        def hook(
            _: nn.Module, args: tuple, inputs: dict[str, Any], outputs: Any, number: int = number
        ) -> None:
            named = dict(zip(("hidden_states",), args)) | inputs
            wanted = {name: named.get(name) for name in ("hidden_states", "attention_mask")}
            calls.append((number, wanted, outputs[0]))

        hooks.append(attention.register_forward_hook(hook, with_kwargs=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
