"""Memories that keep the pairs and fit around every query."""

from __future__ import annotations

from ttr.architecture import Architecture
from ttr.functions.local_constant import LocalConstant
from ttr.functions.local_linear import LocalLinear
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.surroundings.controls.learned_ridge import LearnedRidge
from ttr.surroundings.controls.log_sigmoid_decay import LogSigmoidDecay
from ttr.surroundings.keys.head_rms_norm import HeadRMSNorm
from ttr.surroundings.keys.rotary import Rotary
from ttr.weights.alibi import Alibi
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

ENTRIES: dict[str, Architecture] = {
    "softmax-attention": Architecture(
        Problem(Uniform(), LocalConstant(), ExactLocalFit()),
        keys=(Rotary(),),
        source="Vaswani et al.: Attention Is All You Need", arxiv="1706.03762", year=2017,
        original="torch.nn.functional.scaled_dot_product_attention", verified="memory: torch scaled_dot_product_attention",
        note="With rotary positions, arXiv 2104.09864."),
    "softmax-attention-qknorm": Architecture(
        Problem(Uniform(), LocalConstant(scale=10.0, unit_norm=True, learned_scale=True), ExactLocalFit()),
        keys=(Rotary(),),
        source="Henry, Dachapally, Pawar, Chen: Query-Key Normalization for Transformers", arxiv="2010.04245", year=2020,
        original=None, verified="memory: torch scaled_dot_product_attention on normalised inputs",
        note="With rotary positions; the learned scale of each head starts at 10."),
    "sliding-window-attention": Architecture(
        Problem(Window(128), LocalConstant(), ExactLocalFit()),
        keys=(Rotary(),),
        source="Beltagy, Peters, Cohan: Longformer", arxiv="2004.05150", year=2020,
        original="fla.layers.Attention", verified="memory: fla/ops/attn/naive.py",
        note="With rotary positions, and a window of 128 tokens, the newest included."),
    "alibi-attention": Architecture(
        Problem(Alibi(), LocalConstant(), ExactLocalFit()),
        source="Press, Smith, Lewis: Train Short, Test Long", arxiv="2108.12409", year=2021,
        original="transformers.models.bloom.modeling_bloom.BloomAttention", verified="memory: transformers models/bloom build_alibi_tensor"),
    "forgetting-attention": Architecture(
        Problem(Geometric("head"), LocalConstant(), ExactLocalFit()),
        controls=(LogSigmoidDecay(),),
        source="Lin, Nikishin, He, Courville: Forgetting Transformer", arxiv="2503.02130", year=2025,
        original="fla.layers.ForgettingAttention", verified="memory: fla/ops/forgetting_attn/naive.py",
        note="Without positions, as published; not the Pro block with its norms and output gate."),
    "local-linear-attention": Architecture(
        Problem(Uniform(), LocalLinear(), ExactLocalFit()),
        keys=(HeadRMSNorm(), Rotary()), controls=(LearnedRidge(start=1.0, at_least=0.1, per="head"),),
        source="Wang, Shi, Fox: Test-time regression; Zuo et al.: Local Linear Attention", arxiv="2510.01450", year=2025,
        original=None, verified="memory: weighted least squares by LAPACK",
        note="Norms of q and k bound the distances on which the fitted line is read."),
}
