"""Operations per token and head of the chunked forms, and their formulas."""

from __future__ import annotations

CHUNK = 64
"""The chunk length for which operations are counted, for all contestants."""


def additive_flops(key: int, value: int) -> float:
    """Scores Q K^T and their product with V, 2 C (K + V); reading and updating the memory, 4 K V."""
    return 2.0 * CHUNK * (key + value) + 4.0 * key * value


def delta_flops(key: int, value: int) -> float:
    """The additive form's, and: scores K K^T, 2 C K; substitution, C^2 / 3; the inverse times the errors, 2 C
    V; read-outs at the keys, 2 K V."""
    return additive_flops(key, value) + 2 * CHUNK * (key + value) + CHUNK**2 / 3 + 2 * key * value


def ridge_flops(key: int, value: int) -> float:
    """Seven products with a preconditioner and the system, 4 C K + 2 K^2; an inverse of each chunk's moments,
    2 K^3; updating the moments, 2 K (K + V); reading, 2 C V + 2 K V."""
    return (
        7 * (4.0 * CHUNK * key + 2.0 * key * key)
        + 2 * key**3 / CHUNK
        + 2 * key * (key + 2 * value)
        + 2 * CHUNK * value
    )


ADDITIVE = "2 C (K + V) + 4 K V per token and head, C = 64"
DELTA = "4 C (K + V) + C^2 / 3 + 6 K V per token and head, C = 64"
RIDGE = "7 (4 C K + 2 K^2) + 2 K^3 / C + 2 K^2 + 4 K V + 2 C V per token and head, C = 64"


def network_flops(key: int, value: int, layers: int, momentum: bool) -> float:
    """Per matrix of I x O weights: its product with keys and with queries, the same with its momentum if
    there is one, and the outer products that update these, 2 I O each; backpropagation through all matrices
    but the first, 2 I O; scores and their products with slopes, 2 C (I + O)."""
    widths = [key, *[4 * key] * (layers - 1), value]
    weights = [inputs * outputs for inputs, outputs in zip(widths, widths[1:])]
    return 2.0 * (
        (5 if momentum else 3) * sum(weights)
        + sum(weights[1:])
        + NETWORK_CHUNK * sum(a + b for a, b in zip(widths, widths[1:]))
    )


NETWORK_CHUNK = 16
"""Tokens between the gradients of TTT and Titans."""

NETWORK = (
    "2 (n I O + C (I + O)) per matrix, token and head, n = 3 or, with momentum, 5, and 1 more for all "
    "matrices but the first; C = 16"
)
