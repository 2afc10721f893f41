"""Intervals for bits per byte: over validation windows, paired between memories, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
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
        shape = (spread.freedom, len(self.windows))
        squares = torch.randn(shape, generator=_generator(1), dtype=torch.float64).square().sum(0)
        normal = torch.randn(shape[1], generator=_generator(2 + which), dtype=torch.float64)
        student = normal * (spread.freedom / squares).sqrt()
        student[0] = 0.0
        return draws + (spread.variance / seeds) ** 0.5 * student

    def spread(self, bits: Sequence[Float[Tensor, "S W T"]], mask: Tensor) -> Spread:
        """How much one seed differs from the next, pooled over memories, since a few seeds of one do not
        show it."""
        means = [self.of_each_seed(each, mask)[:, 0] for each in bits]
        freedom = sum(len(mean) - 1 for mean in means)
        squares = sum(float((mean - mean.mean()).square().sum()) for mean in means)
        return Spread(squares / max(freedom, 1), freedom)

    def with_seeds(
        self, bits: Mapping[str, Float[Tensor, "S W T"]], mask: Tensor
    ) -> dict[str, Float[Tensor, " R"]]:
        """The mean over the seeds by name, moved by what other seeds could have given."""
        spread = self.spread(list(bits.values()), mask)
        return {
            name: self.moved(self.bits_per_byte(each, mask), len(each), spread, which)
            for which, (name, each) in enumerate(bits.items())
        }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Spread:
    """The variance of the bits per byte over seeds, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Power:
    """How a comparison of two memories would go: how often equal ones are told apart, and the least
    difference in bits per byte that is found in four of five cases."""

    false_alarms: float
    detectable: float


def power(spread: Spread, over_windows: float, seeds: int, practical: float) -> Power | None:
    """By simulation, from the variance of seeds, and the standard deviation over windows of the difference;
    None where nothing is known of the seeds."""
    if not spread.freedom:
        return None
    trials, draws, f = 1000, 1000, spread.freedom
    normal = torch.randn(3, draws, generator=_generator(3), dtype=torch.float64)
    chi = torch.distributions.Chi2(torch.tensor(float(f), dtype=torch.float64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        estimated, resampled = chi.sample((trials,)) / f, chi.sample((draws,)) / f
    of_seeds, noise = (
        (2 * spread.variance / seeds) ** 0.5,
        torch.randn(2, trials, generator=_generator(5), dtype=torch.float64),
    )
    moves = of_seeds * estimated.sqrt()[:, None] * normal[0] / resampled.sqrt() + over_windows * normal[1]
    margin = moves.quantile(0.975, dim=1)
    off = of_seeds * noise[0] + over_windows * noise[1]

    def found(difference: float) -> float:
        return float(((difference + off).abs() > margin.clamp(min=practical)).double().mean())

    low, high = 0.0, 64.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= 0.8 else (middle, high)
    return Power(found(0.0), high)


def interval(draws: Float[Tensor, " R"], level: float = 0.95) -> Interval:
    """The estimate in row 0 and the ends of the middle ``level`` of the resamples; one without any byte is
    left out."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    low, high = torch.nanquantile(draws[1:], ends).tolist()
    return Interval(float(draws[0]), low, high)
