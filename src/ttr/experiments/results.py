"""Computes the figures and sentences of the report from the bits of every byte, by pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.experiments.references import UNIGRAM, Reference
from ttr.experiments.statistics import Bootstrap, interval
from ttr.tasks.text import shuffled

MEASURES = {"all": "all bytes", "recall": "recall slice", "other": "off the slice"}
"""The three sets of bytes for which bits per byte are reported."""

PRACTICAL = 0.02
"""Bits per byte below which a difference does not matter in practice."""


@dataclass(frozen=True)
class Measured:
    """One memory's runs at its chosen rate, one per seed: bits [S,W,T] of every validation byte, the same
    with the first half of the window replaced, and the facts of each run."""

    name: str
    bits: Float[Tensor, "S W T"]
    replaced: Float[Tensor, "S W T"]
    facts: Sequence[Mapping[str, Any]]


def summarise(
    measured: Sequence[Measured],
    references: Sequence[Reference],
    speeds: Mapping[str, Mapping[str, Any]],
    mask: Bool[Tensor, "W T"],
    distant: Bool[Tensor, "W T"],
    resamples: int,
) -> dict[str, Any]:
    """The figures of every memory, best first: intervals, distances to the best and to the references, what
    it recalls, speeds and sizes.

    ``speeds`` are those of every memory by name; ``references`` are the byte frequencies, the best n-gram,
    and that with a cache of the window; ``mask`` is the recall slice and ``distant`` its bytes that can be
    looked up in the first half of the window alone.

    Returns a JSON-ready dict: "memories" (one dict each, by bits per byte over all bytes), "references" (less
    of it, in their order), "best" (name per measure), "recall_slice" (its bytes and share).
    """
    bootstrap, bits = Bootstrap.draw(len(mask), resamples), {m.name: m.bits for m in measured}
    draws, gains = _drawn(bootstrap, measured, references, mask, distant)
    order = sorted((m.name for m in measured), key=lambda name: float(draws[name]["all"][0]))
    best = {measure: min(order, key=lambda name: float(draws[name][measure][0])) for measure in MEASURES}
    facts = {m.name: m.facts for m in measured}
    chance = shuffled(mask, seed=0)

    def of_any(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "bits_per_byte": {measure: _interval(d) for measure, d in draws[name].items()},
            "recall_gain": _interval(gains[name]),
        }

    def row(name: str) -> dict[str, Any]:
        own = {
            "behind_best": {
                measure: _interval(d - draws[best[measure]][measure]) for measure, d in draws[name].items()
            },
            "recall_behind": {
                other: _interval(draws[name]["recall"] - draws[other]["recall"])
                for other in order
                if other != name
            },
            "under_unigram": _interval(draws[UNIGRAM]["all"] - draws[name]["all"]),
            "behind_ngram": _interval(draws[name]["all"] - draws[references[1].name]["all"]),
            "slice_gap": _interval(slice_gap(bootstrap, bits[name], bits[best["recall"]], mask)),
            "slice_gap_of_shuffled_mask": _interval(
                slice_gap(bootstrap, bits[name], bits[best["recall"]], chance)
            ),
        }
        return of_any(name) | own | _costs(facts[name]) | speeds[name]

    return {
        "best": best,
        "memories": [row(name) for name in order],
        "references": [of_any(reference.name) for reference in references],
        "recall_slice": _counts(mask, distant),
    }


def _drawn(
    bootstrap: Bootstrap,
    measured: Sequence[Measured],
    references: Sequence[Reference],
    mask: Bool[Tensor, "W T"],
    distant: Bool[Tensor, "W T"],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Of every memory and reference by name: the resamples [R] of its bits per byte, by measure, and of its
    recall gain. Memories vary with the seed, references do not."""
    masks = {"all": torch.ones_like(mask), "recall": mask, "other": ~mask}

    def resampled(field: Callable[[Measured | Reference], Tensor], of: Tensor) -> dict[str, Tensor]:
        varying = bootstrap.with_seeds({m.name: field(m) for m in measured}, of)
        return varying | {r.name: bootstrap.bits_per_byte(field(r)[None], of) for r in references}

    by_measure = {measure: resampled(lambda each: each.bits, of) for measure, of in masks.items()}
    gains = resampled(lambda each: each.replaced - each.bits, distant)
    return {name: {measure: by_measure[measure][name] for measure in MEASURES} for name in gains}, gains


def _counts(mask: Bool[Tensor, "W T"], distant: Bool[Tensor, "W T"]) -> dict[str, Any]:
    return {
        "bytes": int(mask.sum()),
        "share": float(mask.double().mean()),
        "distant_bytes": int(distant.sum()),
        "validation_windows": len(mask),
        "validation_bytes": mask.numel(),
    }


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
    behind = bits - best
    return bootstrap.bits_per_byte(behind, mask) - bootstrap.bits_per_byte(behind, ~mask)


def _interval(draws: Float[Tensor, " R"]) -> dict[str, float]:
    return dataclasses.asdict(interval(draws))


def _costs(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sizes, which are the same for all seeds, and how the training went."""
    shared = {
        key: facts[0][key]
        for key in ("parameters", "mlp_width", "learning_rate", "tuning_bits_per_byte", "state_bytes")
    }
    steps = min(len(f["loss"]) for f in facts)
    loss = torch.tensor([f["loss"][:steps] for f in facts]).mean(0).tolist()
    return shared | {"diverged_at": [f["diverged_at"] for f in facts], "training_loss": loss}


def separable(memory: Mapping[str, Any], measure: str) -> bool:
    """Whether the distance to the best is above zero by its interval, and more than ``PRACTICAL``."""
    behind = memory["behind_best"][measure]
    return behind["low"] > 0 and behind["value"] >= PRACTICAL


def recalls(row: Mapping[str, Any]) -> bool:
    """Whether the first half of the window helps on the bytes that can be looked up there."""
    gain = row["recall_gain"]
    return gain["low"] > 0 and gain["value"] >= PRACTICAL


def conclusion(results: Mapping[str, Any]) -> list[str]:
    """The figures in sentences."""
    rows = {row["name"]: row for row in results["memories"]}
    best = rows[results["best"]["all"]]
    failed = [name for name, row in rows.items() if row["under_unigram"]["low"] <= 0]
    sentences = [
        _ahead(rows, best["name"], "all", _praise(best, results["references"][1])),
        *_recall(results, rows),
    ]
    # if the best memory learned nothing, this comes first
    sentences.insert(0 if best["name"] in failed else len(sentences), _learned(rows, failed))
    for name, row in rows.items():
        steps = [step for step in row["diverged_at"] if step is not None]
        if steps:
            sentences.append(
                f"{name} diverged at step {min(steps)}; its figures are those of its last finite "
                "parameters. Try --tune-lr."
            )
    return sentences


def _praise(best: Mapping[str, Any], ngram: Mapping[str, Any]) -> str:
    """What can be said of the best memory beside the best n-gram."""
    behind, name = best["behind_ngram"], ngram["name"]
    if behind["high"] < 0:
        gain = f"{-behind['value']:.2f} bits per byte better than a {name} of the same bytes"
        return f"predicts this text best, {gain}"
    worse = f"{max(behind['value'], 0.0):.2f} bits per byte behind a {name} of the same bytes"
    return f"is ahead at this budget, but no memory predicts better than counting yet: it is {worse}"


def _ahead(rows: Mapping[str, Any], best: str, measure: str, praise: str) -> str:
    sentence = f"{best} {praise} ({bpb(rows[best]['bits_per_byte'][measure])} bits per byte)"
    distance = {name: row["behind_best"][measure]["value"] for name, row in rows.items()}
    equal = [name for name, row in rows.items() if name != best and not separable(row, measure)]
    worse = sorted((name for name, row in rows.items() if separable(row, measure)), key=distance.get)
    if equal:
        sentence += f"; {_list(equal)} cannot be distinguished from it"
    if worse:
        sentence += "; behind it " + _list([f"{name} by {distance[name]:.2f}" for name in worse])
    return sentence + "."


def _recall(results: Mapping[str, Any], rows: Mapping[str, Any]) -> list[str]:
    """Who recalls from the first half of the window, and who does so best; nobody is the best where none
    recalls."""
    able = {name: row["recall_gain"] for name, row in rows.items() if recalls(row)}
    cache = results["references"][-1]
    possible = f"; {cache['name']} gains {cache['recall_gain']['value']:.2f}"
    if not able:
        return [
            "No memory recalls yet at this budget: replacing the first half of the window costs none of them "
            f"{PRACTICAL} bits, beyond its interval, on the bytes that could be looked up there{possible}."
        ]
    gains = _list(
        [
            f"{name} {gain['value']:.2f}"
            for name, gain in sorted(able.items(), key=lambda item: -item[1]["value"])
        ]
    )
    sentences = [
        f"The first half of the window saves, per byte that can be looked up there: {gains} bits{possible}."
    ]
    best = results["best"]["recall"]
    if best in able:
        sentences += [_ahead(rows, best, "recall", "is best on the recall slice"), *_smaller(rows, best)]
    return sentences


def _smaller(rows: Mapping[str, Any], best: str) -> list[str]:
    """The memory nearest to the best recall among those with at most half its state, if there is one."""
    smaller = [row for row in rows.values() if row["state_bytes"] <= rows[best]["state_bytes"] / 2]
    if not smaller:
        return []
    nearest = min(smaller, key=lambda row: row["behind_best"]["recall"]["value"])
    share, distance = (
        nearest["state_bytes"] / rows[best]["state_bytes"],
        nearest["behind_best"]["recall"]["value"],
    )
    return [
        f"Of those with at most half its state, {nearest['name']} comes nearest to it there: "
        f"{distance:.2f} bits behind "
        f"with {share:.0%} of its bytes."
    ]


def _learned(rows: Mapping[str, Any], failed: Sequence[str]) -> str:
    if failed:
        verb, them = ("is", "it") if len(failed) == 1 else ("are", "them")
        return (
            f"{_list(failed)} {verb} no better than the byte frequencies: this training did not work for "
            f"{them}. Try more --steps, or --tune-lr."
        )
    least = min(row["under_unigram"]["value"] for row in rows.values())
    return f"All are at least {least:.2f} bits per byte better than the frequencies of the bytes alone."


def bpb(interval: Mapping[str, float]) -> str:
    """An interval as text: 2.312 [2.281, 2.345]."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
