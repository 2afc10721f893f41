"""The layer that all memories of a comparison share."""

import pytest
import torch

import ttr
from ttr.experiments.common_layer import ageless, common_layer, needs_unit_keys
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import FLOAT64, error
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.qkv.norms import UnitNorm
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution


def of_qkv(parts, kind):
    """The parts of a kind that act on q, k or v."""
    return [p for p in parts if isinstance(p, kind) and not set(p.streams) - {"q", "k", "v"}]


@pytest.mark.parametrize("name", list(ttr.catalogue))
def test_every_memory_fits_into_it_and_keeps_its_own_gates(name):
    entry = ttr.catalogue[name]
    layer = common_layer(entry)
    assert layer.problem == entry.problem and layer.gates == entry.gates
    assert layer.output == (GatedRMSNorm("silu"),)
    assert of_qkv(layer.qkv, ShortConvolution) == [ShortConvolution()]
    assert len(of_qkv(layer.qkv, UnitNorm)) == needs_unit_keys(entry.problem)
    assert len(of_qkv(layer.qkv, Rotary)) == ageless(entry.problem)
    torch.manual_seed(0)
    y = ttr.nn.Mixer(16, layer, heads=2)(torch.randn(1, 5, 16))
    assert y.shape == (1, 5, 16) and y.isfinite().all()


def test_a_layer_of_the_common_kind_stays_as_it_is():
    entry = ttr.catalogue["gated-deltanet"]
    layer = common_layer(entry)
    assert (layer.qkv, layer.gates, layer.output) == (entry.qkv, entry.gates, entry.output)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("softmax-attention", True),
        ("sliding-window-attention", True),
        ("linear-attention", True),
        ("mesa", True),
        ("local-linear-attention", True),
        ("forgetting-attention", False),
        ("alibi-attention", False),
        ("path-attention", False),
        ("retnet", False),
        ("deltanet", False),
        ("log-linear-attention", False),
        ("lru", False),
    ],
)
def test_which_memories_have_no_age(name, expected):
    assert ageless(ttr.catalogue[name].problem) == expected


def same_in_any_order(problem):
    """Whether the read-out of the last token is the same with the pairs before it in another order."""
    arguments = make_case(problem, Sizes(time=5)).arguments()
    order = torch.tensor([2, 0, 3, 1, 4])

    def permuted(name, x):
        timed = isinstance(x, torch.Tensor) and name != "ridge"
        return x[:, order] if timed else x

    both = arguments, {name: permuted(name, x) for name, x in arguments.items()}
    first, second = (ttr.oracle(problem, **each)[:, -1] for each in both)
    return error(first, second) <= FLOAT64


def test_memories_without_age_read_pairs_in_any_order():
    """All but DeltaFormer, whose weights know no age, but whose values depend on the pairs before them."""
    problems = {
        name: entry.problem
        for name, entry in ttr.catalogue.items()
        if entry.problem.function.causal and ageless(entry.problem) and entry.problem.weights.window is None
    }
    assert [name for name, p in problems.items() if not same_in_any_order(p)] == ["deltaformer"]
    aged = [
        ttr.catalogue[name].problem for name in ("deltanet", "retnet", "path-attention", "alibi-attention")
    ]
    assert not any(map(same_in_any_order, aged))
