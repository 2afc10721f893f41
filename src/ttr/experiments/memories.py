"""The memories of a comparison, from the catalogue and from a user's file, as models of equal size."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ttr
from ttr.experiments.common_layer import common_layer
from ttr.experiments.errors import UserError
from ttr.experiments.settings import CompareSettings, Recipe
from ttr.experiments.user_file import load_memories
from ttr.layer.architecture import Architecture
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.problem import Problem


@dataclass(frozen=True)
class Memory:
    """A memory, its name in the report, and its origin."""

    name: str
    layer: dict[str, Any]
    origin: str


def memories(settings: CompareSettings) -> tuple[Memory, ...]:
    """The memories of the settings, those of the user's file last.

    Raises:
        UserError: if a name is unknown (similar ones are suggested) or given twice, or the file cannot be
            used.
    """
    for name in settings.layers:
        if name not in ttr.catalogue:
            close = difflib.get_close_matches(name, ttr.catalogue, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(close)}?" if close else "`ttr list` shows all names."
            raise UserError(f"There is no memory called {name!r}. {hint}")
    named = tuple(
        Memory(name, _layer(ttr.catalogue[name], settings), "catalogue") for name in settings.layers
    )
    found = named + (_of_file(settings.memory, settings) if settings.memory else ())
    twice = {m.name for m in found if [n.name for n in found].count(m.name) > 1}
    if twice:
        raise UserError(f"{', '.join(sorted(twice))} is named more than once. Name each memory once.")
    return found


def definitions(found: Sequence[Memory]) -> dict[str, dict[str, Any]]:
    """The definitions of the memories, JSON-ready, by name."""
    return {m.name: {"layer": m.layer, "origin": m.origin} for m in found}


def _layer(memory: Problem | Architecture, settings: CompareSettings) -> dict[str, Any]:
    """The layer with this memory: one for all, unless layers are compared as they were published."""
    architecture = memory if isinstance(memory, Architecture) else Architecture.of(memory)
    return (architecture if settings.as_published else common_layer(architecture)).to_dict()


def _of_file(path: Path, settings: CompareSettings) -> tuple[Memory, ...]:
    """The memories of a user's file, with the fingerprint of its text."""
    loaded = load_memories(path)
    origin = f"{path} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return tuple(Memory(name, _layer(memory, settings), origin) for name, memory in loaded.items())


def build(memory: Memory, settings: Recipe, mlp_width: int, seed: int) -> nn.Module:
    """A new model with this memory in every layer; the global generator is not changed."""
    heads = settings.width // settings.head_size
    config = TTRConfig(
        vocab_size=256,
        hidden_size=settings.width,
        num_hidden_layers=settings.depth,
        num_heads=heads,
        key_size=settings.head_size,
        value_size=settings.head_size,
        intermediate_size=mlp_width,
        layers=[memory.layer] * settings.depth,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TTRForCausalLM(config)


def parameters(model: nn.Module) -> int:
    """The number of trained parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def equal_widths(found: Sequence[Memory], settings: Recipe) -> dict[str, int]:
    """The MLP width of every memory with which all models have the parameters of the largest (within 1 %).

    The largest is the one whose memory has most parameters; its MLP is ``mlp_ratio`` times as wide as the
    model. The number of parameters is linear in the MLP's width, so two models determine it.
    """
    base = round(settings.mlp_ratio * settings.width)
    at_base = {m.name: parameters(build(m, settings, base, 0)) for m in found}
    slope = {m.name: parameters(build(m, settings, base + 1, 0)) - at_base[m.name] for m in found}
    largest = max(at_base.values())
    return {name: base + round((largest - at_base[name]) / slope[name]) for name in at_base}
