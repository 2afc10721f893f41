"""Intervals for bits per byte: over validation windows, paired between memories, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping
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
    """How often every window is drawn in each of R resamples; row 0 draws each once: the estimate itself.

    The same draws serve every memory, so that differences between memories are paired: the difficulty of a
    window cancels (Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13, percentile
    interval).
    """

    windows: Float[Tensor, "R W"]

    @staticmethod
    def draw(windows: int, resamples: int) -> Bootstrap:
        """``resamples`` draws with replacement, the same ones every time."""
        drawn = torch.randint(windows, (resamples, windows), generator=torch.Generator().manual_seed(0))
        counts = torch.zeros(resamples, windows, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        return Bootstrap(torch.cat([torch.ones(1, windows, dtype=torch.float64), counts]))

    def of_each_seed(self, bits: Float[Tensor, "S W T"], mask: Tensor) -> Float[Tensor, "S R"]:
        """Mean bits over the bytes of ``mask`` [W,T] in every resample: a ratio of sums, so that windows
        count by their length."""
        mask = mask.to(torch.float64)
        spent = torch.einsum("swt,wt->sw", bits.to(torch.float64), mask)
        return spent @ self.windows.mT / (self.windows @ mask.sum(1))

    def bits_per_byte(self, bits: Float[Tensor, "S W T"], mask: Tensor) -> Float[Tensor, " R"]:
        """The mean over the seeds, as if there were no others."""
        return self.of_each_seed(bits, mask).mean(0)

    def with_seeds(
        self, bits: Mapping[str, Float[Tensor, "S W T"]], mask: Tensor
    ) -> dict[str, Float[Tensor, " R"]]:
        """The mean over the seeds by name, each resample moved by what other seeds could have given.

        A few seeds do not show how much one differs from the next, so their variance is pooled over all
        memories: the mean over S seeds is moved by sqrt(variance / S) times a Student t with as many degrees
        of freedom as the variance has. Seeds of two memories have nothing in common, so each is moved by
        itself. With one seed there is no variance, and the intervals speak of the windows alone.
        """
        means = {name: self.of_each_seed(each, mask) for name, each in bits.items()}
        estimates = torch.stack([mean[:, 0] for mean in means.values()])
        memories, seeds = estimates.shape
        freedom = memories * (seeds - 1)
        if freedom == 0:
            return {name: mean[0] for name, mean in means.items()}
        variance = (estimates - estimates.mean(1, keepdim=True)).square().sum() / freedom
        generator = torch.Generator().manual_seed(1)
        normal = torch.randn(freedom + memories, len(self.windows), generator=generator, dtype=torch.float64)
        student = normal[freedom:] * (freedom / normal[:freedom].square().sum(0)).sqrt()
        student[:, 0] = 0.0
        moved = (variance / seeds).sqrt() * student
        return {name: mean.mean(0) + move for (name, mean), move in zip(means.items(), moved)}


def interval(draws: Float[Tensor, " R"]) -> Interval:
    """The estimate in row 0 and the 2.5 % and 97.5 % quantiles of the resamples; a resample without any byte
    is left out."""
    low, high = torch.nanquantile(draws[1:], torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(float(draws[0]), low, high)
