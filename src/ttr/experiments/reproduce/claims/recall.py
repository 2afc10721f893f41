"""Associative recall: claims about constructing keys and values, and about what memories hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttr.experiments.reproduce.capacity import CapacityExperiment
from ttr.experiments.reproduce.claims.common import FEW_SEEDS, PAPER, SEEDS, SUBSTITUTE
from ttr.experiments.reproduce.claims.layers import NAMES, plain_layers
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.learners import (
    delta_rule,
    least_squares,
    linear_attention,
    softmax,
)
from ttr.experiments.reproduce.small_model import TaskRecipe
from ttr.experiments.reproduce.trained import Lesson, TrainedExperiment
from ttr.tasks.associative_recall import (
    AssociativeRecall,
    CompositionalRecall,
    ContinuousRecall,
    StackedRecall,
)

CAPACITY = CapacityExperiment(
    name="capacity",
    title="Recall without training",
    claim="One layer whose keys are the tokens before its values recalls associations without any training. "
    "Linear attention falls behind once there are more pairs than key channels, exact least squares later, "
    "softmax attention not at all.",
    source=f"{PAPER}, section 6 (as shown in the first author's talk, 19 February 2025)",
    formula=r"k_t = e(x_{t-1}),\qquad v_t = e(x_t),\qquad q_t = e(x_t)",
    protocol=SUBSTITUTE
    + "Multi-query associative recall in the layout of Zoology with blanks as fillers, 512 "
    "tokens; tokens are random unit vectors of 64 channels, and the answer is the nearest value.",
    reading="The delta rule with a step size of 1 is poor here, since values act as keys too and overwrite "
    "what was stored; a learned step size mends that.",
    learners={
        "linear attention": linear_attention(),
        "delta rule": delta_rule(1.0),
        "least squares": least_squares(0.01),
        "softmax attention": softmax(32.0),
    },
    size=64,
    length=512,
    pairs=(16, 32, 48, 64, 96, 128),
    bands=[
        *(Band(f"{name}, 32 pairs", low=0.97) for name in ("linear attention", "least squares")),
        *(Band(f"softmax attention, {pairs} pairs", low=0.99) for pairs in (64, 128)),
        Band("linear attention, 128 pairs", high=0.87),
        Band("least squares, 128 pairs", "linear attention, 128 pairs", low=1.06),
    ],
    sequences={"smoke": 8, "laptop": 32, "gpu": 64},
    seeds=SEEDS,
)


CONVOLVED: Mapping[str, tuple[str, ...]] = {
    "convolution on keys": ("k",),
    "on queries": ("q",),
    "on nothing": (),
}
KEYS_ALONE = ("linear-attention", "deltanet", "softmax-attention")
EIGHT_PAIRS = AssociativeRecall(vocabulary=256, length=64, pairs=8)

KEY_VALUE_PAIRS = TrainedExperiment(
    name="key-value-pairs",
    title="Constructing keys and values",
    claim="One layer with a short convolution on its keys, which lets a key be the token before its value, "
    "solves associative recall; without it one layer does not.",
    source=f"{PAPER}, section 6; arXiv 2508.19029",
    formula=r"k_t = \sum_{j=0}^{3} w_j \odot (W_k x_{t-j}),\qquad v_t = W_v x_t",
    protocol=SUBSTITUTE
    + "256 tokens, sequences of 64, 8 pairs, fillers that are no keys of the sequence; one "
    "layer of width 64 and one head, 500 steps of 64 new sequences, AdamW with weight decay 0.1, the better "
    "of the rates 0.003 and 0.01.",
    reading="Whether keys are constructed decides, more than which memory reads the pairs. Answers without a "
    "convolution are those of a guess among the values of the sequence.",
    lessons=[
        Lesson(
            words,
            [EIGHT_PAIRS],
            {"8": EIGHT_PAIRS},
            plain_layers(KEYS_ALONE, streams),
        )
        for words, streams in CONVOLVED.items()
    ],
    bands=[
        *(Band(f"convolution on keys, {NAMES[memory]}", low=0.95) for memory in KEYS_ALONE),
        *(
            Band(f"{words}, {NAMES[memory]}", high=0.25)
            for memory in KEYS_ALONE
            for words in ("on queries", "on nothing")
        ),
    ],
    recipes={"smoke": TaskRecipe(steps=20), "laptop": TaskRecipe(), "gpu": TaskRecipe(device="cuda")},
    rates={"smoke": (1e-2,), "laptop": (1e-2, 3e-3), "gpu": (1e-2, 3e-3)},
    seeds=FEW_SEEDS,
)

MEMORIES = ("linear-attention", "deltanet", "gated-deltanet", "mesanet", "softmax-attention")
PAIRS = (4, 8, 16, 32)


def _pairs(vocabulary: int, length: int) -> dict[str, AssociativeRecall]:
    return {str(pairs): AssociativeRecall(vocabulary, length, pairs) for pairs in PAIRS}


def _widths(steps: int, **recipe: Any) -> TaskRecipe:
    return TaskRecipe(batch=32, steps=steps, **recipe)


RECALL_BY_WIDTH = TrainedExperiment(
    name="recall-by-width",
    title="Recall against the number of pairs and the width",
    claim="At the same small state, exact least squares recalls more pairs than the delta rule and linear "
    "attention; softmax attention, which keeps all pairs, recalls all of them. More width helps all that are "
    "short of it.",
    source=f"{PAPER}, section 6; von Oswald et al., MesaNet, arXiv 2506.05233",
    formula=r"S_t = V_t^\top K_t,\quad y_t = S_t\,(K_t^\top K_t + \Lambda)^{-1} q_t"
    r"\quad\text{against}\quad y_t = S_t\, q_t",
    protocol=SUBSTITUTE
    + "512 tokens, sequences of 128; every step draws 4, 8, 16 or 32 pairs for its 32 new "
    "sequences; one layer with one head and a convolution on its keys, 600 steps, AdamW with weight decay "
    "0.1, the best of the rates 0.003, 0.01 and 0.03 at each width.",
    reading="A step of MesaNet costs three times one of the delta rule, and the steps are the same for all: "
    "at equal time the distance is smaller. The bands are about width 32. A width of 16 speaks against the "
    "claim where MesaNet does not learn within these steps, and wide bands are seeds that did not; that the "
    "delta rule is ahead of linear attention is not claimed.",
    lessons=[
        Lesson(
            f"width {width}",
            list(_pairs(512, 128).values()),
            _pairs(512, 128),
            plain_layers(MEMORIES, ("k",)),
            {"width": width},
        )
        for width in (16, 32, 64)
    ],
    bands=[
        Band("width 32, MesaNet, 32", "width 32, DeltaNet, 32", low=1.1),
        Band("width 32, MesaNet, 32", "width 32, linear attention, 32", low=1.5),
        Band("width 32, MesaNet, 32", low=0.85),
        *(Band(f"width {width}, softmax attention, 32", low=0.99) for width in (32, 64)),
    ],
    recipes={"smoke": _widths(15), "laptop": _widths(600), "gpu": _widths(3000, device="cuda")},
    rates={"smoke": (1e-2,), "laptop": (3e-3, 1e-2, 3e-2), "gpu": (3e-3, 1e-2, 3e-2)},
    seeds=FEW_SEEDS,
    along="pairs",
)

STACKED, CONTINUOUS = StackedRecall(pairs=16), ContinuousRecall(pairs=16)
UPDATED = AssociativeRecall(vocabulary=256, length=64, pairs=8, updates=8)
COMPOSED = CompositionalRecall(vocabulary=192, length=64, side=3)

RECALL_VARIANTS = TrainedExperiment(
    name="recall-variants",
    title="Variants of associative recall",
    claim="A layer whose tokens hold a key and its value needs no convolution to recall them, also where "
    "keys and values are any vectors; where keys get new values, the delta rule replaces the "
    "old ones, which linear attention and softmax attention without positions do not tell from the new.",
    source=f"{PAPER}, section 6; the data sets of Arora et al., Zoology, arXiv 2312.04927",
    formula=r"x_i = [k_i;\, v_i],\; x_q = [k_q;\, 0] \qquad\text{or}\qquad \dots k\, v \dots k\, v' \dots k "
    r"\mapsto v'",
    protocol=SUBSTITUTE
    + "One layer of width 64 with one head. Stacked: 16 of 128 keys of 32 channels; continuous: 16 random "
    "vectors of 32 channels, an answer being right if it is nearest to its value; both without a "
    "convolution. Updated: 8 keys that all get a second value, 256 tokens in sequences of 64; compositional: "
    "keys of two tokens on a grid of side 3; both with convolutions on q and k. 600 steps of 64 new "
    "sequences, the better of the rates 0.003 and 0.01.",
    reading="A sum, weighted by nothing but the key, does not know which of two values came last: half of "
    "the answers are right. A decay tells it too. Compositional keys are shown without a claim.",
    lessons=[
        Lesson("stacked", [STACKED], {"": STACKED}, plain_layers(MEMORIES)),
        Lesson("continuous", [CONTINUOUS], {"": CONTINUOUS}, plain_layers(MEMORIES)),
        Lesson("updated", [UPDATED], {"": UPDATED}, plain_layers(MEMORIES, ("q", "k"))),
        Lesson("compositional", [COMPOSED], {"": COMPOSED}, plain_layers(MEMORIES, ("q", "k"))),
    ],
    bands=[
        Band("updated, DeltaNet", "updated, linear attention", low=1.3),
        Band("updated, DeltaNet", low=0.95),
        *(
            Band(f"updated, {NAMES[memory]}", high=0.75)
            for memory in ("linear-attention", "softmax-attention")
        ),
        *(
            Band(f"{kind}, {NAMES[memory]}", low=0.95)
            for kind in ("stacked", "continuous")
            for memory in KEYS_ALONE
        ),
    ],
    recipes={
        "smoke": TaskRecipe(steps=20),
        "laptop": TaskRecipe(steps=600),
        "gpu": TaskRecipe(steps=3000, device="cuda"),
    },
    rates={"smoke": (1e-2,), "laptop": (3e-3, 1e-2), "gpu": (3e-3, 1e-2)},
    seeds=FEW_SEEDS,
)
