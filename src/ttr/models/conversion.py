"""Saved models of earlier revisions: what they call the memories of their configuration and their tensors, in
today's words.

It serves folders saved since 00d8126, the revision before the parts of a layer got the names they have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ttr.layer.architecture import Architecture
from ttr.problem import Problem

FIELDS = {"keys": "qkv", "controls": "gates"}
"""Old fields of an architecture."""

KINDS = {"keys": "qkv", "controls": "gate"}
"""Old kinds of the parts of a layer."""

PARTS = {"Gate": "OutputGate"}
"""Old names of the parts of a layer."""


PROJECTIONS = {
    **{rf"mixer\.project\.{name}\.": f"mixer.{name}_proj." for name in "qkv"},
    r"mixer\.output\.projection\.": "mixer.o_proj.",
}
"""Old names of the projections, as patterns."""


def renamed_keys(memories: Sequence[Architecture | Problem]) -> dict[str, str]:
    """Patterns of old keys of a model with these memories -> today's, as ``from_pretrained`` of transformers
    takes them; none fits a key of today."""
    keys = dict(PROJECTIONS)
    for layer, memory in enumerate(memories):
        architecture = memory if isinstance(memory, Architecture) else Architecture.of(memory)
        mixer = f"layers.{layer}.mixer"
        for place, parts in (
            ("project", architecture.named_before_memory()),
            ("output", architecture.named("output")),
        ):
            for number, (name, _) in enumerate(parts):
                keys[re.escape(f"{mixer}.{place}.learned.{number}.")] = f"{mixer}.{name}."
    return keys


def described(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an architecture, whichever revision wrote it."""
    fields = {FIELDS.get(name, name): value for name, value in architecture.items()}
    return fields | {
        field: [_part(part) for part in fields[field]]
        for field in ("qkv", "gates", "output")
        if field in fields
    }


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = KINDS.get(part["kind"], part["kind"])
    return {**part, "kind": kind, "type": PARTS.get(part["type"], part["type"])}
