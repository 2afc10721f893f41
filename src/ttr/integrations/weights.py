"""Weights under the names and in the order of another library: tables that convert them into those of
``ttr.layer.Mixer``, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CONVOLUTION = "conv1d.weight"
"""Ending of the weights of a depthwise convolution, [channels, 1, width] elsewhere and [width, ...] here: the
only tensors whose axes change places."""


@dataclass(frozen=True)
class Rows:
    """Several tensors that are kept as one, row after row.

    Args:
        names: our tensors, in the order of their rows.
        groups: the rows come in this many groups, each with its share of every tensor.
    """

    names: tuple[str, ...]
    groups: int = 1


Table = Mapping[str, str | Rows]
"""The other library's name -> ours."""


def converted(tensors: Mapping[str, Tensor], table: Table, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors, from those of another library.

    Args:
        tensors: the other library's, all that the table names.
        like: tensors with the names and shapes of ours.

    Raises:
        ValueError: if a tensor has another shape than ours need.
    """
    ours = {}
    for source, entry in table.items():
        x, rows, moved = tensors[source], _rows(entry), source.endswith(CONVOLUTION)
        shapes = [_as_rows(source, name, like[name]).shape for name in rows.names]
        if moved or len(shapes[0]) == 1:
            x = x.flatten(1 if moved else 0)
        if list(x.shape) != [sum(shape[0] for shape in shapes), *shapes[0][1:]]:
            raise ValueError(
                f"{source} has shape {list(tensors[source].shape)}, which is not that of "
                f"{', '.join(f'{name} {list(like[name].shape)}' for name in rows.names)}. "
                "The configuration must be that of the weights."
            )
        parts = x.unflatten(0, (rows.groups, -1)).split([shape[0] // rows.groups for shape in shapes], 1)
        for name, part in zip(rows.names, parts):
            part = part.flatten(0, 1)
            ours[name] = (part.T if moved else part).reshape(like[name].shape)
    return ours


def reverted(ours: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """The other library's tensors, from ours: the inverse of ``converted``."""
    tensors = {}
    for source, entry in table.items():
        rows = _rows(entry)
        parts = [_as_rows(source, name, ours[name]).unflatten(0, (rows.groups, -1)) for name in rows.names]
        x = torch.cat(parts, 1).flatten(0, 1)
        tensors[source] = x[:, None].contiguous() if source.endswith(CONVOLUTION) else x
    return tensors


def _rows(entry: str | Rows) -> Rows:
    return entry if isinstance(entry, Rows) else Rows((entry,))


def _as_rows(source: str, name: str, x: Tensor) -> Tensor:
    """One of our tensors with one row per channel; matrices, which both sides call weights, have it."""
    if source.endswith(CONVOLUTION):
        return x.flatten(1).T
    return x if name.endswith(".weight") and source.endswith(".weight") else x.flatten()
