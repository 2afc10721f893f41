"""The diagonal preconditioner of the preconditioned delta rule, for all tokens at once."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, softsign

from ttr.decay import RESET
from ttr.forms.sums import lengthened
from ttr.inputs import Inputs


def precondition(
    x: Inputs, key: Float[Tensor, "B T H F"], bound: float, eps: float
) -> tuple[Float[Tensor, "B T H F"], dict[str, Tensor]]:
    """The written keys P_t * k_t, P = bound^-softsign(log(A + eps) - center), and the state's preconditioner
    after the last.

    The incoming A is treated as one more token before the first.
    """
    weight = (
        x.controls["precond_step"]
        if x.log_importance is None
        else x.controls["precond_step"] * x.log_importance.exp()
    )
    squares = torch.cat([x.state["preconditioner"][:, None], weight[..., None] * key.square()], dim=1)
    log_decay = pad(x.controls["precond_log_decay"].clamp(min=RESET), (0, 0, 1, 0))
    sums = decayed_sums(squares.transpose(1, 2), log_decay.transpose(1, 2)).transpose(1, 2)
    excess = torch.log(sums[:, 1:] + eps) - x.axis_params("solver")["center"][:, None]
    return key * torch.exp(-math.log(bound) * softsign(excess)), {"preconditioner": sums[:, -1]}


def decayed_sums(
    x: Float[Tensor, "*lead T F"], log_decay: Float[Tensor, "*lead T"], block: int = 8
) -> Float[Tensor, "*lead T F"]:
    """A_t = exp(log_decay_t) A_{t-1} + x_t from 0: by a triangular matrix of decays in each block, and
    recursively over the blocks' ends.

    All exponents are <= 0; their sums are taken in float64 where the device has it.
    """
    time = x.shape[-2]
    if time <= 1:
        return x
    wide = x.dtype if x.device.type == "mps" else torch.float64
    triangle = torch.ones(block, block, dtype=wide, device=x.device).tril()
    blocks = lengthened(x, -2, -time % block).unflatten(-2, (-1, block))
    log = triangle @ pad(log_decay.to(wide), (0, -time % block)).unflatten(-1, (-1, block))[..., None]
    inside = (log - log.mT).masked_fill(triangle == 0, -torch.inf).to(x.dtype).exp() @ blocks
    ends = decayed_sums(inside[..., -1, :], log[..., -1, 0], block)
    before = torch.cat([torch.zeros_like(ends[..., :1, :]), ends[..., :-1, :]], dim=-2)
    return (inside + log.to(x.dtype).exp() * before[..., None, :]).flatten(-3, -2)[..., :time, :]
