"""Claims that layers are regressions: identities, to rounding."""

from __future__ import annotations

import ttr
from ttr import functions, solvers, weights
from ttr.axes import Solver, Weights
from ttr.experiments.reproduce.claims.common import PAPER, SEEDS
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.identities import ALIKE, IdentityExperiment, Layer
from ttr.experiments.reproduce.learners import LINEAR
from ttr.experiments.reproduce.published import CHUNK, MANY
from ttr.experiments.reproduce.recursive import RecursiveExperiment

UNIFORM, DECAY, CHANNELS = weights.Uniform(), weights.Geometric("head"), weights.Geometric("channel")
EXACT, LOCAL = solvers.ExactRidge(), solvers.ExactLocalFit()
GATED = weights.Product((weights.Geometric("head"), weights.Importance()))
CALL = {"batch": 2, "length": 64, "size": 8, "value_size": 6, "ridge": 0.5}
STEP = {"step_size": "step_size"}
LOG_DECAY, LOG_DECAYS, RIDGE = {"log_decay": "log_decay"}, {"log_decay": "log_decays"}, {"ridge": "ridge"}


def _linear(kept: Weights, solver: Solver) -> ttr.Problem:
    return ttr.Problem(kept, LINEAR, solver)


LAYERS = {
    "linear attention": Layer(
        "uniform", "linear", "one step", _linear(UNIFORM, solvers.OneStep()), "linear_attention", {}
    ),
    "RetNet": Layer(
        "fixed decay",
        "linear",
        "one step",
        _linear(DECAY, solvers.OneStep()),
        "retention",
        {"log_decay": "retention"},
    ),
    "Mamba-2": Layer(
        "decay per token", "linear", "one step", _linear(DECAY, solvers.OneStep()), "mamba2", LOG_DECAY
    ),
    "GLA": Layer(
        "decay per channel",
        "linear",
        "one step",
        _linear(CHANNELS, solvers.OneStep()),
        "gated_linear_attention",
        LOG_DECAYS,
    ),
    "mesa layer, intention": Layer("uniform", "linear", "exact", _linear(UNIFORM, EXACT), "mesa", RIDGE),
    "MesaNet": Layer(
        "decay, importance",
        "linear",
        "exact",
        _linear(GATED, EXACT),
        "mesanet",
        LOG_DECAY | RIDGE | {"log_importance": "log_importance"},
    ),
    "DeltaNet": Layer(
        "uniform", "linear", "delta rule", _linear(UNIFORM, solvers.DeltaRule()), "deltanet", STEP
    ),
    "Gated DeltaNet": Layer(
        "decay per token",
        "linear",
        "delta rule",
        _linear(DECAY, solvers.DeltaRule()),
        "gated_deltanet",
        STEP | LOG_DECAY,
    ),
    "Kimi Delta Attention": Layer(
        "decay per channel",
        "linear",
        "delta rule",
        _linear(CHANNELS, solvers.DeltaRule()),
        "kimi_delta_attention",
        STEP | LOG_DECAYS,
    ),
    "Longhorn": Layer(
        "uniform", "linear", "implicit step", _linear(UNIFORM, solvers.ImplicitDeltaRule()), "longhorn", STEP
    ),
    "DeltaProduct": Layer(
        "uniform",
        "linear",
        "2 delta steps",
        _linear(UNIFORM, solvers.DeltaRule(pairs_per_token=2)),
        "deltaproduct",
        {"k": "pair_keys", "v": "pair_values", "step_size": "pair_steps"},
    ),
    "TTT-Linear": Layer(
        "uniform",
        "linear",
        "mini-batches of 16",
        _linear(UNIFORM, solvers.GradientDescent(chunk=CHUNK)),
        "ttt",
        STEP,
    ),
    "Titans": Layer(
        "decay per token",
        "linear",
        "momentum",
        _linear(DECAY, solvers.GradientDescent(momentum=True)),
        "titans",
        STEP | LOG_DECAY | {"momentum": "momentum"},
    ),
    "normalised linear attention": Layer(
        "uniform",
        "1 + elu, normalised",
        "one step",
        ttr.Problem(
            UNIFORM,
            functions.Linear(functions.features.EluPlusOne(), normalized=True, scale=1.0, eps=1e-30),
            solvers.OneStep(),
        ),
        "normalised_linear_attention",
        {},
    ),
    "softmax attention": Layer(
        "uniform",
        "local constant",
        "exact",
        ttr.Problem(UNIFORM, functions.LocalConstant(), LOCAL),
        "softmax_attention",
        {},
    ),
    "Nadaraya-Watson": Layer(
        "uniform",
        "local constant, QK norm",
        "exact",
        ttr.Problem(UNIFORM, functions.LocalConstant(scale=4.0, unit_norm=True), LOCAL),
        "nadaraya_watson",
        {},
    ),
    "Forgetting Transformer": Layer(
        "decay per token",
        "local constant",
        "exact",
        ttr.Problem(DECAY, functions.LocalConstant(), LOCAL),
        "forgetting_attention",
        LOG_DECAY,
    ),
    "local linear attention": Layer(
        "uniform",
        "local linear",
        "exact",
        ttr.Problem(UNIFORM, functions.LocalLinear(), LOCAL),
        "local_linear_attention",
        RIDGE,
    ),
    "kernelised intention": Layer(
        "uniform",
        "kernel space",
        "exact",
        ttr.Problem(UNIFORM, functions.KernelRegression("exponential"), EXACT),
        "kernel_regression",
        RIDGE,
    ),
    "unnormalised softmax": Layer(
        "uniform",
        "kernel space",
        "ridge to infinity",
        ttr.Problem(UNIFORM, functions.KernelRegression("exponential"), EXACT),
        "unnormalised_softmax",
        {"ridge": f"{MANY:g}"},
    ),
}

DESIGN_SPACE = IdentityExperiment(
    name="design-space",
    title="Three choices make a layer",
    claim="Weights, function class and solver make the known layers: each is the published recurrence to "
    "rounding, and changing one of the three moves from one to another.",
    source=f"{PAPER}, section 3; the papers of the layers",
    formula=r"m_t = \operatorname{argmin}_{m \in \mathcal{M}} \frac{1}{2} \sum_{i \le t} "
    r"\gamma_i^{(t)}\, \|v_i - m(k_i)\|^2,\qquad y_t = m_t(q_t)",
    protocol="Every recurrence is written by hand, token by token and without the library (published.py), "
    "and compared with ttr.regress of the three choices in float64: 64 tokens, 8 channels, random gates, "
    "keys of norms between 0.5 and 1.2. Norms, convolutions and projections around a layer are left out; "
    "Longhorn is the minimiser that its paper states, not the diagonal of the released code.",
    reading="That ttr.regress follows a recurrence does not say that the recurrence solves its regression: "
    "one step, the delta rule and momentum are approximations. A decay of each channel is no weight of a "
    "pair at all, and softmax without its normaliser is the limit of kernel regression for a large ridge, "
    "taken at 1e14.",
    layers=LAYERS,
    sizes=CALL,
    bands=[Band(name, high=ALIKE) for name in LAYERS],
    seeds=SEEDS,
)

FROZEN = "delta rule: P frozen"
RECURRENCES = {
    "recursive least squares": Layer(
        "uniform", "linear", "exact", _linear(UNIFORM, EXACT), "undecayed_least_squares", RIDGE
    ),
    "recursive least squares, decay 0.98": Layer(
        "decay of pairs and ridge",
        "linear",
        "exact",
        _linear(weights.Importance(), EXACT),
        "recursive_least_squares",
        RIDGE | {"log_importance": "growth"},
    ),
    "preconditioned linear attention": Layer(
        "uniform", "linear", "exact", _linear(UNIFORM, EXACT), "preconditioned_linear_attention", RIDGE
    ),
    "preconditioned delta rule": Layer(
        "uniform", "linear", "exact", _linear(UNIFORM, EXACT), "preconditioned_delta_rule", RIDGE
    ),
    FROZEN: Layer("uniform", "linear", "exact", _linear(UNIFORM, EXACT), "deltanet", RIDGE),
}

LEAST_SQUARES_RECURRENCE = RecursiveExperiment(
    name="least-squares-recurrence",
    title="Least squares as a recurrence",
    claim="Recursive least squares is ridge regression on all pairs, with and without decay; linear "
    "attention and the delta rule are the same once preconditioned by the inverse covariance of the keys. "
    "Weights must not be negative: with them the objective has no minimum.",
    source=f"{PAPER}, section 3; arXiv 2604.21100",
    formula=r"P_t = P_{t-1} - \frac{P_{t-1} k_t k_t^\top P_{t-1}}{1 + k_t^\top P_{t-1} k_t},\qquad "
    r"S_t = S_{t-1} + P_t k_t\,(v_t - S_{t-1}^\top k_t)^\top,\qquad "
    r"P_t = \Big(\sum_{i \le t} k_i k_i^\top + \lambda I\Big)^{-1}",
    protocol="Recurrences by hand against ttr.regress, which solves the regression on all pairs anew, in "
    "float64: 256 tokens, 16 channels, ridge 0.1. With decay the ridge decays too: the regression has the "
    "weights a^-i of pair i and a ridge that stays. The curvature is the smallest eigenvalue of sum_i "
    "a^(t-i) k_i k_i^T + ridge I, for a = 0.98 and -0.98, the eigenvalue of a transition that is negative.",
    reading="The recurrence with decay is not MesaNet, whose ridge stays while the pairs decay. Without the "
    "preconditioner the delta rule is far from least squares after 256 pairs. A recurrence with a negative "
    "transition can be computed all the same; it is then no weighted regression.",
    layers=RECURRENCES,
    sizes={"batch": 2, "length": 256, "size": 16, "value_size": 16, "ridge": 0.1},
    decays={"decay 0.98": 0.98, "decay -0.98": -0.98},
    bands=[
        *(Band(name, high=ALIKE) for name in RECURRENCES if name != FROZEN),
        Band(FROZEN, low=0.01),
        Band("decay 0.98, tokens with a minimum", low=1.0),
        Band("decay -0.98, tokens with a minimum", high=0.1),
    ],
    seeds=SEEDS,
)
