"""Local quadratic regression in its dual form on every tier: by the kernels of each instruction set, and by
torch alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ttr
from tests.compared import all_of
from tests.tiers import TIERS, tier
from ttr.engines.torch import quadratic_dual
from ttr.engines.torch.local_polynomial import LocalPolynomial
from ttr.functions.local_quadratic import LocalQuadratic
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import error, tolerance
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

WEIGHTS = (
    Uniform(),
    Product((Geometric("head"), Importance())),
    Product((Geometric("head"), Importance(), Window(21))),
)
LEARNED = LocalQuadratic(scale=1.3, unit_norm=True, learned_scale=True)
GROUPED = Sizes(batch=1, time=37, heads=2, key=7, value=3, query_heads=2, key_heads=1, value_heads=2)
"""35 monomials: the first tokens have fewer pairs, the last ones more; the pairs fill several strips of U."""

DTYPES = pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)


def _case(weights, function=LocalQuadratic(), sizes=GROUPED, past=3, dtype=torch.float64) -> Case:
    """A case with one ridge for all monomials of a head."""
    case = make_case(Problem(weights, function, ExactLocalFit()), sizes, past=past, dtype=dtype)
    ridge = case.controls["ridge"][:, :1].detach().expand_as(case.controls["ridge"])
    return dataclasses.replace(case, controls=case.controls | {"ridge": ridge.clone()})


def _errors(case: Case, engine: LocalPolynomial) -> dict[str, float]:
    fast, slow = all_of(ttr.regress, case, engine=engine), all_of(ttr.oracle, case)
    return {name: error(fast[name], slow[name]) for name in slow}


@DTYPES
@pytest.mark.parametrize("function", (LocalQuadratic(), LEARNED), ids=("plain", "learned"))
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_dual_form_equals_oracle_on_every_tier(weights, function, dtype):
    case = _case(weights, function, dtype=dtype)
    slow = all_of(ttr.oracle, case)
    for name in TIERS:
        with tier(name):
            fast = all_of(ttr.regress, case, engine=LocalPolynomial(6))
        errors = {tensor: error(fast[tensor], slow[tensor]) for tensor in slow}
        assert max(errors.values()) <= tolerance(dtype), (name, errors)


def test_units_that_do_not_fit_together(monkeypatch):
    """Two units, each in a part of its own."""
    monkeypatch.setattr("ttr.engines.torch.local_quadratic.ENTRIES", 400)
    errors = _errors(
        _case(WEIGHTS[1], sizes=dataclasses.replace(GROUPED, batch=2, time=9)), LocalPolynomial()
    )
    assert max(errors.values()) <= tolerance(torch.float64), errors


@pytest.mark.parametrize("name", TIERS)
def test_few_systems_are_solved(name, monkeypatch):
    """Neither more tokens than see no more pairs than monomials, nor ridges that differ."""
    rows = []
    solve = quadratic_dual._Systems.solve
    monkeypatch.setattr(
        quadratic_dual._Systems, "solve", lambda s, *right: rows.append(s.root.shape) or solve(s, *right)
    )
    case = _case(Uniform())
    with tier(name):
        all_of(ttr.regress, case)
    assert rows and max(shape[-1] for shape in rows) <= 35
    rows.clear()
    case.controls["ridge"][0, 1] += 0.1
    all_of(ttr.regress, case)
    assert not rows


@pytest.mark.parametrize("size", (1e-250, 3e-14))
@pytest.mark.parametrize("name", TIERS)
def test_singular_systems_are_refused(name, size):
    """Two keys, each stored ten times, without a factor or with one of no digits."""
    q = torch.randn(1, 2, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(
        1, 10, 1, 1
    )
    ridge = torch.full((1, 27), size, dtype=torch.float64)
    with tier(name), pytest.raises(ValueError, match="larger ridge"):
        ttr.regress(Problem(Uniform(), LocalQuadratic(), ExactLocalFit()), q, q, q, ridge=ridge)


@pytest.mark.parametrize("name", TIERS)
def test_pairs_without_weight(name):
    """A row all of whose pairs have weight 0 reads 0."""
    case = _case(WEIGHTS[1], past=0)
    case.controls["log_importance"] = case.controls["log_importance"].detach().clone()
    case.controls["log_importance"][:, :2] = -torch.inf
    with tier(name):
        errors = _errors(case, LocalPolynomial())
    assert max(errors.values()) <= tolerance(torch.float64), errors


@DTYPES
@pytest.mark.parametrize("past", (5, 40))
def test_one_token(past, dtype):
    """With fewer and with more pairs than monomials."""
    case = _case(Uniform(), sizes=dataclasses.replace(GROUPED, time=1, batch=2), past=past, dtype=dtype)
    slow = all_of(ttr.oracle, case)
    q, k, v = (t[:, 0] for t in (case.q, case.k, case.v))
    y, _ = ttr.step(case.problem, q, k, v, case.state, **case.controls)
    assert error(y, slow["y"][:, 0]) <= tolerance(dtype)


@pytest.mark.parametrize("name", TIERS)
def test_no_sequences(name):
    case = _case(Uniform(), sizes=dataclasses.replace(GROUPED, batch=0))
    with tier(name):
        assert max(_errors(case, LocalPolynomial()).values()) == 0
        q, k, v = (t[:, 0] for t in (case.q, case.k, case.v))
        y, _ = ttr.step(case.problem, q, k, v, case.state, **case.controls)
    assert y.shape == (0, 2, 3)
