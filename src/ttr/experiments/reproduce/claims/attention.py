"""Softmax attention in training."""

from __future__ import annotations

from ttr.experiments.reproduce.claims.common import FEW_SEEDS, PAPER, SUBSTITUTE
from ttr.experiments.reproduce.claims.layers import NAMES, plain_layer
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.small_model import TaskRecipe
from ttr.experiments.reproduce.stability import StabilityExperiment
from ttr.tasks.associative_recall import AssociativeRecall

WITHOUT, WITH = NAMES["softmax-attention"], "with query-key norm"

RATES = (1e-3, 1e-2, 3e-2, 1e-1)

STABILITY = StabilityExperiment(
    name="stability",
    title="Training with and without query-key normalisation",
    claim="Without query-key normalisation attention scores grow without a bound in training, the more the "
    "higher the learning rate; with it they stay below the learned scale.",
    source=f"{PAPER}, section 4; Henry et al., arXiv 2010.04245; Dehghani et al., arXiv 2302.05442",
    formula=r"s\, q^\top k \quad\text{against}\quad s\, \frac{q^\top k}{\|q\| \|k\|} \le s",
    protocol=SUBSTITUTE
    + "Associative recall of 8 pairs in 64 of 256 tokens; two layers of width 64 with one "
    "head and a convolution on keys, 400 steps of 32 sequences, AdamW with weight decay 0.1 at four rates.",
    reading="Growing scores are no harm by themselves; scores of thousands make attention a choice of one "
    "key, whose gradient vanishes.",
    layers={
        WITHOUT: plain_layer("softmax-attention", ("k",)),
        WITH: plain_layer("softmax-attention-qknorm", ("k",)),
    },
    task=AssociativeRecall(),
    rates=RATES,
    bands=[
        Band(f"{WITHOUT}, rate 0.1, largest score", f"{WITH}, rate 0.1, largest score", low=20.0),
        Band(f"{WITHOUT}, rate 0.1, largest score", f"{WITHOUT}, rate 0.01, largest score", low=10.0),
        *(Band(f"{WITH}, rate {rate:g}, largest score", high=40.0) for rate in RATES),
        Band(f"{WITHOUT}, rate 0.1, last loss", f"{WITH}, rate 0.1, last loss", low=10.0),
    ],
    recipes={
        "smoke": TaskRecipe(depth=2, batch=32, steps=20),
        "laptop": TaskRecipe(depth=2, batch=32, steps=400),
        "gpu": TaskRecipe(depth=2, batch=32, steps=4000, device="cuda"),
    },
    seeds=FEW_SEEDS,
)
