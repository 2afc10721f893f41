"""Law 2: whole = any split = token by token; law 3: causal; law 4: packed = separate calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ttr.dispatch import step
from ttr.laws.law import Law, Setting, compare, compare_states
from ttr.laws.rows import Case, Sizes, make_case
from ttr.problem import Problem
from ttr.slots import single
from ttr.state import State

SPLITS = ((4,), (1, 2, 7), (3, 3, 8))
"""Where a sequence of 9 tokens is cut; one of the segments is empty."""


def splits(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Outputs and state of the whole sequence, of segments, and of single tokens through ``step``."""
    case = make_case(problem, past=2, dtype=setting.dtype, device=setting.device).differentiable()
    whole, end = setting.run(case, return_state=True)
    for cuts in SPLITS:
        parts, state = [], case.state
        for start, stop in zip((0, *cuts), (*cuts, case.q.shape[1])):
            y, state = setting.run(case.tokens(slice(start, stop), state), return_state=True)
            parts.append(y)
        yield compare(f"output split at {cuts}", torch.cat(parts, dim=1), whole, setting.dtype)
        yield from compare_states(f"state split at {cuts}", state, end, setting.dtype)
    y, state = _steps(problem, setting, case)
    yield compare("output of steps", y, whole, setting.dtype)
    yield from compare_states("state of steps", state, end, setting.dtype)
    yield from _compare_gradients("through steps", y, whole, case.leaves(), setting)
    with torch.no_grad():  # as in generation, where kernels without gradients run
        y, state = _steps(problem, setting, case, inplace=True)
    yield compare("output of steps in place", y, whole, setting.dtype)
    yield from compare_states("state of steps in place", state, end, setting.dtype)


def _steps(problem: Problem, setting: Setting, case: Case, inplace: bool = False) -> tuple[Tensor, State]:
    """Outputs and state of single tokens; with ``inplace`` from a copy of the case's state, which every token
    overwrites."""
    rows, state = [], case.state.clone() if inplace and case.state is not None else case.state
    for t in range(case.q.shape[1]):
        at = case.tokens(slice(t, t + 1))
        controls = {name: x if name == "ridge" else x[:, 0] for name, x in at.controls.items()}
        y, state = step(
            problem,
            at.q[:, 0],
            at.k[:, 0],
            at.v[:, 0],
            state,
            params=case.params,
            engine=setting.engine,
            inplace=inplace,
            **controls,
        )
        rows.append(y)
    return torch.stack(rows, dim=1), state


def _compare_gradients(
    words: str, y: Tensor, reference: Tensor, leaves: Mapping[str, Tensor], setting: Setting
) -> Iterable[tuple[str, float, float]]:
    """The gradients of two equal outputs with respect to the same leaves."""
    both = [
        torch.autograd.grad(
            out.square().sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        for out in (y, reference)
    ]
    for name, gradient, expected in zip(leaves, *both):
        yield compare(f"gradient of {name} {words}", gradient, expected, setting.dtype)


def causal(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Changing token j leaves y_t, t < j, unchanged to the last bit (adaptive engines: within tolerance,
    derivative 0)."""
    case = make_case(problem, dtype=setting.dtype, device=setting.device)
    other = make_case(problem, dtype=setting.dtype, device=setting.device, seed=1)
    before = setting.run(case)
    for j in (1, 5, 8):
        changed = case.with_leaves(
            {name: _replace_after(x, other.leaves()[name], j, name) for name, x in case.leaves().items()}
        )
        after = setting.run(changed)
        if setting.engine.adaptive:
            yield compare(f"past outputs when token {j} changes", after[:, :j], before[:, :j], setting.dtype)
        else:
            yield (
                f"past outputs when token {j} changes",
                (after[:, :j] - before[:, :j]).abs().max().item(),
                0.0,
            )
    source = case.differentiable()
    y = setting.run(source)
    gradient = torch.autograd.grad(y[:, :5].sum(), source.v)[0]
    yield "derivative of the past in the future", gradient[:, 5:].abs().max().item(), 0.0


def _replace_after(x: Tensor, other: Tensor, token: int, name: str) -> Tensor:
    timed = name != "ridge" and "." not in name
    return torch.cat([x[:, :token], other[:, token:]], dim=1) if timed else x


LENGTHS, PASTS = (3, 0, 5, 1), (4, 1, 2, 3)
"""Lengths of packed sequences, one of them empty, and how many tokens their states have seen before."""


def packed(problem: Problem, setting: Setting) -> Iterable[tuple[str, float, float]]:
    """Packed sequences, each from a state of its own if the problem has states, give the outputs, states and
    gradients of separate calls."""
    bounds = torch.tensor((0, *LENGTHS), device=setting.device).cumsum(0)
    case = make_case(
        problem, Sizes(batch=1, time=sum(LENGTHS)), dtype=setting.dtype, device=setting.device
    ).differentiable()
    if not problem.function.causal:
        parts = [
            setting.run(case.tokens(slice(start, stop)))
            for start, stop in zip(bounds.tolist(), bounds.tolist()[1:])
        ]
        y, separate = setting.run(case, cu_seqlens=bounds), torch.cat(parts, dim=1)
        yield compare("output packed", y, separate, setting.dtype)
        yield from _compare_gradients("packed", y, separate, case.leaves(), setting)
        return
    pasts = [
        make_case(
            problem, Sizes(batch=1, time=1), past=past, dtype=setting.dtype, device=setting.device
        ).state
        for past in PASTS
    ]
    starts = State.cat(pasts).map(lambda x: x if torch.isneginf(x).any() else x.clone().requires_grad_())
    y, end = setting.run(case, state=starts, cu_seqlens=bounds, return_state=True)

    parts, ends = [], []
    for row, (start, stop) in enumerate(zip(bounds.tolist(), bounds.tolist()[1:])):
        part, state = setting.run(
            case.tokens(slice(start, stop), single(starts, row, problem.weights.window)), return_state=True
        )
        parts.append(part)
        ends.append(state)
    separate = torch.cat(parts, dim=1)
    yield compare("output packed", y, separate, setting.dtype)
    yield from compare_states("state packed", end, State.cat(ends), setting.dtype)
    leaves = case.leaves() | {f"state.{name}": x for name, x in starts.tensors.items() if x.requires_grad}
    yield from _compare_gradients("packed", y, separate, leaves, setting)
    whole = make_case(
        problem, Sizes(batch=1, time=4), past=min(PASTS), dtype=setting.dtype, device=setting.device
    )
    ragged = State.cat([whole.state, *pasts]).select([0])
    bounds = torch.tensor([0, 4], device=setting.device)
    yield compare(
        "output from a ragged state",
        setting.run(whole, state=ragged, cu_seqlens=bounds),
        setting.run(whole),
        setting.dtype,
    )


LAWS = (
    Law(2, "whole = split = steps", splits, streaming=True),
    Law(3, "causal", causal, streaming=True),
    Law(4, "packed = separate", packed),
)
