"""Complex decay in real numbers: pairs are written in a frame that does not rotate, so that engines compute a
real decay only.

Let P_t be the sum of the call's phases up to token t. The complex memory S_t = sum_{i<=t} e^{b_t - b_i + i
(P_t - P_i)} k_i v_i^T is e^{i P_t} R_t with a memory R_t = sum e^{b_t - b_i} (e^{-i P_i} k_i) v_i^T that only
decays. With R = X - i Y and real values,

    Re(S_t)^T q = X_t^T (q cos P_t) + Y_t^T (q sin P_t),   X and Y the sums over the keys k cos P and k sin P:

plain linear attention on twice the channels. Complex values are rotated instead of the keys, and the read-out
is rotated back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttr.forms.sums import running_sum
from ttr.inputs import Inputs


def frame(x: Inputs) -> tuple[Tensor, Tensor]:
    """cos and sin of the running phase after every token, [B,T,H,1] or [B,T,H,K]."""
    return _unit(running_sum(_angles(x).movedim(1, -1)).movedim(-1, 1), x)


def _angles(x: Inputs) -> Tensor:
    """Phases in float64 where the device has it: a long sum of them in float32 loses the angle."""
    phase = x.phase if x.phase.ndim == 4 else x.phase[..., None]
    return phase if phase.device.type == "mps" else phase.double()


def _unit(angle: Tensor, x: Inputs) -> tuple[Tensor, Tensor]:
    angle = torch.remainder(angle, 2 * torch.pi)
    return angle.cos().to(x.q.dtype), angle.sin().to(x.q.dtype)


def double(key: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys or queries [B,T,H,F] in the frame, [B,T,H,2F]."""
    return torch.cat([key * cos, key * sin], dim=-1)


def rotate(value: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Complex numbers, pairs of neighbouring channels, times cos + i sin."""
    real, imaginary = value[..., ::2], value[..., 1::2]
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2)


def imaginary(x: Inputs) -> Tensor:
    """The imaginary part of the state's memory, with its normaliser as a last column where there is one."""
    part = x.state["imaginary_memory"]
    ones = x.state.tensors.get("imaginary_normalizer")
    return part if ones is None else torch.cat([part, ones[..., None]], dim=-1)


def total(x: Inputs) -> tuple[Tensor, Tensor]:
    """cos and sin of the phase of the whole call, to be broadcast against a memory [B,H,F,V]."""
    cos, sin = _unit(_angles(x).sum(1), x)
    return cos[..., None], sin[..., None]
