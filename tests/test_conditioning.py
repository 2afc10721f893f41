"""Ill-conditioned regressions in float32 and half precision: results have correct digits on every engine, or
the call is refused in a sentence."""

import decimal
import functools
from decimal import Decimal

import pytest
import torch

import ttr
from ttr.engines.native import library
from ttr.functions.kernel_regression import KernelRegression
from ttr.functions.linear import Linear
from ttr.functions.local_linear import LocalLinear
from ttr.functions.local_quadratic import LocalQuadratic
from ttr.laws.tolerances import ANSWERED, FLOAT32, error
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.exact_ridge import ExactRidge
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

T, H, D = 46, 2, 8  # parabolas of more than 44 pairs, their monomials, leave their dual form
PROBLEMS = {
    "lines": Problem(Uniform(), LocalLinear(), ExactLocalFit()),
    "lines of rank 2": Problem(Geometric(), LocalLinear(rank=2), ExactLocalFit()),
    "lines in a window": Problem(Window(6), LocalLinear(), ExactLocalFit()),
    "parabolas": Problem(Uniform(), LocalQuadratic(), ExactLocalFit()),
    "kernels": Problem(Uniform(), KernelRegression(), ExactRidge()),
    "fading kernels": Problem(Geometric(), KernelRegression(), ExactRidge()),
    "ridge": Problem(Uniform(), Linear(), ExactRidge()),
    "ridge in a window": Problem(Window(6), Linear(), ExactRidge()),
}
IN_A_WINDOW = Problem(Window(6), LocalQuadratic(), ExactLocalFit())
CALLS = [
    (ridge, size, spread) for ridge in (1e-1, 1e-4, 1e-8) for size in (1.0, 30.0) for spread in (1.0, 1e-3)
]
CALLS += [(1e-1, 1e4, 1.0), (1e-4, 1e4, 1.0)]
"""Ridge, size of the keys, and their relative distance."""


def call(problem, ridge, size, spread, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, T, H, D, generator=generator) for _ in range(3))
    k = size * (k if spread == 1 else k[:, :1] + spread * k) / D**0.5
    controls = {"ridge": ridge} | (
        {"log_decay": -torch.rand(1, T, H, generator=generator)} if "log_decay" in problem.controls() else {}
    )
    params = ttr.init_params(problem, heads=H, key_size=D, value_size=D, generator=generator)
    return {"q": (q * size**0.5).to(dtype), "k": k.to(dtype), "v": v.to(dtype), "params": params, **controls}


def whole(problem, **given):
    return ttr.regress(problem, **given)


def in_torch(problem, **given):
    with library.left_out():
        return ttr.regress(problem, **given)


def planned(problem, **given):
    return ttr.plan(problem, **given)(**given)


def packed(problem, **given):
    return ttr.regress(problem, cu_seqlens=torch.tensor([0, T]), **given)


def from_a_state(problem, q, k, v, params, ridge, **controls):
    rows, state = [], None
    for part in (slice(0, 9), slice(9, T)):
        inside = {name: x[:, part] for name, x in controls.items()}
        y, state = ttr.regress(
            problem,
            q[:, part],
            k[:, part],
            v[:, part],
            params=params,
            state=state,
            return_state=True,
            ridge=ridge,
            **inside,
        )
        rows.append(y)
    return torch.cat(rows, dim=1)


def by_steps(problem, q, k, v, params, ridge, take=ttr.step, **controls):
    rows, state = [], ttr.initial_state(problem, 1, H, D, D, params=params, dtype=q.dtype)
    for t in range(T):
        y, state = take(
            problem,
            q[:, t],
            k[:, t],
            v[:, t],
            state,
            params=params,
            ridge=ridge,
            **{name: x[:, t] for name, x in controls.items()},
        )
        rows.append(y)
    return torch.stack(rows, dim=1)


def by_planned_steps(problem, **given):
    def take(problem, q, k, v, state, **others):
        return ttr.plan(problem, q, k, v, state=state, **others)(q, k, v, state, **others)

    return by_steps(problem, take=take, **given)


ENTRIES = (whole, in_torch, planned, packed, from_a_state, by_steps, by_planned_steps)


def answered(run, problem, given, reference=None):
    """The error of the result, against the oracle's unless there is a better one; None if the call is refused
    in a sentence."""
    try:
        y = run(problem, **given)
    except ValueError as refusal:
        assert str(refusal).endswith(".") and "Use " in str(refusal)
        return None
    return error(y, ttr.oracle(problem, **given) if reference is None else reference)


@pytest.mark.parametrize("run", ENTRIES, ids=lambda run: run.__name__)
@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_answered_has_digits(name, run):
    found = {setting: answered(run, PROBLEMS[name], call(PROBLEMS[name], *setting)) for setting in CALLS}
    assert not {setting: e for setting, e in found.items() if e is not None and not e <= ANSWERED}
    assert found[CALLS[0]] <= FLOAT32  # an ordinary call


def in_many_digits(window, ridge, q, k, v):
    """Local quadratic fits to the last ``window`` pairs at the queries [T,K]: the dual form in 100 digits."""
    with decimal.localcontext() as context:
        context.prec = 100
        rows, queries, keys = [], decimals(q), decimals(k)
        for t, query in enumerate(queries):
            seen = range(max(t + 1 - window, 0), t + 1)
            p = torch.softmax(k[seen].double() @ q[t].double() / q.shape[-1] ** 0.5, 0)
            z = [[a - b for a, b in zip(keys[i], query)] for i in seen]
            dots = [[sum(a * b for a, b in zip(one, other)) for other in z] for one in z]
            # ridge a_i + p_i sum_j (z_i.z_j + (z_i.z_j)^2) a_j = mu p_i,  sum_i a_i = 1
            weighted = zip(decimals(p[:, None]), dots)
            system = [[w * (e + e * e) for e in row] + [-w, Decimal(0)] for [w], row in weighted]
            for i, row in enumerate(system):
                row[i] += Decimal(ridge)
            system.append([Decimal(1)] * len(seen) + [Decimal(0), Decimal(1)])
            a = torch.tensor([float(x) for x in eliminated(system)[:-1]], dtype=torch.float64)
            rows.append(a @ v[seen].double())
    return torch.stack(rows)


def decimals(x):
    return [[Decimal(number) for number in row] for row in x.tolist()]


def eliminated(system):
    """The solution of a system whose rows end with their right side."""
    for i, pivot in enumerate(system):
        pivot[:] = [x / pivot[i] for x in pivot]
        for row in system[:i] + system[i + 1 :]:
            factor = row[i]
            row[:] = [x - factor * y for x, y in zip(row, pivot)]
    return [row[-1] for row in system]


@functools.cache
def parabolas_in_a_window(setting):
    """Arguments, and read-outs with all digits."""
    given = call(IN_A_WINDOW, *setting)
    ridge = torch.tensor(setting[0]).item()  # as float32 inputs have it
    heads = zip(*(given[name][0].unbind(1) for name in "qkv"))
    y = [in_many_digits(IN_A_WINDOW.weights.window, ridge, *head) for head in heads]
    return given, torch.stack(y, dim=1)[None]


@pytest.mark.parametrize("run", ENTRIES, ids=lambda run: run.__name__)
def test_parabolas_of_few_pairs_have_digits(run):
    """In their dual form they have all digits, also where the oracle's normal equations have none."""
    found = {}
    for setting in CALLS:
        given, y = parabolas_in_a_window(setting)
        found[setting] = answered(run, IN_A_WINDOW, given, y)
    assert all(e is not None and e <= FLOAT32 for e in found.values()), found


@pytest.mark.parametrize("name", [name for name in PROBLEMS if "ridge" not in name and "kernel" not in name])
def test_memories_of_pairs_are_answered_in_wider_numbers(name):
    """Not refused: float64 is precise enough, and diagnostics report its use."""
    given = call(PROBLEMS[name], 1e-8, 1.0, 1.0)
    with ttr.diagnostics() as reported:
        assert answered(whole, PROBLEMS[name], given) <= FLOAT32
    assert any(record["solver"] == "in float64 again" for record in reported.records)


def gradients(problem, given):
    """The errors of the gradients of q, k, v; none if the call is refused in a sentence."""
    both = []
    for run, dtype in ((ttr.regress, torch.float32), (ttr.oracle, torch.float64)):
        leaves = [given[x].detach().to(dtype).requires_grad_() for x in "qkv"]
        try:
            y = run(problem, **given | dict(zip("qkv", leaves)))
            both.append(torch.autograd.grad(y.square().sum(), leaves))
        except ValueError as refusal:
            assert str(refusal).endswith(".")
            return []
    return [error(a, b) for a, b in zip(*both)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients_of_what_is_answered_have_digits(name):
    found = {setting: gradients(PROBLEMS[name], call(PROBLEMS[name], *setting)) for setting in CALLS[:-2]}
    assert not {
        setting: errors for setting, errors in found.items() if not all(e <= ANSWERED for e in errors)
    }


@pytest.mark.parametrize("name", ["lines", "lines in a window"])
def test_what_has_few_digits_is_worked_out_wider(name):
    given = call(PROBLEMS[name], 1e-2, 10.0, 1.0)
    assert (
        answered(whole, PROBLEMS[name], given) <= FLOAT32 and max(gradients(PROBLEMS[name], given)) <= FLOAT32
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_other_dtypes(name, dtype):
    found = {
        setting: answered(whole, PROBLEMS[name], call(PROBLEMS[name], *setting, dtype))
        for setting in CALLS[:-2]
    }
    assert not {setting: e for setting, e in found.items() if e is not None and not e <= ANSWERED}


@pytest.mark.full
@pytest.mark.parametrize("name", PROBLEMS)
def test_compiled_steps_are_wider_or_no_numbers(name):
    """A compiled call cannot check numbers: memories of pairs are solved in float64, and rows of moments
    without correct digits are NaN."""
    torch._dynamo.reset()
    problem = PROBLEMS[name]
    if problem.weights.window is not None and problem.function.local_degree is None:
        pytest.skip("as without a window")
    step = torch.compile(functools.partial(ttr.step, problem), backend="aot_eager")
    for setting in ((1e-1, 1.0, 1.0), (1e-4, 30.0, 1.0), (1e-8, 1.0, 1.0)):
        given = call(problem, *setting)
        past = {name: x if name in ("params", "ridge") else x[:, :12] for name, x in given.items()}
        token = {name: x if name in ("params", "ridge") else x[:, 12] for name, x in given.items()}
        try:
            _, state = ttr.regress(problem, return_state=True, **past)
            y, _ = step(
                token["q"],
                token["k"],
                token["v"],
                state,
                **{name: x for name, x in token.items() if name not in "qkv"},
            )
        except ValueError:
            continue
        reference = ttr.oracle(
            problem, **{name: x if name in ("params", "ridge") else x[:, :13] for name, x in given.items()}
        )[:, 12]
        assert y.isnan().any() or error(y, reference) <= ANSWERED
