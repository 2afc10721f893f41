"""What a layer has read since an earlier state: enough to go back to any token in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ttr.layer.mixer import Mixer
from ttr.models.packing import packing_of
from ttr.state import State


@runtime_checkable
class Layer(Protocol):
    """A layer with a memory, as its cache sees it."""

    mixer: Mixer

    def read(
        self, x: Float[Tensor, "B T D"], state: State | None, cu_seqlens: Int[Tensor, " bounds"] | None
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """What the memory makes of the inputs of the layer, and its state after them."""


@dataclass(frozen=True)
class Recorded:
    """The inputs of a layer since its state ``before``, from which the state at every later token follows.

    A memory that forgets cannot take a token out of its state, but its states are values: ``before`` is still
    there, and the tokens that are kept are read once more from it.

    Attributes:
        inputs: what the layer read, a column for each of the batch.
        real: False at padding.
    """

    before: State
    inputs: Float[Tensor, "B T D"]
    real: Bool[Tensor, "B T"]

    def followed_by(self, inputs: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]) -> Recorded:
        """With further columns."""
        return replace(
            self,
            inputs=torch.cat([self.inputs, inputs], dim=1),
            real=torch.cat([self.real, real], dim=1),
        )

    def without(self, columns: int) -> Recorded:
        """Without the newest columns."""
        kept = self.real.shape[1] - columns
        return replace(self, inputs=self.inputs[:, :kept], real=self.real[:, :kept])

    def state(self, layer: Layer) -> State:
        """The state after the inputs, which the layer reads again."""
        packing = packing_of(self.real.shape, attention_mask=self.real, read=self.before.position)
        return layer.read(packing.pack(self.inputs), self.before, packing.cu_seqlens)[1]

    def select(self, rows: Int[Tensor, " rows"]) -> Recorded:
        """Some rows of the batch, in that order."""
        return Recorded(self.before.select(rows), self.inputs[rows], self.real[rows])

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorded:
        """A copy that shares nothing; torch cannot deep-copy tensors that are part of a graph."""
        return Recorded(self.before.clone(), self.inputs.clone(), self.real.clone())
