"""Associative recall: claims about constructing keys and values, and about what memories hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import ttr
from ttr.experiments.common_layer import common_layer, needs_unit_keys
from ttr.experiments.reproduce.capacity import CapacityExperiment
from ttr.experiments.reproduce.claims.common import PAPER, SEEDS, SUBSTITUTE
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.learners import (
    delta_rule,
    least_squares,
    linear_attention,
    softmax,
)
from ttr.experiments.reproduce.trained_recall import RecallRecipe, TrainedRecallExperiment
from ttr.layer.architecture import Architecture
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution

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


def _one_layer(memory: str, convolved: tuple[str, ...]) -> Architecture:
    """A memory of the catalogue in a plain layer: a linear convolution on some of q, k, v, SiLU and unit keys
    where updates need them, its own gates."""
    found = common_layer(ttr.catalogue[memory])
    own = [part for part in found.qkv if not isinstance(part, ShortConvolution | Rotary)]
    unit = [Silu(("q", "k"))] if needs_unit_keys(found.problem) else []
    shift = [ShortConvolution(streams=convolved, silu=False)] if convolved else []
    return dataclasses.replace(found, qkv=(*shift, *unit, *own), output=())


CONVOLVED: Mapping[str, tuple[str, ...]] = {
    "convolution on keys": ("k",),
    "on queries": ("q",),
    "on nothing": (),
}
ONE_LAYER = RecallRecipe(width=64)

KEY_VALUE_PAIRS = TrainedRecallExperiment(
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
    layers={
        f"{memory}, {words}": _one_layer(memory, streams)
        for memory in ("linear-attention", "deltanet", "softmax-attention")
        for words, streams in CONVOLVED.items()
    },
    bands=[
        *(
            Band(f"{memory}, convolution on keys, 8 pairs", low=0.95)
            for memory in ("linear-attention", "deltanet", "softmax-attention")
        ),
        *(
            Band(f"{memory}, {words}, 8 pairs", high=0.25)
            for memory in ("linear-attention", "deltanet", "softmax-attention")
            for words in ("on queries", "on nothing")
        ),
    ],
    recipes={"smoke": dataclasses.replace(ONE_LAYER, steps=300), "laptop": ONE_LAYER, "gpu": ONE_LAYER},
    rates={"smoke": (1e-2,), "laptop": (1e-2, 3e-3), "gpu": (1e-2, 3e-3)},
    seeds=SEEDS | {"laptop": (1, 3)},
)
