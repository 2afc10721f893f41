"""State tracking: claims about the eigenvalues of a memory's transition."""

from __future__ import annotations

from typing import Any

import ttr
from ttr.experiments.reproduce.claims.common import FEW_SEEDS, SUBSTITUTE
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.small_model import TaskRecipe
from ttr.experiments.reproduce.trained import Lesson, TrainedExperiment
from ttr.functions import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.output.norms import RMSNorm
from ttr.layer.qkv.norms import UnitNorm
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.solvers import DeltaRule
from ttr.tasks.state_tracking import WordProblem
from ttr.weights import Uniform

POSITIVE, BOTH = "eigenvalues in [0, 1]", "in [-1, 1]"


def _delta(pairs: int, step_size: float, convolution: bool) -> Architecture:
    """A delta rule with several pairs for each token, whose steps go up to ``step_size``."""
    shift = [ShortConvolution(silu=False)] if convolution else []
    return Architecture(
        ttr.Problem(Uniform(), Linear(), DeltaRule(pairs_per_token=pairs)),
        qkv=(*shift, Silu(("q", "k")), UnitNorm()),
        gates=(SigmoidGate("step_size", scale=step_size),),
        output=(RMSNorm(),),
    )


def _recipe(steps: int, **others: Any) -> TaskRecipe:
    return TaskRecipe(heads=4, steps=steps, weight_decay=0.0, **others)


def _judged(group: str, *lengths: int) -> dict[str, WordProblem]:
    """The last quarter of sequences of these lengths."""
    return {str(length): WordProblem(group, length, asked_from=3 * length // 4) for length in lengths}


STATE_TRACKING = TrainedExperiment(
    name="state-tracking",
    title="State tracking",
    claim="A delta rule counts parity only if its steps may go up to 2, which gives eigenvalues down to -1, "
    "and tracks the permutations of three things with two such steps a token, not with one. Neither is a "
    "weighted regression: the weights it stands for would be negative.",
    source="Grazzi et al., arXiv 2411.12537; Siems et al., DeltaProduct, arXiv 2502.10297; the limits of the "
    "framework: Wang, Shi, Fox, arXiv 2501.12352",
    formula=r"S_t = S_{t-1}\,(I - \beta_t k_t k_t^\top) + \beta_t v_t k_t^\top,\qquad "
    r"\beta_t \in [0, 1] \text{ or } [0, 2]",
    protocol=SUBSTITUTE
    + "Width 64 with 4 heads, no MLP, AdamW without weight decay at a rate of 0.001, 64 new sequences a "
    "step. Parity: two layers with convolutions, lengths 3 to 40. S3: one layer without a "
    "convolution, length 32. 1,500 steps. Judged are the products of the last quarter of a sequence.",
    reading="Beyond the length of the training parity is not claimed: it depends on the seed. The share of "
    "right answers by guessing is 1/2 for parity and 1/6 for S3.",
    lessons=[
        Lesson(
            "parity",
            [WordProblem("parity", 40, shortest=3)],
            _judged("parity", 40, 128, 256),
            {f"DeltaNet, {words}": _delta(1, step, True) for words, step in ((POSITIVE, 1.0), (BOTH, 2.0))},
            {"depth": 2},
        ),
        Lesson(
            "S3",
            [WordProblem("S3", 32)],
            _judged("S3", 32, 64, 128),
            {
                f"DeltaNet, {BOTH}": _delta(1, 2.0, False),
                f"DeltaProduct, 2 steps, {POSITIVE}": _delta(2, 1.0, False),
                f"DeltaProduct, 2 steps, {BOTH}": _delta(2, 2.0, False),
            },
        ),
    ],
    bands=[
        Band(f"parity, DeltaNet, {BOTH}, 40", low=0.98),
        Band(f"parity, DeltaNet, {POSITIVE}, 40", high=0.65),
        Band(f"S3, DeltaProduct, 2 steps, {BOTH}, 64", low=0.95),
        Band(f"S3, DeltaNet, {BOTH}, 64", high=0.6),
        Band(f"S3, DeltaProduct, 2 steps, {POSITIVE}, 64", high=0.4),
    ],
    recipes={"smoke": _recipe(20), "laptop": _recipe(1500), "gpu": _recipe(5000, device="cuda")},
    rates={"smoke": (1e-3,), "laptop": (1e-3,), "gpu": (1e-3,)},
    seeds=FEW_SEEDS,
    along="length of the sequence",
)
