"""Identities of exact regression and local polynomials, stated of the definition alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

import ttr
from ttr.functions.features.taylor import Taylor
from ttr.functions.kernel_regression import KernelRegression
from ttr.functions.linear import Linear
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.functions.local_quadratic import LocalQuadratic
from ttr.laws.tolerances import FLOAT32, FLOAT64, HALF, error
from ttr.problem import Problem
from ttr.solvers.chebyshev import Chebyshev
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.solvers.learned_slope import LearnedSlope
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform

B, T, H, K, V = 2, 11, 2, 3, 4
GATED = Product((Geometric("head"), Importance()))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    return {
        "q": torch.randn(B, T, H, K),
        "k": torch.nn.functional.normalize(torch.randn(B, T, H, K), dim=-1),
        "v": torch.randn(B, T, H, V),
    }


@pytest.fixture
def gates() -> dict[str, Tensor]:
    return {"log_decay": -torch.rand(B, T, H), "log_importance": -torch.rand(B, T, H)}


UNDAMPED = 1e-16
"""The least damping; 0 is refused, because a converged solve would divide 0 by 0."""


def run(problem: Problem, inputs: Mapping[str, Tensor], **controls: Tensor | float) -> Tensor:
    return ttr.oracle(problem, **inputs, **controls)


def same(value: Tensor, reference: Tensor) -> bool:
    return error(value, reference) <= FLOAT64


# ----------------------------------------------------------------------------------------------- global ridge
def test_recursive_least_squares_with_forgetting_is_the_ridge_under_importance(qkv) -> None:
    """P <- P / a before each pair also decays the prior: sum_i prod_{i<j<=t} a_j err_i + prod_{j<=t} a_j
    ridge is prod_{j<=t} a_j times the ridge problem in which pair i has weight 1 / prod_{j<=i} a_j. A
    constant ridge is another layer."""
    log_decay, ridge = -0.5 * torch.rand(B, T, H), 0.4
    inverse, memory, y = torch.eye(K).expand(B, H, K, K) / ridge, torch.zeros(B, H, K, V), []
    for t in range(T):
        kept = log_decay[:, t].exp()[..., None, None]
        inverse, memory = inverse / kept, kept * memory + qkv["k"][:, t, :, :, None] * qkv["v"][:, t, :, None]
        gain = torch.einsum("bhkl,bhl->bhk", inverse, qkv["k"][:, t])
        share = 1 + (qkv["k"][:, t] * gain).sum(-1)
        inverse = inverse - gain[..., :, None] * gain[..., None, :] / share[..., None, None]
        y.append(torch.einsum("bhkv,bhkl,bhl->bhv", memory, inverse, qkv["q"][:, t]))
    recursive = torch.stack(y, dim=1)
    assert same(
        run(
            Problem(Importance(), Linear(scale=1.0), ExactRidge()),
            qkv,
            ridge=ridge,
            log_importance=-log_decay.cumsum(1),
        ),
        recursive,
    )
    assert (
        error(
            run(
                Problem(Geometric("head"), Linear(scale=1.0), ExactRidge()),
                qkv,
                ridge=ridge,
                log_decay=log_decay,
            ),
            recursive,
        )
        > HALF
    )


def test_many_chebyshev_iterations_solve_the_ridge_relative_to_the_norm_of_the_moments(qkv, gates) -> None:
    layer = Problem(GATED, Linear(), Chebyshev(iterations=150, ratio=0.05))
    y = run(layer, qkv, mix=torch.ones(B, T, H), **gates)
    for t in (0, 4, T - 1):
        until = {name: x[:, : t + 1] for name, x in (qkv | gates).items()}
        _, state = ttr.oracle(layer, **until, mix=torch.ones(B, t + 1, H), return_state=True)
        for row in range(B):
            ridge = 0.05 * torch.linalg.matrix_norm(state["gram"][row])
            exact = run(
                Problem(GATED, Linear(), ExactRidge()),
                {name: x[row : row + 1] for name, x in until.items()},
                ridge=ridge,
            )
            assert same(y[row, t], exact[0, t])


def test_gated_kalmanet_without_the_solve_is_gated_linear_attention(qkv, gates) -> None:
    attention = run(Problem(GATED, Linear(), OneStep()), qkv, **gates)
    assert same(
        run(Problem(GATED, Linear(), Chebyshev(iterations=3)), qkv, mix=torch.zeros(B, T, H), **gates),
        attention,
    )


def test_gated_kalmanet_weighs_pairs_by_the_square_of_what_scales_keys_and_values(qkv, gates) -> None:
    beta = 0.1 + 0.9 * torch.rand(B, T, H)
    scaled = qkv | {name: beta[..., None] * qkv[name] for name in "kv"}
    mix, layer = torch.rand(B, T, H), Chebyshev(iterations=5)
    assert same(
        run(
            Problem(GATED, Linear(), layer),
            qkv,
            mix=mix,
            log_decay=gates["log_decay"],
            log_importance=2 * beta.log(),
        ),
        run(Problem(Geometric("head"), Linear(), layer), scaled, mix=mix, log_decay=gates["log_decay"]),
    )


def test_as_many_conjugate_gradient_steps_as_channels_are_the_exact_ridge(qkv, gates) -> None:
    """Up to the damping, which tends to 0."""
    exact = run(Problem(GATED, Linear(), ExactRidge()), qkv, ridge=0.3, **gates)
    assert same(
        run(
            Problem(GATED, Linear(), ConjugateGradient(iterations=K, damping=UNDAMPED)),
            qkv,
            ridge=0.3,
            **gates,
        ),
        exact,
    )
    assert (
        error(
            run(
                Problem(GATED, Linear(), ConjugateGradient(iterations=1, damping=UNDAMPED)),
                qkv,
                ridge=0.3,
                **gates,
            ),
            exact,
        )
        > HALF
    )


# ----------------------------------------------------------------------------------------------- kernel ridge
@dataclasses.dataclass(frozen=True)
class _TaylorKernel(KernelRegression):
    """The kernel of the Taylor features, by its formula."""

    def kernel_matrix(self, left: Tensor, right: Tensor) -> Tensor:
        dot = left @ right.mT / math.sqrt(left.shape[-1])
        return 1 + dot + dot * dot / 2


@pytest.mark.parametrize("weights", [Importance(), GATED], ids=str)
def test_primal_and_dual_ridge_agree(qkv, gates, weights) -> None:
    """(H + ridge)^-1 U in the features equals the dual solution with one coefficient per pair, with weights
    and decay."""
    controls = {name: gates[name] for name in weights.controls()}
    primal = run(Problem(weights, Linear(Taylor(), scale=1.0), ExactRidge()), qkv, ridge=0.3, **controls)
    assert same(run(Problem(weights, _TaylorKernel(), ExactRidge()), qkv, ridge=0.3, **controls), primal)


def test_a_small_ridge_lets_the_kernel_interpolate(qkv) -> None:
    y = run(
        Problem(Uniform(), KernelRegression("gaussian", scale=20.0), ExactRidge()),
        qkv | {"q": qkv["k"]},
        ridge=1e-11,
    )
    assert same(y, qkv["v"])


def test_kernels_of_unit_vectors_differ_by_a_factor_that_scales_the_ridge(qkv) -> None:
    """exp(s q.k) = e^s exp(-s/2 ||q - k||^2) where ||q|| = ||k|| = 1."""
    inputs, scale = qkv | {"q": torch.nn.functional.normalize(qkv["q"], dim=-1)}, 1.7
    gaussian = run(Problem(Uniform(), KernelRegression("gaussian", scale), ExactRidge()), inputs, ridge=0.3)
    assert same(
        run(
            Problem(Uniform(), KernelRegression("exponential", scale), ExactRidge()),
            inputs,
            ridge=0.3 * math.exp(scale),
        ),
        gaussian,
    )


# ------------------------------------------------------------------------------------------------- local fits
QUADRATIC = Problem(Uniform(), LocalQuadratic(), ExactLocalFit())


def softmax_attention(inputs: Mapping[str, Tensor]) -> Tensor:
    return run(Problem(Uniform(), LocalConstant(), ExactLocalFit()), inputs)


def reaches(layer, limit: Tensor) -> bool:
    """Whether layer(h) -> limit as h -> 0: 2 layer(h/2) - layer(h) differs from the limit by O(h^2);
    monomials of degree 4 need a small h."""
    h = 1e-9
    return error(2 * layer(h / 2) - layer(h), limit) <= FLOAT64


def test_local_quadratic_with_a_large_ridge_is_softmax_attention(qkv) -> None:
    assert reaches(lambda h: run(QUADRATIC, qkv, ridge=1 / h), softmax_attention(qkv))


def test_local_quadratic_without_its_squares_is_local_linear(qkv) -> None:
    """With a large ridge on the monomials of degree 2."""
    squares = torch.cat([torch.zeros(K), torch.ones(K * (K + 1) // 2)])
    line = run(Problem(Uniform(), LocalLinear(), ExactLocalFit()), qkv, ridge=0.3)
    assert reaches(lambda h: run(QUADRATIC, qkv, ridge=(0.3 + squares / h).expand(H, -1)), line)


def test_local_quadratic_reproduces_quadratic_maps() -> None:
    """Without a ridge, after as many keys in general position as there are coefficients."""
    time, size = 16, 2
    inputs = {name: torch.randn(B, time, H, size) for name in "qk"}
    form, slope = torch.randn(size, size, V), torch.randn(size, V)

    def quadratic(x: Tensor) -> Tensor:
        return torch.einsum("...a,...b,abv->...v", x, x, form) + x @ slope - 0.7

    y = run(QUADRATIC, inputs | {"v": quadratic(inputs["k"])}, ridge=1e-13)[:, 12:]
    assert error(y, quadratic(inputs["q"])[:, 12:]) <= FLOAT32


def test_a_common_rotation_changes_nothing_of_a_local_quadratic(qkv) -> None:
    """Products of two channels have a factor of root 2, so that an equal ridge prefers no direction."""
    rotation = torch.linalg.qr(torch.randn(K, K)).Q
    assert same(
        run(QUADRATIC, qkv | {name: qkv[name] @ rotation for name in "qk"}, ridge=0.3),
        run(QUADRATIC, qkv, ridge=0.3),
    )


def test_the_weights_of_a_local_quadratic_sum_to_one(qkv) -> None:
    assert same(run(QUADRATIC, qkv | {"v": torch.ones(B, T, H, V)}, ridge=0.3), torch.ones(B, T, H, V))


PARALLAX = Problem(Uniform(), LocalLinear(), LearnedSlope())


def test_parallax_with_a_slope_of_zero_is_softmax_attention(qkv) -> None:
    assert same(run(PARALLAX, qkv, slope=torch.zeros(B, T, H, K)), softmax_attention(qkv))


def test_parallax_with_the_solved_slope_is_local_linear_attention(qkv) -> None:
    ridge, slopes = 0.3, []
    for t in range(T):
        keys, query = qkv["k"][:, : t + 1].transpose(1, 2), qkv["q"][:, t]
        p = torch.softmax((keys @ query[..., None])[..., 0] / math.sqrt(K), dim=-1)[..., None]
        mean = (p * keys).sum(-2)
        centred = keys - mean[..., None, :]
        slopes.append(torch.linalg.solve((p * centred).mT @ centred + ridge * torch.eye(K), mean - query))
    exact = run(Problem(Uniform(), LocalLinear(), ExactLocalFit()), qkv, ridge=ridge)
    assert same(run(PARALLAX, qkv, slope=torch.stack(slopes, dim=1)), exact)
