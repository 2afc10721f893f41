"""Identities of memories that add pairs by a recurrence of their own, properties of their forms, and a whole
layer of transformers.

As in test_identities.py the oracle is held to mathematics; engines are held to the oracle by the laws, and
here where numbers are extreme.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ttr
from ttr.dispatch import refusal
from ttr.engines import ENGINES
from ttr.engines.torch.chunkwise_additive import ChunkwiseAdditive
from ttr.engines.torch.chunkwise_levels import ChunkwiseLevels
from ttr.forms.fenwick import later, level
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.linear import Linear
from ttr.laws.rows import Sizes, make_case
from ttr.laws.tolerances import FLOAT32, FLOAT64, HALF, error, tolerance
from ttr.nn import Mixer
from ttr.problem import Function, Problem, Weights
from ttr.solvers.delta_rule import DeltaRule
from ttr.solvers.one_step import OneStep
from ttr.state import State
from ttr.weights.bonus import Bonus
from ttr.weights.exponential_gate import ExponentialGate
from ttr.weights.fenwick_levels import FenwickLevels
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.trapezoid import Trapezoid
from ttr.weights.uniform import Uniform

B, T, H, K, V = 2, 11, 2, 4, 3
PLAIN, RATIO = Linear(), Linear(EluPlusOne(), normalized=True)
WEIGHED = Product((Geometric("head"), Importance()))
PROBLEMS = [
    Problem(weights, function, OneStep())
    for weights, function in (
        (Bonus(), Linear()),
        (Trapezoid(), Linear()),
        (ExponentialGate(), RATIO),
        (FenwickLevels(9), Linear()),
    )
]
every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=repr)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def qkv() -> dict[str, Tensor]:
    return {"q": torch.randn(B, T, H, K), "k": torch.randn(B, T, H, K), "v": torch.randn(B, T, H, V)}


@pytest.fixture
def decay() -> Tensor:
    return -1.2 * torch.rand(B, T, H)


def run(weights: Weights, inputs: Mapping[str, Tensor], function: Function = PLAIN, **call: object) -> Tensor:
    return ttr.oracle(Problem(weights, function, OneStep()), **inputs, **call)


def same(value: Tensor, reference: Tensor) -> bool:
    return error(value, reference) <= FLOAT64


# ----------------------------------------------------------------------------------------------------- RWKV-6
def test_without_bonus_a_token_reads_what_gated_linear_attention_left_before_it(qkv) -> None:
    decay = -1.2 * torch.rand(B, T, H, K)
    # every query asked one token earlier
    early = qkv | {"q": torch.cat([qkv["q"][:, 1:], qkv["q"][:, :1]], dim=1)}
    blind = run(Bonus(), qkv, params={"weights.bonus": torch.zeros(H, K)}, log_decay=decay)
    assert same(blind[:, 1:], run(Geometric("channel"), early, log_decay=decay)[:, :-1])
    assert blind[:, 0].abs().max() == 0


def test_a_bonus_of_one_that_forgets_nothing_is_linear_attention(qkv) -> None:
    open_gate = torch.zeros(B, T, H, K)
    assert same(
        run(Bonus(), qkv, params={"weights.bonus": torch.ones(H, K)}, log_decay=open_gate),
        run(Uniform(), qkv),
    )


# ---------------------------------------------------------------------------------------------------- Mamba-3
def test_mamba3_by_eulers_rule_is_mamba2(qkv, decay) -> None:
    importance = torch.randn(B, T, H)
    newer = run(Trapezoid(), qkv, log_decay=decay, log_importance=importance, trapezoid=torch.ones(B, T, H))
    assert same(newer, run(WEIGHED, qkv, log_decay=decay, log_importance=importance))


def test_the_older_end_alone_writes_every_pair_one_token_later(qkv, decay) -> None:
    """l = 0: S_t = a_t (S_{t-1} + d_t k_{t-1} v_{t-1}^T) is a_t times the memory of Mamba-2 after the
    previous token, if that is written with the step of the next."""
    importance = torch.randn(B, T, H)

    def following(x: Tensor) -> Tensor:
        return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)

    older = run(Trapezoid(), qkv, log_decay=decay, log_importance=importance, trapezoid=torch.zeros(B, T, H))
    early = {
        "q": following(decay.exp()[..., None] * qkv["q"]),
        "k": following(importance.exp())[..., None] * qkv["k"],
        "v": qkv["v"],
    }
    assert same(older[:, 1:], run(Geometric("head"), early, log_decay=decay)[:, :-1])
    assert older[:, 0].abs().max() == 0


# ------------------------------------------------------------------------------------------------------ mLSTM
@pytest.mark.parametrize("function", [RATIO, Linear(normalized=True, floor=0.5, absolute=True)], ids=repr)
def test_a_running_maximum_changes_no_number(qkv, decay, function) -> None:
    controls = {"log_decay": decay, "log_importance": 3 * torch.randn(B, T, H)}
    assert same(run(ExponentialGate(), qkv, function, **controls), run(WEIGHED, qkv, function, **controls))


@pytest.mark.parametrize(
    "engine",
    [engine for engine in ENGINES if refusal(engine, PROBLEMS[2]) is None],
    ids=lambda engine: engine.name,
)
@pytest.mark.parametrize("shift", [-500.0, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("function", [RATIO, Linear(normalized=True, floor=1.0, absolute=True)], ids=repr)
def test_importance_of_any_size_in_float32(engine, shift, function) -> None:
    """Outputs and gradients, with the log decays of law 7, against the oracle in float64; the read-out of a
    query of 0 is 0."""
    problem = Problem(ExponentialGate(), function, OneStep())
    case = make_case(problem, Sizes(time=20), strong_gates=True, dtype=torch.float32)
    importance = shift + 20 * torch.randn(case.controls["log_importance"].shape, dtype=torch.float32)
    case = dataclasses.replace(case, controls={**case.controls, "log_importance": importance})
    fast, slow = case.differentiable(), case.differentiable()
    y, state = ttr.regress(problem, engine=engine.small(), return_state=True, **fast.arguments())
    reference = ttr.oracle(problem, **slow.arguments())
    assert error(y, reference) <= tolerance(torch.float32)
    assert (
        all(torch.isfinite(x).all() for x in state.tensors.values())
        and state["memory"].abs().max() < 1 / HALF
    )
    gradients = [
        torch.autograd.grad(out.sum(), [*x.leaves().values()]) for out, x in ((y, fast), (reference, slow))
    ]
    assert all(error(a, b) <= tolerance(torch.float32) for a, b in zip(*gradients, strict=True))
    if function is not RATIO:
        assert (
            ttr.regress(problem, engine=engine, **{**case.arguments(), "q": torch.zeros_like(case.q)})
            .abs()
            .max()
            == 0
        )


def test_large_importance_shared_by_all_pairs_cancels(qkv, decay) -> None:
    importance = torch.randn(B, T, H)
    far, near = (
        run(ExponentialGate(), qkv, RATIO, log_decay=decay, log_importance=shift + importance)
        for shift in (700.0, 30.0)
    )
    assert same(far, near)


# ------------------------------------------------------------------------------------------------- log-linear
def test_equal_level_weights_are_mamba2(qkv, decay) -> None:
    flat = run(FenwickLevels(5), qkv, log_decay=decay, level_weight=torch.ones(B, T, H, 5))
    assert same(flat, run(Geometric("head"), qkv, log_decay=decay))


def test_levels_are_bit_lengths() -> None:
    token = torch.arange(64)
    expected = [[(t ^ i).bit_length() for i in range(64)] for t in range(64)]
    assert level(token[:, None], token, 7).tolist() == expected
    for s in range(63):  # seen from a token s, and from any later one
        for t in range(s + 1, 64):
            moved = later(level(torch.tensor(t), torch.tensor(s), 7), 7)
            assert all(moved[(s ^ i).bit_length()] == (t ^ i).bit_length() for i in range(s + 1))


@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_rows_stand_at_positions_of_their_own(chunk) -> None:
    problem, engine = PROBLEMS[3], ChunkwiseLevels(chunk)
    cases = [make_case(problem, Sizes(batch=1, time=21), past=past) for past in (1, 6, 17)]
    together = {
        name: torch.cat([case.leaves()[name] for case in cases])
        for name in ("q", "k", "v", "log_decay", "level_weight")
    }
    y, state = ttr.regress(
        problem,
        **together,
        state=State.cat([case.state for case in cases]),
        return_state=True,
        engine=engine,
    )
    for row, case in enumerate(cases):
        alone, end = ttr.oracle(problem, **case.arguments(), return_state=True)
        assert same(y[row : row + 1], alone) and same(state["memory"][row : row + 1], end["memory"])


def test_levels_end() -> None:
    problem = Problem(FenwickLevels(4), Linear(), OneStep())
    case = make_case(problem, Sizes(time=9), past=0)
    for call in (ttr.oracle, ttr.regress):
        with pytest.raises(
            ValueError,
            match=r"reaches token 9 of a memory whose horizon is 8, that of FenwickLevels\(levels=4\)",
        ):
            call(problem, **case.arguments())
        y, state = call(problem, **case.tokens(slice(0, 8)).arguments(), return_state=True)
        kept = state.clone()
        with pytest.raises(ValueError, match="reaches token 9"):
            call(problem, **case.tokens(slice(8, 9), state).arguments())
        assert torch.equal(state["memory"], kept["memory"]) and torch.equal(state.position, kept.position)
    one = case.tokens(slice(0, 1)).arguments() | {
        "cu_seqlens": torch.tensor([0, 1]),
        "state": state.select([0]),
    }
    with pytest.raises(ValueError, match="reaches token 9"):
        ttr.regress(
            problem,
            **{
                name: x[:1] if name in ("q", "k", "v", "log_decay", "level_weight") else x
                for name, x in one.items()
            },
        )


# ---------------------------------------------------------------------------------------- properties of forms
@pytest.mark.parametrize("weights", [problem.weights for problem in PROBLEMS], ids=repr)
def test_only_sums_of_pairs_are_refused_nothing(weights) -> None:
    wrong = (
        [(RATIO, DeltaRule()), (RATIO, OneStep())] if "L" in weights.sizes() else [(Linear(), DeltaRule())]
    )
    for function, solver in wrong:
        with pytest.raises(ValueError, match="Use "):
            Problem(weights, function, solver)
    with pytest.raises(ValueError, match="cannot be a factor"):
        Product((weights, Importance()))


def test_a_plain_sum_cannot_be_read_in_units_of_a_running_maximum() -> None:
    with pytest.raises(ValueError, match="Use Linear"):
        Problem(ExponentialGate(), Linear(), OneStep())


@pytest.mark.parametrize("levels", [0, 63])
def test_a_wrong_number_of_levels_is_a_sentence(levels) -> None:
    with pytest.raises(ValueError, match="Use 1 to 62"):
        FenwickLevels(levels)


class _Watch(TorchDispatchMode):
    """Records the largest argument of any exponential, the largest tensor, and the total of numbers
    written."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent, self.largest, self.written = -torch.inf, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.exp and args[0].numel():
            self.exponent = max(self.exponent, args[0].max().item())
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                self.written += 0 if func.is_view else tensor.numel()
        return result


def watch(problem: Problem, time: int, size: int) -> _Watch:
    case = make_case(
        problem, Sizes(batch=1, heads=1, time=time, key=size, value=size), strong_gates=True
    ).differentiable()
    engine = ChunkwiseLevels(16) if "L" in problem.sizes() else ChunkwiseAdditive(16)
    with ttr.checks(values=False), _Watch() as seen:
        ttr.regress(problem, engine=engine, **case.arguments()).sum().backward()
    return seen


@every_problem
def test_memory_is_linear(problem) -> None:
    """No tensor of T F V numbers, forward or backward; twice the tokens need twice the numbers written, times
    a logarithm, that of the number of chunks."""
    time, size, chunks = 128, 32, 8
    once, twice = (watch(problem, t, size) for t in (time, 2 * time))
    logarithm = math.log2(2 * chunks) / math.log2(chunks) if "L" in problem.sizes() else 1
    assert once.largest < time * size * size and twice.largest <= 2 * logarithm * once.largest
    assert twice.written <= 2.1 * logarithm * once.written


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[2], PROBLEMS[3]], ids=repr)
def test_no_exponential_grows(problem) -> None:
    """Except by the rounding of the sums whose difference it is. (The log of a trapezoid's step may be above
    0: it is bounded by the inputs.)"""
    case = make_case(problem, Sizes(batch=1, heads=1, time=40), strong_gates=True)
    large = {name: 300 * x if name == "log_importance" else x for name, x in case.controls.items()}
    for engine in (engine.small() for engine in ENGINES if refusal(engine, problem) is None):
        with ttr.checks(values=False), _Watch() as seen:
            ttr.regress(problem, engine=engine, **{**case.arguments(), **large})
        assert seen.exponent <= FLOAT64


# ---------------------------------------------------------------------------------------------- a whole layer
def test_mlstm_is_that_of_transformers() -> None:
    from transformers import xLSTMConfig
    from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

    torch.set_default_dtype(torch.float32)
    d_model, heads = 12, 2
    config = xLSTMConfig(
        hidden_size=d_model,
        embedding_dim=d_model,
        num_heads=heads,
        qk_dim_factor=0.5,
        v_dim_factor=1.0,
        num_hidden_layers=1,
        weight_mode="single",
        autocast_kernel_dtype="float32",
    )
    original = xLSTMLayer(config).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter += 0.3 * torch.rand_like(parameter)
    layer = Mixer(d_model, ttr.catalogue["mlstm"], heads=heads, key_size=3, value_size=6)
    tensors = {f"{name}_proj.weight": getattr(original, name).weight for name in "qkv"}
    for control, gate in (("log_decay", original.fgate_preact), ("log_importance", original.igate_preact)):
        tensors |= {f"gates.{control}.proj.weight": gate.weight, f"gates.{control}.bias": gate.bias}
    tensors |= {
        "output.layer_norm.gain": original.multihead_norm.weight.unflatten(0, (heads, 6)),
        "output.output_gate.proj.weight": original.ogate_preact.weight,
        "o_proj.weight": original.out_proj.weight,
    }
    layer.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()})
    x = torch.randn(2, 11, d_model)
    with torch.no_grad():
        assert error(layer.double()(x.double()), original(x)[0]) <= FLOAT32
