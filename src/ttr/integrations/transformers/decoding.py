"""A decoder layer's forward of one token, recorded once and replayed without the Python of its modules.

Decoding calls the same small operations for every token, and the Python around them takes longer than they
do. The recording of a layer is straight: torch's operations, many of which a compiled kernel does in one
call, and between them whole calls of what cannot be recorded: the rules with their states, and modules that
look at numbers (experts) or at what grows with every token (attention, its cache and its mask). Which modules
these are is found by trying.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, LinearAttentionCacheLayerMixin

from ttr.diagnostics import collecting
from ttr.dispatch import Bound
from ttr.engines.native import library, operations
from ttr.recording import NotRecordable, Replay, is_recording, kept_whole, record
from ttr.torch_internals import PLAIN, watched

Arguments = Mapping[int | str, Any]
"""The arguments of a layer's forward, by position or name."""

REPLANNED = 8
"""How often the plans of a layer are made again after it has changed, before it is left to transformers."""

FAILURES = (NotRecordable, AttributeError, TypeError, ValueError, RuntimeError, LookupError)
"""What a recording may fail with; the general path then reports what is wrong, if anything is."""


class Planner:
    """The planned steps of a layer, by what their calls have in common."""

    def __init__(self, layer: nn.Module) -> None:
        self.plans, self.left = Bound(), REPLANNED
        numbers = (getattr(module, "layer_idx", None) for module in layer.modules())
        self.number = next((n for n in numbers if type(n) is int), None)

    def take(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The layer's own forward, planned where that is possible."""
        given: Arguments = dict(enumerate(args)) | kwargs
        key = self._key(layer, given) if self.left else None
        states = None if key is None else _states_of(given, self.number)
        if states is None:
            return type(layer).forward(layer, *args, **kwargs)
        if key not in self.plans and all(map(_is_plain, _inside(layer))):
            self.plans[key] = _plan(layer, self.number, given, tuple(states))
        plan = self.plans.get(key)
        if plan is not None:
            if not plan.fits_layer():
                self.plans.clear()
                self.left -= 1
            elif plan.holds(states):
                return plan(given, states)
        return type(layer).forward(layer, *args, **kwargs)

    def _key(self, layer: nn.Module, given: Arguments) -> tuple[object, ...] | None:
        """What calls with the same plan have in common; None for calls that are not planned: of more than one
        token, without a cache that has seen tokens, with gradients, in training, under a transform, a
        dispatch mode, the compiler or autocast, and while something is recorded."""
        if torch.is_grad_enabled() or layer.training or self.number is None:
            return None
        x, cache = _hidden(given), _cache(given)
        if type(x) is not Tensor or x.ndim != 3 or x.shape[1] != 1 or not x.is_floating_point():
            return None
        streams = _streams(given).values()
        if cache is None or any(type(x) is not Tensor or not x.is_cpu or x.is_neg() for x in streams):
            return None
        if watched(streams) or is_recording() or collecting() or torch.is_autocast_enabled("cpu"):
            return None
        machine = torch.get_num_threads(), library.available()
        pattern = ((place, _simple(value)) for place, value in given.items())
        return *machine, *((x.shape, x.stride(), x.dtype) for x in streams), *pattern


def _hidden(given: Arguments) -> object:
    return given[0] if 0 in given else given.get("hidden_states")


def _streams(given: Arguments) -> dict[int | str, Tensor]:
    """The hidden states and other arguments of their shape: what a layer computes with."""
    shape = _hidden(given).shape
    return {place: x for place, x in given.items() if isinstance(x, Tensor) and x.shape == shape}


def _cache(given: Arguments) -> Cache | None:
    return next((x for x in given.values() if isinstance(x, Cache)), None)


def _simple(value: object) -> object:
    """The argument itself if a layer may branch on its value, else its kind."""
    return value if value is None or type(value) in (bool, int, float, str) else type(value)


@dataclass(frozen=True)
class _Plan:
    """A recorded step: ``replay`` takes the arguments at ``streams``, the states and the learned tensors; its
    outputs are arranged by ``arrange``."""

    streams: tuple[int | str, ...]
    replay: Replay
    arrange: Callable[[Sequence[Tensor]], Any]
    modules: tuple[tuple[Mapping[str, nn.Module | None], str, nn.Module], ...]
    learned: tuple[tuple[Mapping[str, Tensor | None], str], ...]
    states: tuple[tuple[str, int], ...]
    like: tuple[tuple[object, ...], ...]

    def fits_layer(self) -> bool:
        """Whether the modules of the layer are those recorded."""
        return all(place.get(name) is module and _is_plain(module) for place, name, module in self.modules)

    def holds(self, states: Mapping[tuple[str, int], Tensor]) -> bool:
        """Whether the states and the learned tensors are like those recorded."""
        tensors = [*map(states.get, self.states), *(group.get(name) for group, name in self.learned)]
        return len(states) == len(self.states) and all(map(_is_like, tensors, self.like))

    def __call__(self, given: Arguments, states: Mapping[tuple[str, int], Tensor]) -> Any:
        learned = (group[name] for group, name in self.learned)
        before, _thread.given = _thread.given, given
        try:
            streams = map(given.__getitem__, self.streams)
            return self.arrange(self.replay((*streams, *map(states.get, self.states), *learned)))
        finally:
            _thread.given = before


class _Thread(threading.local):
    given: Arguments | None = None


_thread = _Thread()
"""The arguments of the call that is replayed, which the modules that are left whole look at."""


def _plan(
    layer: nn.Module, number: int, given: Arguments, names: tuple[tuple[str, int], ...]
) -> _Plan | None:
    """The step of a layer, with states by these names, for calls like the given one; None where it cannot be
    recorded."""
    whole = {module for module in _inside(layer) if not _is_readable(module)}
    while True:
        try:
            return _recorded(layer, number, given, names, whole)
        except FAILURES as failure:
            module = _innermost(failure.__traceback__, set(_inside(layer)) - whole)
            if module is None:
                return None
            whole.add(module)


def _recorded(
    layer: nn.Module,
    number: int,
    given: Arguments,
    names: tuple[tuple[str, int], ...],
    whole: set[nn.Module],
) -> _Plan:
    """The step of a layer with some of its modules left whole.

    Raises:
        FAILURES: if something else in it cannot be recorded.
    """
    modules, learned = tuple(_children(layer, whole)), tuple(_tensors(layer, whole))
    # a recording takes the step, too, up to twice: each time of a copy
    tried = [
        {p: _copied(x, number) if isinstance(x, Cache) else x for p, x in given.items()} for _ in range(2)
    ]
    states, streams = _states_of(tried[0], number), _streams(given)
    held = [*states.values(), *(group[name] for group, name in learned)]
    tensors = [*streams.values(), *held]
    if any(type(x) not in PLAIN or not x.is_cpu for x in tensors):
        raise NotRecordable("Not all tensors of the layer are plain ones on the CPU.")
    if len(set(map(id, tensors))) < len(tensors):
        raise NotRecordable("A tensor stands at two places, which may hold two at another token.")
    arranged: list[Callable[[Sequence[Tensor]], Any]] = []

    def step(*tensors: Tensor) -> Sequence[Tensor]:
        _thread.given = tried.pop()
        states = dict(zip(names, tensors[len(streams) :]))
        stand = {place: _stand(place, value, number, states) for place, value in given.items()}
        stand |= zip(streams, tensors)
        args = [stand.pop(place) for place in given if isinstance(place, int)]
        flat, arrange = _flattened(type(layer).forward(layer, *args, **stand))
        arranged.append(arrange)
        return *flat, *states.values()  # what is not returned is left out, and with it what writes to states

    before = _thread.given
    try:
        with ExitStack() as stack:
            for module in whole:
                stack.enter_context(_left_whole(module))
            recording = record(step, tensors)
    finally:
        _thread.given = before
    own = {id(x) for module in layer.modules() for x in vars(module).values() if isinstance(x, Tensor)}
    if any(id(x) in own for x in recording.scope.values()):
        raise NotRecordable("A module holds a tensor that is neither a parameter nor a buffer.")
    like = tuple(map(_kind, held))
    replay = operations.fused(recording).replay()
    return _Plan(tuple(streams), replay, arranged[-1], modules, learned, names, like)


@dataclass(frozen=True, eq=False)
class _Argument:
    """Stands, in a recording, for an argument of the layer that only whole modules look at: whatever else is
    done with it fails."""

    place: int | str

    def __bool__(self) -> bool:
        raise NotRecordable("The layer looks at an argument.")


@dataclass(frozen=True, eq=False)
class _States(_Argument):
    """Stands for the cache: it has the states of one layer, as tensors of the recording."""

    number: int
    tensors: Mapping[tuple[str, int], Tensor]

    def _get(self, kind: str, layer_idx: int, state_idx: int) -> Tensor:
        if layer_idx != self.number or (kind, state_idx) not in self.tensors:
            raise NotRecordable("The layer reads the states of another.")
        return self.tensors[kind, state_idx]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        return self._get("conv", layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor:
        return self._get("recurrent", layer_idx, state_idx)

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0) -> Tensor:
        state = self._get("recurrent", layer_idx, state_idx)
        if recurrent_states is not state:
            kept_whole(lambda state, after: (state.copy_(after),), state, recurrent_states)
        return state

    def is_recording_past(self, layer_idx: int) -> bool:
        return False


def _stand(place: int | str, value: object, number: int, states: Mapping[tuple[str, int], Tensor]) -> object:
    """What a recording gets for an argument."""
    if isinstance(value, Cache):
        return _States(place, number, states)
    return value if _simple(value) is value else _Argument(place)


def _states_of(given: Arguments, number: int) -> dict[tuple[str, int], Tensor] | None:
    """The states of a layer in the cache; None if it cannot take a step from them."""
    layer = _cache(given).layers[number] if number < len(_cache(given).layers) else None
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return None if layer is None else {}
    if layer.record_past or not all(layer.has_previous_state.values()):
        return None
    kinds = (("conv", layer.conv_states), ("recurrent", layer.recurrent_states))
    return {(kind, i): x for kind, held in kinds for i, x in held.items() if x is not None}


def _copied(cache: Cache, number: int) -> Cache:
    """The cache with a copy of one layer, in all its lists of layers."""
    made = copy.copy(cache)
    for name, held in vars(cache).items():
        if type(held) is list:
            copied = [copy.deepcopy(x) if i == number else x for i, x in enumerate(held)]
            setattr(made, name, copied)
    return made


@contextmanager
def _left_whole(module: nn.Module) -> Iterator[None]:
    """While something is recorded in this thread, the forward of the module is one call of it, which gets the
    layer's own arguments from the call that is replayed."""
    forward = module.forward

    def whole(*args: Any, **kwargs: Any) -> Any:
        if not is_recording():
            return forward(*args, **kwargs)
        given = dict(enumerate(args)) | kwargs
        tensors = {place: x for place, x in given.items() if isinstance(x, Tensor)}
        arranged: list[Callable[[Sequence[Tensor]], Any]] = []

        def call(*tensors: Tensor) -> Sequence[Tensor]:
            now = {p: _thread.given[x.place] if isinstance(x, _Argument) else x for p, x in given.items()}
            now |= zip(places, tensors)
            args = [now.pop(place) for place in range(count)]
            flat, arrange = _flattened(forward(*args, **now))
            arranged[:] = [arrange]
            return flat

        places, count = tuple(tensors), len(args)
        made = kept_whole(call, *tensors.values())
        return arranged[0](made)

    module.forward = whole
    try:
        yield
    finally:
        del module.forward


def _flattened(output: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of an output, and what makes such an output of tensors."""
    if isinstance(output, Tensor):
        return [output], lambda tensors: tensors[0]
    if type(output) is tuple and all(x is None or isinstance(x, Tensor) for x in output):
        given = [x is not None for x in output]

        def arrange(tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            each = iter(tensors)
            return tuple(next(each) if there else None for there in given)

        return [x for x in output if x is not None], arrange
    raise NotRecordable(f"A module returns {type(output).__name__}.")


def _innermost(traceback: TracebackType | None, modules: set[nn.Module]) -> nn.Module | None:
    """The last of the modules whose method is in a traceback."""
    found = None
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in modules:
            found = owner
        traceback = traceback.tb_next
    return found


def _inside(layer: nn.Module) -> Iterator[nn.Module]:
    """All modules of a layer but itself."""
    return (module for module in layer.modules() if module is not layer)


def _is_readable(module: nn.Module) -> bool:
    """Whether a module computes with its tensors alone, as those of torch and transformers do; others, such
    as adapters, may be switched."""
    return type(module).__module__.startswith(("torch.nn.", "transformers."))


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is in use as its class defines it: without hooks or a forward of its own, and not in
    training."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return not changed and not module.training


def _children(
    layer: nn.Module, whole: set[nn.Module]
) -> Iterator[tuple[Mapping[str, nn.Module | None], str, nn.Module]]:
    """Every module in a layer, not those in whole ones, with where it is found."""
    for name, module in layer._modules.items():
        if module is not None:
            yield layer._modules, name, module
            if module not in whole:
                yield from _children(module, whole)


def _tensors(layer: nn.Module, whole: set[nn.Module]) -> Iterator[tuple[Mapping[str, Tensor | None], str]]:
    """Where every parameter and buffer of a layer is found, without those of whole modules."""
    for group in (layer._parameters, layer._buffers):
        yield from ((group, name) for name, tensor in group.items() if tensor is not None)
    for module in layer._modules.values():
        if module is not None and module not in whole:
            yield from _tensors(module, whole)


def _kind(x: Tensor) -> tuple[object, ...]:
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
