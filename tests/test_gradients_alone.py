"""Gradients of one input alone and of single steps; calls that keep none of the tensors they are bound to."""

import contextlib
import gc
import weakref

import pytest
import torch

import ttr
from ttr import dispatch
from ttr.engines.native import library
from ttr.laws.rows import draw_control
from ttr.laws.tolerances import FLOAT32, FLOAT64, error
from ttr.weights.geometric import Geometric

H, T, K = 2, 7, 3
NAMES = (
    "gated-deltanet",
    "gated-kalmanet",
    "hgrn",
    "kernel-intention",
    "local-linear-attention",
    "local-quadratic-attention",
    "mamba",
    "memora",
    "mesanet",
    "moneta",
    "softmax-attention",
)


def inputs(problem, time=T):
    """q, k, v and the controls by name, and the parameters."""
    generator = torch.Generator().manual_seed(0)
    sizes = problem.sizes() | {
        "B": 1,
        "T": time,
        "H": H,
        "K": K,
        "V": K,
        "F": problem.function.feature_size(K),
    }
    tensors = {name: torch.randn(1, time, H, K, generator=generator, dtype=torch.float64) for name in "qkv"}
    for name, axes in problem.controls().items():
        tensors[name] = draw_control(name, tuple(sizes[a] for a in axes), False, generator)
    if "ridge" in tensors:  # one for all features, for which local fits have a form of their own
        tensors["ridge"] = torch.full_like(tensors["ridge"], 0.3)
    params = ttr.init_params(problem, heads=H, key_size=K, value_size=K)
    return tensors, {name: x.double() for name, x in params.items()}


def gradients(run, tensors, names):
    leaves = {name: x.clone().requires_grad_(name in names) for name, x in tensors.items()}
    y = run(**leaves)
    return torch.autograd.grad((y * y.detach().cos()).sum(), [leaves[name] for name in names])


@pytest.mark.parametrize("name", NAMES)
def test_each_input_alone_has_the_gradient_of_the_definition(name):
    problem = ttr.catalogue[name].problem
    tensors, params = inputs(problem)
    wanted = gradients(lambda **x: ttr.oracle(problem, params=params, **x), tensors, list(tensors))
    for leaf, gradient in zip(tensors, wanted):
        (found,) = gradients(lambda **x: ttr.regress(problem, params=params, **x), tensors, [leaf])
        assert error(found, gradient) <= FLOAT64, leaf


@pytest.mark.parametrize("name", NAMES)
def test_steps_have_the_gradients_of_the_definition(name):
    problem = ttr.catalogue[name].problem
    tensors, params = inputs(problem)

    def steps(**x):
        state, outputs = ttr.initial_state(problem, 1, H, K, K, params=params, dtype=torch.float64), []
        for t in range(T):
            token = {n: c if problem.controls().get(n) == "HF" else c[:, t] for n, c in x.items()}
            y, state = ttr.step(problem, state=state, params=params, **token)
            outputs.append(y)
        return torch.stack(outputs, 1)

    wanted = gradients(lambda **x: ttr.oracle(problem, params=params, **x), tensors, list(tensors))
    for leaf, found, gradient in zip(tensors, gradients(steps, tensors, list(tensors)), wanted):
        assert error(found, gradient) <= FLOAT64, leaf


@pytest.mark.parametrize("name", ["hgrn", "gated-deltanet"])
def test_a_bound_call_keeps_none_of_its_tensors(name, monkeypatch):
    monkeypatch.setattr(dispatch, "_SEQUENCES", dispatch.Bound())
    problem = ttr.catalogue[name].problem
    given = {n: x.float().clone() for n, x in inputs(problem)[0].items()}
    ttr.regress(problem, **given)
    kept = [weakref.ref(x) for x in given.values()]
    del given
    gc.collect()
    assert not any(x() is not None for x in kept)


def test_a_memory_that_reads_first_is_not_bound_as_one_that_writes_first(monkeypatch):
    problem = ttr.catalogue["mamba2"].problem
    tensors, lower = {n: x.float() for n, x in inputs(problem)[0].items()}, Geometric.lower
    writes_first = ttr.regress(problem, **tensors)
    late = lambda *given: lower(*given)._replace(reads_first=True)  # noqa: E731
    monkeypatch.setattr(Geometric, "lower", late)
    monkeypatch.setattr(dispatch, "_SEQUENCES", dispatch.Bound())
    first, again = (ttr.regress(problem, **tensors) for _ in range(2))
    assert torch.equal(again, first) and error(again, writes_first) > FLOAT32


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["mesanet", "ttt-mlp", "titans", "moneta"])
def test_what_a_derivative_needs_is_kept_only_where_gradients_are_on(name, compiled, monkeypatch):
    if compiled and not library.available():
        pytest.skip(library.reason())
    problem, kept = ttr.catalogue[name].problem, []
    tensors, params = inputs(problem, 40)
    leaves = {n: x.requires_grad_() for n, x in tensors.items()}

    def save(ctx, *saved):
        kept.append(sum(x.numel() for x in saved if x is not None))

    monkeypatch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", save)
    with contextlib.nullcontext() if compiled else library.left_out():
        ttr.regress(problem, params=params, **leaves)
        with_gradients = sum(kept)
        kept.clear()
        with torch.no_grad():
            ttr.regress(problem, params=params, **leaves)
    assert sum(kept) < with_gradients
