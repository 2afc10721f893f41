"""Memories that are sums of pairs: linear attention and its gated forms."""

from __future__ import annotations

from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import HGRNDecay, MambaDecay
from ttr.layer.gates.projected import LogSigmoidGate
from ttr.layer.output.norms import GatedRMSNorm, RMSNorm
from ttr.layer.output.skips import Skip
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.replacements import ComplementKey
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.layer.qkv.time_steps import TimeStepValue
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.geometric import Geometric
from ttr.weights.multi_scale import MultiScale
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "linear-attention": Architecture(
        Problem(Uniform(), Linear(), OneStep()),
        output=(RMSNorm(),),
        source="Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs",
        arxiv="2006.16236",
        year=2020,
        original="fla.layers.LinearAttention",
        verified="memory: fla/ops/linear_attn/naive.py",
        note="Not normalised, without a feature map; the output norm of later stacks.",
    ),
    "linear-attention-normalized": Architecture(
        Problem(Uniform(), Linear(EluPlusOne(), normalized=True), OneStep()),
        source="Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs",
        arxiv="2006.16236",
        year=2020,
        original="fla.layers.LinearAttention",
        verified="memory: fla/ops/linear_attn/naive.py",
    ),
    "based": Architecture(
        Problem(Uniform(), Linear(Taylor(), normalized=True, scale=1.0, eps=1e-6), OneStep()),
        source="Arora et al.: Simple linear attention language models balance the recall-throughput tradeoff",
        arxiv="2402.18668",
        year=2024,
        original="fla.layers.BasedLinearAttention",
        verified="memory: fla/ops/based/naive.py",
        note="Only the linear attention, without the sliding-window layers of the publication. Published "
        "with key_size=16.",
    ),
    "retnet": Architecture(
        Problem(MultiScale(first=5.0), Linear(), OneStep()),
        qkv=(Rotary(),),
        output=(GatedRMSNorm("silu"),),
        source="Sun et al.: Retentive Network",
        arxiv="2307.08621",
        year=2023,
        original="fla.layers.MultiScaleRetention",
        verified="memory: fla/ops/retention/naive.py",
        note="Published with value_size = 2 key_size.",
    ),
    "gla": Architecture(
        Problem(Geometric("channel"), Linear(), OneStep()),
        gates=(LogSigmoidGate("log_decay", per="channel", rank=16, scale=1 / 16),),
        output=(GatedRMSNorm("silu"),),
        source="Yang, Wang, Shen, Panda, Kim: Gated Linear Attention Transformers",
        arxiv="2312.06635",
        year=2023,
        original="fla.layers.GatedLinearAttention",
        verified="memory: fla/ops/gla/naive.py",
        note="Published with 2 key_size = value_size.",
    ),
    "mamba2": Architecture(
        Problem(Geometric("head"), Linear(scale=1.0), OneStep()),
        qkv=(ShortConvolution(bias=True), TimeStepValue()),
        gates=(MambaDecay(slowest=1.0),),
        output=(Skip(of="input"), GatedRMSNorm("silu", over="all", gate_first=True)),
        source="Dao, Gu: Transformers are SSMs",
        arxiv="2405.21060",
        year=2024,
        original="transformers.models.mamba2.modeling_mamba2.Mamba2Mixer",
        verified="layer and memory: transformers models/mamba2",
        note=(
            "Groups are heads of q and k: heads=1 and value_heads=H for one group. Rates start uniform in "
            "1..16, not at 1, 2, ..., H."
        ),
    ),
    "hgrn2": Architecture(
        Problem(Geometric("channel"), Linear(), OneStep()),
        qkv=(Silu(("q",)), ComplementKey()),
        gates=(HGRNDecay(),),
        output=(RMSNorm("all"),),
        source="Qin et al.: HGRN2: Gated Linear RNNs with State Expansion",
        arxiv="2404.07904",
        year=2024,
        original="fla.layers.HGRN2Attention",
        verified="memory: fla/ops/gla/naive.py with the gates of fla/layers/hgrn2.py",
        note=(
            "Each layer learns its lower bounds by itself; the original ties them by a cumulative softmax "
            "over layers."
        ),
    ),
}
