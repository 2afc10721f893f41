"""Modules: ``ttr.nn.Mixer``."""

from __future__ import annotations

from ttr.mixer import Mixer

__all__ = ["Mixer"]
