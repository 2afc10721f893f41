"""Identities of state spaces and complex decay (law 8), stated of the definition, and bounds on the cost of
the fast forms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

import ttr
from ttr.engines.native.scan import NativeScan
from ttr.engines.torch.channel_scan import ChannelScan
from ttr.functions.features.relu import Relu
from ttr.functions.linear import Linear
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.problem import Problem
from ttr.solvers.diagonal_implicit_delta_rule import DiagonalImplicitDeltaRule
from ttr.solvers.implicit_delta_rule import ImplicitDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.complex_geometric import ComplexGeometric
from ttr.weights.cosine import Cosine
from ttr.weights.factored_geometric import FactoredGeometric
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.multi_scale import MultiScale
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

B, T, H, K, V = 2, 11, 2, 4, 2
LINEAR, ONE_STEP = Linear(scale=1.0), OneStep()


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, torch.Tensor]:
    return {"q": torch.randn(B, T, H, K), "k": torch.randn(B, T, H, K), "v": torch.randn(B, T, H, V)}


@pytest.fixture
def decay() -> torch.Tensor:
    return -0.02 - 1.2 * torch.rand(B, T, H)


@pytest.fixture
def phase() -> torch.Tensor:
    return 3 * torch.randn(B, T, H)


def run(weights, qkv, solver=ONE_STEP, function=LINEAR, **call):
    return ttr.oracle(Problem(weights, function, solver), **qkv, **call)


def same(value, reference) -> bool:
    return error(value, reference) <= FLOAT64


def test_equal_rates_make_the_factored_decay_one_per_head(qkv, decay) -> None:
    """Mamba with a scalar A is Mamba-2."""
    rate = torch.rand(H, 1).expand(H, K)
    factored = run(FactoredGeometric(), qkv, log_decay=decay, params={"weights.rate": rate})
    assert same(factored, run(Geometric(), qkv, log_decay=decay * rate[:, 0].exp()))


def test_a_factored_decay_is_its_product_per_channel(qkv, decay) -> None:
    rate, importance = torch.randn(H, K), -torch.rand(B, T, H)
    channels = decay[..., None] * rate.exp()
    assert same(
        run(FactoredGeometric(), qkv, log_decay=decay, params={"weights.rate": rate}),
        run(Geometric("channel"), qkv, log_decay=channels),
    )
    both = Product((FactoredGeometric(), Importance()))
    assert same(
        run(both, qkv, log_decay=decay, log_importance=importance, params={"weights.rate": rate}),
        run(
            Product((Geometric("channel"), Importance())), qkv, log_decay=channels, log_importance=importance
        ),
    )
    fixed = torch.log1p(-(2.0 ** -(5 + torch.arange(H))))[:, None]
    assert same(
        run(
            Product((MultiScale(), FactoredGeometric())), qkv, log_decay=decay, params={"weights.rate": rate}
        ),
        run(Geometric("channel"), qkv, log_decay=channels + fixed),
    )


@pytest.mark.parametrize("values", ["real", "complex"])
def test_without_phases_complex_retention_is_geometric(qkv, decay, values) -> None:
    assert same(
        run(ComplexGeometric(values=values), qkv, log_decay=decay, phase=torch.zeros(B, T, H)),
        run(Geometric(), qkv, log_decay=decay),
    )


def test_half_turns_change_the_sign_of_the_past(qkv, decay) -> None:
    """With the phase pi at every token, the weight of a pair of age n is (-1)^n."""
    sign = (-1.0) ** torch.arange(T)[:, None, None]
    turned = run(ComplexGeometric(), qkv, log_decay=decay, phase=torch.full((B, T, H), math.pi))
    assert same(
        turned, run(Geometric(), {"q": sign * qkv["q"], "k": sign * qkv["k"], "v": qkv["v"]}, log_decay=decay)
    )


def test_whole_turns_change_nothing(qkv, decay, phase) -> None:
    turns = 2 * math.pi * torch.randint(-3, 4, (B, T, H))
    assert same(
        run(ComplexGeometric(), qkv, log_decay=decay, phase=phase + turns),
        run(ComplexGeometric(), qkv, log_decay=decay, phase=phase),
    )


def test_equal_channels_turn_as_a_head(qkv, decay, phase) -> None:
    channels = {
        "log_decay": decay[..., None].expand(B, T, H, K),
        "phase": phase[..., None].expand(B, T, H, K),
    }
    assert same(
        run(ComplexGeometric("channel"), qkv, **channels),
        run(ComplexGeometric(), qkv, log_decay=decay, phase=phase),
    )


def test_phases_are_rotary_positions_that_the_input_chooses(qkv, phase) -> None:
    """q and k of two channels, rotated by the cumulative phase, without decay, have the product cos of the
    phase between them (RoPE), which is complex decay with each channel's product counted once: cos(P_t - P_i)
    q.k + sin(P_t - P_i) (q x k)."""
    q, k, v = (qkv[name][..., :2] for name in "qkv")
    angle = phase.cumsum(1)[..., None]

    def rotated(x):
        return torch.cat(
            [
                x[..., :1] * angle.cos() - x[..., 1:] * angle.sin(),
                x[..., :1] * angle.sin() + x[..., 1:] * angle.cos(),
            ],
            dim=-1,
        )

    attention = run(Uniform(), {"q": rotated(q), "k": rotated(k), "v": v})
    opposite = run(Uniform(), {"q": rotated(q.flip(-1)), "k": rotated(k.flip(-1)), "v": v})
    turned = run(ComplexGeometric(), {"q": q, "k": k, "v": v}, log_decay=torch.zeros(B, T, H), phase=phase)
    assert same(2 * turned, attention + opposite)


def test_the_real_part_is_taken_of_the_state_and_not_of_the_gate(qkv, decay, phase) -> None:
    """The product of the gates' real parts is another layer: Re(a b) is not Re(a) Re(b)."""
    real = torch.polar(decay.exp(), 0.3 * phase).real.clamp(min=1e-6)
    assert (
        error(
            run(Geometric(), qkv, log_decay=real.log()),
            run(ComplexGeometric(), qkv, log_decay=decay, phase=0.3 * phase),
        )
        > HALF
    )


def test_a_far_horizon_makes_cosformer_linear_attention(qkv) -> None:
    """cos(pi n / 2M) = 1 - O(1 / M^2)."""
    function = Linear(Relu(), normalized=True, floor=1e-6)
    plain = run(Uniform(), qkv, function=function)
    assert (
        same(run(Cosine(10**7), qkv, function=function), plain)
        and error(run(Cosine(T), qkv, function=function), plain) > HALF
    )


def test_a_fixed_horizon_is_causal_and_the_length_of_the_call_is_not(qkv) -> None:
    """The original's horizon is the length of the call, so a longer call changes earlier outputs."""
    function = Linear(Relu(), normalized=True, floor=1e-6)
    shorter = {name: x[:, :6] for name, x in qkv.items()}
    assert same(run(Cosine(T), shorter, function=function), run(Cosine(T), qkv, function=function)[:, :6])
    assert (
        error(run(Cosine(6), shorter, function=function), run(Cosine(T), qkv, function=function)[:, :6])
        > HALF
    )


def test_one_channel_makes_the_diagonal_the_whole(qkv, decay) -> None:
    """With a single key channel, k k^T is its own diagonal, and the released Longhorn minimises its
    objective; with more it does not."""
    step = torch.rand(B, T, H)
    single = qkv | {name: qkv[name][..., :1] for name in "qk"}

    def apart(inputs):
        solvers = (DiagonalImplicitDeltaRule(), ImplicitDeltaRule())
        return error(
            *(run(Geometric(), inputs, solver, log_decay=decay, step_size=step) for solver in solvers)
        )

    assert apart(single) <= FLOAT64 and apart(qkv) > HALF


def test_one_hot_keys_make_the_diagonal_the_whole(qkv) -> None:
    hot = torch.nn.functional.one_hot(torch.randint(K, (B, T, H)), K) * 1.7
    inputs, step = qkv | {"k": hot}, torch.rand(B, T, H)
    assert same(
        run(Uniform(), inputs, DiagonalImplicitDeltaRule(), step_size=step),
        run(Uniform(), inputs, ImplicitDeltaRule(), step_size=step),
    )


def test_a_recurrent_unit_is_a_decayed_sum_of_its_inputs(qkv, decay) -> None:
    """HGRN and RG-LRU: with k = q = 1 the output is the state."""
    ones = torch.ones(B, T, H, 1)
    y, state = run(Geometric(), {"q": ones, "k": ones, "v": qkv["v"]}, log_decay=decay, return_state=True)
    assert same(y[:, -1], state["memory"][:, :, 0])


# --------------------------------------------------------------------------------------- refusals and engines
@pytest.mark.parametrize("packed", [False, True])
def test_calls_beyond_the_horizon_are_refused(packed) -> None:
    memory, x = Problem(Cosine(horizon=6), LINEAR, OneStep()), torch.randn(1, 5, 1, 2)
    bounds = {"cu_seqlens": torch.tensor([0, 2, 5])} if packed else {}
    y, state = ttr.regress(memory, x, x, x, return_state=True, **bounds)
    assert torch.isfinite(y).all() and state.position.tolist() == ([2, 3] if packed else [5])
    kept = state.clone()
    with pytest.raises(
        ValueError, match="reaches token .* whose horizon is 6, .* Use weights with a longer horizon"
    ):
        long = torch.randn(1, 8, 1, 2)
        ttr.regress(
            memory,
            long,
            long,
            long,
            state=state,
            **({"cu_seqlens": torch.tensor([0, 2, 8])} if packed else {}),
        )
    assert all(torch.equal(state[name], kept[name]) for name in state)


@pytest.mark.parametrize(
    "weights, function, solver, message",
    [
        (ComplexGeometric(), LINEAR, ImplicitDeltaRule(), "Use OneStep without a window"),
        (ComplexGeometric(), LINEAR, DiagonalImplicitDeltaRule(), "Use OneStep with "),
        (
            ComplexGeometric(values="complex"),
            Linear(normalized=True),
            OneStep(),
            "Use Linear with normalized=False",
        ),
        (Uniform(), Linear(normalized=True), DiagonalImplicitDeltaRule(), "Use OneStep"),
    ],
)
def test_what_cannot_turn_is_a_sentence(weights, function, solver, message) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(weights, function, solver)


def test_complex_values_come_in_pairs() -> None:
    x = torch.randn(1, 5, 1, 3)
    with pytest.raises(
        ValueError, match="take two channels each, but the values have 3. Use an even number."
    ):
        ttr.regress(
            Problem(ComplexGeometric(values="complex"), LINEAR, OneStep()),
            x,
            x,
            x,
            log_decay=-x[..., 0].abs(),
            phase=x[..., 0],
        )


def test_a_window_cannot_turn() -> None:
    with pytest.raises(ValueError, match="Use it alone"):
        Product((Cosine(), Window(3)))


@pytest.mark.parametrize("engine", [ChannelScan(entries=2**13), NativeScan(entries=2**13)], ids=repr)
def test_a_scan_saves_less_than_the_states_of_all_tokens(engine) -> None:
    """Forward and backward of Mamba save no tensor of T x H x K numbers for the backward pass.

    As many heads as fill the kernel's vectors: in the states that it saves they are padded to whole ones."""
    if engine.missing():
        pytest.skip(engine.missing())
    memory, time, heads, size = ttr.catalogue["mamba"].problem, 512, 16, 16
    q, k = torch.randn(1, time, 1, size), torch.randn(1, time, 1, size)
    v, log_decay = torch.randn(1, time, heads, 1).requires_grad_(), -torch.rand(1, time, heads)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.untyped_storage()) or x, lambda x: x
    ):
        y = ttr.regress(
            memory,
            q,
            k,
            v,
            log_decay=log_decay,
            params={"weights.rate": torch.randn(heads, size)},
            engine=engine,
        )
    numbers = sum({storage.data_ptr(): storage.nbytes() for storage in saved}.values()) / 8
    assert numbers < time * heads * size / 2
    y.sum().backward()
    assert torch.isfinite(v.grad).all()


def test_auto_scans_where_a_head_has_one_value_channel() -> None:
    x, wide = torch.randn(1, 5, 1, 2), torch.randn(1, 5, 1, 16)
    memory = Problem(Uniform(), LINEAR, OneStep())
    scans = ("native-scan", "channel-scan")
    assert ttr.explain(memory, x, x, x[..., :1]).engine in scans
    assert ttr.explain(memory, x, x, wide).engine not in scans
