"""torch.compile(fullgraph=True, dynamic=True) of every entry, gradients included; needs the shape checks off:
TTR_TEST_TYPES=0."""

import dataclasses
import logging
import os

import pytest
import torch

import ttr
from ttr.forms import LinearRecurrence
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import FLOAT64, error
from ttr.torch_internals import constant_when_compiled

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the compiler's own
    pytest.mark.skipif(os.environ.get("TTR_TEST_TYPES", "1") == "1", reason=("run with TTR_TEST_TYPES=0")),
]

ONE_PER_FORM = ("gated-deltanet", "gla", "mesanet", "forgetting-attention", "local-linear-attention")


def run(case, backend):
    torch._dynamo.reset()
    case = case.differentiable()

    def call(q, k, v, params, controls):
        return ttr.regress(case.problem, q, k, v, params=params, **controls)

    compiled = call if backend is None else torch.compile(call, fullgraph=True, dynamic=True, backend=backend)
    y = compiled(case.q, case.k, case.v, dict(case.params), dict(case.controls))
    return y, *torch.autograd.grad(y.square().sum(), list(case.leaves().values()))


QUICK = {("gated-deltanet", "aot_eager"), ("forgetting-attention", "aot_eager")}
"""What `make test` compiles: all calls pass through the same checks, dispatch and lowering."""
ALL = [(name, "aot_eager") for name in ttr.catalogue] + [(name, "inductor") for name in ONE_PER_FORM]


@pytest.mark.parametrize(
    "name, backend",
    [pytest.param(*each, marks=() if each in QUICK else pytest.mark.full) for each in ALL],
)
def test_compiled_equals_eager(name, backend):
    case = make_case(ttr.catalogue[name].problem, Sizes(time=4))
    for compiled, eager in zip(run(case, backend), run(case, None)):
        assert error(compiled, eager) <= FLOAT64


def test_an_engine_may_make_a_problem_in_one_graph():
    torch._dynamo.reset()

    problem = ttr.catalogue["gla"].problem

    def call(x):
        made = dataclasses.replace(problem, weights=ttr.weights.Uniform())
        return x if made.form is LinearRecurrence else -x

    x = torch.ones(2)
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(x), x)


@pytest.mark.full
def test_packed_calls_are_compiled_without_a_warning(caplog):
    torch._dynamo.reset()
    case = make_case(ttr.catalogue["gated-deltanet"].problem, Sizes(batch=1, time=9))

    def call(bounds):
        return ttr.regress(case.problem, **case.arguments(), cu_seqlens=bounds, return_state=True)

    compiled, bounds = torch.compile(call, backend="eager"), torch.tensor([0, 4, 7, 9])
    logger = logging.getLogger("torch._dynamo")
    logger.addHandler(caplog.handler)  # torch's loggers do not propagate
    try:
        (y, state), (wanted, after) = compiled(bounds), call(bounds)
    finally:
        logger.removeHandler(caplog.handler)
    assert error(y, wanted) <= FLOAT64 and error(state["memory"], after["memory"]) <= FLOAT64
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_constants_are_marked_as_by_torch():
    def ours(): ...

    def theirs(): ...

    constant_when_compiled(ours)
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs) and vars(ours)
