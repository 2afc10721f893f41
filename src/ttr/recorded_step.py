"""The bound step of every memory that has no specialised one: recorded as a whole where its state keeps its
shapes, else without the checks and conversions before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from ttr import values
from ttr.diagnostics import collecting
from ttr.engines.engine import Engine
from ttr.engines.native import library, operations
from ttr.engines.sources import alike
from ttr.engines.specialised_step import BoundStep
from ttr.forms import Pairs
from ttr.one_token import may_write, overwrite, prepare_token
from ttr.problem import Problem
from ttr.recording import NotRecordable, record
from ttr.state import State
from ttr.torch_internals import PLAIN, watched

Compute = Callable[[Sequence[Tensor], State], tuple[Tensor, State]]
"""(q, k, v, *controls, *params; the state) -> y [B,H,V] and the state after the token."""


def bind(
    problem: Problem,
    engine: Engine,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State,
    controls: Mapping[str, Tensor | float],
    params: Mapping[str, Tensor],
    inplace: bool,
) -> BoundStep | None:
    """A step for tokens q, k, v like these; None where even its checks look at the numbers of its tensors."""
    names = tuple(controls), tuple(params), tuple(state.tensors)
    token = (q, k, v, *controls.values(), *params.values())
    if any(type(x) not in PLAIN for x in (*token, *state.tensors.values(), state.position)):
        return None
    try:
        if issubclass(problem.form, Pairs):
            compute = _prepared(problem, engine, names, token, inplace)
        else:
            compute = _recorded(problem, engine, names, token, state)
    except (NotRecordable, ValueError, RuntimeError):  # the general path knows what is wrong with this token
        return None
    return _RecordedStep(problem, compute, names, token, state, inplace)


class _RecordedStep:
    """The step of tokens like ``token`` from states like ``state``: see ``BoundStep``."""

    def __init__(
        self,
        problem: Problem,
        compute: Compute,
        names: tuple[tuple[str, ...], ...],
        token: Sequence[Tensor],
        state: State,
        inplace: bool,
    ) -> None:
        self.compute, self.names, self.inplace = compute, names, inplace
        self.horizon, self.capacity = problem.weights.horizon, state.capacity
        self.grows = issubclass(problem.form, Pairs) and problem.weights.window is None
        self.grows = self.grows and state.capacity is None
        memory = *state.tensors.values(), state.position
        self.token_shapes, self.shapes = ([x.shape for x in group] for group in (token, memory))
        self.dtypes = tuple(x.dtype for x in (*token, *memory))

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: State | None,
        controls: Mapping[str, Tensor],
        params: Mapping[str, Tensor],
    ) -> tuple[Tensor, State] | None:
        of_controls, of_params, _ = self.names
        if len(controls) != len(of_controls) or len(params) != len(of_params):
            return None
        token = q, k, v, *map(controls.get, of_controls), *map(params.get, of_params)
        if not self._fits(token, state):
            return None
        checked = values.wanted(q.device)
        if checked:
            self._check(token, state)
        try:
            y, new = self.compute(token, state)
        except torch.linalg.LinAlgError:
            return None
        # the general path knows whether such numbers are an error, and tries again with more digits
        if checked and values.suspicious(y):
            return None
        if self.inplace and not self.grows:
            new = overwrite(state, new)
        if checked:
            for tensor in new.tensors.values():
                values.vouch(tensor)
        return y, new

    def _fits(self, token: Sequence[Tensor], state: object) -> bool:
        if type(state) is not State or type(state.tensors) is not dict or state.capacity != self.capacity:
            return False
        if len(state.tensors) != len(self.names[2]) or torch.is_autocast_enabled("cpu"):
            return False
        # a replay reports no diagnostics, and its kernels are not operations of torch
        if collecting() or watched(token):
            return False
        memory = *map(state.tensors.get, self.names[2]), state.position
        shapes = self.shapes
        if self.grows:
            first = memory[0]
            slots = first.shape[1:2] if isinstance(first, Tensor) and not first.is_nested else ()
            shapes = [*(torch.Size((*s[:1], *slots, *s[2:])) for s in shapes[:-1]), shapes[-1]]
        if not alike((*token, *memory), (*self.token_shapes, *shapes), self.dtypes, contiguous=False):
            return False
        if self.horizon is not None and max(state.position.tolist(), default=0) >= self.horizon:
            return False
        return not self.inplace or all(map(may_write, memory))

    def _check(self, token: Sequence[Tensor], state: State) -> None:
        """Raises a ValueError as the general path does."""
        of_controls, of_params, _ = self.names
        for name, x in zip(("q", "k", "v"), token):
            values.check_finite(name, x)
        for name, x in zip(of_controls, token[3:]):
            values.check_control(name, x)
        for name, x in zip(of_params, token[3 + len(of_controls) :]):
            values.check_finite(repr(name), x)
        values.check_state(state.tensors, state.position)


def _split(names: tuple[tuple[str, ...], ...], tensors: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Tensors as one mapping for each group of names, in that order."""
    ends = list(accumulate(map(len, names), initial=0))
    return [dict(zip(group, tensors[start:stop])) for group, start, stop in zip(names, ends, ends[1:])]


def _recorded(
    problem: Problem,
    engine: Engine,
    names: tuple[tuple[str, ...], ...],
    token: Sequence[Tensor],
    state: State,
) -> Compute:
    """The whole step as its torch operations."""
    held, capacity = names[2], state.capacity

    def step(*tensors: Tensor) -> Sequence[Tensor]:
        controls, params, memory = _split(names, tensors[3:])
        before = State(memory, tensors[-1], capacity)
        x = prepare_token(problem, *tensors[:3], before, params, False, controls)
        y, after = engine.step(problem, x)
        return y[:, 0].to(x.out_dtype), *map(after.tensors.get, held), after.position

    replay = operations.fused(
        record(step, [library.contiguous(x) for x in (*token, *state.tensors.values(), state.position)])
    ).replay()

    def compute(token: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
        tensors = chain(token, map(state.tensors.get, held), [state.position])
        y, *after = replay([library.contiguous(x) for x in tensors])
        return y, State(dict(zip(held, after)), after[-1], capacity)

    return compute


FIELDS = ("q", "k", "v", "log_retention", "log_importance", "rates", "phase")
"""The tensors of ``Inputs``, beside its mappings."""


def _prepared(
    problem: Problem,
    engine: Engine,
    names: tuple[tuple[str, ...], ...],
    token: Sequence[Tensor],
    inplace: bool,
) -> Compute:
    """The engine's step after recorded checks and conversions."""

    def prepare(*tensors: Tensor) -> Sequence[Tensor]:
        controls, params = _split(names[:2], tensors[3:])
        x = prepare_token(problem, *tensors[:3], None, params, False, controls)
        fields = (getattr(x, name) for name in present)
        return *fields, *map(x.controls.get, names[0]), *map(x.params.get, names[1])

    controls, params = _split(names[:2], token[3:])
    like = prepare_token(problem, *token[:3], None, params, False, controls)
    present = [name for name in FIELDS if getattr(like, name) is not None]
    replay = record(prepare, [library.contiguous(x) for x in token]).replay()

    def compute(token: Sequence[Tensor], state: State) -> tuple[Tensor, State]:
        tensors = replay([library.contiguous(x) for x in token])
        fields = dict(zip(present, tensors))
        controls, params = _split(names[:2], tensors[len(present) :])
        x = dataclasses.replace(
            like, **fields, controls=controls, params=params, state=state, owns_state=inplace
        )
        y, new = engine.step(problem, x)
        return y[:, 0].to(like.out_dtype), new

    return compute
