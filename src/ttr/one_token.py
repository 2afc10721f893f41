"""The call of one token: the checks of ``prepare`` without a time axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ttr.inputs import Inputs
from ttr.prepare import check_problem, check_streaming, prepare
from ttr.problem import Problem
from ttr.state import State
from ttr.values import check_tensor


def prepare_token(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    params: Mapping[str, Tensor] | None,
    inplace: bool,
    controls: Mapping[str, Tensor | float],
) -> Inputs:
    """The checked call of one token, as a sequence of length 1; with ``inplace`` it owns the state, where
    that can be overwritten.

    Raises:
        ValueError: as ``prepare``.
    """
    check_problem(problem)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x)
        if x.ndim != (3 if name == "q" or problem.solver.pairs_per_token == 1 else 4):
            raise ValueError(
                f"step takes one token, q [batch, heads, channels], got {name} of shape "
                f"{tuple(x.shape)}. Use regress for a sequence."
            )

    def timed(name: str, x: Tensor | float) -> Tensor | float:
        if not isinstance(x, Tensor):
            return x
        check_tensor(f"The control {name!r}", x)
        return x if name == "ridge" or x.ndim == 0 else x[:, None]

    check_streaming(problem, True)
    x = prepare(
        problem,
        q[:, None],
        k[:, None],
        v[:, None],
        params,
        state,
        None,
        {name: timed(name, c) for name, c in controls.items()},
    )
    owns_state = (
        inplace
        and state is not None
        and not x.wants_grad
        and all(map(may_write, (*state.tensors.values(), state.position)))
    )
    return replace(x, owns_state=owns_state)


def may_write(tensor: Tensor) -> bool:
    """Whether no two entries share memory, as in expanded tensors or overlapping windows, and torch allows
    writing: not to inference tensors outside inference mode."""
    # torch.compile cannot trace the check
    if not torch.compiler.is_compiling() and tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False
    if tensor.is_contiguous():
        return True
    reach = 0  # of the axes seen so far, innermost first
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def overwrite(old: State, new: State) -> State:
    """The old state, overwritten by the new one; or the new one, with the old unchanged, if any shape or
    dtype differs."""
    pairs = [*((old[name], new[name]) for name in new), (old.position, new.position)]
    if any(target.shape != source.shape or target.dtype != source.dtype for target, source in pairs):
        return new
    for target, source in pairs:
        if target is not source:
            target.copy_(source)
    return old
