"""Sizes beyond those of law 13: on every instruction set and without kernels, in half precision, and through
whole layers."""

import pytest
import torch

import ttr
from tests.tiers import TIERS, tier
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.laws import Setting
from ttr.laws.rows import Sizes, make_case
from ttr.laws.sizes import extremes

COMPILED = ("gla", "gated-deltanet", "rwkv7", "ttt-mlp", "local-linear-attention", "local-linear-rank8")
"""A problem for each kind of kernel."""
NARROW = ("based", "linear-attention-normalized", "softmax-attention", "gated-deltanet", "mesanet", "mlstm")
CALLS = {
    "no rows": (0, 3, None),
    "no tokens": (2, 0, None),
    "one token": (1, 1, None),
    "no sequences": (1, 0, [0]),
    "empty sequences": (1, 3, [0, 0, 1, 1, 3, 3]),
}


def check(name, dtype):
    problem = ttr.catalogue[name].problem
    for engine in (engine for engine in ENGINES if refusal(engine, problem) is None):
        broken = [
            q
            for q, error, bound in extremes(problem, Setting(engine.small(), dtype=dtype))
            if not error <= bound
        ]
        assert not broken, (engine.name, broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("way", TIERS)
def test_sizes_on_every_tier(way, name, dtype):
    with tier(way):
        check(name, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NARROW)
def test_sizes_in_narrow_types(name, dtype):
    check(name, dtype)


@pytest.mark.parametrize("words", CALLS)
@pytest.mark.parametrize("name", ttr.catalogue)
def test_layers_take_calls_of_every_size(name, words):
    batch, time, bounds = CALLS[words]
    layer, x = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2), torch.randn(batch, time, 8, requires_grad=True)
    packing = {} if bounds is None else {"cu_seqlens": torch.tensor(bounds)}
    rows = batch if bounds is None else len(bounds) - 1
    if not layer.problem.function.causal:
        assert layer(x, **packing).shape == x.shape
        return
    y, state = layer(x, return_state=True, **packing)
    assert y.shape == x.shape and state.position.tolist() == (
        torch.tensor(bounds).diff().tolist() if bounds else [time] * rows
    )
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()
    with torch.no_grad():
        y, after = layer.step(torch.randn(rows, 8), state)
    assert (
        y.shape == (rows, 8) and torch.isfinite(y).all() and torch.equal(after.position, state.position + 1)
    )


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (1, 2), (3, 6)], ids=str)
@pytest.mark.parametrize("name", ttr.catalogue)
def test_layers_take_heads_of_every_size(name, sizes):
    try:
        layer = ttr.nn.Mixer(8, ttr.catalogue[name], heads=3, key_size=sizes[0], value_size=sizes[1])
        y = layer(torch.randn(2, 3, 8))
    except ValueError as refusal:
        assert "Without key channels" in str(refusal) and sizes[0] == 0
        return
    assert y.shape == (2, 3, 8) and torch.isfinite(y).all()


@pytest.mark.parametrize("name", ["gated-deltanet", "softmax-attention", "skyformer", "ttt-mlp"])
@pytest.mark.parametrize("run", [ttr.regress, ttr.oracle])
def test_a_backward_pass_through_nothing_gives_zeros(run, name):
    problem = ttr.catalogue[name].problem
    case = make_case(problem, Sizes(time=0)).differentiable()
    leaves = list(case.leaves().values())
    gradients = torch.autograd.grad(run(problem, **case.arguments()).sum(), leaves)
    assert all(g.shape == leaf.shape and not g.any() for g, leaf in zip(gradients, leaves))
