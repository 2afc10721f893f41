"""Memories that add pairs by a recurrence of their own: exponential gates, trapezoids, a bonus, levels."""

from __future__ import annotations

from ttr.architecture import Architecture
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.surroundings.controls.capped_importance import CappedImportance
from ttr.surroundings.controls.log_sigmoid_decay import LogSigmoidDecay
from ttr.surroundings.controls.low_rank_exponential_decay import LowRankExponentialDecay
from ttr.surroundings.controls.selective_decay import SelectiveDecay
from ttr.surroundings.controls.sigmoid_trapezoid import SigmoidTrapezoid
from ttr.surroundings.controls.softplus_decay import SoftplusDecay
from ttr.surroundings.controls.softplus_level_weight import SoftplusLevelWeight
from ttr.surroundings.controls.time_step_importance import TimeStepImportance
from ttr.surroundings.keys.angle_rotary import AngleRotary
from ttr.surroundings.keys.head_bias import HeadBias
from ttr.surroundings.keys.head_rms_norm import HeadRMSNorm
from ttr.surroundings.keys.selective_angle import SelectiveAngle
from ttr.surroundings.keys.short_convolution import ShortConvolution
from ttr.surroundings.keys.time_step_value import TimeStepValue
from ttr.surroundings.keys.token_shift import TokenShift
from ttr.surroundings.output.gate import Gate
from ttr.surroundings.output.gated_rms_norm import GatedRMSNorm
from ttr.surroundings.output.head_layer_norm import HeadLayerNorm
from ttr.surroundings.output.skip import Skip
from ttr.weights.bonus import Bonus
from ttr.weights.exponential_gate import ExponentialGate
from ttr.weights.fenwick_levels import FenwickLevels
from ttr.weights.trapezoid import Trapezoid

ENTRIES: dict[str, Architecture] = {
    "mlstm": Architecture(
        Problem(ExponentialGate(), Linear(normalized=True, floor=1.0, absolute=True), OneStep()),
        controls=(LogSigmoidDecay(bias=3.0, spread=3.0, cap=15.0), CappedImportance()),
        output=(HeadLayerNorm(bias=False, eps=1e-6), Gate("sigmoid")),
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
        keys=(HeadRMSNorm(eps=1e-5), HeadBias(), SelectiveAngle(), AngleRotary()),
        controls=(SelectiveDecay(), TimeStepImportance(), SigmoidTrapezoid()),
        output=(Skip(), Gate("silu")),
        source="Lahoti et al.: Mamba-3: Improved Sequence Modeling using State Space Principles",
        arxiv="2603.15569",
        year=2026,
        original="fla.layers.Mamba3",
        verified="memory: its matrix of weights, and Mamba-2 with trapezoid = 1",
        note=(
            "One input and output (SISO). Turns channels c and c + n where the original turns neighbours. "
            "One group: heads=1, value_heads=H."
        ),
    ),
    "rwkv6": Architecture(
        Problem(Bonus(), Linear(scale=1.0), OneStep()),
        keys=(TokenShift(),),
        controls=(LowRankExponentialDecay(),),
        output=(HeadLayerNorm(), Gate("silu")),
        source="Peng et al.: Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence",
        arxiv="2404.05892",
        year=2024,
        original="fla.layers.RWKV6Attention",
        verified="memory: fla/ops/rwkv6/recurrent_naive.py",
        note=(
            "The token shift acts on q, k, v with fixed shares; the original's acts on the input, gates "
            "included, with shares of each token."
        ),
    ),
    "log-linear-attention": Architecture(
        Problem(FenwickLevels(), Linear(scale=1.0), OneStep()),
        keys=(ShortConvolution(bias=True), TimeStepValue()),
        controls=(SoftplusDecay(slowest=1.0), SoftplusLevelWeight()),
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
