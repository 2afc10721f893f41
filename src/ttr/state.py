"""The memory's state as an object: named tensors with a leading batch axis, and how many tokens they have
seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttr import segments, values
from ttr.forms import CorrectedPairs, Pairs, TransportedPairs
from ttr.problem import Problem
from ttr.slots import EMPTY, beside, with_slots
from ttr.state_tensors import StateTensors
from ttr.torch_internals import MappingKey, register_pytree_node


@dataclass(frozen=True)
class State(StateTensors):
    """What a memory carries from one call to the next; differentiable, and a torch pytree.

    Tensors of a linear memory: "memory" [B,H,F,V]; "normalizer" [B,H,F] with a normalised read-out; of an
    exact ridge "memory" U = sum gamma k v^T and "gram" [B,H,F,F] = sum gamma k k^T. Of a memory of pairs:
    "keys" [B,N,Hk,K], "values" [B,N,Hv,V] and "log_weight" [B,N,H], -inf where a slot is empty; pair i lies
    in slot i, or i mod window. Where the rows of a growing state hold different numbers of pairs, empty slots
    come first, so that every row grows at its end. Of a network: its weights by name and what the solver
    keeps beside each of them, such as "momentum.w1" beside "w1". A mixer adds the states of its convolutions.
    All are float32 or wider. ``position`` [B] counts the tokens seen. ``capacity`` is the fixed number of
    slots of a memory of pairs; None for a state that grows with every call.
    """

    def select(self, rows: Tensor | list[int] | slice) -> State:
        """The state of some rows of the batch, in that order, copied.

        Raises:
            ValueError: if there are no such rows.
        """
        try:
            if not isinstance(rows, slice):
                rows = torch.as_tensor(
                    rows if len(rows) else torch.zeros(0, dtype=torch.int64), device=self.position.device
                ).reshape(len(rows))
            return dataclasses.replace(
                self.map(lambda tensor: tensor[rows].clone()), position=self.position[rows].clone()
            )
        except (IndexError, TypeError, ValueError, RuntimeError) as failure:
            known = f"This state has {len(self.position)} rows, and {rows!r} does not select rows of it."
            raise ValueError(f"{known} Use a list of their numbers, from 0.") from failure

    def reorder(self, beam: Tensor) -> State:
        """Beam search: row i of the result continues row ``beam[i]``."""
        return self.select(beam)

    def state_dict(self) -> dict[str, Tensor]:
        """A flat dict of tensors that share nothing, for saving, for example with safetensors."""
        saved = {
            name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()
        }
        fixed = {} if self.capacity is None else {"capacity": torch.tensor(self.capacity)}
        return {**saved, "position": self.position.clone(), **fixed}

    @staticmethod
    def from_state_dict(tensors: Mapping[str, Tensor]) -> State:
        """The state that ``state_dict`` describes.

        Raises:
            ValueError: if it describes none.
        """
        if not isinstance(tensors, Mapping) or "position" not in tensors:
            raise ValueError(
                "This is not a saved state: it has no 'position'. Use State.state_dict() to save one."
            )
        capacity = tensors.get("capacity")
        capacity = capacity.item() if isinstance(capacity, Tensor) and capacity.numel() == 1 else capacity
        state = State(
            {name: x for name, x in tensors.items() if name not in ("position", "capacity")},
            tensors["position"],
            capacity,
        )
        check_whole(state)
        return state

    def rewind(self, problem: Problem, tokens: int) -> State:
        """The state before its newest ``tokens`` tokens, for memories that store all their pairs: the newest
        are dropped.

        Raises:
            ValueError: if the memory does not determine its earlier state; keep a clone of that instead.
        """
        reason = _cannot_rewind(problem, self, tokens)
        if reason:
            raise ValueError(f"{reason} Keep state.clone() from before those tokens.")
        position = self.position - tokens
        if self.capacity is None:
            kept = {
                name: tensor[:, : tensor.shape[1] - tokens].clone() for name, tensor in self.tensors.items()
            }
            newest = kept["log_weight"][:, -1:]
        else:
            gone = torch.arange(self.capacity, device=position.device) >= position[:, None]
            kept = {
                name: tensor.masked_fill(beside(gone, tensor), EMPTY[name])
                for name, tensor in self.tensors.items()
            }
            newest = kept["log_weight"].gather(
                1, (position[:, None, None] - 1).clamp(min=0).expand(-1, 1, self["log_weight"].shape[-1])
            )
        # the newest remaining pair had weight 1 before the removed tokens decayed it
        if problem.weights.retention is not None and newest.shape[1]:
            if (torch.isneginf(newest) & (position > 0)[:, None, None]).any():
                raise ValueError(
                    "Those tokens reset the memory. Keep state.clone() from before those tokens."
                )
            kept["log_weight"] = kept["log_weight"] - torch.where(torch.isneginf(newest), 0.0, newest)
        return self.replace(**kept, position=position)

    @staticmethod
    def combine(
        problem: Problem,
        first: State,
        second: State,
        *,
        params: Mapping[str, Tensor] | None = None,
        **controls: Tensor,
    ) -> State:
        """The state after two segments, from the state of each: the second's begun empty, as if it were a
        sequence of its own.

        Sums of pairs, and the moments of an exact fit, add up, S = D S_1 + S_2 with D the decay of the second
        segment; stored pairs are joined. The operation is associative, so that segments may be learned
        separately and in any order.

        Args:
            params, controls: of the second segment, as passed to ``regress``: those of the weights, if they
                decay.

        Raises:
            ValueError: if a segment of this memory has no such summary, or the states do not fit; the
                sentence says what to do.
        """
        for state in (first, second):
            check_whole(state)
        return segments.combine(problem, first, second, {} if params is None else params, controls)

    @staticmethod
    def cat(states: list[State]) -> State:
        """One state with the rows of several; memories of pairs are padded with empty slots to the longest.

        Raises:
            ValueError: if they are not states of one memory.
        """
        _check_alike(states)
        slots = max([0, *(s["keys"].shape[1] for s in states if "keys" in s.tensors)])
        padded = [with_slots(s, slots) if "keys" in s.tensors else s for s in states]
        tensors = {name: torch.cat([s[name] for s in padded]) for name in padded[0].tensors}
        return dataclasses.replace(
            padded[0], tensors=tensors, position=torch.cat([s.position for s in padded])
        )


def writable(state: State | None) -> State | None:
    """The state, or a copy if it was made in an inference mode that has ended: torch can neither change nor
    differentiate such tensors."""
    # torch.compile cannot trace the following checks
    if not isinstance(state, State) or torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return state
    check_fields(state)
    return (
        state.clone()
        if any(tensor.is_inference() for tensor in (*state.tensors.values(), state.position))
        else state
    )


def check_fields(state: object) -> None:
    """Raises a ValueError unless this is a ``State`` of dense floating-point tensors and whole numbers of
    tokens."""
    if not isinstance(state, State) or not isinstance(state.tensors, Mapping):
        raise ValueError(
            f"state must be a ttr.State or None, got {type(state).__name__}. Use "
            "ttr.initial_state or the state a call returned."
        )
    for name, tensor in state.tensors.items():
        values.check_tensor(f"The state's {name!r}", tensor)
    position = state.position
    if (
        not isinstance(position, Tensor)
        or position.layout is not torch.strided
        or position.dtype != torch.int64
    ):
        got = position.dtype if isinstance(position, Tensor) else type(position).__name__
        raise ValueError(
            "The state's position must be a tensor of int64, the tokens seen in every row, "
            f"got {got}. Convert it with .long()."
        )
    if state.capacity is not None and not isinstance(state.capacity, int):
        raise ValueError(
            f"The state's capacity must be a number of slots or None, got {state.capacity!r}. "
            "Use initial_state(capacity=...)."
        )


def check_whole(state: State, check_values: bool = True) -> None:
    """Raises a ValueError unless every tensor has a row for every position, on one device, and with
    ``check_values`` also valid numbers."""
    check_fields(state)
    rows = state.position.shape
    if len(rows) != 1 or any(tensor.shape[:1] != rows for tensor in state.tensors.values()):
        raise ValueError(
            f"A state has one position for each row of its tensors, not {list(rows)}. Use all "
            "that State.state_dict() gave."
        )
    if any(tensor.device != state.position.device for tensor in state.tensors.values()):
        raise ValueError("The tensors of this state are on several devices. Move it to one with State.to().")
    if check_values and values.wanted(state.position.device) and not state.position.is_meta:
        values.check_state(state.tensors, state.position)


def _check_alike(states: list[State]) -> None:
    """Raises a ValueError unless the states differ in rows alone, and in slots that grow."""
    if not isinstance(states, list | tuple):
        raise ValueError(
            f"State.cat takes a list of states, got {type(states).__name__}. Use [first, second]."
        )
    for state in states:
        check_whole(state, check_values=False)
    kinds = {
        (
            s.capacity,
            s.position.device,
            *((name, x.shape[1 + (name in EMPTY) :], x.dtype) for name, x in s.tensors.items()),
        )
        for s in states
    }
    if len(kinds) != 1:
        raise ValueError(
            "Only states of one memory, with the same sizes, dtypes and capacity, can be "
            "concatenated. "
            "Use states that calls with the same problem returned; these are "
            f"{'of different kinds' if states else 'none'}."
        )


def _cannot_rewind(problem: Problem, state: State, tokens: int) -> str | None:
    """Why the state cannot be taken back, as a sentence; None if it can."""
    check_whole(state)
    if not isinstance(problem, Problem):
        return f"rewind needs the ttr.Problem of the state, got {problem!r}."
    if not isinstance(tokens, int) or tokens < 0 or (state.position < tokens).any():
        return f"This state has seen {state.position.tolist()} tokens and cannot go back by {tokens}."
    return keeps_too_little(problem, state)


def keeps_too_little(problem: Problem, state: State) -> str | None:
    """Why a state of this memory does not determine the earlier ones, as a sentence; None if it does."""
    folded = problem.recurrence is not None or problem.solver.pairs_per_token > 1
    if folded or not issubclass(problem.form, Pairs):
        return "This memory does not store its pairs separately, and none can be removed."
    if problem.form is TransportedPairs:
        return "Every token has transported the keys of the older pairs, which cannot be undone."
    if set(state.tensors) != set(EMPTY):
        return (
            f"Besides the pairs this state holds {', '.join(sorted(set(state.tensors) - set(EMPTY)))}, "
            "which cannot be rewound."
        )
    if problem.weights.window is not None:
        return "A window has dropped the pairs that would be in it again."
    if state.capacity not in (None, state["log_weight"].shape[1]):
        return (
            f"Its capacity of {state.capacity} is not the number of its slots, so the newest pairs are not "
            "known."
        )
    if problem.weights.retention is not None and problem.weights.importance:
        return (
            "Every pair stores its decay and its importance as one number, from which they cannot be "
            "separated."
        )
    return None


def empty_state(
    problem: Problem,
    batch: int,
    heads: tuple[int, int, int],
    key_size: int,
    value_size: int,
    capacity: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    params: Mapping[str, Tensor] | None = None,
) -> State:
    """The state before the first token; ``heads`` = (heads of the memory, of the keys, of the values),
    ``params`` the function's."""
    memory_heads, key_heads, value_heads = heads
    key_heads = memory_heads if problem.form is TransportedPairs else key_heads
    value_heads = memory_heads if problem.form is CorrectedPairs else value_heads

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch, *shape, device=device, dtype=dtype)

    keeps_pairs = issubclass(problem.form, Pairs)
    if keeps_pairs:
        slots = problem.weights.window or capacity or 0
        tensors = {
            "keys": zeros(slots, key_heads, key_size),
            "values": zeros(slots, value_heads, value_size),
            "log_weight": zeros(slots, memory_heads) - torch.inf,
        }
    else:
        tensors = {
            name: zeros(memory_heads, *shape)
            for name, shape in problem.state_shapes(key_size, value_size).items()
        }
        starts = problem.function.initial(params) if params is not None else {}
        tensors |= {
            name: start.to(tensors[name]).expand_as(tensors[name]).clone() for name, start in starts.items()
        }
    return State(
        tensors,
        torch.zeros(batch, dtype=torch.int64, device=device),
        capacity if keeps_pairs else None,
    )


def _flatten(state: State) -> tuple[list[Any], tuple[tuple[str, ...], int | None]]:
    return [*state.tensors.values(), state.position], (tuple(state.tensors), state.capacity)


def _flatten_with_names(state: State) -> tuple[list[tuple[Any, Any]], Any]:
    leaves, context = _flatten(state)
    return [(MappingKey(name), leaf) for name, leaf in zip((*context[0], "position"), leaves)], context


def _unflatten(leaves: Any, context: tuple[tuple[str, ...], int | None]) -> State:
    *tensors, position = leaves
    names, capacity = context
    return State(dict(zip(names, tensors)), position, capacity)


register_pytree_node(
    State,
    _flatten,
    _unflatten,
    serialized_type_name="ttr.State",
    flatten_with_keys_fn=_flatten_with_names,
)
