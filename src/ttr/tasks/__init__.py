"""Synthetic and text tasks: pure functions of their settings and a seed."""
