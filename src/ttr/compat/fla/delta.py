"""The delta rule and its gated, per-channel, several-step and diagonal-plus-low-rank forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from ttr.compat.fla._operator import Matrix, Options, matrix, unit, wide
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

DELTA = Problem(Uniform(), Linear(), DeltaRule())
GATED_DELTA = Problem(Geometric(), Linear(), DeltaRule())
KIMI_DELTA = Problem(Geometric("channel"), Linear(), DeltaRule())
COMBA = Problem(Geometric(), Linear(), DeltaRule(gradient_at="old", separate_read=True))
DIAGONAL_PLUS_LOW_RANK = Problem(
    Geometric("channel"),
    Linear(),
    DeltaRule(gradient_at="old", separate_read=True, separate_erase=True, unit_step=True),
)


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """The delta rule with the step size beta, 1 if it is left out."""
    step = _step_size(beta, v, options)
    return matrix(DELTA, q, k, v, scale, initial_state, output_final_state, options, step_size=step)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T HV"],
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Gated DeltaNet: the delta rule with a log decay per head."""
    controls = {"log_decay": _log_decay(g, options), "step_size": _step_size(beta, v, options)}
    return matrix(GATED_DELTA, q, k, v, scale, initial_state, output_final_state, options, **controls)


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T HV"] | None = None,
    gk: Float[Tensor, "B T HV K"] | None = None,
    gv: None = None,
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """The delta rule with a log decay g per head, gk per key channel, or their sum; ``gv`` is refused."""
    options["gv"] = gv
    past = scale, initial_state, output_final_state
    if gk is not None:
        return chunk_kda(q, k, v, gk if g is None else g[..., None] + gk, beta, *past, **options)
    if g is None:
        return chunk_delta_rule(q, k, v, beta, *past, **options)
    return chunk_gated_delta_rule(q, k, v, g, beta, *past, **options)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T HV K"],
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Kimi Delta Attention: the delta rule with a log decay per key channel."""
    controls = {"log_decay": _log_decay(g, options), "step_size": _step_size(beta, v, options)}
    return matrix(KIMI_DELTA, q, k, v, scale, initial_state, output_final_state, options, **controls)


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Float[Tensor, "B T HV K"],
    beta: Float[Tensor, "B T HV"],
    A_log: Float[Tensor, " HV"] | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """``chunk_kda`` in another order of arguments."""
    options |= {"A_log": A_log, "dt_bias": dt_bias}
    return chunk_kda(q, k, v, g, beta, scale, initial_state, output_final_state, **options)


def chunk_gated_delta_product(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B Tn H K"],
    v: Float[Tensor, "B Tn H V"],
    g: Float[Tensor, "B T H"] | None,
    beta: Float[Tensor, "B Tn H"],
    num_householder: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Gated DeltaProduct: ``num_householder`` steps of the delta rule per token, one after another along the
    time of k, v and beta."""
    k, v, beta = (x.unflatten(1, (-1, num_householder)) for x in (k, v, beta))
    controls = {"step_size": beta} | ({} if g is None else {"log_decay": g})
    problem = replace(DELTA if g is None else GATED_DELTA, solver=DeltaRule(pairs_per_token=num_householder))
    return matrix(problem, q, k, v, scale, initial_state, output_final_state, options, **controls)


def chunk_comba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Float[Tensor, "B T H K"],
    g: Float[Tensor, "B T HV"],
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """Comba: a gated delta rule whose error is read at p."""
    if options.pop("use_qk_l2norm_in_kernel", False):
        q, k, p = unit(q), unit(k), unit(p)
    controls = {"log_decay": g, "step_size": _step_size(beta, v, options), "read_key": p}
    return matrix(COMBA, q, k, v, scale, initial_state, output_final_state, options, **controls)


def fused_recurrent_comba(
    q: Tensor,
    k: Tensor,
    p: Float[Tensor, "B T H K"],
    v: Tensor,
    g: Float[Tensor, "B T HV"],
    beta: Float[Tensor, "B T HV"] | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """``chunk_comba`` in another order of arguments: p comes before v."""
    return chunk_comba(q, k, v, p, g, beta, scale, initial_state, output_final_state, **options)


def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Float[Tensor, "B T H K"],
    b: Float[Tensor, "B T H K"],
    gk: Float[Tensor, "B T H K"],
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """A transition that is diagonal plus of rank one: S_t = (diag(exp gk) + b a^T) S_{t-1} + k v^T."""
    controls = {"log_decay": gk, "read_key": -a, "erase_key": b}
    return matrix(
        DIAGONAL_PLUS_LOW_RANK, q, k, v, scale, initial_state, output_final_state, options, **controls
    )


def chunk_rwkv7(
    r: Tensor,
    w: Float[Tensor, "B T H K"],
    k: Tensor,
    v: Tensor,
    a: Float[Tensor, "B T H K"],
    b: Float[Tensor, "B T H K"],
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Matrix:
    """RWKV-7: ``chunk_dplr_delta_rule`` with the log decays w, without a scale by default."""
    return chunk_dplr_delta_rule(r, k, v, a, b, w, scale, initial_state, output_final_state, **options)


def fused_recurrent_rwkv7(
    r: Tensor,
    w: Float[Tensor, "B T H K"],
    k: Tensor,
    v: Tensor,
    a: Float[Tensor, "B T H K"],
    b: Float[Tensor, "B T H K"],
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
    **options: Any,
) -> Matrix:
    """``chunk_rwkv7`` with other defaults, as in fla."""
    return chunk_rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state, **options)


chunk_gdn = chunk_gated_delta_rule
fused_recurrent_delta_rule = chunk_delta_rule
fused_recurrent_gdn = fused_recurrent_gated_delta_rule
fused_recurrent_dplr_delta_rule = chunk_dplr_delta_rule


def _step_size(beta: Tensor | None, v: Tensor, options: Options) -> Tensor:
    """The step of the delta rule: 1 without beta; beta may be a logit, and twice as long for negative
    eigenvalues of the transition."""
    sigmoid, negative = (
        options.pop(name, False) for name in ("use_beta_sigmoid_in_kernel", "allow_neg_eigval")
    )
    if beta is None:
        beta = v.new_ones(v.shape[:-1])
    elif sigmoid:
        beta = beta.sigmoid()
    return 2 * beta if negative else beta


def _log_decay(g: Tensor, options: Options) -> Tensor:
    """The log decay, from raw gates g [B,T,HV] or [B,T,HV,K] if fla does that inside its kernel:
    -exp(A_log) softplus(g + dt_bias), or lower_bound sigmoid(exp(A_log) (g + dt_bias))."""
    inside, rate, bias, bound = (
        options.pop(name, None) for name in ("use_gate_in_kernel", "A_log", "dt_bias", "lower_bound")
    )
    if not inside:
        return g
    g = g.to(wide(g))
    g = g if bias is None else g + bias.view(g.shape[2:])
    rate = 1.0 if rate is None else rate.to(g.dtype).exp().view(-1, *(1,) * (g.ndim - 3))
    return -rate * softplus(g) if bound is None else bound * torch.sigmoid(rate * g)
