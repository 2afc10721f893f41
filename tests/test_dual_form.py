"""Networks in mini-batches: first and second derivatives of whole chunks, the published dual form, memory,
and the diagnostics of every step."""

import dataclasses
import functools
import multiprocessing
import resource

import pytest
import torch

import ttr
from tests.tiers import TIERS, tier
from ttr.engines import Engine
from ttr.engines.native import library
from ttr.engines.torch.dual_form.engine import DualForm
from ttr.engines.torch.mini_batch import MiniBatch
from ttr.engines.torch.recurrent import Recurrent
from ttr.experiments.bench import ttt_dual_form
from ttr.experiments.bench.families import FAMILIES, Shape
from ttr.functions.gated_mlp import GatedMlp
from ttr.functions.linear import Linear
from ttr.functions.mlp import Mlp
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import FLOAT64, PARITY, error, tolerance
from ttr.problem import Problem
from ttr.solvers.gradient_descent import GradientDescent
from ttr.solvers.losses.huber import Huber
from ttr.solvers.losses.power_error import PowerError
from ttr.solvers.maps.power_norm import PowerNorm
from ttr.solvers.maps.simplex import Simplex
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

TTT = Problem(Uniform(), Mlp(bias=True, eps=0.1), GradientDescent(chunk=4, read_step=True))
PERCEPTRONS = {
    "ttt-linear": Problem(Uniform(), Mlp(depth=1, bias=True), GradientDescent(chunk=4, read_step=True)),
    "ttt-mlp": TTT,
    "titans": Problem(Geometric(), Mlp(residual=False, hidden=2), GradientDescent(chunk=4, momentum=True)),
    "all at once": Problem(
        Geometric(), Mlp(bias=True, eps=0.1), GradientDescent(chunk=5, momentum=True, read_step=True)
    ),
    "clipped": Problem(Geometric(), Mlp(bias=True, eps=0.1), GradientDescent(chunk=4, loss=Huber())),
    "clipped, no residual": Problem(
        Uniform(), Mlp(residual=False), GradientDescent(chunk=4, loss=Huber(), momentum=True)
    ),
    "three layers": Problem(Geometric(), Mlp(depth=3, bias=True, residual=False), GradientDescent(chunk=3)),
}
MIRRORS = {
    "simplex": Problem(Geometric(), Mlp(eps=0.1), GradientDescent(chunk=4, mirror=Simplex(1.5))),
    "power norm": Problem(
        Geometric(), Mlp(eps=0.1), GradientDescent(chunk=4, loss=PowerError(3.0), mirror=PowerNorm(4.0))
    ),
    "power norm, no residual": Problem(
        Uniform(),
        Mlp(hidden=2, residual=False),
        GradientDescent(chunk=5, loss=PowerError(4.0), mirror=PowerNorm(6.0, eps=0.5)),
    ),
    "simplex, three layers of odd width": Problem(
        Uniform(),
        Mlp(depth=3, hidden=1, residual=False),
        GradientDescent(chunk=3, loss=Huber(), mirror=Simplex()),
    ),
}
"""Mirrors that are compiled. A hidden layer of an odd width ends inside a vector of every instruction set."""
OTHERS = {
    "gated": Problem(Geometric(), GatedMlp(), GradientDescent(chunk=4, momentum=True)),
    "linear": Problem(Uniform(), Linear(), GradientDescent(chunk=4, loss=Huber(), momentum=True)),
    "mirror of everything": Problem(
        Geometric(),
        Mlp(bias=True, eps=0.1),
        GradientDescent(chunk=4, momentum=True, read_step=True, mirror=PowerNorm(3.0, eps=0.5)),
    ),
}
SIZES = Sizes(batch=2, time=23, heads=2, key=5, value=7)
compiled = pytest.mark.skipif(not library.available(), reason="the library of compiled kernels was not built")


@pytest.fixture(params=TIERS)
def engine(request):
    """The kernels of each instruction set, and the implementation in torch, which handles the calls that they
    do not."""
    with tier(request.param):
        yield


def outcomes(case: Case, engine) -> dict[str, torch.Tensor]:
    """Output, state, and the gradients of a random functional of both."""
    y, state = ttr.regress(
        case.problem,
        case.q,
        case.k,
        case.v,
        params=case.params,
        state=case.state,
        return_state=True,
        engine=engine,
        **case.controls,
    )
    generator, found = torch.Generator().manual_seed(0), {"y": y, **state.tensors}
    grads = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in found.values()
    ]
    leaves = case.leaves()
    total = sum((x * grad).sum() for x, grad in zip(found.values(), grads))
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return found | {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients)}


def drawn(problem: Problem, dtype: torch.dtype) -> Case:
    """A case in which a threshold is above some errors and below others."""
    case = make_case(problem, SIZES, past=2, dtype=dtype)
    if "threshold" in case.controls:
        threshold = case.controls["threshold"]
        spread = torch.logspace(-1, 2, threshold.numel(), dtype=dtype).view(threshold.shape)
        case = dataclasses.replace(case, controls=case.controls | {"threshold": spread})
    return case.differentiable()


def compare(problem: Problem, dtype: torch.dtype, reference: Engine = MiniBatch()) -> None:
    case = drawn(problem, dtype)
    found, expected = outcomes(case, DualForm(block=2)), outcomes(case, reference)
    errors = {name: error(found[name], expected[name]) for name in expected}
    assert max(errors.values()) <= tolerance(dtype), errors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", PERCEPTRONS.values(), ids=PERCEPTRONS)
def test_the_dual_form_is_the_plain_one(problem, dtype, engine):
    """Segments that begin and end inside chunks, more than one block of two chunks; sizes that are no
    multiple of a vector."""
    compare(problem, dtype)


def test_some_errors_are_clipped_and_some_are_not():
    for name in ("clipped", "clipped, no residual"):
        case = drawn(PERCEPTRONS[name], torch.float64)
        gradient = outcomes(case, DualForm(block=2))["gradient of threshold"]
        assert 0 < int((gradient == 0).sum()) < gradient.numel(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("problem", MIRRORS.values(), ids=MIRRORS)
def test_networks_that_read_with_a_map_are_the_plain_ones(problem, dtype, engine):
    compare(problem, dtype, Recurrent())


def test_large_sums_overflow_no_softmax(engine):
    case = make_case(MIRRORS["simplex"], SIZES, dtype=torch.float64)
    call = {"params": {name: 1e4 * x for name, x in case.params.items()}, **case.controls}
    found, expected = (
        ttr.regress(case.problem, case.q, case.k, case.v, engine=used, **call)
        for used in (DualForm(), Recurrent())
    )
    assert error(found, expected) <= FLOAT64


@pytest.mark.parametrize("problem", MIRRORS.values(), ids=MIRRORS)
def test_maps_of_a_chunk_are_the_plain_ones(problem):
    case = drawn(problem, torch.float64)
    found, expected = outcomes(case, MiniBatch()), outcomes(case, Recurrent())
    assert all(error(found[name], x) <= FLOAT64 for name, x in expected.items())


@pytest.mark.parametrize("problem", OTHERS.values(), ids=OTHERS)
def test_networks_without_kernels_have_a_derivative_too(problem):
    compare(problem, torch.float64)


@pytest.mark.parametrize("threads", [1, 3])
@compiled
def test_threads_change_no_bit(threads, request):
    case = make_case(TTT, SIZES, dtype=torch.float32).differentiable()
    expected = outcomes(case, DualForm())
    torch.set_num_threads(threads)
    request.addfinalizer(functools.partial(torch.set_num_threads, 1))
    assert all(torch.equal(x, expected[name]) for name, x in outcomes(case, DualForm()).items())


@pytest.mark.parametrize("name", ["ttt-mlp", "titans"])
def test_first_and_second_derivatives(name, engine):
    case = make_case(PERCEPTRONS[name], Sizes(batch=1, time=9, heads=1, key=2, value=4)).differentiable()
    names, leaves = list(case.leaves()), list(case.leaves().values())

    def call(*tensors):
        given = case.with_leaves(dict(zip(names, tensors)))
        return ttr.regress(
            given.problem,
            given.q,
            given.k,
            given.v,
            params=given.params,
            engine=DualForm(block=1),
            **given.controls,
        )

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["ttt-linear", "ttt-mlp"])
def test_second_derivatives_where_a_layer_starts(name, engine):
    """Weights of 0.02 under a norm have gradients of 1e6, which finite differences cannot check, so they are
    compared with those of the definition."""
    problem = ttr.catalogue[name].problem
    case = make_case(problem, Sizes(batch=1, time=19, heads=1, key=2, value=4)).differentiable()
    leaves = list(case.leaves().values())

    def second(call, **options):
        torch.manual_seed(0)
        first = torch.autograd.grad(
            call(problem, **case.arguments(), **options).sin().sum(), leaves, create_graph=True
        )
        return torch.autograd.grad([(x * torch.randn_like(x)).sum() for x in first], leaves)

    assert (
        max(error(*pair) for pair in zip(second(ttr.regress, engine=DualForm(block=1)), second(ttr.oracle)))
        <= FLOAT64
    )


def test_gradients_in_batches(engine):
    case = make_case(TTT, SIZES).differentiable()
    y = ttr.regress(TTT, engine=DualForm(), **case.arguments())
    grads = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, case.v, grads, retain_graph=True, is_grads_batched=True)[0]
    assert (
        error(
            together,
            torch.stack([torch.autograd.grad(y, case.v, grad, retain_graph=True)[0] for grad in grads]),
        )
        <= FLOAT64
    )


def test_rows_at_different_places_of_their_chunks():
    case = make_case(TTT, SIZES, past=2)
    state = case.state.replace(position=case.state.position + torch.tensor([0, 1]))
    call = {**case.arguments(), "state": state}
    assert torch.equal(
        ttr.regress(TTT, engine=DualForm(), **call), ttr.regress(TTT, engine=MiniBatch(), **call)
    )


def test_a_change_at_a_boundary_is_read_and_kept():
    case = make_case(TTT, SIZES, past=4)
    changes = {name: torch.randn_like(x) for name, x in case.state.tensors.items() if "change" in name}
    call = {**case.arguments(), "state": case.state.replace(**changes)}
    found, expected = (ttr.regress(TTT, engine=used, **call) for used in (DualForm(), Recurrent()))
    assert error(found, expected) <= FLOAT64


@pytest.mark.parametrize("name", ["ttt-linear", "ttt-mlp"])
def test_the_published_dual_form(name):
    """The transcription that the benchmark times equals ours to the precision of float64."""
    family = next(family for family in FAMILIES if family.name == name)
    x = {
        key: t.double()
        for key, t in family.draw(
            Shape(time=75, heads=2, key=16, value=16), torch.Generator().manual_seed(0)
        ).items()
    }
    params = {key: t for key, t in x.items() if "." in key}
    call = {key: t for key, t in x.items() if key not in params}
    theirs = ttt_dual_form.ttt(
        call | {key.partition(".")[2]: t for key, t in params.items()},
        layers=1 if name == "ttt-linear" else 2,
    )
    assert error(ttr.regress(family.problem, params=params, **call), theirs) <= PARITY


# ------------------------------------------------------------------------------------------------ diagnostics
@pytest.mark.parametrize("engine", ["dual-form", "mini-batch", "recurrent"])
def test_every_step_reports_its_loss_and_the_norms(engine):
    case = make_case(TTT, SIZES)
    expected = ttr.regress(TTT, engine=engine, **case.arguments())
    with ttr.diagnostics() as reported:
        y, state = ttr.regress(TTT, engine=engine, return_state=True, **case.arguments())
    assert torch.equal(y, expected) and int(sum(r["pairs"][0, 0] for r in reported.records)) == 23
    first, last = reported.records[0], [r for r in reported.records if r["pairs"].any()][-1]
    params = {name.partition(".")[2]: x for name, x in case.params.items()}
    pairs = 1 if engine == "recurrent" else 4
    prediction = TTT.function.predict(
        {n: x[None, None] for n, x in TTT.function.initial(params).items()}, case.k[:, :pairs], params
    )
    loss = 0.5 * (prediction - case.v[:, :pairs]).square().sum(-1).mean(1)
    assert error(first["loss"], loss) <= FLOAT64
    assert all(
        error(x, state[name].flatten(2).norm(dim=-1)) <= FLOAT64 for name, x in last["norms"].items()
    ) and set(last["norms"]) == {"w1", "w1_bias", "w2", "w2_bias"}


def test_a_large_chunk_reports_its_loss():
    problem = ttr.catalogue["lact"].problem
    with ttr.diagnostics() as reported:
        ttr.regress(problem, **make_case(problem, SIZES).arguments())
    assert int(sum(r["pairs"][0, 0] for r in reported.records)) == 23 and reported.records[0]["norms"][
        "w0"
    ].shape == (2, 2)


def test_without_diagnostics_no_loss_is_computed(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("ttr.engines.torch.networks._report", fail)
    ttr.regress(TTT, **make_case(TTT, SIZES).arguments())


# ----------------------------------------------------------------------------------------------------- memory
GIB = 2**30


def _peak_of_training(name: str, time: int, answer) -> None:
    problem = ttr.catalogue[name].problem
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, time, 4, 64, generator=generator).requires_grad_() for _ in "qkv")
    params = {
        key: x.requires_grad_()
        for key, x in ttr.init_params(problem, heads=4, key_size=64, value_size=64).items()
    }
    shapes = {"step_size": (1, time, 4, 3) if name == "lact" else (1, time, 4)}
    controls = {
        key: torch.full(shapes.get(key, (1, time, 4)), -0.01 if key == "log_decay" else 0.01)
        for key in problem.controls()
    }
    y = ttr.regress(problem, q, k / 8, v, params=params, **controls)
    gradients = torch.autograd.grad(y.square().mean(), [q, k, v, *params.values()])
    finite = all(x.isfinite().all() for x in gradients)
    answer.put((finite, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


@pytest.mark.full
@pytest.mark.parametrize("name", ["ttt-linear", "ttt-mlp", "titans", "lact"])
def test_a_long_sequence_is_trained_in_four_gibibytes(name):
    """8,192 tokens, four heads of 64 channels; the peak memory of the process, torch included."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak_of_training, args=(name, 8192, answer))
    process.start()
    finite, peak = answer.get(timeout=600)
    process.join()
    print(f"{name}: {peak / GIB:.2f} GiB")
    assert finite and peak <= 4 * GIB
