"""Sums over pairs by a kernel of short vectors: as through the features, with decays, states, gradients."""

import pytest
import torch

import ttr
from tests.largest import Largest
from ttr.engines.torch.kernel_sums import KernelSums
from ttr.functions import Linear
from ttr.functions.features import Rebased, SymmetricPower, Taylor
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import error, tolerance
from ttr.solvers import OneStep
from ttr.weights import Geometric, Importance, Uniform
from ttr.weights.product import Product

FEATURES = (Taylor(), SymmetricPower(4), Rebased())
WEIGHTS = (Uniform(), Geometric(), Product((Geometric(), Importance())))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
@pytest.mark.parametrize("features", FEATURES, ids=repr)
def test_the_kernel_is_the_dot_product_of_the_features(features, weights, normalized):
    problem = ttr.Problem(
        weights,
        Linear(features=features, normalized=normalized, floor=0.5 if normalized else None),
        OneStep(),
    )
    results = []
    for engine in (KernelSums(block=4), "recurrent"):
        case = make_case(problem, Sizes(time=11), dtype=torch.float64).differentiable()
        given = {name: x for name, x in case.arguments().items() if name != "state"}
        first = {n: x if n == "ridge" or n == "params" else x[:, :6] for n, x in given.items()}
        second = {n: x if n == "ridge" or n == "params" else x[:, 6:] for n, x in given.items()}
        y, state = ttr.regress(problem, **first, return_state=True, engine=engine)
        z, state = ttr.regress(problem, **second, state=state, return_state=True, engine=engine)
        made = [y, z, *(state[name] for name in sorted(state))]
        leaves = [x for x in case.leaves().values() if x.requires_grad and x.ndim > 2]
        loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)).sum() for x in made)
        results.append(made + list(torch.autograd.grad(loss, leaves, allow_unused=True)))
    for got, wanted in zip(*results, strict=True):
        assert (got is None and wanted is None) or error(got, wanted) <= tolerance(torch.float64)


def test_features_of_a_whole_sequence_are_never_made_without_a_state():
    problem = ttr.catalogue["based"].problem
    q, k, v = (torch.randn(1, 600, 2, 32) for _ in range(3))
    features = 600 * 2 * problem.function.feature_size(32)
    with torch.no_grad(), Largest() as seen:
        ttr.regress(problem, q, k, v)
    assert seen.numel < features / 2


def test_long_sequences_go_through_the_features():
    problem = ttr.catalogue["based"].problem
    q, k, v = (torch.randn(1, 1200, 1, 8) for _ in range(3))
    with pytest.raises(ValueError, match="faster through its 45 features"):
        ttr.regress(problem, q, k, v, engine="kernel-sums")
    ttr.regress(problem, q, k, v)
