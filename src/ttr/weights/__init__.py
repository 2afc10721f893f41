"""Regression weights: how much every pair counts when a token reads. Each file holds one public class, which
is an attribute of this package."""

from ttr.registry import exports

__getattr__, __dir__ = exports(__name__)
