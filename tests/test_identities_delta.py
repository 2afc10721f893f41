"""Identities of the delta rule and its successors (law 8), stated of the definition; and one layer by its
published equations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ttr
from ttr.engines.torch.chunkwise_momentum import ChunkwiseMomentum
from ttr.functions.linear import Linear
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.nn import Mixer
from ttr.problem import Problem, Solver, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.momentum_delta_rule import MomentumDeltaRule
from ttr.solvers.oja_rule import OjaRule
from ttr.solvers.one_step import OneStep
from ttr.solvers.preconditioned_delta_rule import PreconditionedDeltaRule
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

B, T, H, K, V = 2, 11, 2, 4, 3
WEIGHTS = (Geometric("head"), Geometric("channel"))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    """Queries, unit keys and values; with unit keys, steps below 1 are stable."""
    return {"q": torch.randn(B, T, H, K), "k": unit(B, T, H, K), "v": torch.randn(B, T, H, V)}


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def share(*shape: int) -> Tensor:
    return 0.1 + 0.9 * torch.rand(*shape)


def decay(weights: Weights) -> Tensor:
    return -share(B, T, H) if weights.retention == "head" else -share(B, T, H, K)


def wide(x: Tensor) -> Tensor:
    """A number per head, with an axis of size 1 for the channels."""
    return x if x.ndim == 4 else x[..., None]


def run(weights: Weights, solver: Solver, inputs: dict[str, Tensor], **controls: Tensor) -> Tensor:
    return ttr.oracle(Problem(weights, Linear(), solver), **inputs, **controls)


def same(a: Tensor, b: Tensor) -> bool:
    return error(a, b) <= FLOAT64


# ----------------------------------------------------------------------------------- fields of the delta rule
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_gated_deltanet2_with_equal_gates_is_kda(weights, qkv):
    step, log_decay = share(B, T, H), decay(weights)
    gates = {"read_key": step[..., None] * qkv["k"], "write": step[..., None].expand(B, T, H, V)}
    gated = run(
        weights,
        DeltaRule(separate_read=True, gated_write=True, unit_step=True),
        qkv,
        log_decay=log_decay,
        **gates,
    )
    assert same(gated, run(weights, DeltaRule(), qkv, log_decay=log_decay, step_size=step))


def test_a_write_gate_scales_the_values(qkv):
    step, write = share(B, T, H), share(B, T, H, V)
    scaled = run(Uniform(), DeltaRule(), qkv | {"v": write * qkv["v"]}, step_size=step)
    assert same(run(Uniform(), DeltaRule(gated_write=True), qkv, step_size=step, write=write), scaled)


@pytest.mark.parametrize("at", ["decayed", "old"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_the_key_as_erase_key_changes_nothing(weights, at, qkv):
    controls = {"step_size": share(B, T, H), "log_decay": decay(weights), "read_key": unit(B, T, H, K)}
    plain = run(weights, DeltaRule(at, separate_read=True), qkv, **controls)
    assert same(
        run(
            weights,
            DeltaRule(at, separate_read=True, separate_erase=True),
            qkv,
            **controls,
            erase_key=qkv["k"],
        ),
        plain,
    )


@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_rwkv7_that_erases_nothing_is_gated_linear_attention(weights, qkv):
    log_decay, rule = (
        decay(weights),
        DeltaRule("old", separate_read=True, separate_erase=True, unit_step=True),
    )
    blind = run(
        weights, rule, qkv, log_decay=log_decay, read_key=unit(B, T, H, K), erase_key=torch.zeros(B, T, H, K)
    )
    assert same(blind, run(weights, OneStep(), qkv, log_decay=log_decay))


@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_rwkv7_holds_the_gated_delta_rule(weights, qkv):
    """S <- D S - e (f^T S) + k~ v^T with f = D k, e = k~ = beta k."""
    step, log_decay = share(B, T, H), decay(weights)
    scaled, rule = (
        step[..., None] * qkv["k"],
        DeltaRule("old", separate_read=True, separate_erase=True, unit_step=True),
    )
    keys = {"read_key": wide(log_decay.exp()) * qkv["k"], "erase_key": scaled}
    held = run(weights, rule, qkv | {"k": scaled}, log_decay=log_decay, **keys)
    assert same(held, run(weights, DeltaRule(), qkv, log_decay=log_decay, step_size=step))


def test_deltaproduct_is_its_gated_form_without_decay():
    n = ttr.catalogue["deltaproduct"].problem.solver.pairs_per_token
    inputs = {
        "q": torch.randn(B, T, H, K),
        "k": unit(B, T, n, H, K),
        "v": torch.randn(B, T, n, H, V),
        "step_size": 2 * share(B, T, n, H),
    }
    gated = ttr.oracle(ttr.catalogue["gated-deltaproduct"].problem, **inputs, log_decay=torch.zeros(B, T, H))
    assert same(gated, ttr.oracle(ttr.catalogue["deltaproduct"].problem, **inputs))


# ------------------------------------------------------------------------------ preconditioner, momentum, Oja
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_a_preconditioner_bounded_by_1_is_none(weights, qkv):
    controls = {"step_size": share(B, T, H), "log_decay": decay(weights)}
    of_preconditioner = {
        "precond_log_decay": -share(B, T, H),
        "precond_step": share(B, T, H),
        "params": {"solver.center": torch.randn(H)},
    }
    off, on = (
        run(weights, PreconditionedDeltaRule(bound), qkv, **controls, **of_preconditioner)
        for bound in (1.0, 1.5)
    )
    plain = run(weights, DeltaRule(), qkv, **controls)
    assert same(off, plain)
    assert error(on, plain) > HALF


@pytest.mark.parametrize("at", ["decayed", "old"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_no_momentum_is_the_delta_rule(weights, at, qkv):
    step, log_decay, none = share(B, T, H), decay(weights), torch.zeros(B, T, H)
    still = run(
        weights,
        MomentumDeltaRule(at),
        qkv,
        log_decay=log_decay,
        step_size=none + 1,
        momentum=none,
        momentum_step=step,
    )
    assert same(still, run(weights, DeltaRule(at), qkv, log_decay=log_decay, step_size=step))


def test_momentum_and_its_step_trade_places_with_the_step_size(qkv):
    """Z is proportional to eta and is added to the memory times beta, so doubling the one and halving the
    other changes nothing."""
    controls = {"log_decay": -share(B, T, H), "momentum": share(B, T, H)}
    step, momentum_step = share(B, T, H), share(B, T, H)
    one = run(WEIGHTS[0], MomentumDeltaRule(), qkv, **controls, step_size=step, momentum_step=momentum_step)
    assert same(
        run(
            WEIGHTS[0],
            MomentumDeltaRule(),
            qkv,
            **controls,
            step_size=2 * step,
            momentum_step=momentum_step / 2,
        ),
        one,
    )


@pytest.mark.parametrize("momentum", [0.0, 1.0, 1.3])
def test_any_share_of_momentum_has_the_right_gradient_by_chunks(momentum, qkv):
    """Momentums need no division: 0 and values above 1 are allowed."""
    problem = Problem(WEIGHTS[0], Linear(), MomentumDeltaRule())
    kept = torch.where(torch.rand(B, T, H) < 0.5, momentum, 0.5).requires_grad_()
    controls = {"log_decay": -share(B, T, H), "step_size": share(B, T, H), "momentum_step": share(B, T, H)}
    fast, slow = (
        f(problem, **qkv, **controls, momentum=kept, **options)
        for f, options in ((ttr.regress, {"engine": ChunkwiseMomentum(chunk=4)}), (ttr.oracle, {}))
    )
    assert same(fast, slow)
    assert same(*(torch.autograd.grad(y.square().sum(), kept)[0] for y in (fast, slow)))


def test_the_oja_rule_is_the_delta_rule_of_exchanged_keys_and_values():
    """N^T is the memory of the per-channel delta rule for keys v and values k; read with unit queries, it
    gives N^T q."""
    q, k, v = torch.randn(B, T, H, K), torch.randn(B, T, H, K), unit(B, T, H, V)
    step, log_decay = share(B, T, H), -share(B, T, H, V)
    turned = Problem(Geometric("channel"), Linear(scale=1.0), DeltaRule())
    rows = [
        ttr.oracle(turned, row.expand(B, T, H, V), v, k, step_size=step, log_decay=log_decay)
        for row in torch.eye(V)
    ]
    probed = K**-0.5 * torch.stack([(row * q).sum(-1) for row in rows], dim=-1)
    assert same(
        run(Uniform(), OjaRule(), {"q": q, "k": k, "v": v}, step_size=step, value_log_decay=log_decay), probed
    )


def test_small_steps_of_the_oja_rule_are_linear_attention(qkv):
    step = torch.full((B, T, H), FLOAT64**0.5)
    oja = run(Uniform(), OjaRule(), qkv, step_size=step, value_log_decay=torch.zeros(B, T, H, V))
    assert error(oja / step[..., None], run(Uniform(), OneStep(), qkv)) < HALF


# ------------------------------------------------------------------------------------------ RWKV-7, literally
def test_the_rwkv7_layer_is_that_of_its_equations():
    """arXiv 2503.14456, section 4, token by token with its own state [V,K], without the value residual of
    later layers."""
    d, heads, size = 8, 2, 4
    layer = Mixer(d, ttr.catalogue["rwkv7"], heads=heads, key_size=size, value_size=size, layer=1, layers=3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
    p = dict(layer.named_parameters())
    mix, w_down, w_up, w_bias, k_k, a_down, a_up, a_bias, k_a = (
        p[name]
        for name in (
            "qkv.token_shift.share",
            "gates.log_decay.down.weight",
            "gates.log_decay.up.weight",
            "gates.log_decay.bias",
            "gates.read_key.gain",
            "gates.erase_key.down.weight",
            "gates.erase_key.up.weight",
            "gates.erase_key.bias",
            "qkv.rate_scaled_key.strength",
        )
    )
    ln_w, ln_b, r_k, g_down, g_up = (
        p[f"output.{name}"]
        for name in (
            "layer_norm.gain",
            "layer_norm.bias",
            "current_token_bonus.strength",
            "low_rank_output_gate.down.weight",
            "low_rank_output_gate.up.weight",
        )
    )
    w_up, a_up, g_up = (weight.unflatten(0, (heads, size)) for weight in (w_up, a_up, g_up))
    x, last, state, rows = torch.randn(T, d), torch.zeros(d), torch.zeros(heads, size, size), []
    for token in x:
        x_r, x_k, x_v, x_w, x_a, x_g = token + mix * (last - token)
        r, k, v = (
            p[f"{name}_proj.weight"] @ shifted for name, shifted in (("q", x_r), ("k", x_k), ("v", x_v))
        )
        r, k, v = (z.view(heads, size) for z in (r, k, v))
        w = torch.exp(-torch.sigmoid(w_up @ torch.tanh(w_down @ x_w) + w_bias) / math.exp(0.5))
        a = torch.sigmoid(a_up @ (a_down @ x_a) + a_bias)
        g = (g_up @ torch.sigmoid(g_down @ x_g)).flatten()
        kk = torch.nn.functional.normalize(k * k_k, dim=-1)
        k = k + k * (a - 1) * k_a
        state = state * w[:, None] - (state @ kk[..., None]) * (kk * a)[:, None] + v[..., None] * k[:, None]
        y = torch.nn.functional.group_norm(
            (state @ r[..., None]).reshape(1, d), heads, ln_w.flatten(), ln_b.flatten(), eps=64e-5
        )[0]
        y = y + ((r * k * r_k).sum(-1, keepdim=True) * v).flatten()
        rows.append(p["o_proj.weight"] @ (y * g))
        last = token
    assert same(layer(x[None])[0], torch.stack(rows))


def test_what_the_rules_cannot_be_made_of_is_a_sentence():
    @dataclasses.dataclass(frozen=True)
    class _Curved(Linear):
        linear = False

    for solver in (DeltaRule(unit_step=True), MomentumDeltaRule(), OjaRule(), PreconditionedDeltaRule()):
        with pytest.raises(ValueError, match=r"_Curved.* Use Linear"):
            Problem(Uniform(), _Curved(), solver)
    with pytest.raises(ValueError, match="Use bound >= 1 and eps > 0"):
        PreconditionedDeltaRule(bound=0.5)
