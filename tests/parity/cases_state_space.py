"""State spaces, gated recurrent units and complex decay."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu, softplus

import ttr

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers

CHANNELS = 4
"""Channels of a recurrent unit: heads of one key and one value channel each."""


def unit(
    entry: str, value: Tensor, state: Tensor | None = None, key: Tensor | None = None, **controls: Tensor
) -> tuple[Tensor, Tensor]:
    """The oracle's outputs [B,T,D] and final state [B,D] of heads of one channel, with q = 1 and k = 1 unless
    it is given."""
    ones = torch.ones_like(value)[..., None]
    start = ttr.initial_state(problem(entry), B, CHANNELS, 1, 1, dtype=torch.float64)
    start = start if state is None else start.replace(memory=state[..., None, None])
    y, end = ttr.oracle(
        problem(entry),
        ones,
        ones if key is None else key[..., None],
        value[..., None],
        state=start,
        return_state=True,
        **controls,
    )
    return y[..., 0], end["memory"][..., 0, 0]


def mamba_tensors(draw: Draw) -> dict[str, Tensor]:
    return {
        "x": draw.normal(B, T, CHANNELS),
        "dt": draw.normal(B, T, CHANNELS),
        "A": -draw.between(0.3, 2.0, CHANNELS, K),
        "B_": draw.normal(B, T, 1, K),
        "C": draw.normal(B, T, 1, K),
    }


def mamba_memory(
    x: Tensor, dt: Tensor, A: Tensor, B_: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs [B,T,D] and state [B,D,K] of the entry; dt before its softplus."""
    dt, memory = softplus(dt), problem("mamba")
    start = (
        None
        if state is None
        else ttr.initial_state(memory, B, CHANNELS, K, 1, dtype=torch.float64).replace(
            memory=state[..., None]
        )
    )
    y, end = ttr.oracle(
        memory,
        C,
        B_,
        (dt * x)[..., None],
        log_decay=-dt,
        params={"weights.rate": (-A).log()},
        state=start,
        return_state=True,
    )
    return y[..., 0], end["memory"][..., 0]


@parity("mamba", "transformers models/mamba mamba_selective_scan")
def mamba(draw: Draw):
    original = transformers("models/mamba/modeling_mamba.py", "mamba_selective_scan").mamba_selective_scan

    def theirs(x, dt, A, B_, C):
        y, state = original(
            x.mT, dt.mT, A, B_[:, :, 0].mT, C[:, :, 0].mT, delta_softplus=True, return_last_state=True
        )
        return y.mT, state

    return mamba_tensors(draw), mamba_memory, theirs


class Cell:
    """A state for an original that writes to it, which would break the gradient."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def double(self) -> Tensor:
        return self.value

    def copy_(self, value: Tensor) -> None:
        self.value = value


@parity(
    "mamba", "transformers models/mamba mamba_selective_state_update, one token after the other from a state"
)
def mamba_step(draw: Draw):
    original = transformers(
        "models/mamba/modeling_mamba.py", "mamba_selective_state_update"
    ).mamba_selective_state_update

    def theirs(x, dt, A, B_, C, state):
        cell = Cell(state)
        y = [
            original(cell, x[:, t], dt[:, t], A, B_[:, t, 0], C[:, t, 0], dt_softplus=True) for t in range(T)
        ]
        return torch.stack(y, dim=1), cell.value

    return mamba_tensors(draw) | {"state": draw.normal(B, CHANNELS, K)}, mamba_memory, theirs


@parity("hgrn", "fla/ops/hgrn/naive.py naive_recurrent_hgrn with the gates of fla/layers/hgrn.py")
def hgrn(draw: Draw):
    original = fla("ops/hgrn/naive.py", "naive_recurrent_hgrn").naive_recurrent_hgrn

    def ours(f, i, state):
        """The parts of the entry: k is 1 minus the decay, v the input's SiLU, q is 1."""
        log_forget = logsigmoid(f)
        return unit("hgrn", silu(i), state, 1 - log_forget.exp(), log_decay=log_forget[..., None])

    def theirs(f, i, state):
        f = logsigmoid(f)
        return original(silu(i) * (1 - f.exp()), f, initial_state=state, output_final_state=True)

    return (
        {
            "f": draw.normal(B, T, CHANNELS),
            "i": draw.normal(B, T, CHANNELS),
            "state": draw.normal(B, CHANNELS),
        },
        ours,
        theirs,
    )


@parity("rg-lru", "transformers models/recurrent_gemma RecurrentGemmaRglru")
def rg_lru(draw: Draw):
    names = ("_MAX_SQRT_GRADIENT", "SqrtBoundDerivative", "RecurrentGemmaRglru")
    original = transformers("models/recurrent_gemma/modeling_recurrent_gemma.py", *names).RecurrentGemmaRglru
    gate = ttr.catalogue["rg-lru"].qkv[1]
    blocks, position = 2, torch.arange(T).expand(B, T)

    def ours(x, **params):
        """With the entry's own gate, which multiplies the value, in blocks of half the channels."""
        made = dataclasses.replace(gate, block=CHANNELS // blocks)(
            params, {"v": x[..., None], "position": position}
        )
        return unit("rg-lru", made["v"][..., 0], log_decay=-made["time_step"])[:1]

    def theirs(x, decay, **gates):
        module = original(SimpleNamespace(num_attention_heads=blocks, lru_width=CHANNELS))
        theirs_by_ours = {"recurrent_param": decay} | {
            f"{name}_gate_{kind}": gates[f"{mine}_{kind}"]
            for kind in ("weight", "bias")
            for name, mine in (("input", "input"), ("recurrent", "recurrence"))
        }
        for name, tensor in theirs_by_ours.items():
            delattr(module, name)
            setattr(module, name, tensor)
        return (module(x, position),)

    inner = CHANNELS // blocks
    shapes = {"weight": (blocks, inner, inner), "bias": (blocks, inner)}
    gates = {
        f"{name}_{kind}": draw.normal(*shape)
        for name in ("input", "recurrence")
        for kind, shape in shapes.items()
    }
    return {"x": draw.normal(B, T, CHANNELS), "decay": draw.normal(CHANNELS)} | gates, ours, theirs


def weighted_sum(weights: Tensor, scores: Tensor, v: Tensor) -> Tensor:
    """sum_i weights_ti scores_ti v_i: [B,T,T,H] twice and [B,T,H,V] -> [B,T,H,V]."""
    return torch.einsum("btih,bihv->bthv", weights * scores, v)


def complex_weights(log_decay: Tensor, phase: Tensor) -> Tensor:
    """prod_{i<j<=t} a_j of complex a_j = exp(log_decay_j + i phase_j), multiplied out pair by pair; 0 for i >
    t. [B,T,T,...]."""
    a = torch.polar(log_decay.exp(), phase)
    rows = []
    for t in range(T):
        row = [torch.ones_like(a[:, 0])]
        for j in range(t, 0, -1):
            row.append(row[-1] * a[:, j])
        rows.append(torch.stack(row[::-1] + [torch.zeros_like(a[:, 0])] * (T - 1 - t), dim=1))
    return torch.stack(rows, dim=1)


@parity(
    "gateloop",
    "the dense matrix of its complex weights: Re(prod a) times q.k, by outer products of all pairs",
)
def gateloop(draw: Draw):
    def ours(q, k, v, log_decay, phase):
        return fold(problem("gateloop"), q, k, v, {"log_decay": log_decay, "phase": phase})

    def theirs(q, k, v, log_decay, phase):
        return (
            weighted_sum(complex_weights(log_decay, phase).real, torch.einsum("bthk,bihk->btih", q, k), v),
        )

    return (
        draw.qkv() | {"log_decay": draw.log_decay(B, T, H), "phase": 3 * draw.normal(B, T, H)},
        ours,
        theirs,
    )


@parity("gateloop", "the same with one gate per key channel, and the state as a sum over all pairs")
def gateloop_channels(draw: Draw):
    entry = problem("gateloop")
    memory = dataclasses.replace(entry, weights=dataclasses.replace(entry.weights, per="channel"))

    def ours(q, k, v, log_decay, phase):
        zero = torch.zeros(B, H, K, V, dtype=torch.float64)
        return fold(
            memory, q, k, v, {"log_decay": log_decay, "phase": phase}, memory=zero, imaginary_memory=zero
        )

    def theirs(q, k, v, log_decay, phase):
        weights = complex_weights(log_decay, phase)
        state = torch.einsum("bihk,bihk,bihv->bhkv", weights[:, -1], k + 0j, v + 0j)
        return torch.einsum("btihk,bthk,bihk,bihv->bthv", weights.real, q, k, v), state.real, state.imag

    return (
        draw.qkv() | {"log_decay": draw.log_decay(B, T, H, K), "phase": 3 * draw.normal(B, T, H, K)},
        ours,
        theirs,
    )


@parity("lru", "Re(C h) with the powers of its eigenvalues lambda = exp(-exp(nu) + i exp(theta))")
def lru(draw: Draw):
    def ours(u, nu, theta, state):
        """u = exp(gamma) B x as pairs of real numbers; the output is the state, which C reads."""
        memory, controls = (
            problem("lru"),
            {"log_decay": -nu.exp().expand(B, T, -1), "phase": theta.exp().expand(B, T, -1)},
        )
        ones = torch.ones(B, T, CHANNELS, 1, dtype=torch.float64)
        start = ttr.initial_state(memory, B, CHANNELS, 1, 2, dtype=torch.float64).replace(
            memory=state[:, :, None]
        )
        y, end = ttr.oracle(memory, ones, ones, u, state=start, return_state=True, **controls)
        return y, end["memory"][:, :, 0]

    def theirs(u, nu, theta, state):
        powers = torch.exp(torch.complex(-nu.exp(), theta.exp()) * torch.arange(T + 1)[:, None])
        age = (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0)
        past = torch.einsum("tn,bn->btn", powers[1:], torch.view_as_complex(state))
        h = past + torch.einsum(
            "tin,bin->btn", powers[age] * torch.ones(T, T).tril()[..., None], torch.view_as_complex(u)
        )
        return torch.view_as_real(h), torch.view_as_real(h[:, -1])

    return (
        {
            "u": draw.normal(B, T, CHANNELS, 2),
            "nu": draw.normal(CHANNELS),
            "theta": draw.normal(CHANNELS),
            "state": draw.normal(B, CHANNELS, 2),
        },
        ours,
        theirs,
    )


@parity(
    "cosformer",
    "the dense matrix of relu(q).relu(k) cos(pi (t - i) / 2M), over its row sums of at least 1e-6",
)
def cosformer(draw: Draw):
    def ours(q, k, v):
        return fold(problem("cosformer"), q, k, v, {})

    def theirs(q, k, v):
        age = torch.arange(T)[:, None] - torch.arange(T)
        weights = (
            torch.cos(math.pi / 2 * age / problem("cosformer").weights.horizon) * torch.ones(T, T).tril()
        )[None, :, :, None]
        scores = torch.einsum("bthk,bihk->btih", q.relu(), k.relu())
        return (weighted_sum(weights, scores, v) / (weights * scores).sum(2)[..., None].clamp(min=1e-6),)

    return draw.qkv(), ours, theirs


@parity(
    "longhorn",
    "the diagonal of its linear system: (1 + step (||k||^2 - diag)) S' = ..., solved for every channel",
)
def longhorn(draw: Draw):
    def ours(q, k, v, step, state):
        return fold(problem("longhorn"), q, k, v, {"step_size": step}, memory=state)

    def theirs(q, k, v, step, state):
        """Of the minimiser S - step k (k^T S - v) / (1 + step k^T k), with k k^T replaced by its diagonal."""
        y = []
        for t in range(T):
            key, weight = k[:, t], step[:, t, :, None]
            system = (
                torch.diag_embed(torch.ones_like(key)) + weight[..., None] * key[..., None] * key[:, :, None]
            )
            gain = torch.linalg.solve(system, weight * key)
            state = state - torch.diag_embed(gain * key) @ state + gain[..., None] * v[:, t, :, None]
            y.append((q[:, t, :, None] @ state)[:, :, 0])
        return torch.stack(y, dim=1), state

    return (
        draw.qkv() | {"step": draw.between(0.1, 1.0, B, T, H), "state": draw.normal(B, H, K, V)},
        ours,
        theirs,
    )
