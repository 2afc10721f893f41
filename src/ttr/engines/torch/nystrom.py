"""A kernel sum over the whole sequence through landmarks, in linear time and memory."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines.engine import Engine
from ttr.forms import Landmarks
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class Nystrom(Engine):
    """Y = C_q (W^+ (C_k^T V)), from right to left, so that no tensor is larger than T x m for m landmarks.

    W^+ is small and its iterations lose digits, so they run in float64 where the device has it. With R = 1 -
    W Z both iterations read Z <- Z (1 + R + ...), which corrects itself: (13 - X (15 - X (7 - X))) / 4 = 1 +
    R + R^2 + R^3 / 4 at X = 1 - R, and 2 - X = 1 + R.
    """

    name: ClassVar[str] = "nystrom"

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not Landmarks:
            return "It reads the whole sequence at every token, and this memory is causal."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form = problem.lower(x)
        query, key, value = (tensor.transpose(1, 2) for tensor in form[:3])
        if x.length == 0:
            return form.finish(x, value.transpose(1, 2))
        parts = [_landmarks(points, count, form.pooled) for points, count in zip((query, key), form.counts)]
        landmarks = torch.cat(parts, dim=2)
        wide = landmarks.to(landmarks.dtype if landmarks.device.type == "mps" else torch.float64)
        kernel = _kernel(wide, wide) + form.ridge * torch.eye(
            wide.shape[2], dtype=wide.dtype, device=wide.device
        )
        inverse = (_newton if form.inverse == "newton" else _balanced)(kernel, form.steps).to(query.dtype)
        context = _kernel(key, landmarks).mT @ value
        return form.finish(x, (_kernel(query, landmarks) @ (inverse @ context)).transpose(1, 2))


def _landmarks(points: Tensor, count: int, pooled: bool) -> Tensor:
    """``count`` of the points [B,H,T,F], the first or the mean of as many segments: [B,H,count,F]."""
    time = points.shape[2]
    if count == 0:
        return points[:, :, :0]
    segment = (torch.arange(count + 1, device=points.device) * time).div(count, rounding_mode="floor")
    if not pooled:
        return points.index_select(2, segment[:-1])
    place = torch.arange(time, device=points.device)
    inside = (place >= segment[:-1, None]) & (place < segment[1:, None])
    return inside.to(points) / segment.diff()[:, None] @ points


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(-||a_i - b_j||^2 / 2), with points relative to the first of b, so that points far from 0 lose no
    digits."""
    origin = b[:, :, :1].detach()
    a, b = a - origin, b - origin
    distance = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * (a @ b.mT)
    return torch.exp(-0.5 * distance.clamp(min=0.0))


def _newton(kernel: Tensor, steps: int) -> Tensor:
    """``steps`` of Z <- Z (1 + R) from Z = 2 W / (max row sum)^2."""
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    z = kernel * (2 / kernel.sum(-1).amax(-1).square())[..., None, None]
    for _ in range(steps):
        z = z + z @ (identity - kernel @ z)
    return z


def _balanced(kernel: Tensor, steps: int) -> Tensor:
    """``steps`` of Z <- Z (1 + R (1 + R (1 + R / 4))) for the kernel divided by the roots of its row sums,
    undone afterwards."""
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    roots = kernel.sum(-1).sqrt()
    scale = roots[..., :, None] * roots[..., None, :]
    kernel = kernel / scale
    z = kernel / kernel.sum(-1).amax(-1)[..., None, None]
    for _ in range(steps):
        residual = identity - kernel @ z
        z = z + z @ (residual + residual @ (residual + 0.25 * residual @ residual))
    return z / scale
