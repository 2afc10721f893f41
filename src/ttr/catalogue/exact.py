"""Memories that solve their regression exactly."""

from __future__ import annotations

from ttr.functions.kernel_regression import KernelRegression
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.gates.projected import LogSigmoidGate, SigmoidGate
from ttr.layer.gates.ridges import ConstantRidge, LearnedRidge
from ttr.layer.output.norms import GatedRMSNorm, RMSNorm
from ttr.layer.qkv.norms import UnitNorm
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.chebyshev import Chebyshev
from ttr.solvers.exact_ridge import ExactRidge
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "mesanet": Architecture(
        Problem(Product((Geometric("head"), Importance())), Linear(scale=1.0), ExactRidge()),
        qkv=(ShortConvolution(streams=("q", "k")), UnitNorm()),
        gates=(LogSigmoidGate("log_decay"), LogSigmoidGate("log_importance"), LearnedRidge()),
        output=(RMSNorm(),),
        source="von Oswald et al.: MesaNet",
        arxiv="2506.05233",
        year=2025,
        original="fla.layers.MesaNet",
        verified="memory: fla/ops/mesa_net/naive.py",
        note="Solved exactly; the original stops after at most 30 steps of conjugate gradient.",
    ),
    "intention": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ExactRidge()),
        qkv=(UnitNorm(),),
        gates=(ConstantRidge(1.0),),
        source="Garnelo, Czarnecki: Exploring the Space of Key-Value-Query Models with Intention",
        arxiv="2305.10203",
        year=2023,
        original=None,
        verified="memory: the closed form by LAPACK",
        note="Causal: every token fits its prefix. Unit keys keep the fixed ridge meaningful.",
    ),
    "mesa": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ExactRidge()),
        qkv=(UnitNorm(),),
        gates=(LearnedRidge(per="head"),),
        output=(RMSNorm(),),
        source="von Oswald et al.: Uncovering mesa-optimization algorithms in Transformers",
        arxiv="2309.05858",
        year=2023,
        original=None,
        verified="memory: the recursion of the inverse, P_t = P_{t-1} - P k (P k)^T / (1 + k^T P k)",
        note="Recursive least squares with uniform weights is the exact ridge. With decay its prior would "
        "decay too; it would be ExactRidge under Importance, with the inverse of the decay up to each "
        "pair.",
    ),
    "gated-kalmanet": Architecture(
        Problem(Product((Geometric("head"), Importance())), Linear(), Chebyshev(iterations=30, ratio=0.02)),
        qkv=(ShortConvolution(), UnitNorm(eps=1e-12)),
        gates=(MambaDecay(), LogSigmoidGate("log_importance", scale=2.0), SigmoidGate("mix", bias=0.0)),
        output=(GatedRMSNorm("silu"),),
        source="Gated KalmaNet: A Fading Memory Layer Through Test-Time Ridge Regression",
        arxiv="2511.21016",
        year=2025,
        original="hmf.model.hybrid_zoo.layers.gated_kalmanet.GatedKalmaNet",
        verified="memory: the Chebyshev polynomials of its residual",
        note=(
            "Gradients are those of the 30 steps; the released kernel uses those of the exact solution. "
            "1e-6 is not added to norms and gates."
        ),
    ),
    "kernel-intention": Architecture(
        Problem(Uniform(), KernelRegression("exponential"), ExactRidge()),
        qkv=(UnitNorm(),),
        gates=(ConstantRidge(1.0),),
        source="Garnelo, Czarnecki: Exploring the Space of Key-Value-Query Models with Intention",
        arxiv="2305.10203",
        year=2023,
        original=None,
        verified="memory: the representer problem by LAPACK",
        note="Causal: every token fits its prefix. Without the paper's variant that normalises by a softmax.",
    ),
}
