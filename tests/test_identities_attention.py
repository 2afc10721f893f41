"""Identities of attention with transported keys, of attention with value correction, and of kernel sums
through landmarks."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import ttr
from ttr.functions.gaussian_nystrom import GaussianNystrom
from ttr.functions.local_constant import LocalConstant
from ttr.functions.transported_constant import TransportedConstant
from ttr.laws.tolerances import FLOAT64, HALF, error
from ttr.problem import Function, Problem, Solver, Weights
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.functional_delta_rule import FunctionalDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

B, T, H, K, V = 2, 11, 2, 4, 3
WEIGHTS = (Uniform(), Geometric("head"), Window(4), Alibi())


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    return {"q": torch.randn(B, T, H, K), "k": torch.randn(B, T, H, K), "v": torch.randn(B, T, H, V)}


def run(
    weights: Weights, function: Function, solver: Solver, inputs: dict[str, Tensor], **controls: Tensor
) -> Tensor:
    if "log_decay" in weights.controls():
        controls["log_decay"] = -torch.linspace(0.1, 0.9, B * T * H).view(B, T, H)
    return ttr.oracle(Problem(weights, function, solver), **inputs, **controls)


def softmax(inputs: dict[str, Tensor], weights: Weights = WEIGHTS[0]) -> Tensor:
    return run(weights, LocalConstant(), ExactLocalFit(), inputs)


def same(value: Tensor, reference: Tensor) -> bool:
    return error(value, reference) <= FLOAT64


def path(inputs: dict[str, Tensor], turn: Tensor, step: Tensor, weights: Weights = WEIGHTS[0]) -> Tensor:
    return run(weights, TransportedConstant(), ExactLocalFit(), inputs, transport_key=turn, step_size=step)


# ------------------------------------------------------------------------------------------- transported keys
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_keys_that_nothing_turns_give_softmax_attention(qkv, weights) -> None:
    turn, step = normalize(torch.randn(B, T, H, K), dim=-1), torch.rand(B, T, H)
    assert same(path(qkv, turn, torch.zeros(B, T, H), weights), softmax(qkv, weights))
    assert same(path(qkv, torch.zeros(B, T, H, K), step, weights), softmax(qkv, weights))
    assert error(path(qkv, turn, step, weights), softmax(qkv, weights)) > HALF


def test_only_step_times_the_squared_transport_key_matters(qkv) -> None:
    turn, step = torch.randn(B, T, H, K), torch.rand(B, T, H)
    assert same(path(qkv, 3 * turn, step / 9), path(qkv, -turn, step))


def test_one_transport_key_for_all_with_step_two_is_attention_to_mirrored_keys(qkv) -> None:
    """H is then a reflection, H H = 1: between tokens i and t it applies t - i times, as if q_t and k_i of
    all odd tokens were reflected."""
    turn = normalize(torch.randn(B, 1, H, K), dim=-1)
    odd = (torch.arange(T) % 2 == 1)[None, :, None, None]
    mirrored = {
        name: torch.where(odd, x - 2 * (x * turn).sum(-1, keepdim=True) * turn, x)
        for name, x in qkv.items()
        if name != "v"
    }
    assert same(
        path(qkv, turn.expand(B, T, H, K), torch.full((B, T, H), 2.0)), softmax({**mirrored, "v": qkv["v"]})
    )


def test_two_reflections_per_token_in_one_plane_are_rotary_positions(qkv) -> None:
    """Two reflections whose axes differ by an angle rotate by twice that angle. Tokens at odd places apply
    the second reflection, and only they are read and written: their logits are those of queries and keys
    rotated by twice the angle per token."""
    angle = torch.tensor(0.3)
    lines = torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])
    turn = lines[torch.arange(2 * T) % 2].view(1, 2 * T, 1, 2).expand(B, 2 * T, H, 2)
    gap = torch.full((B, T, H, 2), 0.0)
    q, k = torch.randn(2, B, T, H, 2)
    spread = {
        name: torch.stack([filler, x], dim=2).flatten(1, 2)
        for name, filler, x in (("q", gap, q), ("k", gap, k), ("v", qkv["v"], qkv["v"]))
    }
    written = torch.tensor([-torch.inf, 0.0]).repeat(T)[None, :, None].expand(B, 2 * T, H)
    read = ttr.oracle(
        Problem(Importance(), TransportedConstant(), ExactLocalFit()),
        **spread,
        transport_key=turn,
        step_size=torch.full((B, 2 * T, H), 2.0),
        log_importance=written,
    )[:, 1::2]
    turns = -torch.arange(T) * 2 * angle
    rotation = torch.stack(
        [torch.stack([turns.cos(), -turns.sin()], -1), torch.stack([turns.sin(), turns.cos()], -1)], -2
    )
    rotated = {name: torch.einsum("tkl,bthl->bthk", rotation, x) for name, x in (("q", q), ("k", k))}
    assert same(read, softmax({**rotated, "v": qkv["v"]}))


# ------------------------------------------------------------------------------------------- corrected values
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_values_that_nothing_corrects_give_softmax_attention(qkv, weights) -> None:
    assert same(
        run(weights, LocalConstant(), FunctionalDeltaRule(), qkv, step_size=torch.zeros(B, T, H)),
        softmax(qkv, weights),
    )
    assert (
        error(
            run(weights, LocalConstant(), FunctionalDeltaRule(), qkv, step_size=torch.ones(B, T, H)),
            softmax(qkv, weights),
        )
        > HALF
    )


def test_corrected_attention_is_attention_to_the_solution_of_one_triangular_system(qkv) -> None:
    """(1 + diag(beta) P) U = V with the softmax P over j < t."""
    step = torch.rand(B, T, H)
    logits = torch.einsum("bthk,bshk->bhts", qkv["q"], qkv["k"]) * K**-0.5
    strict = logits.masked_fill(torch.ones(T, T).triu().bool(), -torch.inf).softmax(-1).nan_to_num(0.0)
    corrected = torch.linalg.solve(
        torch.eye(T) + step.mT[..., None] * strict, qkv["v"].transpose(1, 2)
    ).transpose(1, 2)
    assert same(
        run(Uniform(), LocalConstant(), FunctionalDeltaRule(), qkv, step_size=step),
        softmax({**qkv, "v": corrected}),
    )


def test_values_that_are_all_alike_are_known_after_the_first_token(qkv) -> None:
    """With step 1 only what is new is stored, which is nothing after the first token: y_t is the first value
    times its share."""
    inputs = {**qkv, "v": qkv["v"][:, :1].expand(B, T, H, V)}
    first = torch.zeros(B, T, H, V)
    first[:, 0] = inputs["v"][:, 0]
    assert same(
        run(Uniform(), LocalConstant(), FunctionalDeltaRule(), inputs, step_size=torch.ones(B, T, H))[:, :2],
        softmax({**qkv, "v": first})[:, :2],
    )


# ----------------------------------------------------------------------------------- kernel through landmarks
def gaussian(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.exp(
        -scale / 2 * (q.transpose(1, 2)[:, :, :, None] - k.transpose(1, 2)[:, :, None]).square().sum(-1)
    )


@pytest.mark.parametrize(
    "function, keys",
    [
        (GaussianNystrom(2 * T, ridge=0.0, steps=40, scale=2.0), "k"),
        (GaussianNystrom(T, "queries", inverse="newton", ridge=0.0, steps=60, scale=2.0), "k"),
        (GaussianNystrom(T, "queries", pooled=True, inverse="newton", ridge=0.0, steps=60, scale=2.0), "q"),
    ],
    ids=repr,
)
def test_with_every_point_a_landmark_it_is_the_plain_kernel_sum(qkv, function, keys) -> None:
    """With all queries as landmarks, C_q W^-1 = 1, and C_k^T V is the kernel sum."""
    y = ttr.oracle(Problem(Uniform(), function, OneStep()), qkv["q"], qkv[keys], qkv["v"])
    assert same(y, (gaussian(qkv["q"], qkv[keys], 2.0) @ qkv["v"].transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("function", GaussianNystrom.examples(), ids=repr)
def test_a_kernel_of_distances_sees_no_common_shift_or_rotation(qkv, function) -> None:
    problem, rotation = Problem(Uniform(), function, OneStep()), torch.linalg.qr(torch.randn(K, K)).Q
    moved = {name: x @ rotation + 3.0 if name != "v" else x for name, x in qkv.items()}
    assert same(ttr.oracle(problem, **moved), ttr.oracle(problem, **qkv))


def test_enough_steps_give_the_inverse(qkv) -> None:
    """For every iteration; with the ridge the result is neither the kernel sum nor kernel ridge
    regression."""
    several = [
        GaussianNystrom(6, "queries", inverse=inverse, ridge=0.3, steps=60)
        for inverse in ("balanced", "newton")
    ]
    one, other = (ttr.oracle(Problem(Uniform(), function, OneStep()), **qkv) for function in several)
    assert same(one, other)
    points = qkv["q"][:, [i * T // 6 for i in range(6)]]
    inverse = torch.linalg.inv(gaussian(points, points, K**-0.5) + 0.3 * torch.eye(6))
    left, right = gaussian(qkv["q"], points, K**-0.5), gaussian(points, qkv["k"], K**-0.5)
    assert same(one, (left @ inverse @ right @ qkv["v"].transpose(1, 2)).transpose(1, 2))


def test_order_matters_to_landmarks_alone(qkv) -> None:
    """Tokens between landmarks can be exchanged: nothing else depends on the place of a token."""
    function = GaussianNystrom(4, ridge=0.3)
    problem, order = Problem(Uniform(), function, OneStep()), torch.arange(T)
    order[[1, 3]] = order[[3, 1]]  # landmarks are 0 and 5
    moved = ttr.oracle(problem, **{name: x[:, order] for name, x in qkv.items()})
    assert same(moved, ttr.oracle(problem, **qkv)[:, order])


# --------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", ["skyformer", "soft"])
def test_what_reads_the_whole_sequence_neither_streams_nor_generates(name, qkv, monkeypatch) -> None:
    problem = ttr.catalogue[name].problem
    state = ttr.initial_state(problem, B, H, K, V)
    for call in (
        lambda: ttr.regress(problem, **qkv, state=state),
        lambda: ttr.regress(problem, **qkv, return_state=True),
        lambda: ttr.oracle(problem, **qkv, state=state),
        lambda: ttr.regress(problem, **qkv, engine="recurrent"),
        lambda: ttr.step(problem, **{part: x[:, 0] for part, x in qkv.items()}, state=None),
    ):
        with pytest.raises(ValueError, match=r"every token reads .* Use "):
            call()
    layer = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2)
    x = torch.randn(1, 6, 8)
    with pytest.raises(ValueError, match="has no state and takes no single steps"):
        layer.step(x[:, 0], layer.initial_state(1))
    with pytest.raises(ValueError, match="has no state and takes no single steps"):
        layer(x, return_state=True)
    packed = layer(x, cu_seqlens=torch.tensor([0, 2, 6]))
    assert same(packed, torch.cat([layer(x[:, :2]), layer(x[:, 2:])], dim=1))
    changed = x.clone()
    changed[:, -1] += 1.0
    assert error(layer(changed)[:, 0], layer(x)[:, 0]) > FLOAT64
    # law 11 checks the library's own messages
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    report = ttr.verify(name, slow=False)
    assert report and "does not apply: Every token reads the whole sequence" in str(report)


def test_what_does_not_fit_is_refused(monkeypatch) -> None:
    for weights, function, solver, words in (
        (Geometric("head"), GaussianNystrom(4), OneStep(), "with equal weights. Use Uniform"),
        (Uniform(), GaussianNystrom(4), ExactLocalFit(), "is one global map"),
        (
            Uniform(),
            TransportedConstant(),
            FunctionalDeltaRule(),
            "with the control step_size.*Use ExactLocalFit",
        ),
        (Uniform(), TransportedConstant(), OneStep(), "fitted around every query.*Use ExactLocalFit"),
    ):
        with pytest.raises(ValueError, match=words):
            Problem(weights, function, solver)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for fields in (
        {"landmarks": 1},
        {"steps": 0},
        {"ridge": -1.0},
        {"inverse": "exact"},
        {"landmarks_of": "keys"},
    ):
        with pytest.raises(ValueError, match="Use "):
            GaussianNystrom(**fields)
