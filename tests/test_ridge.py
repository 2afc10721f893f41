"""Ridge regression at every token: the properties of its preconditioner and its solver, and what they
refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

import ttr
from tests.compared import all_of
from tests.tiers import TIERS, tier
from ttr.engines.native import moments
from ttr.engines.torch.chunkwise_ridge import ChunkwiseRidge
from ttr.engines.torch.ridge import preconditioner, regression
from ttr.engines.torch.ridge.solve import ACCEPTED, REFINED
from ttr.engines.torch.ridge.system import System
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import FLOAT32_OUTPUTS, FLOAT64, error, ill_conditioned, tolerance

MESANET = ttr.catalogue["mesanet"].problem
INTENTION = ttr.catalogue["intention"].problem
FADING = {"none": -torch.inf, "a little": -4.1, "more than the preconditioner takes": -1.0, "nearly all": 5.0}
"""Log decays are about minus the softplus of these; their sums over chunks of 32 are about 0, -0.5, -10 and
-160."""


@pytest.fixture(params=TIERS)
def on_every_tier(request):
    """By the kernels of each instruction set, and by torch alone."""
    with tier(request.param):
        yield request.param


def by_kernel(record: dict, case: Case) -> bool:
    """Whether the kernel solved all systems: torch, which repeats a call otherwise, counts whole chunks."""
    return record["rows"] == case.q[..., 0].numel() < 32 * 2 * -(-case.q.shape[1] // 32)


EVERY_TIER = pytest.mark.usefixtures("on_every_tier")


def regression_case(
    time: int, size: int, ridge: float, fading: float, dtype: torch.dtype = torch.float32, heads: int = 2
) -> Case:
    """A case with unit keys and queries, as in MesaNet."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k = (normalize(normal(1, time, heads, size), dim=-1) for _ in "qk")
    log_decay = logsigmoid(0.5 * normal(1, time, heads) - fading).clamp(max=0)
    controls = {
        "log_decay": log_decay,
        "log_importance": logsigmoid(normal(1, time, heads)),
        "ridge": torch.full((heads, size), ridge, dtype=dtype),
    }
    return Case(MESANET, q, k, normal(1, time, heads, size), controls, {})


def exact(case: Case) -> torch.Tensor:
    """The solution in float64, token by token, for the same inputs."""
    return ttr.regress(
        case.problem,
        engine="recurrent",
        **case.with_leaves({name: x.double() for name, x in case.leaves().items()}).arguments(),
    )


def solved(case: Case, chunk: int = 32) -> tuple[torch.Tensor, dict]:
    with ttr.diagnostics() as reported:
        y = ttr.regress(case.problem, engine=ChunkwiseRidge(chunk), **case.arguments())
    return y, reported.records[0]


# ----------------------------------------------------------------------------------------- the preconditioner
@pytest.mark.parametrize("size", (1, 32, 33, 70, 128))
def test_inverse_by_halves(size):
    matrix = torch.randn(3, size, 2 * size, dtype=torch.float64)
    matrix = matrix @ matrix.mT + torch.eye(size, dtype=torch.float64)
    assert (
        error(
            preconditioner.spd_inverse(matrix) @ matrix,
            torch.eye(size, dtype=torch.float64).expand(3, -1, -1),
        )
        <= FLOAT64
    )


def chunk_system(fall: float, ridge: float, tokens: int = 8, size: int = 5) -> System:
    """The system of a chunk over which the memory decays by exp(-fall)."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randn(1, tokens + size, size, generator=generator, dtype=torch.float64)
    pairs[:, tokens:] = pairs[:, tokens:] @ pairs[:, tokens:].mT
    log = torch.linspace(0, -fall, tokens, dtype=torch.float64)[None] - 0.1
    weights = (log[..., None] - log[:, None]).exp().tril() * torch.rand(
        1, 1, tokens, generator=generator, dtype=torch.float64
    )
    return System(
        pairs, weights, log.exp()[..., None], log, torch.full((1, 1, size), ridge, dtype=torch.float64)
    )


def test_the_norm_of_a_system():
    system = chunk_system(1.0, 2.0)
    rows = torch.arange(system.weights.shape[1])
    matrices = system.matrices(torch.zeros_like(rows), rows)
    assert error(system.norm()[0], torch.linalg.matrix_norm(matrices)) <= FLOAT64
    assert error(system.trace()[0], matrices.diagonal(dim1=-2, dim2=-1).sum(-1)) <= FLOAT64
    assert error(system.diagonal()[0], matrices.diagonal(dim1=-2, dim2=-1)) <= FLOAT64


@pytest.mark.parametrize("fall, ridge", ((0.0, 1e-3), (1.0, 1.0), (1.9, 1e-6)))
def test_preconditioned_eigenvalues_lie_between_one_and_what_the_middle_keeps_more(fall, ridge):
    system = chunk_system(fall, ridge)
    method = preconditioner.recursive_least_squares(system, preconditioner.factorise(system))
    tokens, size = system.weights.shape[1], system.ridge.shape[2]
    rows = torch.arange(tokens)
    matrices, identity = system.matrices(torch.zeros_like(rows), rows), torch.eye(size, dtype=torch.float64)
    product, inverse = (
        torch.stack([method.invert(columns[..., i].expand(1, tokens, -1))[0] for i in range(size)], dim=-1)
        for columns in (matrices, identity)
    )
    found = torch.linalg.eigvals(product).real  # of M_t^-1 A_t
    ratio = (system.log_decay[0, tokens // 2] - system.log_decay[0]).exp()[:, None]
    slack = ill_conditioned(1 / ridge, torch.float64)
    assert ((found >= ratio.clamp(max=1) - slack) & (found <= ratio.clamp(min=1) + slack)).all()
    x = torch.randn(1, tokens, size, dtype=torch.float64)
    known = torch.linalg.solve(inverse, x[0, ..., None])[None, ..., 0]
    assert error(method.product(x, known), system.product(x)) <= FLOAT64 / ridge


@EVERY_TIER
def test_the_preconditioner_is_for_chunks_that_forget_little():
    assert (
        preconditioner.fits(chunk_system(1.9, 1.0)).all()
        and not preconditioner.fits(chunk_system(2.1, 1.0)).any()
    )
    case = regression_case(96, 8, 0.25, FADING["a little"])
    assert solved(case)[1]["preconditioned_rows"] == case.q[..., 0].numel()
    half = case.controls["log_decay"].clone()
    half[:, :, 1] = -1.0
    half[:, 50, 1] = -torch.inf
    case = dataclasses.replace(case, controls={**case.controls, "log_decay": half})
    y, record = solved(case)
    assert record["preconditioned_rows"] == record["rows"] // 2 and error(y, exact(case)) <= FLOAT32_OUTPUTS


@pytest.mark.parametrize("ridge", (1.0, 0.25, 0.01, 1e-3))
@pytest.mark.parametrize("fading", ("none", "a little"))
def test_few_iterations_where_little_is_forgotten_whatever_the_ridge(fading, ridge, on_every_tier):
    case = regression_case(150, 32, ridge, FADING[fading])
    _, record = solved(case)
    assert record["iterations"] <= (5 if fading == "none" else 12) and record["direct_rows"] == 0
    assert by_kernel(record, case) == (on_every_tier != "torch")


def test_few_iterations_where_ridges_of_different_sizes_outweigh_the_pairs(on_every_tier):
    """The diagonal, the preconditioner where much is forgotten, contains the ridge."""
    case = regression_case(40, 24, 1.0, FADING["nearly all"])
    ridge = torch.logspace(0, 3, 24).expand(2, -1)
    case = dataclasses.replace(case, controls={**case.controls, "ridge": ridge})
    y, record = solved(case)
    assert record["iterations"] <= 6 and error(y, exact(case)) <= FLOAT32_OUTPUTS
    assert by_kernel(record, case) == (on_every_tier != "torch")


# ------------------------------------------------------------------------------------------------- properties
@EVERY_TIER
@pytest.mark.parametrize("ridge", (1.0, 0.25, 0.01))
@pytest.mark.parametrize("fading", FADING)
def test_error_in_float32(fading, ridge):
    case = regression_case(160, 32, ridge, FADING[fading])
    y, record = solved(case)
    assert error(y, exact(case)) <= FLOAT32_OUTPUTS
    assert (
        record["residual"] <= (ACCEPTED if ridge >= 0.25 else 10 * ACCEPTED) * torch.finfo(torch.float32).eps
    )


@EVERY_TIER
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("fading", FADING)
def test_a_tiny_ridge_is_solved_or_refused(fading, dtype):
    """Never silently wrong: as accurate as the condition of the matrices allows, or refused. The ridge bounds
    the eigenvalues from below."""
    refused = 0
    for exponent in range(1, 13):
        case = regression_case(96, 24, 10.0**-exponent, FADING[fading], dtype)
        largest = (
            torch.linalg.eigvalsh(case.k[0].double().transpose(0, 1).mT @ case.k[0].double().transpose(0, 1))
            .max()
            .item()
        )
        try:
            y, _ = solved(case)
        except ValueError as reason:
            assert "Use a larger ridge" in str(reason)
            refused += 1
        else:
            assert error(y, exact(case)) <= min(ill_conditioned(1 + largest * 10.0**exponent, dtype), 0.1)
    assert (refused > 0) == (dtype == torch.float32) and refused < 9


def test_rows_that_do_not_converge_are_solved_directly():
    """Principal directions of keys with sizes over 3 decades, most of them forgotten at once."""
    case = regression_case(96, 24, 1e-5, FADING["more than the preconditioner takes"])
    spread = (
        torch.logspace(0, -3, 24)
        * torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(2)))[0]
    )
    case = dataclasses.replace(case, k=case.k @ spread @ spread.mT)
    for name in TIERS:
        with tier(name):
            y, record = solved(case)
        assert record["direct_rows"] > 0 or name != "torch"
        assert error(y, exact(case)) <= ill_conditioned(1e5, torch.float32)


@EVERY_TIER
def test_a_singular_matrix_is_refused():
    case = regression_case(5, 8, 1e-30, FADING["a little"], torch.float64)
    with pytest.raises(ValueError, match="Use a larger ridge"):
        solved(case)


def test_a_token_is_refused_as_a_sequence_is():
    case = regression_case(3, 8, 3e-7, FADING["a little"])
    with pytest.raises(ValueError, match="ill-conditioned.*Use a larger ridge, or float64"):
        ttr.regress(case.problem, engine="recurrent", **case.arguments())


@EVERY_TIER
def test_smaller_queries_give_smaller_outputs():
    for ridge in (1.0, 1e-3):
        case = regression_case(96, 16, ridge, FADING["a little"])
        small = dataclasses.replace(case, q=1e-3 * case.q)
        assert error(1e3 * solved(small)[0], solved(case)[0]) <= tolerance(torch.float32)


@EVERY_TIER
def test_a_report_for_each_pass():
    case = regression_case(300, 16, 0.25, FADING["a little"]).differentiable()
    with ttr.diagnostics() as reported:
        ttr.regress(case.problem, engine=ChunkwiseRidge(), **case.arguments()).sum().backward()
    assert [set(record) for record in reported.records] == 2 * [
        {"solver", "iterations", "rows", "preconditioned_rows", "direct_rows", "residual"}
    ]
    assert all(
        0 < record["iterations"] <= 12 and 300 * 2 <= record["rows"] <= 10 * 32 * 2
        for record in reported.records
    )
    assert all(
        0 < record["residual"] <= REFINED * torch.finfo(torch.float32).eps for record in reported.records
    )


# ------------------------------------------------------------------------------------------------ every tier
SIZES = {
    "small": (Sizes(time=11), 4),
    "more channels than the unit of the kernels": (Sizes(batch=1, time=37, key=19, value=5), 32),
    "more values than keys": (Sizes(batch=2, time=33, heads=1, key=2, value=21), 16),
}


@EVERY_TIER
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("problem", (MESANET, INTENTION), ids=("mesanet", "intention"))
def test_ridge_equals_the_oracle(problem, sizes, dtype):
    """Outputs, states and gradients, with and without decay, also of chunks that forget nearly all."""
    shape, chunk = SIZES[sizes]
    for strong in (False, True):
        case = make_case(problem, shape, strong_gates=strong, past=2, dtype=dtype)
        slow = all_of(ttr.oracle, case)
        fast = all_of(ttr.regress, case, engine=ChunkwiseRidge(chunk))
        errors = {name: error(fast[name], slow[name]) for name in slow}
        assert max(errors.values()) <= tolerance(dtype), errors


@EVERY_TIER
def test_ridge_differentiates_twice_and_in_batches():
    case = make_case(MESANET, Sizes(batch=1, time=5, heads=1, key=2, value=2), past=2).differentiable()
    leaves = list(case.leaves().values())

    def call(*leaves):
        changed = case.with_leaves(dict(zip(case.leaves(), leaves, strict=True)))
        return ttr.regress(MESANET, engine=ChunkwiseRidge(4), **changed.arguments())

    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)
    y = call(*leaves)
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, leaves, directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        alone = torch.autograd.grad(y, leaves, direction, retain_graph=True)
        assert all(error(a[i], b) <= FLOAT64 for a, b in zip(together, alone))


def test_gradients_of_systems_that_the_kernel_leaves_unsolved(monkeypatch):
    """They are those of torch's own operations."""
    case = make_case(MESANET, Sizes(time=11), past=2)
    expected = _gradients(case, 4)
    backward = moments.Ridge.backward

    def unsolved(*arguments):
        backward(*arguments)
        raise moments.Unsolved

    monkeypatch.setattr(moments.Ridge, "backward", unsolved)
    assert max(error(*pair) for pair in zip(_gradients(case, 4), expected)) <= FLOAT64


# ------------------------------------------------------------------------------------------------ derivatives
def _gradients(case: Case, chunk: int) -> list[torch.Tensor]:
    case = case.differentiable()
    y, state = ttr.regress(case.problem, engine=ChunkwiseRidge(chunk), return_state=True, **case.arguments())
    total = (
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
        + state["memory"].cos().sum()
        + state["gram"].sin().sum()
    )
    return [y, *torch.autograd.grad(total, list(case.leaves().values()))]


def test_blocks_of_chunks_are_one_sequence(monkeypatch):
    case = make_case(MESANET, Sizes(batch=2, time=41), past=3)
    with tier("torch"):
        whole = _gradients(case, 4)
        monkeypatch.setattr(regression, "BLOCK", 96)  # two chunks of four rows and three features
        assert max(error(*pair) for pair in zip(_gradients(case, 4), whole)) <= FLOAT64


@EVERY_TIER
def test_gradients_of_some_inputs_alone():
    case = make_case(MESANET, Sizes(time=11), past=2)
    names, all_of = list(case.leaves()), _gradients(case, 4)[1:]
    for name, expected in zip(names, all_of):
        leaf = case.leaves()[name].clone().requires_grad_()
        y, state = ttr.regress(
            MESANET,
            engine=ChunkwiseRidge(4),
            return_state=True,
            **case.with_leaves({**case.leaves(), name: leaf}).arguments(),
        )
        total = (
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
            + state["memory"].cos().sum()
            + state["gram"].sin().sum()
        )
        assert error(torch.autograd.grad(total, leaf)[0], expected) <= FLOAT64


@pytest.mark.parametrize("strong_gates", (False, True))
def test_gradcheck(strong_gates):
    case = make_case(MESANET, Sizes(batch=1, time=9), strong_gates=False, past=2).differentiable()
    if strong_gates:
        case.controls["log_decay"].data[:, ::3] = -30.0
    names = list(case.leaves())

    def call(*leaves):
        changed = case.with_leaves(dict(zip(names, leaves, strict=True)))
        y, state = ttr.regress(MESANET, engine=ChunkwiseRidge(4), return_state=True, **changed.arguments())
        return y, state["gram"], state["memory"]

    assert torch.autograd.gradcheck(call, list(case.leaves().values()))


@EVERY_TIER
def test_no_autocast_in_the_backward_pass():
    case = make_case(MESANET, Sizes(time=11), dtype=torch.float32)
    plain = _gradients(case, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert max(error(*pair) for pair in zip(_gradients(case, 4), plain)) <= FLOAT32_OUTPUTS


def test_what_is_kept_for_gradients_is_kept_for_them_alone():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        case = make_case(MESANET, Sizes(time=40))
        ttr.regress(MESANET, engine=ChunkwiseRidge(4), **case.arguments())
        assert not kept
        ttr.regress(MESANET, engine=ChunkwiseRidge(4), **case.differentiable().arguments())
        assert kept


def test_no_moments_are_kept_without_gradients(monkeypatch):
    asked, outputs = [], moments._outputs
    monkeypatch.setattr(moments, "_outputs", lambda x, save: asked.append(save) or outputs(x, save))
    with torch.no_grad():
        case = make_case(MESANET, Sizes(time=20)).differentiable()
        ttr.regress(MESANET, engine=ChunkwiseRidge(4), **case.arguments())
    assert not any(asked)


def test_ridge_of_many_features_is_for_torch(monkeypatch):
    monkeypatch.setattr(moments.Ridge, "forward", None)
    ttr.regress(MESANET, engine=ChunkwiseRidge(4), **make_case(MESANET, Sizes(time=3, key=129)).arguments())
