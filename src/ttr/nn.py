"""Modules: ``ttr.nn.Mixer``."""

from __future__ import annotations

from ttr.layer.mixer import Mixer

__all__ = ["Mixer"]
