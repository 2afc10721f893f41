"""Packed sequences, computed as batches: sequences of about the same length together, those that are shorter
filled up where nothing reads what follows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ttr.forms import Pairs
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.slots import with_slots
from ttr.state import State

Run = Callable[[Problem, Inputs], tuple[Tensor, State]]

FULL = 0.75
"""The shortest sequence of a batch, relative to the longest: up to a quarter of a batch is padding, which
costs less than another call of the engine."""


def run(take: Run, problem: Problem, x: Inputs, bounds: Sequence[int]) -> tuple[Tensor, State]:
    """The read-outs [1,T,H,V] of sequences packed along time, and the state with a row of each; ``take``
    computes a batch.

    Args:
        bounds: [0, ..., T].
    """
    lengths = [stop - start for start, stop in zip(bounds, bounds[1:])]
    if not lengths:
        return x.q.new_zeros(1, 0, x.heads, x.v.shape[-1]), x.state
    parts, states, rows, tokens = [], [], [], []
    pieces = x.split(lengths) if len(set(lengths)) > 1 else None
    for batch, slots in _batches(problem, x, lengths):
        time = lengths[batch[0]]
        own = None if pieces is None else [pieces[row] for row in batch]
        y, state = take(problem, _batch(x, own, batch, time, slots))
        if all(lengths[row] == time for row in batch):
            parts.append(y.flatten(0, 1))
        else:
            parts += [own[: lengths[row]] for own, row in zip(y, batch)]
        states.append(state)
        rows += batch
        tokens += (token for row in batch for token in range(bounds[row], bounds[row + 1]))
    y = parts[0] if len(parts) == 1 else torch.cat(parts)
    state = states[0] if len(states) == 1 or not x.wants_state else State.cat(states)
    if rows != sorted(rows):
        y = y[torch.tensor(tokens, device=y.device).argsort()]
        state = state.select(torch.tensor(rows).argsort()) if x.wants_state else state
    return y[None], state


def _batches(problem: Problem, x: Inputs, lengths: Sequence[int]) -> Iterator[tuple[list[int], int | None]]:
    """The rows of each batch, from the longest to the shortest, and how many pairs each of them holds, if the
    states grow: sequences of one length, or of about the same where what fills up the shorter ones would not
    be learned."""
    grows = issubclass(problem.form, Pairs) and problem.weights.window is None and x.state.capacity is None
    slots = x.state.position.tolist() if grows else [None] * len(lengths)
    share = 1.0 if x.wants_state or not problem.function.causal else FULL
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (slots[row] or 0, -lengths[row])):
        if batch and (slots[row] != slots[batch[0]] or lengths[row] < share * lengths[batch[0]]):
            yield batch, slots[batch[0]]
            batch = []
        batch.append(row)
    yield batch, slots[batch[0]]


def _batch(x: Inputs, pieces: list[Inputs] | None, rows: list[int], time: int, slots: int | None) -> Inputs:
    """The call of the sequences ``rows`` of a packed one, ``pieces``, the longest first, as a batch; None
    where all have one length. What fills up a shorter one is 0 in q, k and v, and in the controls its last
    token."""

    def batched(take: Callable[[Inputs], Tensor], repeats: bool) -> Tensor:
        if pieces is None:
            whole = take(x)[0].unflatten(0, (len(x.state.position), time))
            return whole if len(rows) == len(whole) else whole[rows]
        filled = []
        for part in map(take, pieces):
            missing = time - part.shape[1]
            if missing:
                last = part[:, -1:] if repeats else torch.zeros_like(part[:, -1:])
                part = torch.cat([part, last.expand(-1, missing, *part.shape[2:])], dim=1)
            filled.append(part)
        return filled[0] if len(filled) == 1 else torch.cat(filled)

    def field(name: str) -> Tensor | None:
        if getattr(x, name) is None:
            return None
        return batched(lambda call: getattr(call, name), repeats=name not in ("q", "k", "v"))

    controls = {
        name: control if name == "ridge" else batched(lambda call, name=name: call.controls[name], True)
        for name, control in x.controls.items()
    }
    state = x.state if rows == list(range(len(x.state.position))) else x.state.select(rows)
    return dataclasses.replace(
        x,
        **{name: field(name) for name in ("q", "k", "v", "log_retention", "log_importance", "phase")},
        controls=controls,
        state=state if slots is None else with_slots(state, slots),
    )
