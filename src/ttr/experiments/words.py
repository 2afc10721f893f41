"""Figures and names as words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def bpb(interval: Mapping[str, float]) -> str:
    """An interval as text: 2.312 [2.281, 2.345]."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def size(count: float) -> str:
    """Bytes as 512 bytes, 16 kB, 1.5 MB, ..."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2g} {unit}" if count < 100 * factor else f"{count / factor:.0f} {unit}"
    return f"{count:.0f} bytes"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
