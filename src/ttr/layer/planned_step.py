"""The step of a layer, planned: the torch operations around its memory, recorded once and replayed for every
further token, with the memory's own step between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ttr.diagnostics import collecting
from ttr.dispatch import Bound, MemoryStep
from ttr.engines.native import library, operations
from ttr.layer.tensors import Tensors
from ttr.recording import NotRecordable, is_recording, kept_whole, record
from ttr.state import State
from ttr.torch_internals import watched

TokenStep = Callable[[Tensor, State, MemoryStep], tuple[Tensor, State]]
"""(x [B,d], state, memory) -> (y [B,d], state): the step of a layer, or of a block, around its memory."""

PlannedStep = Callable[[Tensor, State], "tuple[Tensor, State] | None"]
"""(x [B,d], state) -> (y [B,d], state), or None where the layer or the state is not as planned."""

PLAIN_MODULES: set[type[nn.Module]] = {nn.Linear, nn.ModuleDict, Tensors}
"""Modules that compute with their tensors alone. A layer with others, or with hooks, is not planned."""

_plans: WeakKeyDictionary[nn.Module, Bound] = WeakKeyDictionary()
"""The planned steps of every layer, by what their calls have in common."""


@runtime_checkable
class Memory(Protocol):
    """What a plan needs to know of the memory of a layer."""

    def check_token(self, x: Tensor, state: State) -> State:
        """The state, checked like x; raises a ValueError."""

    def tails(self) -> Mapping[str, object]:
        """The tensors of the state that belong to the layer, not to its memory, by name."""

    def memory_step(self, inplace: bool) -> MemoryStep:
        """The step of the memory. It does not refer to the layer, which could then not be freed."""


def take(
    layer: nn.Module, of: Memory, x: Tensor, state: State, inplace: bool, step: TokenStep
) -> tuple[Tensor, State]:
    """``step`` of a layer with the memory ``of``, as planned where that is possible. A copy of a layer has
    plans of its own."""
    key = _key(x, state, inplace)
    plans = None if key is None else _plans.setdefault(layer, Bound())
    if plans and (planned := plans.get(key)) and (done := planned(x, state)):
        return done
    state, memory = of.check_token(x, state), of.memory_step(inplace)
    if plans is not None and key not in plans:
        planned = plans[key] = _plan(layer, x, state, tuple(of.tails()), step, memory)
        if planned is not None and (done := planned(x, state)):  # the same call gives the same numbers
            return done
    return step(x, state, memory)


def _key(x: object, state: object, inplace: bool) -> tuple[object, ...] | None:
    """What calls with the same plan have in common; None for calls that are not planned: with gradients,
    under a transform, a
    dispatch mode, the compiler or autocast, and while diagnostics are collected."""
    if type(x) is not Tensor or type(state) is not State or torch.is_grad_enabled() or x.is_nested:
        return None
    if watched((x,)) or is_recording() or collecting():
        return None
    if x.layout is not torch.strided or x.is_meta or x.is_neg() or torch.is_autocast_enabled(x.device.type):
        return None
    machine = torch.get_num_threads(), library.available()
    return x.shape, x.stride(), x.dtype, state.capacity, inplace, *machine


def _plan(
    layer: nn.Module, x: Tensor, state: State, around: Sequence[str], step: TokenStep, memory: MemoryStep
) -> PlannedStep | None:
    """The step of a layer for tokens like x, of which the call of the memory is kept as it is; None where it
    cannot be recorded. ``around`` are the tensors of the state that are not the memory's."""
    modules, places = tuple(_children(layer)), tuple(_tensors(layer))
    if not _unchanged(modules):
        return None
    remembered = _kept(memory, tuple(name for name in state.tensors if name not in around))

    def recorded(x: Tensor, position: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
        y, after = step(x, State(dict(zip(names, tensors)), position, capacity), remembered)
        return y, after.position, *map(after.tensors.get, names)

    names, capacity = tuple(state.tensors), state.capacity
    learned = tuple(group[name] for group, name in places)
    kept = State.from_state_dict(state.state_dict())  # recording takes the step, too
    try:
        replay = operations.fused(
            record(recorded, (x, kept.position, *kept.tensors.values(), *learned))
        ).replay()
    except NotRecordable:
        return None
    like = [_kind(tensor) for tensor in learned]
    like_around = [(name, *_kind(kept[name])) for name in around]
    rows, device = state.position.shape, x.device

    def run(x: Tensor, state: State) -> tuple[Tensor, State] | None:
        if not _unchanged(modules) or x.device != device or len(state.tensors) != len(names):
            return None
        learned = [group.get(name) for group, name in places]
        if not all(map(_is_like, learned, like)) or state.position.shape != rows:
            return None
        given = dict(state.tensors)
        for name, *kind in like_around:
            if not isinstance(given.get(name), Tensor):
                return None
            given[name] = library.contiguous(given[name])
            if not _is_like(given[name], kind):
                return None
        y, position, *after = replay((x, state.position, *map(given.get, names), *learned))
        return y, State(dict(zip(names, after)), position, capacity)

    return run


def _kept(memory: MemoryStep, names: Sequence[str]) -> MemoryStep:
    """The step of a memory, with the tensors of its state by these names, as one call of a recording."""

    def remembered(
        token: Sequence[Tensor], before: State, controls: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        groups, capacity = (tuple(controls), tuple(params), names), before.capacity

        def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
            each = iter(tensors[4:])
            controls, params, held = ({name: next(each) for name in group} for group in groups)
            y, after = memory(tensors[:3], State(held, tensors[3], capacity), controls, params)
            return y, after.position, *map(after.tensors.get, names)

        held = map(before.tensors.get, names)
        y, position, *after = kept_whole(
            whole, *token, before.position, *controls.values(), *params.values(), *held
        )
        return y, State(dict(zip(names, after)), position, capacity)

    return remembered


def _kind(x: Tensor) -> tuple[type, torch.Size, tuple[int, ...], torch.dtype, torch.device]:
    """What a tensor must keep for the operations on it to stay the same."""
    return type(x), x.shape, x.stride(), x.dtype, x.device


def _is_like(x: object, kind: Sequence[object]) -> bool:
    return (
        type(x) is kind[0]
        and x.shape == kind[1]
        and x.stride() == kind[2]
        and x.dtype is kind[3]
        and x.device == kind[4]
        and not x.is_neg()
    )


def _children(layer: nn.Module) -> Iterator[tuple[Mapping[str, nn.Module | None], str, nn.Module]]:
    """Every module in a layer, with the dictionary and the name under which it is found."""
    for name, module in layer._modules.items():
        yield layer._modules, name, module
        yield from _children(module)


def _tensors(layer: nn.Module) -> Iterator[tuple[Mapping[str, Tensor | None], str]]:
    """The dictionary and the name under which every parameter and buffer of a layer is found."""
    for module in layer.modules():
        for group in (module._parameters, module._buffers):
            yield from ((group, name) for name, tensor in group.items() if tensor is not None)


def _unchanged(modules: Sequence[tuple[Mapping[str, nn.Module | None], str, nn.Module]]) -> bool:
    """Whether these are plain modules without hooks or a ``forward`` of their own, found where they were."""
    for place, name, module in modules:
        if place.get(name) is not module or type(module) not in PLAIN_MODULES:
            return False
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return False
    return True
