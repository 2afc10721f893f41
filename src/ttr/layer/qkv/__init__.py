"""Transforms of q, k, v between projection and memory."""
