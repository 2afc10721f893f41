"""Memories that store their pairs and fit locally around every query."""

from __future__ import annotations

from ttr.functions.gaussian_nystrom import GaussianNystrom
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.functions.transported_constant import TransportedConstant
from ttr.layer.architecture import Architecture
from ttr.layer.gates.keys import TransportKey
from ttr.layer.gates.projected import LogSigmoidGate, SigmoidGate
from ttr.layer.gates.ridges import LearnedRidge
from ttr.layer.qkv.norms import HeadRMSNorm, UnitNorm
from ttr.layer.qkv.replacements import SharedKey
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.functional_delta_rule import FunctionalDeltaRule
from ttr.solvers.one_step import OneStep
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

ENTRIES: dict[str, Architecture] = {
    "softmax-attention": Architecture(
        Problem(Uniform(), LocalConstant(), ExactLocalFit()),
        qkv=(Rotary(),),
        source="Vaswani et al.: Attention Is All You Need",
        arxiv="1706.03762",
        year=2017,
        original="torch.nn.functional.scaled_dot_product_attention",
        verified="memory: torch scaled_dot_product_attention",
        note="With rotary positions, arXiv 2104.09864.",
    ),
    "softmax-attention-qknorm": Architecture(
        Problem(Uniform(), LocalConstant(scale=10.0, unit_norm=True, learned_scale=True), ExactLocalFit()),
        qkv=(Rotary(),),
        source="Henry, Dachapally, Pawar, Chen: Query-Key Normalization for Transformers",
        arxiv="2010.04245",
        year=2020,
        original=None,
        verified="memory: torch scaled_dot_product_attention on normalised inputs",
        note="With rotary positions; the learned scale of each head starts at 10.",
    ),
    "sliding-window-attention": Architecture(
        Problem(Window(128), LocalConstant(), ExactLocalFit()),
        qkv=(Rotary(),),
        source="Beltagy, Peters, Cohan: Longformer",
        arxiv="2004.05150",
        year=2020,
        original="fla.layers.Attention",
        verified="memory: fla/ops/attn/naive.py",
        note="With rotary positions, and a window of 128 tokens, the newest included.",
    ),
    "alibi-attention": Architecture(
        Problem(Alibi(), LocalConstant(), ExactLocalFit()),
        source="Press, Smith, Lewis: Train Short, Test Long",
        arxiv="2108.12409",
        year=2021,
        original="transformers.models.bloom.modeling_bloom.BloomAttention",
        verified="memory: transformers models/bloom build_alibi_tensor",
    ),
    "forgetting-attention": Architecture(
        Problem(Geometric("head"), LocalConstant(), ExactLocalFit()),
        gates=(LogSigmoidGate("log_decay"),),
        source="Lin, Nikishin, He, Courville: Forgetting Transformer",
        arxiv="2503.02130",
        year=2025,
        original="fla.layers.ForgettingAttention",
        verified="memory: fla/ops/forgetting_attn/naive.py",
        note="Without positions, as published; not the Pro block with its norms and output gate.",
    ),
    "path-attention": Architecture(
        Problem(Uniform(), TransportedConstant(), ExactLocalFit()),
        qkv=(ShortConvolution(width=3, streams=("transport_key",)), UnitNorm(streams=("transport_key",))),
        gates=(TransportKey(rank=32, unit=False), SigmoidGate("step_size", scale=2.0)),
        source="Yang et al.: PaTH Attention, Position Encoding via Accumulating Householder Transformations",
        arxiv="2505.16381",
        year=2025,
        original="fla.layers.PaTHAttention",
        verified="memory: fla/ops/path_attn/naive.py",
        note="The transport key of every head, not only of every key head. With Geometric weights it is "
        "the form with a forget gate; its log decay is that of the published gate times K^-1/2.",
    ),
    "deltaformer": Architecture(
        Problem(Uniform(), LocalConstant(), FunctionalDeltaRule()),
        qkv=(Rotary(),),
        gates=(SigmoidGate("step_size"),),
        source="Zhong et al.: Understanding Transformer from the Perspective of Associative Memory",
        arxiv="2505.19488",
        year=2025,
        original="fla.layers.DeltaFormerAttention",
        verified="memory: fla/ops/deltaformer/naive.py",
        note=(
            "The step is a sigmoid; in flash-linear-attention it is a raw linear map, which may be negative."
        ),
    ),
    "skyformer": Architecture(
        Problem(
            Uniform(),
            GaussianNystrom(landmarks=128, landmarks_of="both", ridge=0.1, inverse="balanced", steps=6),
            OneStep(),
        ),
        source=(
            "Chen, Zeng, Ji, Yang: Skyformer, Remodel Self-Attention with Gaussian Kernel and Nystrom Method"
        ),
        arxiv="2111.00035",
        year=2021,
        original=None,
        verified=(
            "memory: the published iteration on the explicit kernel matrix of all points, and a plain "
            "kernel sum"
        ),
        note="Not causal. Landmarks are evenly spaced, not drawn at random; the iteration starts from a "
        "maximum per sequence and head, "
        "not per batch; data are scaled by K^-1/4, not by 32^-1/4.",
    ),
    "soft": Architecture(
        Problem(
            Uniform(),
            GaussianNystrom(
                landmarks=49, landmarks_of="queries", pooled=True, ridge=0.01, inverse="newton", steps=20
            ),
            OneStep(),
        ),
        qkv=(SharedKey(),),
        source="Lu et al.: SOFT, Softmax-free Transformer with Linear Complexity",
        arxiv="2110.11945",
        year=2021,
        original=None,
        verified=(
            "memory: the published iteration in the eigenbasis of the landmarks' kernel, and a plain "
            "kernel sum"
        ),
        note="Not causal. Landmarks are means of segments of a sequence, not a learned convolution of an "
        "image, LayerNorm and GELU; "
        "without the convolution of the values; the step of the iteration is never halved.",
    ),
    "local-linear-attention": Architecture(
        Problem(Uniform(), LocalLinear(), ExactLocalFit()),
        qkv=(HeadRMSNorm(), Rotary()),
        gates=(LearnedRidge(start=1.0, at_least=0.1, per="head"),),
        source="Wang, Shi, Fox: Test-time regression; Zuo et al.: Local Linear Attention",
        arxiv="2510.01450",
        year=2025,
        original=None,
        verified="memory: weighted least squares by LAPACK",
        note="Norms of q and k bound the distances at which the local fit is evaluated.",
    ),
}
