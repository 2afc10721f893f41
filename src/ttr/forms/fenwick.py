"""One matrix per level of a Fenwick tree over the past, each level with a weight of its own.

Used by: the weights FenwickLevels, with OneStep (log-linear attention, arXiv 2506.04761).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.state_tensors import StateTensors


class FenwickRecurrence(NamedTuple):
    """y_t = scale sum_{i<=t} weight_t[level(t, i)] exp(c_t - c_i) (q_t.k_i) v_i with c the running log decay.

    ``recurrence`` has queries, keys, values and the log decay [B,T,H]; ``level_weight`` is the weight of
    every level. The state is one matrix per level, the sum of its pairs.
    """

    recurrence: LinearRecurrence
    level_weight: Float[Tensor, "B T H L"]
    memory: Float[Tensor, "B H L F V"]

    @staticmethod
    def of(form: LinearRecurrence, x: Inputs) -> FenwickRecurrence:
        """From the recurrence without levels."""
        return FenwickRecurrence(form, x.controls["level_weight"], x.state["memory"])

    @property
    def levels(self) -> int:
        return self.memory.shape[2]

    def finish(self, x: Inputs, y: Tensor, memory: Tensor) -> tuple[Tensor, StateTensors]:
        """Read-outs and state of the call, from the matrices after it."""
        return y, x.state.replace(memory=memory, position=x.state.position + x.length)


def level(read: Int[Tensor, "*#lead"], write: Int[Tensor, "*#lead"], levels: int) -> Int[Tensor, "*lead"]:
    """bit_length(read xor write), at most ``levels`` - 1: the level on which the token ``read`` finds the
    pair of token ``write``."""
    difference = torch.bitwise_xor(read, write)
    bits = torch.arange(levels - 1, device=difference.device)
    return (torch.bitwise_right_shift(difference[..., None], bits) > 0).sum(-1)  # ">>" has no form in ONNX


def later(since: Int[Tensor, "*lead"], levels: int) -> Int[Tensor, "*lead {levels}"]:
    """The level for a later token t of every level for a token s, with ``since`` = level(t, s).

    A pair of level l differs from s first at bit l - 1, and t from s at bit ``since`` - 1. The higher of the
    two is where t differs from the pair; they cannot be the same bit, which s would have set for the pair to
    precede it, and unset for t to follow it.
    """
    return torch.maximum(torch.arange(levels, device=since.device), since[..., None])


def regrouped(memory: Float[Tensor, "B H L F V"], since: Int[Tensor, " B"]) -> Float[Tensor, "B H L F V"]:
    """The memories of all levels, regrouped by their levels for a later token."""
    levels = memory.shape[2]
    moves = later(since, levels)[:, None] == torch.arange(levels, device=since.device)[:, None]
    return torch.einsum("bnl,bhlfv->bhnfv", moves.to(memory), memory)
