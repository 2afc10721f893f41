"""Identities between layers (law 8), stated of the definition alone.

Every engine equals the oracle elsewhere; here the oracle is held to mathematics: exact identities, limits,
and invariances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

import ttr
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.problem import Problem, Solver, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

B, T, H, K, V = 2, 11, 2, 4, 3
HEAD, CHANNEL, DELTA = Geometric("head"), Geometric("channel"), DeltaRule()


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    """Queries, unit keys and values; with unit keys, steps below 1 are stable."""
    k = torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1)
    return {"q": torch.randn(B, T, H, K), "k": k, "v": torch.randn(B, T, H, V)}


@pytest.fixture
def step() -> Tensor:
    return uniform(0.1, 1.0, B, T, H)


@pytest.fixture
def decay() -> Tensor:
    return -uniform(0.02, 1.2, B, T, H)


def linear(weights: Weights, solver: Solver, scale: float | None = None) -> Problem:
    return Problem(weights, Linear(scale=scale), solver)


def run(problem: Problem, inputs: Mapping[str, Tensor], **controls: Tensor | float) -> Tensor:
    return ttr.oracle(problem, **inputs, **controls)


def same(value: Tensor, reference: Tensor) -> bool:
    return error(value, reference) <= FLOAT64


def reaches(layer: Callable[[float], Tensor], limit: Tensor) -> bool:
    """Whether layer(h) -> limit as h -> 0, by Richardson extrapolation: layer(h) = limit + c h + O(h^2), so 2
    layer(h/2) - layer(h) differs by O(h^2) only. At h = 1 the layer must differ from the limit, or the test
    would show nothing."""
    h = 1e-6
    return error(layer(1.0), limit) > HALF and same(2 * layer(h / 2) - layer(h), limit)


# ------------------------------------------------------------------------------------------ delta rule family
def test_kda_with_equal_channels_is_gated_deltanet(qkv, step, decay) -> None:
    channels = decay[..., None].expand(B, T, H, K)
    assert same(
        run(linear(CHANNEL, DELTA), qkv, step_size=step, log_decay=channels),
        run(linear(HEAD, DELTA), qkv, step_size=step, log_decay=decay),
    )


@pytest.mark.parametrize("solver", [DELTA, DeltaRule("old")], ids=str)
@pytest.mark.parametrize("weights", [HEAD, CHANNEL], ids=str)
def test_zero_gate_is_deltanet(qkv, step, weights, solver) -> None:
    open_gate = torch.zeros(B, T, H) if weights == HEAD else torch.zeros(B, T, H, K)
    assert same(
        run(linear(weights, solver), qkv, step_size=step, log_decay=open_gate),
        run(linear(Uniform(), DELTA), qkv, step_size=step),
    )


@pytest.mark.parametrize("at", ["decayed", "old"])
@pytest.mark.parametrize("weights", [HEAD, CHANNEL], ids=str)
def test_read_key_zero_is_gated_linear_attention(qkv, step, weights, at) -> None:
    log_decay = -uniform(0.02, 1.2, B, T, H) if weights == HEAD else -uniform(0.02, 1.2, B, T, H, K)
    blind = run(
        linear(weights, DeltaRule(at, separate_read=True)),
        qkv,
        step_size=step,
        log_decay=log_decay,
        read_key=torch.zeros(B, T, H, K),
    )
    assert same(
        blind, run(linear(weights, OneStep()), qkv | {"v": step[..., None] * qkv["v"]}, log_decay=log_decay)
    )


def test_read_key_equal_to_the_key_is_the_plain_delta_rule(qkv, step, decay) -> None:
    for at in ("decayed", "old"):
        separate = run(
            linear(HEAD, DeltaRule(at, separate_read=True)),
            qkv,
            step_size=step,
            log_decay=decay,
            read_key=qkv["k"],
        )
        assert same(separate, run(linear(HEAD, DeltaRule(at)), qkv, step_size=step, log_decay=decay))


@pytest.mark.parametrize("weights", [HEAD, CHANNEL], ids=str)
def test_old_state_read_at_the_decayed_key_is_the_decayed_state(qkv, step, weights) -> None:
    """(D S)^T k = S^T (D k): Comba with p = a k is Gated DeltaNet."""
    log_decay = -uniform(0.02, 1.2, B, T, H) if weights == HEAD else -uniform(0.02, 1.2, B, T, H, K)
    kept = log_decay.exp() if weights == CHANNEL else log_decay.exp()[..., None]
    old = run(
        linear(weights, DeltaRule("old", separate_read=True)),
        qkv,
        step_size=step,
        log_decay=log_decay,
        read_key=kept * qkv["k"],
    )
    assert same(old, run(linear(weights, DELTA), qkv, step_size=step, log_decay=log_decay))


def test_deltaproduct_is_gated_deltanet_on_all_pairs_with_the_gate_on_the_first(step, decay) -> None:
    n = 3
    q, k, v = (
        torch.randn(B, T, H, K),
        torch.nn.functional.normalize(torch.randn(B, T, n, H, K), dim=-1),
        torch.randn(B, T, n, H, V),
    )
    steps = uniform(0.1, 1.0, B, T, n, H)
    product = ttr.oracle(
        linear(HEAD, DeltaRule(pairs_per_token=n)), q, k, v, step_size=steps, log_decay=decay
    )
    gates = torch.nn.functional.pad(decay[:, :, None], (0, 0, 0, n - 1))
    spread = ttr.oracle(
        linear(HEAD, DELTA),
        q.repeat_interleave(n, 1),
        k.flatten(1, 2),
        v.flatten(1, 2),
        step_size=steps.flatten(1, 2),
        log_decay=gates.flatten(1, 2),
    )
    assert same(product, spread[:, n - 1 :: n])


def test_deltaproduct_whose_further_steps_are_zero_is_gated_deltanet(qkv, step, decay) -> None:
    pairs = {"q": qkv["q"]} | {
        name: torch.stack([qkv[name], torch.randn_like(qkv[name])], dim=2) for name in "kv"
    }
    product = run(
        linear(HEAD, DeltaRule(pairs_per_token=2)),
        pairs,
        step_size=torch.stack([step, torch.zeros_like(step)], dim=2),
        log_decay=decay,
    )
    assert same(product, run(linear(HEAD, DELTA), qkv, step_size=step, log_decay=decay))


def test_n_steps_on_one_pair_are_one_step(qkv, step, decay) -> None:
    """With a unit key the error shrinks by 1 - beta each time, so n steps amount to the step 1 - (1 -
    beta)^n."""
    n = 3
    pairs = {"q": qkv["q"]} | {name: qkv[name][:, :, None].expand(-1, -1, n, -1, -1) for name in "kv"}
    repeated = run(
        linear(HEAD, DeltaRule(pairs_per_token=n)),
        pairs,
        step_size=step[:, :, None].expand(-1, -1, n, -1),
        log_decay=decay,
    )
    assert same(repeated, run(linear(HEAD, DELTA), qkv, step_size=1 - (1 - step) ** n, log_decay=decay))


def test_step_of_the_inverse_squared_norm_stores_the_pair(qkv, decay) -> None:
    k = 2.5 * torch.randn(B, T, H, K)
    inputs = {"q": k, "k": k, "v": qkv["v"]}
    assert same(
        run(linear(HEAD, DELTA, scale=1.0), inputs, step_size=1 / k.square().sum(-1), log_decay=decay),
        qkv["v"],
    )


def test_implicit_step_is_the_explicit_step_divided_by_one_plus_step_times_squared_norm(
    step, qkv, decay
) -> None:
    inputs = qkv | {"k": torch.randn(B, T, H, K)}
    explicit = step / (1 + step * inputs["k"].square().sum(-1))
    assert same(
        run(linear(HEAD, ImplicitDeltaRule()), inputs, step_size=step, log_decay=decay),
        run(linear(HEAD, DELTA), inputs, step_size=explicit, log_decay=decay),
    )


def test_implicit_step_tends_to_storing_the_pair(qkv) -> None:
    inputs = {"q": qkv["k"], "k": qkv["k"], "v": qkv["v"]}
    assert reaches(
        lambda h: run(
            linear(Uniform(), ImplicitDeltaRule(), scale=1.0), inputs, step_size=torch.full((B, T, H), 1 / h)
        ),
        qkv["v"],
    )


def test_delta_rule_with_a_small_step_is_linear_attention(qkv) -> None:
    attention = run(linear(Uniform(), OneStep()), qkv)
    assert reaches(
        lambda h: run(linear(Uniform(), DELTA), qkv, step_size=torch.full((B, T, H), h)) / h, attention
    )


def test_importance_multiplies_the_step_of_a_delta_rule(qkv, step) -> None:
    log_importance = -uniform(0.0, 1.0, B, T, H)
    for solver in (DELTA, ImplicitDeltaRule()):
        weighted = run(linear(Importance(), solver), qkv, step_size=step, log_importance=log_importance)
        assert same(weighted, run(linear(Uniform(), solver), qkv, step_size=step * log_importance.exp()))


# --------------------------------------------------------------------------------- least squares and one step
@pytest.fixture
def orthonormal(qkv) -> dict[str, Tensor]:
    """Three tokens whose keys are orthonormal."""
    k = torch.linalg.qr(torch.randn(B, H, K, K)).Q[..., :3].permute(0, 3, 1, 2)
    return {"q": qkv["q"][:, :3], "k": k, "v": qkv["v"][:, :3]}


def test_orthonormal_keys_make_deltanet_least_squares_and_linear_attention_one(orthonormal) -> None:
    """With the ridge r, (K^T K + r I)^-1 divides by 1 + r on the span of the keys; r -> 0 is the minimum-norm
    solution."""
    attention = run(linear(Uniform(), OneStep()), orthonormal)
    assert same(run(linear(Uniform(), DELTA), orthonormal, step_size=torch.ones(B, 3, H)), attention)
    assert same(1.3 * run(linear(Uniform(), ExactRidge()), orthonormal, ridge=0.3), attention)
    assert reaches(lambda h: run(linear(Uniform(), ExactRidge()), orthonormal, ridge=h), attention)


def test_decay_weighs_samples_in_least_squares_and_shrinks_the_memory_in_the_delta_rule(
    orthonormal, decay
) -> None:
    """With orthonormal keys the weighted least-squares solution does not depend on the weights at all, while
    Gated DeltaNet with step 1 is gated linear attention."""
    decay = decay[:, :3]
    gated = run(linear(HEAD, OneStep()), orthonormal, log_decay=decay)
    assert same(run(linear(HEAD, DELTA), orthonormal, step_size=torch.ones(B, 3, H), log_decay=decay), gated)
    assert reaches(
        lambda h: run(linear(HEAD, ExactRidge()), orthonormal, ridge=h, log_decay=decay),
        run(linear(Uniform(), OneStep()), orthonormal),
    )


def test_mesanet_with_a_large_ridge_is_gated_linear_attention(qkv, decay) -> None:
    weights, controls = (
        Product((HEAD, Importance())),
        {"log_decay": decay, "log_importance": -uniform(0.0, 2.0, B, T, H)},
    )
    attention = run(linear(weights, OneStep()), qkv, **controls)
    assert reaches(lambda h: run(linear(weights, ExactRidge()), qkv, ridge=1 / h, **controls) / h, attention)


def test_ridge_is_linear_attention_on_whitened_keys_and_queries(qkv) -> None:
    """H^-1 = L L^T: q^T H^-1 U is the read-out of linear attention with L^T q and L^T k. H is that of the
    last token."""
    ridge = 0.4
    gram = torch.einsum("bthk,bthl->bhkl", qkv["k"], qkv["k"]) + ridge * torch.eye(K)
    whiten = torch.linalg.cholesky(torch.linalg.inv(gram))
    white = qkv | {name: torch.einsum("bhkl,bthk->bthl", whiten, qkv[name]) for name in "qk"}
    assert same(
        run(linear(Uniform(), OneStep()), white)[:, -1],
        run(linear(Uniform(), ExactRidge()), qkv, ridge=ridge)[:, -1],
    )


def test_mamba2_is_gla_with_equal_channels(decay) -> None:
    dt = uniform(0.1, 0.9, B, T, H)
    q, k, v = torch.randn(B, T, H, K), torch.randn(B, T, H, K), dt[..., None] * torch.randn(B, T, H, V)
    scalar = ttr.oracle(linear(HEAD, OneStep(), scale=1.0), q, k, v, log_decay=dt * decay)
    assert same(
        ttr.oracle(
            linear(CHANNEL, OneStep(), scale=1.0),
            q,
            k,
            v,
            log_decay=(dt * decay)[..., None].expand(-1, -1, -1, K),
        ),
        scalar,
    )


# ------------------------------------------------------------------------------------------------- local fits
LOCAL = {
    LocalConstant(): {},
    LocalConstant(unit_norm=True): {},
    LocalLinear(): {"ridge": 0.3},
    LocalLinear(unit_norm=True): {"ridge": 0.3},
}


def test_forgetting_attention_with_an_open_gate_is_softmax_attention(qkv) -> None:
    open_gate = run(Problem(HEAD, LocalConstant(), ExactLocalFit()), qkv, log_decay=torch.zeros(B, T, H))
    assert same(open_gate, run(Problem(Uniform(), LocalConstant(), ExactLocalFit()), qkv))


@pytest.mark.parametrize("unit_norm", [False, True])
def test_local_linear_with_a_large_ridge_is_softmax_attention(qkv, unit_norm) -> None:
    inputs = qkv | {"k": 2 * torch.randn_like(qkv["k"])}
    softmax = run(Problem(Uniform(), LocalConstant(unit_norm=unit_norm), ExactLocalFit()), inputs)
    assert reaches(
        lambda h: run(
            Problem(Uniform(), LocalLinear(unit_norm=unit_norm), ExactLocalFit()), inputs, ridge=1 / h
        ),
        softmax,
    )


def test_local_linear_reproduces_affine_maps(qkv) -> None:
    """Without a ridge, after K + 1 keys in general position."""
    inputs = qkv | {"k": torch.randn_like(qkv["k"])}
    slope, offset = torch.randn(K, V), torch.randn(V)
    inputs["v"] = inputs["k"] @ slope + offset
    tokens = slice(K + 3, None)
    exact = (inputs["q"] @ slope + offset)[:, tokens]
    assert reaches(
        lambda h: run(Problem(Uniform(), LocalLinear(), ExactLocalFit()), inputs, ridge=h)[:, tokens], exact
    )


@pytest.mark.parametrize("function", LOCAL, ids=str)
@pytest.mark.parametrize("weights", [Uniform(), HEAD, Window(3), Alibi()], ids=str)
def test_weights_of_a_local_fit_sum_to_one(qkv, decay, function, weights) -> None:
    controls = LOCAL[function] | ({"log_decay": decay} if weights == HEAD else {})
    assert same(
        run(Problem(weights, function, ExactLocalFit()), qkv | {"v": torch.ones(B, T, H, V)}, **controls),
        torch.ones(B, T, H, V),
    )


def test_weights_of_normalised_linear_attention_sum_to_one(qkv) -> None:
    problem = Problem(Uniform(), Linear(EluPlusOne(), normalized=True, eps=1e-30), OneStep())
    assert same(run(problem, qkv | {"v": torch.ones(B, T, H, V)}), torch.ones(B, T, H, V))


@pytest.mark.parametrize("function", LOCAL, ids=str)
def test_the_first_token_of_a_local_fit_reads_its_own_value(qkv, function) -> None:
    assert same(
        run(Problem(Uniform(), function, ExactLocalFit()), qkv, **LOCAL[function])[:, 0], qkv["v"][:, 0]
    )


def test_unit_norm_softmax_is_the_gaussian_smoother(qkv) -> None:
    """exp(s q.k) = exp(-s/2 ||q - k||^2) times a constant when ||q|| = ||k|| = 1: bandwidth^2 = 1/s."""
    scale = 3.0
    q, k = (torch.nn.functional.normalize(torch.randn_like(qkv[name]), dim=-1) for name in "qk")
    distance = (q.transpose(1, 2)[:, :, :, None] - k.transpose(1, 2)[:, :, None]).square().sum(-1)
    gaussian = torch.exp(-scale / 2 * distance).tril()
    smooth = (gaussian / gaussian.sum(-1, keepdim=True)) @ qkv["v"].transpose(1, 2)
    function = LocalConstant(scale=scale, unit_norm=True)
    assert same(
        run(Problem(Uniform(), function, ExactLocalFit()), {"q": 5 * q, "k": 0.2 * k, "v": qkv["v"]}),
        smooth.transpose(1, 2),
    )


def test_softmax_is_invariant_under_a_shift_of_the_keys_and_local_linear_is_not(qkv) -> None:
    shifted = qkv | {"k": qkv["k"] + torch.randn(1, 1, H, K)}
    constant, line = (
        Problem(Uniform(), LocalConstant(), ExactLocalFit()),
        Problem(Uniform(), LocalLinear(), ExactLocalFit()),
    )
    assert same(run(constant, shifted), run(constant, qkv))
    assert error(run(line, shifted, ridge=0.3), run(line, qkv, ridge=0.3)) > HALF


@pytest.mark.parametrize("function", LOCAL, ids=str)
def test_a_common_rotation_of_queries_and_keys_changes_nothing(qkv, function) -> None:
    rotation = torch.linalg.qr(torch.randn(K, K)).Q
    rotated = qkv | {name: qkv[name] @ rotation for name in "qk"}
    problem = Problem(Uniform(), function, ExactLocalFit())
    assert same(run(problem, rotated, **LOCAL[function]), run(problem, qkv, **LOCAL[function]))


# ---------------------------------------------------------------------------------------------------- weights
SAMPLES = [
    (Linear(), OneStep(), {}),
    (Linear(EluPlusOne(), normalized=True), OneStep(), {}),
    (Linear(), ExactRidge(), {"ridge": 0.3}),
    (LocalConstant(), ExactLocalFit(), {}),
    (LocalLinear(), ExactLocalFit(), {"ridge": 0.3}),
]
STEPS = {"step_size": torch.full((B, T, H), 0.6, dtype=torch.float64)}
MEMORY = [
    (Linear(), DELTA, STEPS),
    (Linear(), DeltaRule("old"), STEPS),
    (Linear(), ImplicitDeltaRule(), STEPS),
]


def kind(part: object) -> str:
    return "controls" if isinstance(part, dict) else type(part).__name__


@pytest.mark.parametrize(("function", "solver", "controls"), SAMPLES + MEMORY, ids=kind)
def test_trivial_weights_are_uniform(qkv, function, solver, controls) -> None:
    plain, zero = run(Problem(Uniform(), function, solver), qkv, **controls), torch.zeros(B, T, H)
    assert same(run(Problem(HEAD, function, solver), qkv, log_decay=zero, **controls), plain)
    assert same(run(Problem(Importance(), function, solver), qkv, log_importance=zero, **controls), plain)
    assert same(
        run(
            Problem(Product((HEAD, Importance())), function, solver),
            qkv,
            log_decay=zero,
            log_importance=zero,
            **controls,
        ),
        plain,
    )


@pytest.mark.parametrize(("function", "solver", "controls"), SAMPLES, ids=kind)
def test_a_window_as_long_as_the_sequence_is_none(qkv, function, solver, controls) -> None:
    plain = run(Problem(Uniform(), function, solver), qkv, **controls)
    assert same(run(Problem(Window(T), function, solver), qkv, **controls), plain)
    assert error(run(Problem(Window(T - 4), function, solver), qkv, **controls), plain) > HALF


@pytest.mark.parametrize(("function", "solver", "controls"), SAMPLES + MEMORY, ids=kind)
def test_fixed_forgetting_is_geometric_with_those_rates(qkv, function, solver, controls) -> None:
    """The decay per token is 1 - 2^-(5+h) in RetNet and exp(-2^-(8(h+1)/H)) in ALiBi."""
    retnet = torch.log1p(-(2.0 ** -(5 + torch.arange(H))))
    alibi = -(2.0 ** (-8 * (1 + torch.arange(H)) / H))
    for fixed, rates in ((MultiScale(), retnet), (Alibi(), alibi)):
        gated = run(Problem(HEAD, function, solver), qkv, log_decay=rates.expand(B, T, H), **controls)
        assert same(run(Problem(fixed, function, solver), qkv, **controls), gated)


@pytest.mark.parametrize(("function", "solver", "controls"), SAMPLES, ids=kind)
def test_forgetting_is_importance_seen_from_the_last_token(qkv, decay, function, solver, controls) -> None:
    """gamma_i^(T) = prod_{i<j<=T} a_j as the importance of each pair gives the same last read-out."""
    past = decay.cumsum(1)
    gated = run(Problem(HEAD, function, solver), qkv, log_decay=decay, **controls)[:, -1]
    assert same(
        run(Problem(Importance(), function, solver), qkv, log_importance=past[:, -1:] - past, **controls)[
            :, -1
        ],
        gated,
    )


@pytest.mark.parametrize(("function", "solver", "controls"), SAMPLES, ids=kind)
def test_a_common_importance_scales_one_step_and_leaves_ratios_and_local_fits(
    qkv, function, solver, controls
) -> None:
    """In an exact solve it divides the ridge."""
    importance = 0.7
    weighted = run(
        Problem(Importance(), function, solver),
        qkv,
        log_importance=torch.full((B, T, H), importance),
        **controls,
    )
    if solver == ExactRidge():
        controls = {"ridge": controls["ridge"] * math.exp(-importance)}
    plain = run(Problem(Uniform(), function, solver), qkv, **controls)
    assert same(
        weighted, plain * math.exp(importance) if function == Linear() and solver == OneStep() else plain
    )
