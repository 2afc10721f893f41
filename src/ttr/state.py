"""The memory's state as an object: named tensors with a leading batch axis, and how many tokens they have seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils import _pytree as pytree

from ttr import values
from ttr.axes import axis_params, with_rates
from ttr.problem import Problem

EMPTY = {"keys": 0.0, "values": 0.0, "log_weight": -torch.inf}
"""What an empty slot of a memory of pairs holds."""


@dataclass(frozen=True)
class State:
    """What a memory carries from one call to the next; differentiable, and a torch pytree.

    Tensors of a linear memory: "memory" [B,H,F,V]; "normalizer" [B,H,F] with a normalised read-out; of an exact ridge
    "memory" U = sum gamma k v^T and "gram" [B,H,F,F] = sum gamma k k^T. Of a memory of pairs: "keys" [B,N,Hk,K], "values"
    [B,N,Hv,V] and "log_weight" [B,N,H], -inf where a slot is empty; pair i lies in slot i, or i mod window. Where the rows of a
    growing state hold different numbers of pairs, empty slots come first, so that every row grows at its end. Of a network: its
    weights by name and what the solver keeps beside each of them, such as "momentum.w1" beside "w1". A mixer adds the
    tails of its convolutions. All are float32 or wider. ``position`` [B] counts the tokens seen. ``capacity`` is the fixed
    number of slots of a memory of pairs that was made with one; without, it grows with every call.
    """

    tensors: Mapping[str, Tensor]
    position: Int[Tensor, " B"]
    capacity: int | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """The state with ``function`` applied to every tensor but the position."""
        return dataclasses.replace(self, tensors={name: function(tensor) for name, tensor in self.tensors.items()})

    def replace(self, **tensors: Tensor) -> State:
        """The state with some tensors (or ``position``) replaced or added."""
        position = tensors.pop("position", self.position)
        return dataclasses.replace(self, tensors={**self.tensors, **tensors}, position=position)

    def clone(self) -> State:
        """A copy that shares nothing."""
        return dataclasses.replace(self.map(Tensor.clone), position=self.position.clone())

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        """``clone``: torch copies tensors in a graph in no other way."""
        return self.clone()

    def detach(self) -> State:
        """The same numbers, cut from the graph."""
        return self.map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> State:
        """As ``Tensor.to``; the position keeps its integer type."""
        moved = self.map(lambda tensor: tensor.to(*args, **kwargs))
        device = next((t.device for t in moved.tensors.values()), self.position.device)
        return dataclasses.replace(moved, position=self.position.to(device))

    def select(self, rows: Tensor | list[int] | slice) -> State:
        """The state of some rows of the batch, in that order, copied."""
        rows = torch.as_tensor(rows or torch.zeros(0, dtype=torch.int64), device=self.position.device) if isinstance(rows, list) else rows
        return dataclasses.replace(self.map(lambda tensor: tensor[rows].clone()), position=self.position[rows].clone())

    def reorder(self, beam: Tensor) -> State:
        """Beam search: row i of the result continues row ``beam[i]``."""
        return self.select(beam)

    def state_dict(self) -> dict[str, Tensor]:
        """A flat dict of tensors that share nothing, for saving, for example with safetensors."""
        saved = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()}
        fixed = {} if self.capacity is None else {"capacity": torch.tensor(self.capacity)}
        return {**saved, "position": self.position.clone(), **fixed}

    @staticmethod
    def from_state_dict(tensors: Mapping[str, Tensor]) -> State:
        """The state that ``state_dict`` describes.

        Raises:
            ValueError: if there is no position.
        """
        if "position" not in tensors:
            raise ValueError("This is not a saved state: it has no 'position'. Use State.state_dict() to save one.")
        capacity = int(tensors["capacity"]) if "capacity" in tensors else None
        return State({name: tensor for name, tensor in tensors.items() if name not in ("position", "capacity")}, tensors["position"], capacity)

    @property
    def nbytes(self) -> int:
        """Bytes that the memory holds, the position left out."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def rewind(self, problem: Problem, tokens: int) -> State:
        """The state before its newest ``tokens`` tokens: a memory that keeps all its pairs drops the newest.

        Raises:
            ValueError: if the memory does not hold what it was; a clone from before those tokens does.
        """
        reason = _cannot_rewind(problem, self, tokens)
        if reason:
            raise ValueError(f"{reason} Keep state.clone() from before those tokens.")
        position = self.position - tokens
        if self.capacity is None:
            kept = {name: tensor[:, : tensor.shape[1] - tokens].clone() for name, tensor in self.tensors.items()}
            newest = kept["log_weight"][:, -1:]
        else:
            gone = torch.arange(self.capacity, device=position.device) >= position[:, None]
            kept = {name: tensor.masked_fill(_beside(gone, tensor), EMPTY[name]) for name, tensor in self.tensors.items()}
            newest = kept["log_weight"].gather(1, (position[:, None, None] - 1).clamp(min=0).expand(-1, 1, self["log_weight"].shape[-1]))
        if problem.weights.retention is not None and newest.shape[1]:  # the newest pair left had weight 1 before the tokens forgot
            if (torch.isneginf(newest) & (position > 0)[:, None, None]).any():
                raise ValueError("Those tokens forgot everything before them. Keep state.clone() from before those tokens.")
            kept["log_weight"] = kept["log_weight"] - torch.where(torch.isneginf(newest), 0.0, newest)
        return self.replace(**kept, position=position)

    @staticmethod
    def combine(problem: Problem, first: State, second: State, *, params: Mapping[str, Tensor] | None = None, **controls: Tensor) -> State:
        """The state after two segments, from the state of each: the second's begun empty, as if it were a sequence of its own.

        Sums of pairs, and the moments of an exact fit, add up, S = D S_1 + S_2 with D what the second segment keeps of the
        past; kept pairs are joined. The operation is associative, so that segments may be learned apart and in any order.

        Args:
            params, controls: of the second segment, as ``regress`` got them: what the weights declare, if they forget.

        Raises:
            ValueError: if a segment of this memory has no such summary, or the states do not fit; the sentence says what to do.
        """
        _check_summaries(problem, first, second)
        log_decay = _forgotten_over(problem, second, params or {}, controls)
        position = first.position + second.position
        if problem.memory == "pairs":
            return _join(first, second, problem.weights.window, log_decay).replace(position=position)
        if log_decay is None:
            return first.replace(**{name: first[name] + second[name] for name in first}, position=position)
        kept = log_decay.exp()
        return first.replace(**{name: _beside(kept, first[name]) * first[name] + second[name] for name in first}, position=position)

    @staticmethod
    def cat(states: list[State]) -> State:
        """One state with the rows of several; memories of pairs are padded with empty slots to the longest."""
        slots = max((s["keys"].shape[1] for s in states if "keys" in s.tensors), default=0)
        padded = [_with_slots(s, slots) if "keys" in s.tensors else s for s in states]
        tensors = {name: torch.cat([s[name] for s in padded]) for name in padded[0].tensors}
        return dataclasses.replace(padded[0], tensors=tensors, position=torch.cat([s.position for s in padded]))


def writable(state: State | None) -> State | None:
    """The state, or a copy where it was made in inference mode, which has ended: torch neither changes nor differentiates such tensors."""
    if not isinstance(state, State) or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():  # it cannot trace the questions
        return state
    return state.clone() if any(tensor.is_inference() for tensor in (*state.tensors.values(), state.position)) else state


def check_fields(state: object) -> None:
    """Raises a ValueError unless this is a ``State`` of dense floating-point tensors and whole numbers of tokens."""
    if not isinstance(state, State) or not isinstance(state.tensors, Mapping):
        raise ValueError(f"state must be a ttr.State or None, got {type(state).__name__}. Use ttr.initial_state or the state a call returned.")
    for name, tensor in state.tensors.items():
        values.check_tensor(f"The state's {name!r}", tensor)
    position = state.position
    if not isinstance(position, Tensor) or position.layout is not torch.strided or position.dtype != torch.int64:
        got = position.dtype if isinstance(position, Tensor) else type(position).__name__
        raise ValueError(f"The state's position must be a tensor of int64, the tokens seen in every row, got {got}. Convert it with .long().")


def _with_slots(state: State, slots: int) -> State:
    """The state of a memory of pairs with ``slots`` slots: empty ones go in front of the pairs, and are cut off there."""
    held = state["keys"].shape[1]

    def resize(tensor: Tensor, fill: float) -> Tensor:
        empty = tensor.new_full((tensor.shape[0], max(slots - held, 0), *tensor.shape[2:]), fill)
        return torch.cat([empty, tensor[:, max(held - slots, 0):]], dim=1)

    return state.replace(**{name: resize(state[name], fill) for name, fill in EMPTY.items()})


def _cannot_rewind(problem: Problem, state: State, tokens: int) -> str | None:
    """Why the state cannot be taken back, as a sentence; None if it can."""
    if tokens < 0 or (state.position < tokens).any():
        return f"This state has seen {state.position.tolist()} tokens and cannot go back by {tokens}."
    if problem.memory != "pairs" or problem.recurrence is not None or problem.solver.pairs_per_token > 1:
        return "This memory has mixed its pairs, and none can be taken out again."
    if problem.function.transported:
        return "Every token has turned the keys of the older pairs, which cannot be turned back."
    if set(state.tensors) != set(EMPTY):
        return f"Besides the pairs this state holds {', '.join(sorted(set(state.tensors) - set(EMPTY)))}, which cannot be taken back."
    if problem.weights.window is not None:
        return "A window has given up the pairs that would be in it again."
    if problem.weights.retention is not None and problem.weights.importance:
        return "Every pair keeps what is forgotten of it and its importance in one number, which cannot be told apart."
    return None


def _check_summaries(problem: Problem, first: State, second: State) -> None:
    """Raises a ValueError unless the two states are associative summaries of segments of the same problem."""
    summed = problem.memory == "moments" or problem.memory == "matrix" and problem.solver.additive
    kept = problem.memory == "pairs" and not (problem.function.transported or problem.solver.corrects)  # as they came
    if problem.recurrence is not None or problem.solver.weights_act_on == "memory" or not (summed or kept):
        raise ValueError("What a segment does to this memory depends on what it held before, so segments have no summary. "
                         "Pass the first segment's state to regress with the second.")
    if first.capacity is not None or second.capacity is not None:
        raise ValueError("States with a fixed capacity cannot be joined. Use states that grow, as regress(return_state=True) returns them.")

    def shapes(state: State) -> dict[str, tuple[int, ...]]:
        slots = problem.memory == "pairs" and problem.weights.window is None
        return {name: (*tensor.shape[:1], *tensor.shape[2:]) if slots else tuple(tensor.shape) for name, tensor in state.tensors.items()}

    expected = set(EMPTY) if problem.memory == "pairs" else set(problem.state_shapes(2, 2))
    if shapes(first) != shapes(second) or set(first.tensors) != expected:
        raise ValueError(f"States of {shapes(first)} and {shapes(second)} cannot be combined. Use two states of this problem, with the same sizes.")


def _forgotten_over(problem: Problem, segment: State, params: Mapping[str, Tensor], controls: Mapping[str, Tensor]) -> Tensor | None:
    """The log of what a segment keeps of what came before it, [B,H] or [B,H,K]; None if it keeps everything."""
    weights = problem.weights
    if weights.retention is None:
        return None
    if set(controls) != set(weights.controls()):
        raise ValueError(f"combine needs the second segment's {', '.join(weights.controls()) or 'state alone, and no controls'}, "
                         f"got {', '.join(controls) or 'nothing'}. Pass the controls of the weights that regress got.")
    wrong = [name for name, control in controls.items() if (segment.position != control.shape[1]).any()]
    if wrong:
        raise ValueError(f"The second segment has seen {segment.position.tolist()} tokens, but {', '.join(wrong)} brings another number. "
                         "Pass the controls of exactly its tokens.")
    tensor = next(iter(segment.tensors.values()))
    heads = segment["log_weight"].shape[-1] if problem.memory == "pairs" else tensor.shape[1]
    of_weights = axis_params(params, "weights")
    log_decay = weights.log_retention({name: x.to(tensor) for name, x in controls.items()}, of_weights, heads, tensor)
    rates = weights.rates(of_weights)
    log_decay = log_decay if rates is None else with_rates(log_decay, rates.to(tensor))
    axes = 4 if weights.retention == "channel" else 3
    if log_decay.ndim == axes and controls:
        return log_decay.sum(1)
    rate = log_decay.reshape(log_decay.shape[2 - axes :])  # the same at every token
    time = segment.position.reshape(-1, *(1,) * rate.ndim)
    return torch.where(time > 0, time * rate, 0.0)


def _join(first: State, second: State, window: int | None, log_decay: Tensor | None) -> State:
    """The pairs of both, those of the first with what the second has left of their weights."""
    old = first if log_decay is None else first.replace(log_weight=first["log_weight"] + log_decay[:, None])
    if window is None:
        both = {name: torch.cat([old[name], second[name]], dim=1) for name in old}
        slots = [pair_index(state, None) >= 0 for state in (first, second)]
        order = torch.cat(slots, dim=1).long().argsort(dim=1, stable=True)  # the empty ones first
        longest = int((first.position + second.position).max()) if order.shape[0] else 0
        order = order[:, order.shape[1] - longest :]
        return first.replace(**{name: _take(tensor, order) for name, tensor in both.items()})
    order = (torch.arange(window, device=first.position.device) - first.position[:, None]) % window
    index = pair_index(second, window).gather(1, order)
    newer = {name: _take(second[name], order) for name in old}
    return first.replace(**{name: torch.where(_beside(index >= 0, tensor), newer[name], tensor) for name, tensor in old.tensors.items()})


def _take(tensor: Tensor, slots: Tensor) -> Tensor:
    """The tensor [B,N,...] with its slots in the order [B,M]."""
    return tensor.gather(1, _beside(slots, tensor).expand(-1, -1, *tensor.shape[2:]))


def _beside(x: Tensor, tensor: Tensor) -> Tensor:
    """x [B,...] with further axes, to be broadcast against a tensor [B,...,...]."""
    return x.reshape(*x.shape, *(1,) * (tensor.ndim - x.ndim))


def single(state: State, row: int, window: int | None) -> State:
    """The state of one packed sequence, without the empty slots that longer ones made necessary."""
    one = state.select(slice(row, row + 1))
    if "keys" not in state.tensors or window is not None or state.capacity is not None:
        return one
    return _with_slots(one, int(one.position))


def pair_index(state: State, window: int | None) -> Int[Tensor, "B N"]:
    """The number of the pair in every slot, counted from the first token; only slots with a weight hold one."""
    slots = torch.arange(state["keys"].shape[1], device=state.position.device)
    if window is None:
        empty = 0 if state.capacity is not None else state["keys"].shape[1] - state.position[:, None]
        return (slots - empty).expand(state.position.shape[0], -1)
    newest = state.position[:, None] - 1
    return newest - (newest - slots) % window


def append_pairs(state: State, window: int | None, keys: Tensor, values: Tensor, log_weight: Tensor, log_decay: Tensor | None) -> State:
    """The state after T more pairs: keys [B,T,Hk,K], values [B,T,Hv,V], their log weights [B,T,H] seen from the last token.

    ``log_decay`` [B,H] is what the T tokens together take off the pairs already there. Raises:
        ValueError: if a fixed capacity is exceeded (checked in eager calls on the CPU).
    """
    time = keys.shape[1]
    old_weight = state["log_weight"] if log_decay is None else state["log_weight"] + log_decay[:, None]
    new = {"keys": keys, "values": values, "log_weight": log_weight}
    old = {"keys": state["keys"], "values": state["values"], "log_weight": old_weight}
    position = state.position + time
    if window is None and state.capacity is None:
        return state.replace(**{name: torch.cat([old[name], new[name]], dim=1) for name in new}, position=position)
    if window is not None:
        new = {name: tensor[:, max(time - window, 0):] for name, tensor in new.items()}
    elif position.device.type == "cpu" and not torch.compiler.is_compiling() and (position > state.capacity).any():
        raise ValueError(f"This state has room for {state.capacity} pairs and needs {int(position.max())}. Use initial_state with a larger capacity.")
    written = new["keys"].shape[1]
    slots = position[:, None] - written + torch.arange(written, device=position.device)
    slots = slots if window is None else slots % window

    def put(old_tensor: Tensor, new_tensor: Tensor) -> Tensor:
        index = slots.reshape(*slots.shape, *(1,) * (old_tensor.ndim - 2)).expand_as(new_tensor)
        return old_tensor.scatter(1, index, new_tensor)

    return state.replace(**{name: put(old[name], new[name]) for name in new}, position=position)


def empty_state(problem: Problem, batch: int, heads: tuple[int, int, int], key_size: int, value_size: int, capacity: int | None = None,
                device: torch.device | None = None, dtype: torch.dtype = torch.float32, params: Mapping[str, Tensor] | None = None) -> State:
    """The state before the first token; ``heads`` = (heads of the memory, of the keys, of the values), ``params`` the function's."""
    memory_heads, key_heads, value_heads = heads
    key_heads = memory_heads if problem.function.transported else key_heads
    value_heads = memory_heads if problem.solver.corrects else value_heads

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, *shape, device=device, dtype=dtype)

    if problem.memory == "pairs":
        slots = problem.weights.window or capacity or 0
        tensors = {"keys": zeros(slots, key_heads, key_size), "values": zeros(slots, value_heads, value_size),
                   "log_weight": zeros(slots, memory_heads) - torch.inf}
    else:
        tensors = {name: zeros(memory_heads, *shape) for name, shape in problem.state_shapes(key_size, value_size).items()}
        starts = problem.function.initial(params) if params is not None else {}
        tensors |= {name: start.to(tensors[name]).expand_as(tensors[name]).clone() for name, start in starts.items()}
    return State(tensors, torch.zeros(batch, dtype=torch.int64, device=device), capacity if problem.memory == "pairs" else None)


def _flatten(state: State) -> tuple[list[Any], tuple[tuple[str, ...], int | None]]:
    return [*state.tensors.values(), state.position], (tuple(state.tensors), state.capacity)


def _unflatten(leaves: Any, context: tuple[tuple[str, ...], int | None]) -> State:
    *tensors, position = leaves
    names, capacity = context
    return State(dict(zip(names, tensors)), position, capacity)


pytree.register_pytree_node(State, _flatten, _unflatten, serialized_type_name="ttr.State")
