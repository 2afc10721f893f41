"""Intervals for bits per byte: over validation windows, paired between memories, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How often every window is drawn in each of R resamples; row 0 draws each once: the estimate itself.

    The same draws serve every memory, so that differences between memories are paired: the difficulty of a
    window cancels (Efron, Tibshirani, "An introduction to the bootstrap", 1993, chapter 13, percentile
    interval).

    Attributes:
        windows: how often each is drawn.
        sizes: the bytes of every token of the windows.
    """

    windows: Float[Tensor, "R W"]
    sizes: Integer[Tensor, "W T"]

    @staticmethod
    def draw(sizes: Integer[Tensor, "W T"], resamples: int) -> Bootstrap:
        """``resamples`` draws with replacement, the same ones every time."""
        windows = len(sizes)
        drawn = torch.randint(windows, (resamples, windows), generator=torch.Generator().manual_seed(0))
        counts = torch.zeros(resamples, windows, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        return Bootstrap(torch.cat([torch.ones(1, windows, dtype=torch.float64), counts]), sizes)

    def of_each_seed(self, bits: Float[Tensor, "S W T"], mask: Tensor) -> Float[Tensor, "S R"]:
        """Bits per byte of the tokens of ``mask`` [W,T] in every resample: a ratio of sums, so that windows
        and tokens count by their length. NaN in a resample without any byte, though tokens without one may
        be there."""
        mask = mask.to(torch.float64)
        spent = torch.einsum("swt,wt->sw", bits.to(torch.float64), mask)
        held = self.windows @ (mask * self.sizes).sum(1)
        return spent @ self.windows.mT / torch.where(held > 0, held, math.nan)

    def bits_per_byte(self, bits: Float[Tensor, "S W T"], mask: Tensor) -> Float[Tensor, " R"]:
        """The mean over the seeds, as if there were no others."""
        return self.of_each_seed(bits, mask).mean(0)

    def moved(
        self, draws: Float[Tensor, " R"], seeds: int, spread: Spread, which: int
    ) -> Float[Tensor, " R"]:
        """The mean over ``seeds``, each resample moved by what other seeds could have given: by sqrt(variance
        / seeds) times a Student t with as many degrees of freedom as the variance has.

        Seeds of two memories have nothing in common, so each gets a move of its own, ``which``. Without
        freedom nothing is known of the seeds, and the intervals speak of the windows alone.
        """
        if not spread.freedom:
            return draws
        count = len(self.windows)
        squares = _normal(spread.freedom, count, seed=1).square().mean(0)
        student = _normal(1, count, seed=2 + which)[0] / squares.sqrt()
        student[0] = 0.0
        return draws + (spread.variance / seeds) ** 0.5 * student

    def spread(self, bits: Sequence[Float[Tensor, "_ W T"]], mask: Tensor) -> Spread:
        """How much one seed differs from the next, pooled over memories, since a few seeds of one do not
        show it."""
        means = [self.of_each_seed(each, mask)[:, 0] for each in bits]
        freedom = sum(len(mean) - 1 for mean in means)
        squares = sum(float((mean - mean.mean()).square().sum()) for mean in means)
        return Spread(squares / max(freedom, 1), freedom)

    def with_seeds(
        self, bits: Mapping[str, Float[Tensor, "_ W T"]], mask: Tensor
    ) -> dict[str, Float[Tensor, " R"]]:
        """The mean over the seeds by name, moved by what other seeds could have given."""
        spread = self.spread(list(bits.values()), mask)
        return {
            name: self.moved(self.bits_per_byte(each, mask), len(each), spread, which)
            for which, (name, each) in enumerate(bits.items())
        }


def _normal(rows: int, count: int, seed: int) -> Float[Tensor, "rows count"]:
    """Standard normal numbers, each row one from each of ``count`` strata of equal probability in an order of
    its own: independent draws would leave the ends of a 95 % interval wrong by a tenth."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)])
    return torch.special.ndtri((order.double() + 0.5) / count)


@dataclass(frozen=True)
class Spread:
    """The variance of the bits per byte over seeds, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Power:
    """How a comparison would go: how often a memory is called behind another that is as good, and the least
    difference in bits per byte to the best that is found in four of five cases."""

    false_alarms: float
    detectable: float


def behind_best(draws: Mapping[str, Float[Tensor, " R"]], name: str, level: float = 0.95) -> Interval:
    """The distance of one of several memories to the best of them, with an interval that allows for the best
    having been chosen by the same figures.

    The more memories, the luckier the one with the least figure. If all were equal, a memory's distance to
    the best would be that of its noise to the least noise of all, so as far as that goes in ``level`` of the
    resamples the distance shows nothing (multiple comparisons with the best: Hsu, "Simultaneous confidence
    intervals for all distances from the best", 1981). Of two memories it is the interval of their difference.
    """
    values = torch.stack([each[0] for each in draws.values()])
    noise = torch.stack([each[1:] - each[0] for each in draws.values()])
    own, estimate = draws[name][1:] - draws[name][0], float(draws[name][0] - values.min())
    if estimate == 0:
        return Interval(0.0, 0.0, 0.0)
    down, up = (
        float(torch.nanquantile(off, (1 + level) / 2)) for off in (own - noise.amin(0), noise.amax(0) - own)
    )
    return Interval(estimate, estimate - down, estimate + up)


def power(spread: Spread, over_windows: float, memories: int, seeds: int, practical: float) -> Power | None:
    """By simulation, from the variance of seeds, the standard deviation over windows of a difference, and the
    number of memories; None where nothing is known of the seeds."""
    if not spread.freedom:
        return None
    trials, draws, f = 400, 1000, spread.freedom
    of_seeds, of_windows = (spread.variance / seeds) ** 0.5, over_windows / 2**0.5

    def chi(count: int, seed: int) -> Tensor:
        return _normal(f, count, seed).square().mean(0).sqrt()

    # what a comparison resamples, and what its estimates are, over the deviation of seeds that it finds
    student = of_seeds * _normal(memories, draws, seed=3) / chi(draws, 4)
    windows = of_windows * _normal(memories, draws, seed=5)
    found, margins = chi(trials, 6), []
    for deviation in found.tolist():
        noise = deviation * student + windows
        margins.append((noise[0] - noise.amin(0)).quantile(0.975))
    margin = torch.stack(margins).clamp(min=practical)
    estimates = of_seeds * _normal(memories, trials, seed=7) + of_windows * _normal(memories, trials, seed=8)
    behind = estimates - estimates.amin(0) > margin

    def is_found(difference: float) -> float:
        return float((difference + estimates[1] - estimates[0] > margin).double().mean())

    low, high = 0.0, 64.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) >= 0.8 else (middle, high)
    return Power(float(behind.double().sum(0).mean() / (memories - 1)), high)


def interval(draws: Float[Tensor, " R"]) -> Interval:
    """The estimate in row 0 and the 2.5 % and 97.5 % quantiles of the resamples; a resample without any byte
    is left out."""
    low, high = torch.nanquantile(draws[1:], torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(float(draws[0]), low, high)
