"""Intervals for bits per byte: a bootstrap over validation windows and seeds, paired between memories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """The number of times that every window and every seed is drawn in each of R resamples; row 0 draws each
    once, which gives the estimate itself.

    The same draws are used for every memory, so that differences between memories are paired: the difficulty
    of a window and the luck of a seed cancel. Windows and seeds are drawn independently of one another (both
    were crossed by design: every seed is evaluated on every window). Efron, Tibshirani, "An introduction to
    the bootstrap", 1993, chapter 13 (percentile interval). With one seed the interval covers only the
    variation of the text, with few seeds it is somewhat too narrow.
    """

    windows: Float[Tensor, "R W"]
    seeds: Float[Tensor, "R S"]

    @staticmethod
    def draw(windows: int, seeds: int, resamples: int) -> Bootstrap:
        """``resamples`` draws with replacement, the same ones every time."""
        generator = torch.Generator().manual_seed(0)

        def counts(size: int) -> Tensor:
            drawn = torch.randint(size, (resamples, size), generator=generator)
            drawn = torch.zeros(resamples, size, dtype=torch.float64).scatter_add(
                1, drawn, torch.ones(resamples, size, dtype=torch.float64)
            )
            return torch.cat([torch.ones(1, size, dtype=torch.float64), drawn])

        return Bootstrap(counts(windows), counts(seeds))

    def bits_per_byte(self, bits: Float[Tensor, "S W T"], mask: Tensor) -> Float[Tensor, " R"]:
        """Mean bits over the bytes of ``mask`` [W,T] in every resample: a ratio of sums, so windows with more
        bytes weigh more."""
        mask = mask.to(torch.float64)
        spent = torch.einsum("swt,wt->sw", bits.to(torch.float64), mask)
        return torch.einsum("rs,sw,rw->r", self.seeds, spent, self.windows) / (
            self.seeds.sum(1) * (self.windows @ mask.sum(1))
        )


def interval(draws: Float[Tensor, " R"]) -> Interval:
    """The estimate in row 0 and the 2.5 % and 97.5 % quantiles of the resamples; a resample without any byte
    is left out."""
    low, high = torch.nanquantile(draws[1:], torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(float(draws[0]), low, high)
