"""The delta rule with momentum, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.engine import Engine
from ttr.engines.torch.chunks import check_chunk, chunk_length, join, split
from ttr.forms import MomentumRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


@dataclass(frozen=True)
class ChunkwiseMomentum(Engine):
    """Z_j = mu_j Z_{j-1} - eta_j k_j r_j^T, S_j = a_j S_{j-1} - beta_j Z_j with r_j = v_j - S_x^T p_j, one
    triangular system per chunk.

    Write a(i,l) for the product of a over the tokens l+1..i, likewise mu(i,l). Unrolled from the S_0 and Z_0
    that enter a chunk,

        S_i = a(i,0) S_0 - c_i Z_0 + sum_{j<=i} G_ij eta_j k_j r_j^T
        Z_i = mu(i,0) Z_0 - sum_{j<=i} mu(i,j) eta_j k_j r_j^T
        G_ij = sum_{j<=l<=i} a(i,l) beta_l mu(l,j),     c_i = sum_{l<=i} a(i,l) beta_l mu(l,0)

    so G is a product of two triangles of decays with beta between them. The error r_i is that of S_{i-1} (or
    a_i S_{i-1}), which has the weights of row i-1: (I + X) R = V - (what S_0 and Z_0 predict), X_ij =
    G_{i-1,j} eta_j p_i.k_j. Decays are multiplied and never divided, so any decay may be 0.
    """

    chunk: int = 32

    name: ClassVar[str] = "chunkwise-momentum"

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def small(self) -> ChunkwiseMomentum:
        return ChunkwiseMomentum(chunk=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not MomentumRecurrence:
            return "It runs memories that are updated by a running gradient: the delta rule with momentum."
        if problem.weights.retention == "channel":
            return (
                "Its weights inside a chunk are one number per pair of tokens, which a decay per key "
                "channel would make one per channel."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, size = problem.lower(x), chunk_length(self.chunk, x.length)
        linear = form.recurrence
        query, key, read, value = (
            split(tensor, size)
            for tensor in (
                linear.scaled_query,
                linear.step[..., None] * linear.key,
                linear.read,
                linear.value,
            )
        )
        ones = torch.ones_like(linear.step)
        absent = 1 - split(ones, size)  # padding tokens of the last chunk have decay 1
        decay = ones if linear.log_decay is None else linear.log_decay.exp()
        decay, share = (split(tensor, size) + absent for tensor in (decay, form.share))
        step = split(form.rate, size)

        decays, carried = products(decay), products(share)
        weights = (decays * step[..., None, :]) @ carried
        first = decay[..., :1] * decays[..., 0], share[..., :1] * weights[..., 0]  # a(i,0) and c_i
        before = [
            pad(first[0][..., :-1], (1, 0), value=1.0),
            pad(first[1][..., :-1], (1, 0)),
            pad(weights[..., :-1, :], (0, 0, 1, 0)),
        ]
        if not linear.old:
            before = [decay * before[0], decay * before[1], decay[..., None] * before[2]]

        def both(x: Tensor, of_memory: Tensor, of_momentum: Tensor) -> Tensor:
            """Rows that read S_0 and Z_0, stacked."""
            return torch.cat([of_memory[..., None] * x, -of_momentum[..., None] * x], dim=-1)

        chunks = (
            (read @ key.mT) * before[2],
            value,
            both(read, before[0], before[1]),
            (key * weights[..., -1, :, None]).mT,
            (key * carried[..., -1, :, None]).mT,
            *(last[..., -1, None, None] for last in (*first, share[..., :1] * carried[..., 0])),
        )
        memory, momentum, entering, errors = linear.memory, form.momentum, [], []
        for matrix, target, read_rows, write_memory, write_momentum, a, c, mu in zip(
            *(tensor.unbind() for tensor in chunks), strict=True
        ):
            entering.append(torch.cat([memory, momentum], dim=-2))
            errors.append(
                torch.linalg.solve_triangular(
                    matrix, target - read_rows @ entering[-1], upper=False, unitriangular=True
                )
            )
            memory, momentum = (
                a * memory - c * momentum + write_memory @ errors[-1],
                mu * momentum - write_momentum @ errors[-1],
            )
        y = both(query, *first) @ torch.stack(entering) + ((query @ key.mT) * weights) @ torch.stack(errors)
        return form.finish(x, join(y, x.length), memory, momentum)


def products(factor: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead C C"]:
    """The triangle of products factor_{j+1} ... factor_i at i >= j, 0 above, for C a power of two.

    Two neighbouring blocks make one of twice the size: the products across both are the late block's from its
    start, times the early one's up to its end.
    """
    first, square = factor, torch.ones_like(factor)[..., None, None]
    while square.shape[-3] > 1:
        early, late = square.unflatten(-3, (-1, 2)).unbind(-3)
        first, border = first.unflatten(-1, (-1, 2)).unbind(-1)
        across = border[..., None, None] * late[..., :1] * early[..., -1:, :]
        square = torch.cat(
            [torch.cat([early, torch.zeros_like(across)], -1), torch.cat([across, late], -1)], -2
        )
    return square[..., 0, :, :]
