"""Additive memories defined by their own recurrence: exponential gates, trapezoids, a bonus, levels."""

from __future__ import annotations

from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import Mamba3Decay, MambaDecay, RWKV6Decay
from ttr.layer.gates.projected import LevelWeight, LinearGate, LogSigmoidGate, SigmoidGate
from ttr.layer.gates.time_steps import TimeStepImportance
from ttr.layer.output.gates import OutputGate
from ttr.layer.output.norms import GatedRMSNorm, LayerNorm
from ttr.layer.output.skips import Skip
from ttr.layer.qkv.norms import HeadRMSNorm
from ttr.layer.qkv.pointwise import HeadBias
from ttr.layer.qkv.rotary import AngleRotary, SelectiveAngle
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.time_steps import TimeStepValue
from ttr.layer.qkv.token_shift import TokenShift
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.bonus import Bonus
from ttr.weights.exponential_gate import ExponentialGate
from ttr.weights.fenwick_levels import FenwickLevels
from ttr.weights.trapezoid import Trapezoid

ENTRIES: dict[str, Architecture] = {
    "mlstm": Architecture(
        Problem(ExponentialGate(), Linear(normalized=True, floor=1.0, absolute=True), OneStep()),
        gates=(
            LogSigmoidGate("log_decay", bias=3.0, spread=3.0, cap=15.0),
            LinearGate("log_importance", bias=-10.0, cap=15.0, zero=True),
        ),
        output=(LayerNorm(bias=False, eps=1e-6), OutputGate("sigmoid")),
        source="Beck et al.: xLSTM: Extended Long Short-Term Memory",
        arxiv="2405.04517",
        year=2024,
        original="transformers.models.xlstm.modeling_xlstm.xLSTMLayer",
        verified="layer and memory: transformers models/xlstm",
        note=(
            "The original adds 1e-6 to the divisor in units of the running maximum. Published with "
            "value_size = 2 key_size."
        ),
    ),
    "mamba3": Architecture(
        Problem(Trapezoid(), Linear(scale=1.0), OneStep()),
        qkv=(HeadRMSNorm(eps=1e-5), HeadBias(), SelectiveAngle(), AngleRotary()),
        gates=(Mamba3Decay(), TimeStepImportance(), SigmoidGate("trapezoid")),
        output=(Skip(), OutputGate("silu")),
        source="Lahoti et al.: Mamba-3: Improved Sequence Modeling using State Space Principles",
        arxiv="2603.15569",
        year=2026,
        original="fla.layers.Mamba3",
        verified="memory: its matrix of weights, and Mamba-2 with trapezoid = 1",
        note=(
            "One input and output (SISO). Rotates channels c and c + n, where the original rotates "
            "neighbours. One group: heads=1, value_heads=H."
        ),
    ),
    "rwkv6": Architecture(
        Problem(Bonus(), Linear(scale=1.0), OneStep()),
        qkv=(TokenShift(),),
        gates=(RWKV6Decay(),),
        output=(LayerNorm(), OutputGate("silu")),
        source="Peng et al.: Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence",
        arxiv="2404.05892",
        year=2024,
        original="fla.layers.RWKV6Attention",
        verified="memory: fla/ops/rwkv6/recurrent_naive.py",
        note=(
            "The token shift acts on q, k, v with fixed shares; that of the original acts on the input, "
            "also of the gates, with shares per token."
        ),
    ),
    "log-linear-attention": Architecture(
        Problem(FenwickLevels(), Linear(scale=1.0), OneStep()),
        qkv=(ShortConvolution(bias=True), TimeStepValue()),
        gates=(MambaDecay(slowest=1.0), LevelWeight()),
        output=(Skip(of="input"), GatedRMSNorm("silu", over="all", gate_first=True)),
        source="Guo et al.: Log-Linear Attention",
        arxiv="2506.04761",
        year=2025,
        original="fla.layers.LogLinearMamba2",
        verified="memory: fla/ops/log_linear_attn/naive.py",
        note=(
            "The variant of Mamba-2. 15 levels serve 16384 tokens, as in the original; the projections "
            "have no bias."
        ),
    ),
}
