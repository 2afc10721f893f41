"""One layer around any memory, so that a comparison of layers is one of their memories."""

from __future__ import annotations

import dataclasses

from ttr.forms import FenwickRecurrence, TransportedPairs
from ttr.layer.architecture import Architecture
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.part import Part
from ttr.layer.qkv.norms import HeadRMSNorm, UnitNorm
from ttr.layer.qkv.pointwise import HeadBias, Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem

SHARED = (ShortConvolution, Silu, HeadRMSNorm, UnitNorm, Rotary, HeadBias)
"""Transforms of q, k, v that are common to many layers: what the common layer replaces by its own."""


def common_layer(architecture: Architecture) -> Architecture:
    """The memory of an architecture, with its own gates, in the layer that all memories can have: a short
    convolution, the transforms that make its keys or the inputs of its gates, unit keys where the memory
    needs them, rotary positions where pairs have no age, and an RMSNorm with an output gate."""
    problem = architecture.problem
    own = [part for part in architecture.qkv if not _replaced(part)]
    unit = [UnitNorm()] if needs_unit_keys(problem) else []
    rotary = [Rotary()] if ageless(problem) else []
    return dataclasses.replace(
        architecture,
        qkv=(ShortConvolution(), *own, *unit, *rotary),
        output=(GatedRMSNorm("silu"),),
        verified="",
        note="",
    )


def needs_unit_keys(problem: Problem) -> bool:
    """Whether keys meet in the update, where keys of norm 1 keep it stable: neither sums nor local fits."""
    return problem.function.local_degree is None and not problem.solver.additive


def ageless(problem: Problem) -> bool:
    """Whether the weight of a pair says nothing of its age, but for the end of a window: nothing decays, has
    levels or is transported, and all pairs are fitted together instead of one after the other."""
    aged = problem.weights.retention is not None or problem.weights.folds
    ordered = problem.form in (FenwickRecurrence, TransportedPairs)
    return not aged and not ordered and problem.solver.weights_act_on == "samples"


def _replaced(part: Part) -> bool:
    """Whether the common layer has such a part itself; one that serves a stream of a gate stays."""
    return isinstance(part, SHARED) and not set(getattr(part, "streams", ())) - {"q", "k", "v"}
