"""Exact fits: MesaNet, and softmax attention with forget gates and windows."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.compat.fla._operator import normed, run
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.problem import Problem
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window


def chunk_mesa_net(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    lamb: Float[Tensor, "H K"],
    h_kk_init: Float[Tensor, "N H K K"] | None = None,
    h_kv_init: Float[Tensor, "N H K V"] | None = None,
    output_final_state: bool = False,
    max_CG_iteration: int = 30,
    **options: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """MesaNet as released: ``max_CG_iteration`` steps of conjugate gradient; y and both final moments."""
    solver = ConjugateGradient(iterations=max_CG_iteration)
    problem = Problem(Geometric() * Importance(), Linear(scale=1.0), solver)
    start = {"gram": h_kk_init, "memory": h_kv_init}
    q, k = normed(q, k, options)
    importance = beta.clamp(min=torch.finfo(beta.dtype).tiny).log()  # the logarithm of 0 has no gradient
    controls = {"log_decay": g, "log_importance": importance, "ridge": lamb}
    y, end = run(problem, q, k, v, start, output_final_state, options, **controls)
    return y, end["gram"], end["memory"]


def parallel_attn(
    q: Float[Tensor, "B T HQ K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    g: Float[Tensor, "B T HQ"] | None = None,
    scale: float | None = None,
    window_size: int | None = None,
    **options: Any,
) -> Float[Tensor, "B T HQ V"]:
    """Causal softmax attention, with log forget gates g and a window if given."""
    weights = [*([] if g is None else [Geometric()]), *([] if window_size is None else [Window(window_size)])]
    weight = reduce(operator.mul, weights) if weights else Uniform()
    problem = Problem(weight, LocalConstant(scale=scale), ExactLocalFit())
    controls = {} if g is None else {"log_decay": g}
    return run(problem, q, k, v, {}, False, options, **controls)[0]


parallel_forgetting_attn = parallel_attn
