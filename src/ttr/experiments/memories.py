"""The memories of a comparison, from the catalogue and from a user's file, as models of equal size."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ttr
from ttr.experiments.common_layer import common_layer
from ttr.experiments.errors import UserError
from ttr.experiments.plain_transformer import PlainTransformer
from ttr.experiments.settings import CompareSettings, Recipe
from ttr.experiments.user_file import load_memories
from ttr.layer.architecture import Architecture
from ttr.models import TTRConfig, TTRForCausalLM
from ttr.problem import Problem
from ttr.tasks.tokens import BYTES

PLAIN = "plain-transformer"
"""The name of the reference without any memory of ttr's."""

REMEDY = "Use --depth {0} or a multiple of it."
"""What helps where the layers of a hybrid, {0}, do not fit into a model."""


@dataclass(frozen=True)
class Memory:
    """A model of the comparison.

    Attributes:
        name: in the report.
        layers: the ``to_dict`` of the layers that a model repeats over its depth, or over the layers in
            place of which they stand; empty for the reference.
        origin: where the memory is from.
        published: whether its layers are those of the catalogue, rather than the common layer.
    """

    name: str
    layers: Sequence[Mapping[str, Any]]
    origin: str
    published: bool = False

    @property
    def label(self) -> str:
        """The name, as it can stand in the name of a file."""
        return re.sub(r"[^A-Za-z0-9.+_-]", "_", self.name)


def memories(
    settings: CompareSettings,
    depth: int | None = None,
    remedy: str = REMEDY,
    reference: Memory | None = None,
) -> tuple[Memory, ...]:
    """The memories of the settings, then those of the user's file, then all of them as they were published if
    that is asked for, then the reference, by default the plain transformer.

    ``depth`` is how many layers of a model get memories, all by default, and ``remedy`` what helps where
    those of a hybrid, {0}, do not fit into it.

    Raises:
        UserError: if a name is unknown (similar ones are suggested) or given twice, a hybrid does not fit the
            depth, or the file cannot be used.
    """
    depth = settings.depth if depth is None else depth
    named = [(words, _layers_of(words, depth, remedy), "catalogue") for words in settings.layers]
    named += _of_file(settings.memory) if settings.memory else []
    names = [name for name, _, _ in named]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{', '.join(sorted(twice))} is named more than once. Name each memory once.")
    found = [
        Memory(name, [common_layer(layer).to_dict() for layer in layers], origin)
        for name, layers, origin in named
    ]
    if settings.as_published:
        found += [
            Memory(f"{name} as published", [layer.to_dict() for layer in layers], origin, True)
            for name, layers, origin in named
        ]
    return (*found, reference or Memory(PLAIN, [], "torch alone"))


def definitions(found: Sequence[Memory]) -> dict[str, dict[str, Any]]:
    """The definitions of the memories, JSON-ready, by name."""
    return {m.name: {"layers": list(m.layers), "origin": m.origin} for m in found}


def layer_names(words: str, depth: int, remedy: str = REMEDY) -> list[str]:
    """The layers of a name of the catalogue, or of a hybrid: names joined by +, each with the number of its
    layers in turn, as gated-deltanet:3+softmax-attention.

    Raises:
        UserError: if a name is unknown (similar ones are suggested), or the layers do not fit the depth.
    """
    names: list[str] = []
    for part in words.split("+"):
        name, _, count = part.partition(":")
        if name not in ttr.catalogue:
            close = difflib.get_close_matches(name, ttr.catalogue, n=3, cutoff=0.4)
            hint = f"Did you mean {' or '.join(close)}?" if close else "`ttr list` shows all names."
            raise UserError(f"There is no memory called {name!r}. {hint}")
        if count and not (count.isdecimal() and int(count)):
            raise UserError(
                f"{part!r} needs the number of its layers behind the colon, for example {name}:3."
            )
        names += [name] * int(count or 1)
    if depth % len(names):
        raise UserError(
            f"{words} has {len(names)} layers in turn, which do not fit into {depth}. "
            + remedy.format(len(names))
        )
    return names


def _layers_of(words: str, depth: int, remedy: str) -> list[Architecture]:
    return [_architecture(ttr.catalogue[name]) for name in layer_names(words, depth, remedy)]


def _of_file(path: Path) -> list[tuple[str, list[Architecture], str]]:
    """The memories of a user's file, with the fingerprint of its text."""
    loaded = load_memories(path)
    origin = f"{path} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return [(name, [_architecture(memory)], origin) for name, memory in loaded.items()]


def _architecture(memory: Problem | Architecture) -> Architecture:
    return memory if isinstance(memory, Architecture) else Architecture.of(memory)


def build(memory: Memory, settings: Recipe, mlp_width: int, seed: int, vocabulary: int = BYTES) -> nn.Module:
    """A new model with this memory in every layer; the global generator is not changed."""
    heads = settings.width // settings.head_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not memory.layers:
            return PlainTransformer(vocabulary, settings.width, settings.depth, heads, mlp_width)
        config = TTRConfig(
            vocab_size=vocabulary,
            hidden_size=settings.width,
            num_hidden_layers=settings.depth,
            num_heads=heads,
            key_size=settings.head_size,
            value_size=settings.head_size,
            intermediate_size=mlp_width,
            layers=list(memory.layers) * (settings.depth // len(memory.layers)),
        )
        return TTRForCausalLM(config)


def parameters(model: nn.Module) -> int:
    """The number of trained parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def equal_widths(found: Sequence[Memory], settings: Recipe, vocabulary: int = BYTES) -> dict[str, int]:
    """The MLP width of every memory with which all models have the parameters of the largest (within 1 %).

    The largest is the one whose memory has most parameters; its MLP is ``mlp_ratio`` times as wide as the
    model. The number of parameters is linear in the MLP's width, so two models determine it.
    """
    base = round(settings.mlp_ratio * settings.width)
    at_base, one_wider = (
        {m.name: parameters(build(m, settings, width, 0, vocabulary)) for m in found}
        for width in (base, base + 1)
    )
    slope = {name: one_wider[name] - at_base[name] for name in at_base}
    largest = max(at_base.values())
    return {name: base + round((largest - at_base[name]) / slope[name]) for name in at_base}
