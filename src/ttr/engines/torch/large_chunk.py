"""Networks that take one step per chunk, chunk by chunk."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ttr.engines.engine import Engine
from ttr.engines.torch.grid import Grid
from ttr.engines.torch.networks import predict
from ttr.engines.torch.steps.chunked_network import collect, move
from ttr.forms import ChunkedNetwork
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State


class LargeChunk(Engine):
    """All tokens of a chunk read the same weights and give their gradients at them, as in LaCT (arXiv
    2505.23884): per chunk, one product of all inputs with all slopes for every matrix, and one step where the
    chunk is full."""

    name: ClassVar[str] = "large-chunk"

    def __init__(self, least: int = 64) -> None:
        self.least = least
        """Chunks up to this length are computed whole."""

    def small(self) -> LargeChunk:
        return LargeChunk(least=1)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not ChunkedNetwork:
            return "It runs networks that take one step per chunk."
        if problem.solver.chunk == 1:
            return "Chunks of one token leave nothing to compute together."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        if not x.length:
            return x.v.new_zeros(x.v.shape[0], 0, x.heads, x.v.shape[-1]), x.state
        grid = Grid(x.state.position, x.length, self._piece(problem.solver.chunk, x.length))
        form = problem.lower(x)
        controls = {
            name: grid.chunks(x.controls[name], fill=0.0 if name == "momentum" else 1.0)
            for name in x.controls
            if name != "step_size"
        }
        outputs, state = [], x.state
        for m, piece in enumerate(form.split(grid.chunks)):
            outputs.append(predict(problem.function, form.weights(state), piece.query, form.params))
            state = collect(problem, piece, state, {name: c[m] for name, c in controls.items()})
            state = move(problem, form, state, grid.full(m, problem.solver.chunk))
        return grid.join(outputs), state.replace(position=x.state.position + x.length)

    def _piece(self, chunk: int, length: int) -> int:
        """Tokens computed at once: a chunk, or for a much longer chunk a part of about the length of the
        call."""
        if chunk <= max(length, self.least):
            return chunk
        piece = chunk & -chunk  # the largest power of two that divides it, halved while the tokens still fit
        while piece // 2 >= length:
            piece //= 2
        return piece
