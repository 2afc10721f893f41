"""Packed sequences, computed as batches: sequences of about the same length together, those that are shorter
filled up where nothing reads what follows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ttr.forms import Pairs
from ttr.inputs import PER_TOKEN, Inputs
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
    calls = [x] if pieces is None else pieces
    parts = {name: [getattr(call, name) for call in calls] for name in PER_TOKEN}
    parts |= {name: [call.controls[name] for call in calls] for name in x.controls if name != "ridge"}
    sequences = len(x.state.position)
    batched = {
        name: _selected(each[0], rows, sequences)
        if pieces is None
        else _filled(each, time, repeats=name not in ("q", "k", "v"))
        for name, each in parts.items()
        if each[0] is not None
    }
    state = x.state if rows == list(range(sequences)) else x.state.select(rows)
    return dataclasses.replace(
        x,
        **{name: batched.get(name) for name in PER_TOKEN},
        controls={name: batched.get(name, control) for name, control in x.controls.items()},
        state=state if slots is None else with_slots(state, slots),
    )


# Functions of the module: one defined within a call is new to the compiler at every call.


def _selected(whole: Tensor, rows: list[int], sequences: int) -> Tensor:
    """The ``rows`` of a packed tensor [1,T,...] of ``sequences`` of one length, as a batch."""
    batch = whole[0].unflatten(0, (sequences, whole.shape[1] // sequences))
    return batch if len(rows) == sequences else batch[rows]


def _filled(parts: list[Tensor], time: int, repeats: bool) -> Tensor:
    """Tensors [1,t,...] of sequences of at most ``time`` tokens as a batch, filled up with 0 or, if it
    ``repeats``, with the last token."""
    filled = []
    for part in parts:
        missing = time - part.shape[1]
        if missing:
            last = part[:, -1:] if repeats else torch.zeros_like(part[:, -1:])
            part = torch.cat([part, last.expand(-1, missing, *part.shape[2:])], dim=1)
        filled.append(part)
    return filled[0] if len(filled) == 1 else torch.cat(filled)
