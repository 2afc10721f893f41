"""Memories that solve their regression exactly."""

from __future__ import annotations

from ttr.architecture import Architecture
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.exact_ridge import ExactRidge
from ttr.surroundings.controls.constant_ridge import ConstantRidge
from ttr.surroundings.controls.learned_ridge import LearnedRidge
from ttr.surroundings.controls.log_sigmoid_decay import LogSigmoidDecay
from ttr.surroundings.controls.log_sigmoid_importance import LogSigmoidImportance
from ttr.surroundings.keys.short_convolution import ShortConvolution
from ttr.surroundings.keys.unit_norm import UnitNorm
from ttr.surroundings.output.rms_norm import RMSNorm
from ttr.weights.geometric import Geometric
from ttr.weights.importance import Importance
from ttr.weights.product import Product
from ttr.weights.uniform import Uniform

ENTRIES: dict[str, Architecture] = {
    "mesanet": Architecture(
        Problem(Product((Geometric("head"), Importance())), Linear(scale=1.0), ExactRidge()),
        keys=(ShortConvolution(streams=("q", "k")), UnitNorm()), controls=(LogSigmoidDecay(), LogSigmoidImportance(), LearnedRidge()),
        output=(RMSNorm(),),
        source="von Oswald et al.: MesaNet", arxiv="2506.05233", year=2025,
        original="fla.layers.MesaNet", verified="memory: fla/ops/mesa_net/naive.py",
        note="Solved exactly; the original stops after at most 30 steps of conjugate gradient."),
    "intention": Architecture(
        Problem(Uniform(), Linear(scale=1.0), ExactRidge()),
        keys=(UnitNorm(),), controls=(ConstantRidge(1.0),),
        source="Garnelo, Czarnecki: Exploring the Space of Key-Value-Query Models with Intention", arxiv="2305.10203", year=2023,
        original=None, verified="memory: the closed form by LAPACK",
        note="Causal: every token fits its prefix. Unit keys keep the fixed ridge meaningful."),
}
