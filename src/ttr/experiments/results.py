"""Computes the figures of the report from the bits of every token, by pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from ttr.experiments.evaluation import per_byte
from ttr.experiments.references import UNIGRAM, Reference
from ttr.experiments.statistics import Bootstrap, Power, Spread, behind_best, interval, power
from ttr.tasks.text import distant_slice, recall_slice, shuffled
from ttr.tasks.tokens import TokenWindows

MEASURES = {"all": "all bytes", "recall": "recall slice", "other": "off the slice"}
"""The three sets of bytes for which bits per byte are reported."""

PRACTICAL, FINE = 0.02, 0.05
"""Bits per byte below which a difference does not matter in practice, and of a small one that does."""
MORE_SEEDS = (3, 4, 6, 8, 12, 16, 24, 32)
"""For how many seeds of every memory it is told what they would find."""


@dataclass(frozen=True)
class Measured:
    """One memory's runs at its chosen rate.

    Attributes:
        bits, hits: of every validation token, by seed, and whether it was held most likely.
        replaced: bits with the first half of the window replaced.
        facts: of each run.
        earlier: by the number of steps, the bits of shorter runs from the first seed.
        long: bits of longer windows, from the first seed.
    """

    name: str
    rate: float
    at_the_edge: bool
    bits: Float[Tensor, "S W T"]
    replaced: Float[Tensor, "S W T"]
    hits: Bool[Tensor, "S W T"]
    facts: Sequence[Mapping[str, Any]]
    earlier: Mapping[int, Float[Tensor, "W T"]]
    long: Float[Tensor, "V M"]


@dataclass(frozen=True)
class Slices:
    """Sets of validation tokens.

    Attributes:
        recall: those that can be looked up in their window.
        distant: those of them that can be looked up in the first half of the window alone.
        sizes: the bytes of every token.
    """

    recall: Bool[Tensor, "W T"]
    distant: Bool[Tensor, "W T"]
    sizes: Integer[Tensor, "W T"]

    @staticmethod
    def of(windows: TokenWindows, looked_up: int, unit: str) -> Slices:
        """The slices of windows of so-called ``unit``, of which ``looked_up`` are looked up.

        Raises:
            ValueError: if nothing can be recalled.
        """
        found = (each(windows.ids, looked_up) for each in (recall_slice, distant_slice))
        slices = Slices(*found, windows.sizes)
        if not slices.sizes[slices.recall].any():
            raise ValueError(
                f"No window of {windows.sizes.shape[1]} {unit} repeats {looked_up} {unit}, so there is "
                "nothing to recall. Use a larger --context or more text."
            )
        return slices

    @property
    def by_measure(self) -> dict[str, Bool[Tensor, "W T"]]:
        return {"all": torch.ones_like(self.recall), "recall": self.recall, "other": ~self.recall}

    def counts(self) -> dict[str, Any]:
        recalled, distant = (int(self.sizes[mask].sum()) for mask in (self.recall, self.distant))
        every = int(self.sizes.sum())
        return {
            "bytes": recalled,
            "share": recalled / every,
            "distant_bytes": distant,
            "validation_windows": len(self.recall),
            "validation_bytes": every,
        }


def summarise(
    measured: Sequence[Measured],
    plain: Measured,
    counted: Sequence[Reference],
    slices: Slices,
    resamples: int,
) -> dict[str, Any]:
    """The figures of every memory, best first: intervals, distances to the best and to the references, what
    it recalls, and sizes.

    ``plain`` is the model without a memory of ttr's; ``counted`` are the byte frequencies, the best n-gram,
    and that with a cache of the window.

    Returns a JSON-ready dict: "memories" (one dict each, by bits per byte over all bytes), "references" (less
    of it, in the order of ``counted``, ``plain`` last), "best" (name per measure),
    "recall_slice" (its bytes and share), "power" (what differences are found).
    """
    bootstrap, masks = Bootstrap.draw(slices.sizes, resamples), slices.by_measure

    def resampled(field: Callable[[Any], Tensor], mask: Tensor) -> dict[str, Tensor]:
        varying = bootstrap.with_seeds({m.name: field(m) for m in (*measured, plain)}, mask)
        varying |= bootstrap.with_seeds({m.name: field(m) for m in measured}, mask)  # by their own spread
        return varying | {r.name: bootstrap.bits_per_byte(field(r)[None], mask) for r in counted}

    draws = {measure: resampled(lambda each: each.bits, mask) for measure, mask in masks.items()}
    gains = resampled(lambda each: each.replaced - each.bits, slices.distant)
    order = sorted((m.name for m in measured), key=lambda name: float(draws["all"][name][0]))
    best = {measure: min(order, key=lambda name: float(draws[measure][name][0])) for measure in MEASURES}
    of_memories = {measure: {name: draws[measure][name] for name in order} for measure in MEASURES}
    by_name, chance = {m.name: m for m in measured}, shuffled(slices.recall, seed=0)

    def of_any(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "bits_per_byte": {measure: _interval(draws[measure][name]) for measure in MEASURES},
            "recall_gain": _interval(gains[name]),
        }

    def row(name: str) -> dict[str, Any]:
        own, recaller = by_name[name], by_name[best["recall"]]
        return of_any(name) | {
            "behind_best": {measure: vars(behind_best(of_memories[measure], name)) for measure in MEASURES},
            "under_unigram": _interval(draws["all"][UNIGRAM] - draws["all"][name]),
            "behind_ngram": _interval(draws["all"][name] - draws["all"][counted[1].name]),
            "behind_reference": _interval(draws["all"][name] - draws["all"][plain.name]),
            "slice_gap": _interval(slice_gap(bootstrap, own.bits, recaller.bits, slices.recall)),
            "slice_gap_of_shuffled_mask": _interval(slice_gap(bootstrap, own.bits, recaller.bits, chance)),
            **_facts(own, slices),
        }

    return {
        "best": best,
        "memories": [row(name) for name in order],
        "references": [
            *(of_any(each.name) for each in counted),
            of_any(plain.name) | {key: plain.facts[0][key] for key in ("parameters", "state_bytes")},
        ],
        "recall_slice": slices.counts(),
        "power": _power(bootstrap, measured, masks["all"]),
    }


def undecided(measured: Sequence[Measured], slices: Slices, resamples: int) -> list[str]:
    """The best memory and those whose distance to it is open by a first look, if there are any.

    Who looks twice finds a difference between equal memories more often; the first look asks for 99 %, which
    leaves the second nearly all of the 5 % (O'Brien, Fleming, "A multiple testing procedure for clinical
    trials", 1979).
    """
    bootstrap, everywhere = Bootstrap.draw(slices.sizes, resamples), slices.by_measure["all"]
    draws = bootstrap.with_seeds({m.name: m.bits for m in measured}, everywhere)
    best = min(draws, key=lambda name: float(draws[name][0]))

    def is_open(name: str) -> bool:
        if (now := relation(vars(behind_best(draws, name)))) == "behind":
            return behind_best(draws, name, 0.99).low <= 0
        return now == "open"

    found = [name for name in draws if name != best and is_open(name)]
    return [best, *found] if found else []


def relation(behind: Mapping[str, float]) -> str:
    """What the interval of a distance to the best says: "behind" it, "equal" for practical purposes, or
    "open"."""
    if behind["low"] > 0 and behind["value"] >= PRACTICAL:
        return "behind"
    return "equal" if behind["high"] < PRACTICAL else "open"


def better(behind: Mapping[str, float]) -> bool:
    """Whether the interval of a distance says that a memory is ahead, by what matters in practice."""
    return behind["high"] < 0 and behind["value"] <= -PRACTICAL


def told_apart(draws: Float[Tensor, " R"], others: Float[Tensor, " R"]) -> bool:
    """Whether one of two memories is behind the other."""
    both = {"one": draws, "other": others}
    return any(relation(vars(behind_best(both, name))) == "behind" for name in both)


def recalls(row: Mapping[str, Any]) -> bool:
    """Whether the first half of the window helps on the bytes that can be looked up there."""
    gain = row["recall_gain"]
    return gain["low"] > 0 and gain["value"] >= PRACTICAL


def slice_gap(
    bootstrap: Bootstrap,
    bits: Float[Tensor, "S W T"],
    best: Float[Tensor, "S W T"],
    mask: Bool[Tensor, "W T"],
) -> Float[Tensor, " R"]:
    """The distance of a memory to the best on the slice minus that off the slice, in bits per byte.

    The difficulty of the slice's bytes is the same for both and cancels. With a shuffled mask of the same
    size the gap must vanish, which checks that it depends on the bytes of the slice.
    """

    def behind(of: Tensor) -> Tensor:
        return bootstrap.bits_per_byte(bits, of) - bootstrap.bits_per_byte(best, of)

    return behind(mask) - behind(~mask)


def _interval(draws: Float[Tensor, " R"]) -> dict[str, float]:
    return vars(interval(draws))


def _facts(own: Measured, slices: Slices) -> dict[str, Any]:
    """What a memory copies, its sizes, which are the same for all seeds, and how its training went."""
    distilled = own.facts[0].get("distillation")
    return {
        "copy_accuracy": float(own.hits[:, slices.distant].double().mean(1).nan_to_num().mean()),
        "seeds": len(own.bits),
        "learning_rate": own.rate,
        "rate_at_the_edge": own.at_the_edge,
        "parameters": own.facts[0]["parameters"],
        "state_bytes": own.facts[0]["state_bytes"],
        "diverged_at": [facts["diverged_at"] for facts in own.facts],
        # of pretrained models: the last ten losses of the first seed
        "distillation_error": fmean(distilled[-10:]) if distilled else None,
        "validation_curve": own.facts[0]["curve"],
    }


def _power(bootstrap: Bootstrap, measured: Sequence[Measured], mask: Tensor) -> dict[str, Any] | None:
    """What two memories of this comparison must differ by to be told apart: with as many seeds as those that
    were open longest, and with more."""
    spread = bootstrap.spread([m.bits for m in measured], mask)
    means = torch.stack([bootstrap.bits_per_byte(m.bits, mask) for m in measured])
    pairs = [means[i] - means[j] for i in range(len(means)) for j in range(i)]
    if not pairs or not spread.freedom:
        return None
    over_windows = float(torch.stack(pairs)[:, 1:].std(1).mean())
    seeds = max(len(m.bits) for m in measured)

    def found(count: int, freedom: int) -> Power:
        return power(Spread(spread.variance, freedom), over_windows, len(measured), count, PRACTICAL)

    more = {n: found(n, len(measured) * (n - 1)).detectable for n in MORE_SEEDS if n > seeds}
    return {
        "seed_deviation": spread.variance**0.5,
        "window_deviation": over_windows,
        "seeds": seeds,
        **vars(found(seeds, spread.freedom)),
        "more_seeds": [{"seeds": n, "detectable": detectable} for n, detectable in more.items()],
    }


def by_position(measured: Sequence[Measured], sizes: Int[Tensor, "V M"], context: int) -> dict[str, Any]:
    """Bits per byte in longer windows: within the training length, then between every doubling of it."""
    edges = [0, context]
    while edges[-1] < measured[0].long.shape[1]:
        edges.append(min(2 * edges[-1], measured[0].long.shape[1]))
    return {
        "ends": edges[1:],
        "bits_per_byte": {
            m.name: [per_byte(m.long[:, a:b], sizes[:, a:b]) for a, b in zip(edges, edges[1:])]
            for m in measured
        },
    }
