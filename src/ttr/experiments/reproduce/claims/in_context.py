"""In-context regression: claims about trained layers that learn a linear map from its sequence."""

from __future__ import annotations

from typing import Any

from ttr.experiments.reproduce.claims.common import FEW_SEEDS, PAPER, SUBSTITUTE
from ttr.experiments.reproduce.claims.layers import plain_layers
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.small_model import TaskRecipe
from ttr.experiments.reproduce.trained import Lesson, TrainedExperiment
from ttr.tasks.in_context_regression import InContextRegression

MEMORIES = (
    "linear-attention",
    "deltanet",
    "gated-deltanet",
    "mesanet",
    "softmax-attention",
)
SIZE, SEGMENT = 4, 16
ONE, DRIFTING = "one map", f"a new map every {SEGMENT} pairs"


def _after(pairs: int) -> InContextRegression:
    """The question that follows so many pairs."""
    return InContextRegression(SIZE, pairs + 1, asked_from=pairs)


def _recipe(steps: int, **others: Any) -> TaskRecipe:
    return TaskRecipe(width=32, heads=2, batch=32, steps=steps, **others)


IN_CONTEXT_REGRESSION = TrainedExperiment(
    name="in-context-regression",
    title="In-context linear regression",
    claim="A trained layer that solves least squares learns a linear map from its sequence soon after it has "
    "read as many pairs as there are channels, the delta rule with some more; one layer of linear attention, "
    "which is one step of gradient descent, and softmax attention stay behind. Where the map changes, those "
    "that forget are ahead.",
    source=f"{PAPER}, sections 3 and 5; von Oswald et al., arXiv 2212.07677 and 2506.05233; Garg et al., "
    "arXiv 2208.01066",
    formula=r"x_1,\; W x_1,\; x_2,\; W x_2,\; \dots,\; x_n \;\mapsto\; W x_n,\qquad W_{ij} \sim N(0, 1/d)",
    protocol=SUBSTITUTE + f"{SIZE} channels; a token (x, 0) asks and the next one, (x, W x), tells; a new W "
    "in every sequence. Stationary: 32 pairs. Drifting: a new W every 16 of 48 pairs, whose x come from "
    "another place; judged in the third stretch. One layer of width 32 with 2 heads, no convolution, 800 "
    "steps of 32 new sequences, the better of the rates 0.003 and 0.01.",
    reading="An exact memory makes no error from 4 pairs on. What trained layers are short of it is the "
    "ridge, the step size, and telling tokens that ask from those that tell.",
    lessons=[
        Lesson(
            ONE,
            [InContextRegression(SIZE, 32)],
            {str(pairs): _after(pairs) for pairs in (2, 4, 8, 16, 31)},
            plain_layers(MEMORIES),
        ),
        Lesson(
            DRIFTING,
            [InContextRegression(SIZE, 3 * SEGMENT, segment=SEGMENT)],
            {
                str(pairs): InContextRegression(SIZE, 2 * SEGMENT + pairs + 1, SEGMENT, asked_from=pairs)
                for pairs in (2, 4, 8, 15)
            },
            plain_layers(MEMORIES),
        ),
    ],
    bands=[
        Band(f"{ONE}, linear attention, 8", f"{ONE}, MesaNet, 8", low=3.0),
        Band(f"{ONE}, softmax attention, 8", f"{ONE}, MesaNet, 8", low=3.0),
        Band(f"{ONE}, DeltaNet, 8", f"{ONE}, MesaNet, 8", low=1.25),
        *(Band(f"{ONE}, {layer}, 31", high=0.05) for layer in ("MesaNet", "DeltaNet")),
        Band(f"{DRIFTING}, linear attention, 8", f"{DRIFTING}, MesaNet, 8", low=2.5),
        Band(f"{DRIFTING}, softmax attention, 8", f"{DRIFTING}, MesaNet, 8", low=1.2),
    ],
    recipes={"smoke": _recipe(15), "laptop": _recipe(800), "gpu": _recipe(5000, device="cuda")},
    rates={"smoke": (1e-2,), "laptop": (3e-3, 1e-2), "gpu": (3e-3, 1e-2)},
    seeds=FEW_SEEDS,
    along="pairs read of the map",
)
