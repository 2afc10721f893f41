"""Chunk by chunk, networks that move once per chunk."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ttr.engines.engine import Engine
from ttr.engines.torch.grid import Grid
from ttr.engines.torch.networks import predict
from ttr.engines.torch.steps.chunked_network import collect, group_steps, move
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
        """Chunks up to this length are laid out whole."""

    def small(self) -> LargeChunk:
        return LargeChunk(least=1)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.memory != "chunked-network":
            return "It runs networks that move once per chunk."
        if problem.solver.chunk == 1:
            return "Chunks of one token leave nothing to do at once."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        function, params = problem.function, x.axis_params("function")
        if not x.length:
            return x.v.new_zeros(x.v.shape[0], 0, x.heads, x.v.shape[-1]), x.state
        grid = Grid(x.state.position, x.length, self._piece(problem.solver.chunk, x.length))
        keys, values, queries = (
            grid.chunks(tensor)
            for tensor in (
                function.key(x.grouped(x.k), params),
                x.grouped(x.v),
                function.query(x.grouped(x.q), params),
            )
        )
        steps = grid.chunks(group_steps(x))
        controls = {
            name: grid.chunks(x.controls[name], fill=0.0 if name == "momentum" else 1.0)
            for name in x.controls
            if name != "step_size"
        }
        names = function.memory(keys.shape[-1], values.shape[-1])
        outputs, state = [], x.state
        for m in range(grid.count):
            outputs.append(predict(function, {name: state[name] for name in names}, queries[m], params))
            state = collect(
                problem, x, state, keys[m], values[m], steps[m], {name: c[m] for name, c in controls.items()}
            )
            state = move(problem, x, state, grid.full(m, problem.solver.chunk))
        return grid.join(outputs), state.replace(position=x.state.position + x.length)

    def _piece(self, chunk: int, length: int) -> int:
        """Tokens that are laid out at once: a chunk, or of a much longer one the part with as many tokens as
        there are, about."""
        if chunk <= max(length, self.least):
            return chunk
        piece = chunk & -chunk  # the largest power of two that divides it, halved while the tokens still fit
        while piece // 2 >= length:
            piece //= 2
        return piece
