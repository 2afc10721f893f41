"""What a call starts from: the state before the first token, and fresh parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr.component import Parameter, axis_params
from ttr.prepare import check_device, check_heads, check_names, check_param, check_problem, check_sizes
from ttr.problem import Problem
from ttr.state import State, empty_state
from ttr.values import FLOATING


def initial_state(
    problem: Problem,
    batch: int,
    heads: int | tuple[int, int, int],
    key_size: int,
    value_size: int,
    *,
    params: Mapping[str, Tensor] | None = None,
    capacity: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> State:
    """The state before the first token.

    Args:
        heads: H, or (H, heads of k, heads of v) when they are grouped.
        params: the problem's parameters; a learned initial memory starts from them and needs them.
        capacity: for memories of pairs, a fixed number of slots; None lets the state grow with every call.
        dtype: float32 unless given; narrower types are widened.

    Raises:
        ValueError: on sizes, parameters or a dtype that no state has.
    """
    check_problem(problem)
    heads = heads if isinstance(heads, tuple) and len(heads) == 3 else (heads, heads, heads)
    check_sizes(batch=batch, key_size=key_size, value_size=value_size)
    check_heads(*heads)
    if params is not None:
        declared = problem.parameters(max(heads), key_size, value_size)
        params = {
            name: check_param(name, spec.shape, params)
            for name, spec in check_names(declared, params, "parameter").items()
        }
        params = axis_params(params, "function")
    elif problem.function.learned_start:
        raise ValueError(
            f"The memory of {problem.function!r} starts from its parameters. Pass params=, "
            "from ttr.init_params or your layer."
        )
    if capacity is not None and (not isinstance(capacity, int) or capacity < 1):
        raise ValueError(
            f"A capacity of {capacity} holds nothing. Use the number of tokens to come, or "
            "None for a state that grows."
        )
    if dtype not in (None, *FLOATING):
        raise ValueError(
            f"A state holds floating-point numbers, not {dtype}. Use torch.float32 or torch.float64."
        )
    wide = torch.promote_types(dtype or torch.float32, torch.float32)
    return empty_state(
        problem, batch, heads, key_size, value_size, capacity, check_device(device), wide, params
    )


def init_params(
    problem: Problem, *, heads: int, key_size: int, value_size: int, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Fresh tensors for every parameter the problem declares: "axis.name" -> tensor.

    Raises:
        ValueError: on sizes that no layer has.
    """
    check_problem(problem)
    check_sizes(key_size=key_size, value_size=value_size)
    check_heads(heads)
    declared: dict[str, Parameter] = problem.parameters(heads, key_size, value_size)
    return {name: p.draw(generator) for name, p in declared.items()}
