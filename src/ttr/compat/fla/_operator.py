"""What all operators share: options, scale, states in fla's layout, and the call of ``ttr.regress``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.dispatch import regress
from ttr.functions.linear import Linear
from ttr.initial import initial_state as empty_state
from ttr.problem import Problem

Options = dict[str, Any]
Matrix = tuple[Float[Tensor, "B T HV V"], Float[Tensor, "N HV K V"] | None]
"""y, and the final state if it is wanted."""

SCHEDULING = (
    "chunk_indices",
    "chunk_size",
    "cu_seqlens_cpu",
    "disable_recompute",
    "lower_bound",
    "max_num_seqs",
    "safe_gate",
    "use_graph",
)
"""Options that change how fla's kernels run, and not what they compute: of gates, the bound is a promise."""


def matrix(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    options: Options,
    params: Mapping[str, Tensor] | None = None,
    **controls: Tensor,
) -> Matrix:
    """An operator whose memory is one matrix per head; its read-out is multiplied by ``scale``."""
    problem = replace(problem, function=Linear(scale=scale))
    transposed = options.pop("state_v_first", False)
    q, k = normed(q, k, options)
    start = initial_state.mT if transposed and initial_state is not None else initial_state
    y, end = run(problem, q, k, v, {"memory": start}, output_final_state, options, params, **controls)
    memory = end["memory"]
    return y, memory.mT if transposed and memory is not None else memory


def run(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Mapping[str, Tensor | None],
    output_final_state: bool,
    options: Options,
    params: Mapping[str, Tensor] | None = None,
    **controls: Tensor,
) -> tuple[Tensor, dict[str, Any]]:
    """y, and the tensors of the final state that ``start`` names, None unless they are wanted."""
    cu_seqlens, state = options.pop("cu_seqlens", None), None
    if cu_seqlens is None and options.get("cu_seqlens_cpu") is not None:
        raise ValueError("cu_seqlens_cpu is a copy of cu_seqlens, which is missing. Give cu_seqlens too.")
    _check_rest(options)
    given = {name: x for name, x in start.items() if x is not None}
    if given:
        heads = max(x.shape[-2] for x in (q, k, v)), k.shape[-2], v.shape[-2]
        rows = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        sizes = k.shape[-1], v.shape[-1]
        state = empty_state(problem, rows, heads, *sizes, dtype=v.dtype, device=v.device).replace(**given)
    past = {"params": params, "state": state, "cu_seqlens": cu_seqlens}
    if not output_final_state:
        return regress(problem, q, k, v, **past, **controls), dict.fromkeys(start)
    y, end = regress(problem, q, k, v, return_state=True, **past, **controls)
    return y, {name: end[name] for name in start}


def _check_rest(options: Options) -> None:
    """Raises a ValueError for an option that nobody has read and that would change the result."""
    for name, value in options.items():
        if name not in SCHEDULING and value is not None and value is not False:
            raise ValueError(
                f"The option {name} is not supported by ttr.compat.fla. Leave it out, or compose the memory "
                "with ttr.regress."
            )


def normed(q: Tensor, k: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """q and k, of norm 1 if fla does that inside its kernel."""
    return (unit(q), unit(k)) if options.pop("use_qk_l2norm_in_kernel", False) else (q, k)


def unit(x: Tensor) -> Tensor:
    """x / ||x|| along the last axis, with fla's 1e-6 under the root."""
    long = x.to(wide(x))
    return (long * (long.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def wide(x: Tensor) -> torch.dtype:
    """float32, or the wider dtype of x."""
    return torch.promote_types(x.dtype, torch.float32)
