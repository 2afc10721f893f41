"""State spaces, gated recurrent units and complex decays: additive memories with a decay, and a rotation, per
channel."""

from __future__ import annotations

from ttr.functions.features.relu import Relu
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import HGRNDecay
from ttr.layer.gates.projected import LinearGate, LogSigmoidGate
from ttr.layer.gates.ring import RingDecay, RingPhase
from ttr.layer.gates.step_sizes import LonghornStepSize
from ttr.layer.gates.time_steps import TimeStepDecay
from ttr.layer.output.gates import OutputGate
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.output.skips import Skip
from ttr.layer.qkv.pointwise import RingGain, Silu
from ttr.layer.qkv.recurrent_gate import RecurrentGate
from ttr.layer.qkv.replacements import ComplementKey, Ones, QueryKeyFromValue
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.time_steps import LowRankTimeStep, TimeStepValue
from ttr.problem import Problem
from ttr.solvers.diagonal_implicit_delta_rule import DiagonalImplicitDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.complex_geometric import ComplexGeometric
from ttr.weights.cosine import Cosine
from ttr.weights.factored_geometric import FactoredGeometric
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "mamba": Architecture(
        Problem(FactoredGeometric(), Linear(scale=1.0), OneStep()),
        qkv=(
            ShortConvolution(streams=("v",), bias=True),
            QueryKeyFromValue(),
            LowRankTimeStep(),
            TimeStepValue(),
        ),
        gates=(TimeStepDecay(),),
        output=(Skip(of="input"), OutputGate("silu")),
        source="Gu, Dao: Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        arxiv="2312.00752",
        year=2023,
        original="transformers.models.mamba.modeling_mamba.MambaMixer",
        verified="layer and memory: transformers models/mamba",
        note=(
            "A head per channel: heads=1, value_heads=2 d_model, value_size=1, key_size=16, with q and k "
            "shared by all."
        ),
    ),
    "longhorn": Architecture(
        Problem(Uniform(), Linear(scale=1.0), DiagonalImplicitDeltaRule()),
        qkv=(ShortConvolution(streams=("v",), bias=True), QueryKeyFromValue()),
        gates=(LonghornStepSize(),),
        output=(Skip(), OutputGate("silu")),
        source="Liu, Wang, Wu, Feng, Stone, Liu: Longhorn",
        arxiv="2407.14207",
        year=2024,
        original=None,
        verified="memory: the diagonal of its linear system",
        note=(
            "As released, with the diagonal of k k^T: longhorn-exact is its stated minimiser. Sizes as of "
            "mamba."
        ),
    ),
    "hgrn": Architecture(
        Problem(Geometric("channel"), Linear(scale=1.0), OneStep()),
        qkv=(ComplementKey(), Silu(("v",)), Ones(("q",))),
        gates=(HGRNDecay(),),
        output=(GatedRMSNorm("silu", over="all"),),
        source="Qin, Yang, Zhong: Hierarchically Gated Recurrent Neural Network for Sequence Modeling",
        arxiv="2311.04823",
        year=2023,
        original="fla.layers.HGRNAttention",
        verified="memory: fla/ops/hgrn/naive.py with the gates of fla/layers/hgrn.py",
        note=(
            "A head per channel: heads=d_model, key_size=1, value_size=1. Each layer learns its lower "
            "bounds by itself."
        ),
    ),
    "rg-lru": Architecture(
        Problem(Geometric("head"), Linear(scale=1.0), OneStep()),
        qkv=(ShortConvolution(streams=("v",), silu=False, bias=True), RecurrentGate(), Ones()),
        gates=(TimeStepDecay(),),
        output=(OutputGate("gelu"),),
        source="De et al.: Griffin: Mixing Gated Linear Recurrences with Local Attention",
        arxiv="2402.19427",
        year=2024,
        original="transformers.models.recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRecurrentBlock",
        verified="layer and memory: transformers models/recurrent_gemma",
        note="A head per channel: heads=d_model, key_size=1, value_size=1. The projections have no bias.",
    ),
    "lru": Architecture(
        Problem(ComplexGeometric("head", values="complex"), Linear(scale=1.0), OneStep()),
        qkv=(RingGain(), Ones()),
        gates=(RingDecay(), RingPhase()),
        source="Orvieto et al.: Resurrecting Recurrent Neural Networks for Long Sequences",
        arxiv="2303.06349",
        year=2023,
        original=None,
        verified="memory: the powers of its eigenvalues",
        note="A head per complex state: key_size=1, value_size=2. The maps B and C are the projections of v "
        "and of y; no skip and no GLU around it. "
        "Radii start evenly spaced, not random.",
    ),
    "gateloop": Architecture(
        Problem(ComplexGeometric("head"), Linear(scale=1.0), OneStep()),
        gates=(LogSigmoidGate("log_decay"), LinearGate("phase")),
        output=(OutputGate("silu"),),
        source="Katsch: GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling",
        arxiv="2311.01927",
        year=2023,
        original=None,
        verified="memory: the dense matrix of its complex weights",
        note="One complex gate per head; ComplexGeometric(per='channel') has one per key channel.",
    ),
    "cosformer": Architecture(
        Problem(Cosine(horizon=4096), Linear(Relu(), normalized=True, scale=1.0, floor=1e-6), OneStep()),
        source="Qin et al.: cosFormer: Rethinking Softmax in Attention",
        arxiv="2202.08791",
        year=2022,
        original=None,
        verified="memory: the dense matrix of its cosine weights",
        note=(
            "The horizon is fixed where the original takes the length of the call; calls beyond 4096 "
            "tokens are refused."
        ),
    ),
}
