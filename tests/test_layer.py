"""Parts of a layer, architectures and the catalogue: results, complete descriptions, and consistency."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

import ttr
from tests.worked import cases
from ttr import registry
from ttr.component import Component
from ttr.functions.linear import Linear
from ttr.laws.rows import triples
from ttr.laws.tolerances import FLOAT64, error
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import KDADecay, MambaDecay
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.output.skips import Skip
from ttr.layer.qkv.replacements import ComplementKey
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.sequences import Sequences
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import Tensors
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

MEMBERS = [cls for kind in ("qkv", "gate", "output") for cls in registry.members(kind)]
EXAMPLES = [example for cls in MEMBERS for example in cls.examples()]
SIZES = Sizes(6, 2, 2, 2, 4, 3, 4, layer=1, layers=3, levels=5)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("cls", MEMBERS, ids=lambda cls: f"{cls.kind}-{cls.__name__}")
def test_worked_case(cls, float64):
    found = cases(cls)
    assert found, f"{cls.__name__} has no hand-worked case"
    for case in found:
        made = case.part(case.params, case.streams)
        assert set(made) == set(case.expected)
        for name, expected in case.expected.items():
            assert error(made[name], expected) <= FLOAT64, (case.part, name)


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_description_is_complete(example):
    assert Component.from_dict(json.loads(json.dumps(example.to_dict()))) == example
    assert hash(example) == hash(dataclasses.replace(example))
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.kind = "other"


def streams_of(example):
    """Streams as a part gets them."""
    made_elsewhere = {
        "log_decay": (2, 5, 2, 4),
        "time_step": (2, 5, 2),
        "angle": (2, 5, 2, 1),
        "step_size": (2, 5, 2),
        "log_cap": (2, 5, 2),
        "read_key": (2, 5, 2, 4),
        "learning_rate": (2, 5, 2, 4),
    } | {f"x_{name}": (2, 5, 6) for name in ("erase", "decay", "gate")}
    streams = {name: torch.randn(2, 5 + example.past, *SIZES.stream(name)) for name in ("q", "k", "v")}
    streams |= {
        "x": torch.randn(2, 5, 6),
        "y": torch.randn(2, 5, 2, 3),
        "position": torch.arange(5).expand(2, 5),
    }
    return streams | {
        name: -torch.rand(shape) for name, shape in made_elsewhere.items() if name in example.reads
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_declared_is_what_is_done(example):
    """A part makes the streams that it declares, beside q, k, v and y; all declared parameters matter; inputs
    are unchanged."""
    learned, streams = Tensors(example.parameters(SIZES)), streams_of(example)
    before = {name: stream.clone() for name, stream in streams.items()}
    made = example(learned(), streams)
    assert set(made) == (set(example.makes) | set(made) & {"q", "k", "v", "y"}) and made
    assert all(torch.equal(stream, before[name]) for name, stream in streams.items())
    if learned():
        sum((tensor * torch.randn_like(tensor)).sum() for tensor in made.values()).backward()
        for name, parameter in learned.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_a_head_reads_others_only_where_a_part_says_so(example):
    learned, streams = Tensors(example.parameters(SIZES)), streams_of(example)
    changed = {
        name: torch.cat([x[:, :, :1], x[:, :, 1:] - 1], 2) if x.shape[2:3] == (SIZES.heads,) else x
        for name, x in streams.items()
    }
    one, other = example(learned(), streams), example(learned(), changed)
    apart = all(
        torch.equal(made[:, :, :1], other[name][:, :, :1]) for name, made in one.items() if made.ndim > 2
    )
    assert apart == (example.head_groups(SIZES) == SIZES.heads)


# ---------------------------------------------------------------------------------------------- the catalogue
def test_the_catalogue_is_a_mapping():
    assert isinstance(ttr.catalogue, Mapping) and len(ttr.catalogue) == len(list(ttr.catalogue)) == len(
        ttr.catalogue.values()
    )
    assert "gla" in ttr.catalogue and "none" not in ttr.catalogue and ttr.catalogue.get("none") is None
    assert (
        ttr.catalogue == ttr.catalogue
        and hash(ttr.catalogue)
        and dict(ttr.catalogue) == dict(ttr.catalogue.items())
    )
    assert all(
        isinstance(entry, Architecture) and isinstance(entry.problem, Problem)
        for entry in ttr.catalogue.values()
    )


@pytest.mark.parametrize("name", ttr.catalogue)
def test_entry(name):
    entry = ttr.catalogue[name]
    assert Architecture.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    assert (
        hash(entry)
        and entry.source
        and entry.verified
        and 2000 < entry.year < 2100
        and len(entry.arxiv) in (0, 10)
    )


@pytest.mark.parametrize(
    "name, hint", [("gated-delta-net", "gated-deltanet"), ("softmax", "softmax-attention"), ("x", "names")]
)
def test_an_unknown_name_is_a_sentence(name, hint):
    with pytest.raises(KeyError) as caught:
        ttr.catalogue[name]
    assert str(caught.value) == caught.value.args[0]
    assert str(caught.value).startswith(f"There is no memory called {name!r}") and hint in str(caught.value)


def test_the_catalogue_loads_when_asked_for():
    code = (
        "import sys, ttr; assert 'ttr.catalogue' not in sys.modules; assert 'kda' in ttr.catalogue; "
        "from ttr import catalogue; assert catalogue is ttr.catalogue"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------- architectures
@pytest.mark.parametrize("problem", triples()[:: max(1, len(triples()) // 40)], ids=repr)
def test_every_problem_has_default_parts(problem):
    architecture = Architecture.of(problem)
    assert {gate.makes[0] for gate in architecture.gates} == set(problem.controls())
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


@pytest.mark.parametrize(
    "parts, message",
    [
        (
            {"gates": (SigmoidGate("step_size"),)},
            "gates make step_size, but the problem takes exactly: log_decay, step_size",
        ),
        ({"gates": (SigmoidGate("step_size"), MambaDecay(), MambaDecay())}, "takes exactly"),
        (
            {"gates": (SigmoidGate("step_size"), KDADecay())},
            r"makes log_decay \[B,T,H,K\], but the "
            r"problem takes \[B,T,H\]",
        ),
        ({"gates": (Skip(), SigmoidGate("step_size"))}, "gates must be a tuple of parts"),
        ({"output": (Skip(of="input"),)}, "needs the stream input, which no part before it makes"),
        (
            {"qkv": (ShortConvolution(), ShortConvolution(streams=("k",)))},
            "Two parts store past tokens of k",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(parts, message):
    memory = Problem(Geometric("head"), Linear(), DeltaRule())
    with pytest.raises(ValueError, match=message):
        Architecture(memory, **{"gates": (SigmoidGate("step_size"), MambaDecay())} | parts)


@pytest.mark.parametrize(
    "description, message", [({}, "needs a problem"), ({"problem": {}, "nmae": 1}, "has no field nmae")]
)
def test_a_wrong_description_is_a_sentence(description, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(description)


def test_a_key_that_reads_a_control_needs_it():
    with pytest.raises(ValueError, match="needs the stream log_decay"):
        Architecture(Problem(Uniform(), Linear(), OneStep()), qkv=(ComplementKey(),))


# -------------------------------------------------------------------------------------------------- sequences
@pytest.mark.parametrize("lengths", [(4, 1, 0, 6), (0, 0, 3), (2,), (0,)])
@pytest.mark.parametrize("past", [1, 3])
def test_packed_sequences_see_their_own_past(lengths, past):
    """Extended by the past, summed over neighbours and cut again, a packed stream gives the sums of each
    sequence on its own."""

    def sums(x):
        return sum(x[j : max(len(x) - past + j, j)] for j in range(past + 1))

    bounds, start = torch.tensor([0, *lengths]).cumsum(0), 2 * torch.arange(len(lengths))
    x, tail = (
        torch.randn(*shape, 2, dtype=torch.float64) for shape in ((1, sum(lengths)), (len(lengths), past))
    )
    sequences = Sequences(sum(lengths), start, bounds)
    extended = sequences.extend(x, tail)
    rows = [torch.cat([tail[i], x[0, bounds[i] : bounds[i + 1]]]) for i in range(len(lengths))]
    expected = torch.cat([sums(row) for row in rows])
    assert error(sequences.tokens(sums(extended[0])[None], past)[0], expected) <= FLOAT64
    assert torch.equal(sequences.tail(x, tail), torch.stack([row[-past:] for row in rows]))
    sums, last = sequences.running_sum(x, tail[:, 0])
    totals = [
        torch.cat([tail[i, :1], x[0, bounds[i] : bounds[i + 1]]]).cumsum(0) for i in range(len(lengths))
    ]
    assert error(sums[0], torch.cat([row[1:] for row in totals])) <= FLOAT64
    assert error(last, torch.stack([row[-1] for row in totals])) <= FLOAT64
    assert sequences.positions()[0].tolist() == [
        int(s) + t for s, n in zip(start, lengths, strict=True) for t in range(n)
    ]


def test_every_part_is_an_attribute_of_the_package():
    assert {cls.__name__ for cls in MEMBERS} <= set(dir(ttr.layer))
    assert all(getattr(ttr.layer, cls.__name__) is cls for cls in MEMBERS)
    assert ttr.layer.Architecture is Architecture and ttr.layer.Mixer is ttr.nn.Mixer
    with pytest.raises(AttributeError, match=r"has no attribute 'MambaDecy'. It has .*MambaDecay"):
        _ = ttr.layer.MambaDecy
