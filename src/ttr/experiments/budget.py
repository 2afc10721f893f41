"""What the shorter runs of a comparison say about longer ones: by budgets of bytes, and of time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Integer
from torch import Tensor

from ttr.experiments.references import Reference
from ttr.experiments.results import PRACTICAL, Measured
from ttr.experiments.statistics import Bootstrap, interval


class Budgets:
    """The bits per byte of every memory after each of the stages, with what windows and seeds contribute.

    Args:
        measured: the memories.
        counted: the best n-gram by the number of steps, counted on the bytes that were read in them.
        sizes: the bytes of every validation token.
        steps: of the final stage.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        counted: Mapping[int, Reference],
        sizes: Integer[Tensor, "W T"],
        steps: int,
        resamples: int,
    ) -> None:
        self.names, self.steps = [m.name for m in measured], sorted({*measured[0].earlier, steps})
        mask, bootstrap = torch.ones_like(sizes, dtype=torch.bool), Bootstrap.draw(sizes, resamples)
        spread = bootstrap.spread([m.bits for m in measured], mask)
        runs = {m.name: {n: b[None] for n, b in m.earlier.items()} | {steps: m.bits} for m in measured}
        self.draws = {
            name: [
                bootstrap.moved(
                    bootstrap.bits_per_byte(each[n], mask), len(each[n]), spread, i * len(self.steps) + j
                )
                for j, n in enumerate(self.steps)
            ]
            for i, (name, each) in enumerate(runs.items())
        }
        self.counting = [bootstrap.bits_per_byte(counted[n].bits[None], mask) for n in self.steps]

    def until_counting(self, name: str, bytes_of_a_step: float) -> dict[str, float | None]:
        """After how many bytes this memory will predict as well as the best n-gram that has read the same
        bytes: where the straight line through its distances over the logarithm of the bytes is zero.

        Returns "value", "low" and "high" of a 95 % interval; None where the distance does not shrink.
        """
        logs = torch.tensor([n * bytes_of_a_step for n in self.steps], dtype=torch.float64).log2()
        distance = torch.stack([own - of for own, of in zip(self.draws[name], self.counting)])
        centred = logs - logs.mean()
        slope = (centred[:, None] * distance).sum(0) / centred.square().sum().clamp(min=1e-12)
        at = logs.mean() - distance.mean(0) / slope
        at = torch.where(slope < 0, at, math.inf)
        low, high = (at[1:].sort().values[int(q * (len(at) - 2))] for q in (0.025, 0.975))
        return {
            key: 2.0 ** float(value) if value < 60 else None
            for key, value in (("value", at[0]), ("low", low), ("high", high))
        }

    def crossings(self) -> list[tuple[str, str]]:
        """Pairs of memories of which the first was ahead in the stage before the last and is behind now, both
        beyond doubt."""

        def ahead(stage: int) -> set[tuple[str, str]]:
            """Pairs of which the first is ahead of the second."""
            found = set()
            for a, b in itertools.permutations(self.names, 2):
                behind = interval(self.draws[b][stage] - self.draws[a][stage])
                if behind.low > 0 and behind.value >= PRACTICAL:
                    found.add((a, b))
            return found

        if len(self.steps) == 1:
            return []
        now = ahead(-1)
        return sorted(pair for pair in ahead(-2) if pair[::-1] in now)

    def at_equal_time(self, cost: Mapping[str, float]) -> dict[str, Any]:
        """Bits per byte after the time in which the fastest memory finished, between the budgets on a
        straight line over the logarithm of the time.

        ``cost`` are seconds of a training step. Returns "seconds" and "bits_per_byte" by name; None for a
        memory whose shortest run took longer.
        """
        time = min(cost[name] for name in self.names) * self.steps[-1]
        return {
            "seconds": time,
            "bits_per_byte": {name: self._after(name, time / cost[name]) for name in self.names},
        }

    def _after(self, name: str, steps: float) -> float | None:
        if steps < self.steps[0]:
            return None
        bits = [float(draws[0]) for draws in self.draws[name]]
        for (n, a), (m, b) in zip(zip(self.steps, bits), zip(self.steps[1:], bits[1:])):
            if steps <= m * (1 + 1e-9):
                return a + (b - a) * math.log(steps / n) / math.log(m / n)
        return bits[-1]
