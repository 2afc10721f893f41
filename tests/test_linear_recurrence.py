"""The kernels of linear recurrences against the recurrence itself, token by token in float64, and the torch
operator that calls them."""

from __future__ import annotations

import itertools
import os

import pytest
import torch

import ttr
from tests.recurrences import leaves, literally
from tests.registered import assert_as_promised, transposed
from ttr.engines import ENGINES, linear_operator
from ttr.engines.linear import OperatorEngine
from ttr.engines.torch.linear import chunkwise
from ttr.engines.torch.linear.triangle import unit_lower_inverse
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.laws.rows import make_case
from ttr.laws.tolerances import FLOAT32_OUTPUTS, FLOAT64, error, tolerance

PRESENT = tuple(
    engine for engine in ENGINES if isinstance(engine, OperatorEngine) and engine.missing() is None
)
KINDS = ("additive", "delta", "read", "erase")
GATES = (0.0, -1e-3, -1.0, -5.0, -20.0, -80.0)


def draw(
    kind: str,
    decay: str | None,
    time: int,
    *,
    pairs: int = 1,
    old: bool = False,
    reads_first: bool = False,
    strong: bool = False,
    sizes: tuple[int, int, int, int] = (2, 3, 5, 4),
) -> LinearRecurrence:
    generator = torch.Generator().manual_seed(time)
    batch, heads, key_size, value_size = sizes

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lead = (batch, time * pairs, heads)
    key = normal(*lead, key_size) / key_size**0.5
    read = None if kind == "additive" else key if kind == "delta" else normal(*lead, key_size) / key_size**0.5
    erase = normal(*lead, key_size) / key_size**0.5 if kind == "erase" else None
    shape = lead if decay == "head" else (*lead, key_size)
    gates = torch.tensor(GATES, dtype=torch.float64)[torch.randint(len(GATES), shape, generator=generator)]
    mild = -1.5 * torch.rand(shape, generator=generator, dtype=torch.float64)
    log_decay = None if decay is None else gates if strong else mild
    return LinearRecurrence(
        normal(batch, time, heads, key_size),
        key,
        normal(*lead, value_size),
        read,
        erase,
        torch.rand(lead, generator=generator, dtype=torch.float64),
        log_decay,
        normal(batch, heads, key_size, value_size),
        pairs=pairs,
        old=old,
        reads_first=reads_first,
        scale=0.7,
    )


def to(r: LinearRecurrence, dtype: torch.dtype) -> LinearRecurrence:
    fields = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in r]
    return (
        LinearRecurrence(*fields)._replace(read=fields[1]) if r.read is r.key else LinearRecurrence(*fields)
    )


def outcomes(run, r: LinearRecurrence) -> dict[str, torch.Tensor]:
    """Outputs, final memory, and the gradients of a fixed random functional of both."""
    r, named = leaves(r)
    generator = torch.Generator().manual_seed(7)
    y, memory = run(r)
    total = sum(
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum()
        for x in (y, memory)
    )
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "memory": memory} | {
        f"gradient of {name}": gradient for name, gradient in zip(named, gradients)
    }


def compare(name: str, r: LinearRecurrence, dtype: torch.dtype, chunk: int) -> None:
    expected = outcomes(literally, r)
    found = outcomes(lambda r: linear_operator.run(name, r, chunk, True), to(r, dtype))
    errors = {what: error(found[what], expected[what]) for what in expected}
    assert max(errors.values()) <= tolerance(dtype), errors


def variants():
    for kind, decay, pairs, old, reads_first, strong in itertools.product(
        KINDS, (None, "head", "channel"), (1, 3), *[(False, True)] * 3
    ):
        if not (
            reads_first
            and (pairs > 1 or kind != "additive")
            or old
            and kind == "additive"
            or strong
            and decay is None
        ):
            yield dict(kind=kind, decay=decay, pairs=pairs, old=old, reads_first=reads_first, strong=strong)


ROWS = [(b.name, v) for b in PRESENT for v in variants()]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=("float64", "float32"))
@pytest.mark.parametrize(
    "name, variant", ROWS, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values()))
)
def test_engine_runs_the_recurrence(name, variant, dtype):
    for time, chunk in ((0, 4), (1, 8), (13, 4)):
        compare(name, draw(time=time, **variant), dtype, chunk)


@pytest.mark.parametrize("chunk", (1, 4, 16, 32, 64))
@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_lengths_around_the_borders_of_super_blocks(engine, chunk):
    for time in (255, 256, 257, 300):
        compare(engine.name, draw("delta", "head", time, sizes=(1, 1, 3, 2)), torch.float64, chunk)


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_many_rows_and_odd_sizes(engine):
    for sizes in ((1, 37, 5, 7), (5, 9, 17, 3), (40, 1, 3, 2)):
        compare(engine.name, draw("erase", "channel", 9, sizes=sizes), torch.float64, 4)


@pytest.mark.parametrize("strong", (False, True))
@pytest.mark.parametrize("decay", (None, "head", "channel"))
@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_nearly_equal_keys_with_step_one_keep_their_digits(engine, decay, strong):
    """The triangular system is then as ill-conditioned as unit keys allow: its powers grow without bound,
    substitution is stable."""
    r = draw("delta", decay, 128, strong=strong and decay is not None, sizes=(1, 2, 16, 8))
    noise = torch.randn(r.key.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    key = torch.nn.functional.normalize(torch.ones_like(r.key) + 1e-2 * noise, dim=-1)
    weak = None if r.log_decay is None else r.log_decay if strong else 1e-2 * r.log_decay
    r = r._replace(
        key=key,
        read=key,
        query=torch.nn.functional.normalize(r.query, dim=-1),
        step=torch.ones_like(r.step),
        log_decay=weak,
    )
    expected, found = (
        outcomes(run, x)
        for run, x in (
            (literally, r),
            (lambda r: linear_operator.run(engine.name, r, 32, True), to(r, torch.float32)),
        )
    )
    for what in expected:
        assert error(found[what], expected[what]) <= (
            tolerance(torch.float32) if "gradient" in what else FLOAT32_OUTPUTS
        ), what


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_inputs_are_left_alone_and_may_be_strided(engine):
    r = draw("erase", "channel", 21, old=True)
    strided = LinearRecurrence(
        *(x.transpose(0, 1).contiguous().transpose(0, 1) if isinstance(x, torch.Tensor) else x for x in r)
    )
    copies = LinearRecurrence(*(x.clone() if isinstance(x, torch.Tensor) else x for x in r))
    first, second = (
        outcomes(lambda x: linear_operator.run(engine.name, x, 8, True), x) for x in (r, strided)
    )
    assert all(torch.equal(first[what], second[what]) for what in first)
    assert all(torch.equal(a, b) for a, b in zip(r, copies) if isinstance(a, torch.Tensor))


def test_inverse_of_triangles():
    for size in (1, 2, 3, 8, 12, 24, 32, 64):
        lower = torch.full((5, size, size), 0.999, dtype=torch.float64).tril(-1)
        lower[1:] *= torch.randn(
            4, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64
        ).clamp(-1, 1)
        noise = torch.randn(lower.shape, dtype=torch.float64).triu()
        inverse = unit_lower_inverse(lower + noise, torch.empty_like(lower))
        one = torch.eye(size, dtype=torch.float64)
        expected = torch.linalg.solve_triangular(lower + one, one.expand_as(lower), upper=False)
        assert error(inverse, expected) <= FLOAT64


def flat_arguments(r: LinearRecurrence, name: str, chunk: int) -> tuple:
    shared = r.read is r.key
    return (*r[:3], None if shared else r.read, *r[4 : linear_operator.FIELDS], shared, name, chunk, True)


@pytest.mark.parametrize(
    "kind, options",
    (("additive", {"reads_first": True}), ("delta", {}), ("erase", {"old": True})),
    ids=KINDS[:2] + KINDS[3:],
)
@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_the_operator_is_registered_as_torch_wants_it(engine, kind, options):
    r, _ = leaves(draw(kind, "head", 21, **options))
    torch.library.opcheck(linear_operator.linear_recurrence, flat_arguments(r, engine.name, 8))
    r = draw(kind, "head", 21, pairs=2, **options)
    laid = LinearRecurrence(*(transposed(x) if isinstance(x, torch.Tensor) else x for x in r))
    arguments = flat_arguments(laid._replace(read=laid.key) if r.read is r.key else laid, engine.name, 8)
    assert_as_promised(linear_operator.linear_recurrence, arguments)
    y, memory, saved = linear_operator.linear_recurrence(*arguments)
    gradients = map(transposed, (torch.randn_like(y), torch.randn_like(memory)))
    assert_as_promised(linear_operator.linear_recurrence_backward, (*arguments[:-1], saved, *gradients))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_second_derivatives_go_through_the_chunkwise_form(engine, kind):
    def second(run):
        r, named = leaves(draw(kind, "channel", 7))
        y, memory = run(r)
        first = torch.autograd.grad(
            y.square().sum() + memory.square().sum(), list(named.values()), create_graph=True
        )
        return torch.autograd.grad(sum(g.square().sum() for g in first), list(named.values()))

    for found, expected in zip(
        second(lambda r: linear_operator.run(engine.name, r, 4, True)), second(lambda r: chunkwise.run(r, 4))
    ):
        assert error(found, expected) <= FLOAT64


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_odd_sizes_grouped_and_packed_calls(engine):
    problem = ttr.catalogue["gated-deltanet"].problem
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 1000, heads, 40, generator=generator, dtype=torch.float64) for heads in (4, 2))
    v = torch.randn(1, 1000, 4, 72, generator=generator, dtype=torch.float64)
    controls = {
        "log_decay": -torch.rand(1, 1000, 4, generator=generator, dtype=torch.float64),
        "step_size": torch.rand(1, 1000, 4, generator=generator, dtype=torch.float64),
    }
    k = torch.nn.functional.normalize(k, dim=-1)
    for options in ({}, {"cu_seqlens": torch.tensor([0, 0, 333, 334, 1000])}):
        found, expected = (
            ttr.regress(problem, q, k, v, engine=name, return_state=True, **options, **controls)
            for name in (engine.name, "chunkwise-delta")
        )
        assert (
            error(found[0], expected[0]) <= FLOAT64
            and error(found[1]["memory"], expected[1]["memory"]) <= FLOAT64
        )


@pytest.mark.parametrize("engine", PRESENT, ids=lambda b: b.name)
def test_narrow_inputs_have_a_wide_memory(engine):
    problem = ttr.catalogue["gated-deltanet"].problem
    q, k, v = torch.randn(3, 1, 70, 2, 8, dtype=torch.bfloat16).unbind()
    controls = {"log_decay": -torch.rand(1, 70, 2), "step_size": torch.rand(1, 70, 2)}
    y, state = ttr.regress(problem, q, k / 8, v, engine=engine.name, return_state=True, **controls)
    wide, wide_state = ttr.regress(
        problem, q.float(), (k / 8).float(), v.float(), engine=engine.name, return_state=True, **controls
    )
    assert y.dtype == torch.bfloat16 and torch.equal(y, wide.bfloat16())
    assert state["memory"].dtype == torch.float32 and torch.equal(state["memory"], wide_state["memory"])


@pytest.mark.skipif(
    os.environ.get("TTR_TEST_TYPES", "1") == "1",
    reason="the compiler cannot trace the shape checks: run with TTR_TEST_TYPES=0",
)
@pytest.mark.parametrize("engine", ("auto", "superblock"))
def test_a_compiled_call_runs_the_operator(engine):
    """As one graph, with dynamic sizes: the composite form, to which it could fall back, is slower, and only
    this test would show it."""
    torch._dynamo.reset()
    case, operations = make_case(ttr.catalogue["gated-deltanet"].problem), set()

    def look(graph, inputs):
        operations.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(
        lambda q, k, v, controls: ttr.regress(case.problem, q, k, v, engine=engine, **controls),
        backend=look,
        fullgraph=True,
        dynamic=True,
    )
    y = compiled(case.q, case.k, case.v, dict(case.controls))
    assert error(y, ttr.regress(case.problem, case.q, case.k, case.v, **case.controls)) <= FLOAT64
    assert "ttr.linear_recurrence.default" in operations
