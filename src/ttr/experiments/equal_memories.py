"""How often a comparison tells a memory apart from itself.

``python -m ttr.experiments.equal_memories FOLDER`` takes a finished comparison of one memory from many seeds
(``ttr compare --layers NAME --steps N --seeds 16``), lets every two groups of its seeds without a common one
be two memories, and counts the pairs that are told apart. Equal memories should be in one of twenty cases.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer
from rich.console import Console
from torch import Tensor

from ttr.experiments.compare import Comparison
from ttr.experiments.plan import FILE, Plan
from ttr.experiments.progress import Bar
from ttr.experiments.results import told_apart
from ttr.experiments.settings import CompareSettings
from ttr.experiments.statistics import Bootstrap
from ttr.experiments.storage import to_json, write
from ttr.experiments.workers import workers

MOST_PAIRS = 4000
"""More pairs of so few seeds say nothing new; a sample of them is taken."""


def told_apart_from_itself(
    bits: Float[Tensor, "S W T"], sizes: Integer[Tensor, "W T"], each: int, resamples: int
) -> dict[str, Any]:
    """The share of pairs of groups of ``each`` seeds that are told apart, and a 95 % interval of it, by
    leaving out one seed after the other (the jackknife: pairs share seeds)."""
    of_windows, seeds = bits.double().sum(2, keepdim=True), range(len(bits))
    bootstrap, mask = Bootstrap.draw(sizes.sum(1, keepdim=True), resamples), torch.ones(bits.shape[1], 1)
    pairs = [
        (first, second)
        for first in itertools.combinations(seeds, each)
        for second in itertools.combinations(
            [seed for seed in seeds if seed > first[0] and seed not in first], each
        )
    ]
    apart = {}
    for first, second in random.Random(0).sample(pairs, min(MOST_PAIRS, len(pairs))):
        groups = {"a": of_windows[list(first)], "b": of_windows[list(second)]}
        draws = bootstrap.with_seeds(groups, mask)
        apart[first + second] = told_apart(draws["a"], draws["b"])

    def share(without: int | None = None) -> float:
        left = [found for pair, found in apart.items() if without not in pair]
        return sum(left) / len(left)

    fewer = torch.tensor([share(seed) for seed in seeds], dtype=torch.float64)
    deviation = ((len(seeds) - 1) * fewer.var(correction=0)).sqrt().item()
    low, high = share() - 1.96 * deviation, share() + 1.96 * deviation
    return {
        "seeds": each,
        "pairs": len(apart),
        "share": share(),
        "low": max(low, 0.0),
        "high": min(high, 1.0),
    }


def main(folder: Path) -> None:
    """Print the shares for groups of two and of three seeds, and write them into the folder."""
    settings = CompareSettings.from_dict(Plan.read(folder / FILE).about["settings"], out=folder)
    comparison = Comparison(settings, None)
    with Bar(Console()) as bar, workers(1) as compute:
        comparison.train(comparison.clock(bar), compute, bar)
    name = comparison.memories[0].name
    bits = comparison.measured(name).bits
    sizes = comparison.slices.sizes
    found = [told_apart_from_itself(bits, sizes, each, settings.resamples) for each in (2, 3)]
    for row in found:
        print(
            f"{name}, {row['seeds']} seeds against {row['seeds']}: {row['share']:.1%} of {row['pairs']:,} "
            f"pairs are told apart [{row['low']:.1%}, {row['high']:.1%}]"
        )
    write(folder / "equal_memories.json", to_json({"memory": name, "shares": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
