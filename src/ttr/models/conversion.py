"""Saved models of earlier revisions: what they call the memories of their configuration, in today's words.

It serves folders saved since 00d8126, the revision before the parts of a layer got the names they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELDS = {"keys": "qkv", "controls": "gates"}
"""Old fields of an architecture."""

KINDS = {"keys": "qkv", "controls": "gate"}
"""Old kinds of the parts of a layer."""

PARTS = {"Gate": "OutputGate"}
"""Old names of the parts of a layer."""


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
