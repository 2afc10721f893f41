"""The experiments, each with the claim that it shows or refutes.

A band was committed before the run that docs/results reports, from other seeds or published figures.
"""

from __future__ import annotations

from collections.abc import Mapping

from ttr.experiments.reproduce.claims.attention import STABILITY
from ttr.experiments.reproduce.claims.identities import DESIGN_SPACE, LEAST_SQUARES_RECURRENCE
from ttr.experiments.reproduce.claims.in_context import IN_CONTEXT_REGRESSION
from ttr.experiments.reproduce.claims.mathematics import BOUNDARY_BIAS, CONVERGENCE, SOLVERS
from ttr.experiments.reproduce.claims.recall import (
    CAPACITY,
    KEY_VALUE_PAIRS,
    RECALL_BY_WIDTH,
    RECALL_VARIANTS,
)
from ttr.experiments.reproduce.claims.regression import (
    CORRELATED_KEYS,
    DRIFTING_MAP,
    HIGHER_ORDER,
    MOVING_KEYS,
    QUERY_KEY_NORM,
    SMOOTH_MAP,
    SWITCH,
)
from ttr.experiments.reproduce.claims.tasks import COPYING, LENGTH, MAD, NEEDLE
from ttr.experiments.reproduce.claims.tracking import STATE_TRACKING
from ttr.experiments.reproduce.experiment import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        DESIGN_SPACE,
        LEAST_SQUARES_RECURRENCE,
        SOLVERS,
        CORRELATED_KEYS,
        DRIFTING_MAP,
        MOVING_KEYS,
        SWITCH,
        SMOOTH_MAP,
        QUERY_KEY_NORM,
        STABILITY,
        BOUNDARY_BIAS,
        HIGHER_ORDER,
        CONVERGENCE,
        CAPACITY,
        KEY_VALUE_PAIRS,
        RECALL_BY_WIDTH,
        RECALL_VARIANTS,
        LENGTH,
        IN_CONTEXT_REGRESSION,
        COPYING,
        NEEDLE,
        MAD,
        STATE_TRACKING,
    )
}
"""By name, in the order of the paper."""
