"""The formulas that ``ttr.explain`` prints for losses, maps of matrices and feature maps are what these
compute, from tiny numbers to large ones.

Every formula is read literally, under the very text that is printed: whoever changes the text or the code
changes both.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

import ttr
from ttr import registry
from ttr.functions.features.identity import Identity
from ttr.functions.mlp import Mlp
from ttr.laws.tolerances import FLOAT32_OUTPUTS, FLOAT64, error
from ttr.solvers.maps.power_norm import PowerNorm

SCALES = (1e-4, 1e-2, 1.0, 30.0)


def length(x: Tensor) -> Tensor:
    return (x * x).sum(-1, keepdim=True).sqrt()


def layer_norm(x: Tensor, eps: float, gain: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred * centred).mean(-1, keepdim=True) + eps) ** 0.5 * gain + shift


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    weights = (x - x.amax(axis, keepdim=True)).exp()
    return weights / weights.sum(axis, keepdim=True)


# ----------------------------------------------------------------------------------------------------- losses
LOSSES = {
    "||m - v||^2 / 2": lambda m, v, c: length(m - v)[..., 0] ** 2 / 2,
    "-m^T v": lambda m, v, c: -(m * v).sum(-1),
    "sum_c |m_c - v_c|^3 / 3": lambda m, v, c: ((m - v).abs() ** 3).sum(-1) / 3,
    "||m - v||^2 / 2 where ||m - v|| <= threshold, "
    "else threshold (||m - v|| - threshold / 2)": lambda m, v, c: torch.where(
        length(m - v)[..., 0] <= c["threshold"],
        length(m - v)[..., 0] ** 2 / 2,
        c["threshold"] * (length(m - v)[..., 0] - c["threshold"] / 2),
    ),
}


def newton_schulz(matrix: Tensor, coefficients, eps: float = 1e-7) -> Tensor:
    x = matrix / ((matrix * matrix).sum((-2, -1), keepdim=True) ** 0.5 + eps)
    for a, b, c in coefficients:
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return x


# ------------------------------------------------------------------------------------------- maps of matrices
MAPS = {
    "W = A (sum_ij |A_ij|^4 + 1e-18)^(-2/4)": lambda a: (
        a * ((a.abs() ** 4).sum((-2, -1), keepdim=True) + 1e-18) ** (-2 / 4)
    ),
    "W = softmax(A) over the inputs of every output": lambda a: softmax(a, -2),
    "NS(G) ~ the nearest orthonormal matrix, 5 times X <- a X + (b Y + c Y Y) X from X = G / (||G|| + "
    "1e-07), Y = X X^T, "
    "(a, b, c) = (3.4445, -4.775, 2.0315)": lambda g: newton_schulz(g, [(3.4445, -4.775, 2.0315)] * 5),
    "NS(G) ~ the nearest orthonormal matrix, 2 times X <- a X + (b Y + c Y Y) X from X = G / (||G|| + "
    "1e-07), Y = X X^T, "
    "(a, b, c) from (2, -1.5, 0.5) to (1.5, -0.5, 0.25)": lambda g: newton_schulz(
        g, [(2.0, -1.5, 0.5), (1.5, -0.5, 0.25)]
    ),
}


def cosine_transform(size: int) -> Tensor:
    """DCT-II with orthonormal rows."""
    j, n = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * j[:, None] * (n + 0.5) / size) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows


def positive(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    x, w = x / x.shape[-1] ** 0.25, p["directions"]
    exponent = torch.einsum("...k,mk->...m", x, w) - (x * x).sum(-1, keepdim=True) / 2
    return exponent.clamp(max=30).exp() / w.shape[0] ** 0.5


def fourier(x: Tensor, p: dict[str, Tensor], amplitude: float, tau: float) -> Tensor:
    angle = torch.einsum(
        "...hk,hmk->...hm", x / (length(x) + 0.001), p["sigma"][:, None] * p["directions"] / tau
    )
    return amplitude * torch.cat([angle.sin(), angle.cos()], -1)


def hedgehog(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    z = torch.einsum("hjk,...hk->...hj", p["weight"], x) + p["bias"]
    return softmax(torch.cat([2 * z, -2 * z], -1))


def monomials(x: Tensor) -> Tensor:
    size, pairs = x.shape[-1], list(itertools.combinations(range(x.shape[-1]), 2))
    first = [torch.ones_like(x[..., 0]), *(x[..., i] / size**0.25 for i in range(size))]
    second = [
        *(x[..., i] * x[..., j] / size**0.5 for i, j in pairs),
        *(x[..., i] ** 2 / (2 * size) ** 0.5 for i in range(size)),
    ]
    return torch.stack(first + second, -1)


def dot(q: Tensor, k: Tensor) -> Tensor:
    return (q * k).sum(-1)


# --------------------------------------------------------------------------- feature maps: phi, or its kernel
PHI = {
    "phi(x) = x": lambda x, p: x,
    "phi(x) = elu(x) + 1": lambda x, p: torch.where(x > 0, x + 1, x.exp()),
    "phi(x) = max(x, 0)": lambda x, p: torch.where(x > 0, x, 0.0),
    "phi(x) = softmax(D C^T x), C the cosine transform (DCT-II), D a fixed random diagonal": lambda x, p: (
        softmax(p["diagonal"] * torch.einsum("jk,...j->...k", cosine_transform(x.shape[-1]), x))
    ),
    "phi(x) = softmax((2 z, -2 z)), z = W x + b with learned W and b": hedgehog,
    "phi(x) = exp(W x~ - ||x~||^2 / 2) / m^(1/2), x~ = x / K^(1/4), W of m = int(K log K) fixed random "
    "rows, exponents up to 30, "
    "so phi(q)^T phi(k) is exp(q^T k / K^(1/2)) in the mean": positive,
    "phi(x) = exp(W x~ - ||x~||^2 / 2) / m^(1/2), x~ = x / K^(1/4), W of m = 4 fixed random rows, exponents "
    "up to 30, "
    "so phi(q)^T phi(k) is exp(q^T k / K^(1/2)) in the mean": positive,
    "phi(x) = c (sin(W x~), cos(W x~)), x~ = x / (||x|| + 0.001), c = m^(-1/2), W_r = sigma * omega_r, r = "
    "1, ..., m = 3, "
    "omega_r fixed and normal, sigma learned": lambda x, p: fourier(x, p, 3**-0.5, 1.0),
    "phi(x) = c (sin(W x~), cos(W x~)), x~ = x / (||x|| + 0.001), c = 0.5, W_r = sigma * omega_r / 0.7, r = "
    "1, ..., m = 2, "
    "omega_r fixed and normal, sigma learned": lambda x, p: fourier(x, p, 0.5, 0.7),
    "phi(x) = (1, x_i / K^(1/4), x_i x_j / K^(1/2), x_i^2 / (2 K)^(1/2)), i < j, so phi(q)^T phi(k) = 1 + u "
    "+ u^2 / 2, "
    "u = q^T k / K^(1/2)": lambda x, p: monomials(x),
}

KERNELS = {
    "phi(q)^T phi(k) = (q~^T k~)^2 / K, "
    "x~ = LN(x) with learned gain and shift, eps = 1e-05": lambda q, k, p: (
        dot(*(layer_norm(x, 1e-5, p["gain"], p["bias"]) for x in (q, k))) ** 2 / q.shape[-1]
    ),
    "phi(q)^T phi(k) = (q^T k / K^(1/2))^2, phi(x) the monomials of degree 2 in x": lambda q, k, p: (
        (dot(q, k) / q.shape[-1] ** 0.5) ** 2
    ),
    "phi(q)^T phi(k) = (q^T k / K^(1/2))^4, phi(x) the monomials of degree 4 in x": lambda q, k, p: (
        (dot(q, k) / q.shape[-1] ** 0.5) ** 4
    ),
}


def examples(kind: str):
    return [
        pytest.param(example, id=repr(example))
        for cls in registry.members(kind)
        for example in cls.examples()
    ]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("loss", examples("loss"))
def test_a_loss_is_what_it_prints(loss):
    m, v, controls = normal(7, 2, 5), normal(7, 2, 5, seed=1), {"threshold": 2 + normal(7, 2, seed=2).abs()}
    for scale in SCALES:
        assert error(loss(scale * m, v, controls), LOSSES[loss.formula](scale * m, v, controls)) < FLOAT64


@pytest.mark.parametrize("change", examples("map"))
def test_a_map_of_matrices_is_what_it_prints(change):
    for scale in SCALES:
        matrix = scale * normal(3, 4, 6)
        assert error(change(matrix), MAPS[change.formula](matrix)) < FLOAT64


@pytest.mark.parametrize("features", examples("feature"))
def test_a_feature_map_is_what_it_prints(features):
    size, formula = 5, features.formulas()["features"]
    declared = features.parameters(2, size, 3)
    params = {
        name: p.draw(torch.Generator().manual_seed(1)).double() * (1 + 0.1 * normal(*p.shape))
        for name, p in declared.items()
    }
    for scale in SCALES:
        q, k = scale * normal(7, 2, size), normal(7, 2, size, seed=1)
        mapped = features(q, params), features(k, params)
        if formula in KERNELS:
            assert error(dot(*mapped), KERNELS[formula](q, k, params)) < FLOAT64
        else:
            assert all(error(found, PHI[formula](x, params)) < FLOAT64 for found, x in zip(mapped, (q, k)))


@pytest.mark.parametrize("values", [2, 6])
def test_a_residual_network_cuts_and_pads_its_input_as_it_prints(values):
    network = Mlp(depth=1)
    assert (
        network.formulas()["prediction"]
        == (
            "m(x) = [phi(x)]_V + LN(W_1^T phi(x)), LN with learned gain "
            "and shift, eps = 1e-06, "
            "[.]_V the first V entries, 0 where there are fewer"
        )
        and network.features == Identity()
    )
    x, w, gain, shift = (
        normal(7, 2, 4),
        normal(2, 4, values),
        normal(2, values, seed=1),
        normal(2, values, seed=2),
    )
    cut = torch.cat([x, torch.zeros(7, 2, 4)], -1)[..., :values]
    found = network.predict({"w1": w}, x, {"gain": gain, "shift": shift})
    assert (
        error(found, cut + layer_norm(torch.einsum("hfv,...hf->...hv", w, x), network.eps, gain, shift))
        < FLOAT64
    )


def test_the_constant_in_the_norm_of_moneta_is_negligible_under_ordinary_decay():
    """Accumulators that have decayed to 1e-3 have the weights of the publication, A / ||A||_4^2."""
    accumulator = 1e-3 * normal(3, 4, 6)
    published = accumulator / (accumulator**4).sum((-2, -1), keepdim=True) ** 0.5
    assert isinstance(ttr.catalogue["moneta"].problem.solver.mirror, PowerNorm)
    assert error(ttr.catalogue["moneta"].problem.solver.mirror(accumulator), published) < FLOAT32_OUTPUTS
