"""Memories that fit a local polynomial around every query, or learn its slope instead."""

from __future__ import annotations

from ttr.functions.local_linear import LocalLinear
from ttr.functions.local_quadratic import LocalQuadratic
from ttr.layer.architecture import Architecture
from ttr.layer.gates.keys import ProjectedSlope
from ttr.layer.gates.ridges import LearnedRidge
from ttr.layer.qkv.norms import HeadRMSNorm
from ttr.layer.qkv.rotary import Rotary
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.solvers.learned_slope import LearnedSlope
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "local-quadratic-attention": Architecture(
        Problem(Uniform(), LocalQuadratic(), ExactLocalFit()),
        qkv=(HeadRMSNorm(), Rotary()),
        gates=(LearnedRidge(start=1.0, at_least=0.1, per="head"),),
        source="Wang, Shi, Fox: Test-time regression",
        arxiv="2501.12352",
        year=2025,
        original=None,
        verified="memory: weighted least squares by LAPACK, and its dual",
        note="K (K + 3) / 2 monomials per query: keep key_size small, such as 16.",
    ),
    "local-linear-rank8": Architecture(
        Problem(Uniform(), LocalLinear(rank=8), ExactLocalFit()),
        qkv=(HeadRMSNorm(), Rotary()),
        gates=(LearnedRidge(start=1.0, at_least=0.1, per="head"),),
        source="Wang, Shi, Fox: Test-time regression; the projection is ours",
        arxiv="2501.12352",
        year=2025,
        original=None,
        verified="memory: weighted least squares by LAPACK",
        note=(
            "A slope along 8 learned directions of the keys: between softmax attention and local linear "
            "attention."
        ),
    ),
    "parallax": Architecture(
        Problem(Uniform(), LocalLinear(), LearnedSlope()),
        qkv=(Rotary(streams=("q", "k", "slope")),),
        gates=(ProjectedSlope(),),
        source="Zuo et al.: Parallax, parameterized local linear attention",
        arxiv="2605.29157",
        year=2026,
        original="fla.layers.Parallax",
        verified="memory: fla/ops/parallax/naive.py",
        note="Without the optional norms of q, k and the slope.",
    ),
}
