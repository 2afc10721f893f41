"""Computes the figures and sentences of the report from the bits of every byte, by pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttr.experiments.statistics import Bootstrap, interval
from ttr.tasks.text import shuffled

MEASURES = {"all": "all bytes", "recall": "recall slice", "other": "off the slice"}
"""The three sets of bytes for which bits per byte are reported."""

UNIGRAM = "byte-unigram"


@dataclass(frozen=True)
class Measured:
    """One memory's runs at its chosen rate, one per seed: bits [S,W,T] of every validation byte, and the
    facts of each run."""

    name: str
    bits: Float[Tensor, "S W T"]
    facts: Sequence[Mapping[str, Any]]


def summarise(
    measured: Sequence[Measured], unigram: Float[Tensor, "W T"], mask: Bool[Tensor, "W T"], resamples: int
) -> dict[str, Any]:
    """The figures of every memory, best first: intervals, distances to the best, speeds, sizes, and the
    reference.

    Returns a JSON-ready dict: "memories" (one dict each, by bits per byte over all bytes), "reference" (the
    byte unigram), "best" (name per measure), "recall_slice" (its bytes and share).
    """
    seeds = len(measured[0].facts)
    bootstrap = Bootstrap.draw(len(mask), seeds, resamples)
    masks = {"all": torch.ones_like(mask), "recall": mask, "other": ~mask}
    bits = {m.name: m.bits for m in measured} | {UNIGRAM: unigram.expand(seeds, -1, -1)}
    draws = {
        name: {measure: bootstrap.bits_per_byte(b, masks[measure]) for measure in MEASURES}
        for name, b in bits.items()
    }
    order = sorted((m.name for m in measured), key=lambda name: float(draws[name]["all"][0]))
    best = {measure: min(order, key=lambda name: float(draws[name][measure][0])) for measure in MEASURES}
    facts = {m.name: m.facts for m in measured}
    chance = shuffled(mask, seed=0)

    def row(name: str) -> dict[str, Any]:
        own = {
            "bits_per_byte": {measure: _interval(d) for measure, d in draws[name].items()},
            "behind_best": {
                measure: _interval(d - draws[best[measure]][measure]) for measure, d in draws[name].items()
            },
            "recall_behind": {
                other: _interval(draws[name]["recall"] - draws[other]["recall"])
                for other in order
                if other != name
            },
            "under_unigram": _interval(draws[UNIGRAM]["all"] - draws[name]["all"]),
            "slice_gap": _interval(slice_gap(bootstrap, bits[name], bits[best["recall"]], mask)),
            "slice_gap_of_shuffled_mask": _interval(
                slice_gap(bootstrap, bits[name], bits[best["recall"]], chance)
            ),
        }
        return {"name": name} | own | _costs(facts[name])

    return {
        "best": best,
        "memories": [row(name) for name in order],
        "reference": {
            "name": UNIGRAM,
            "bits_per_byte": {measure: _interval(d) for measure, d in draws[UNIGRAM].items()},
        },
        "recall_slice": {
            "bytes": int(mask.sum()),
            "share": float(mask.double().mean()),
            "validation_windows": len(mask),
            "validation_bytes": mask.numel(),
        },
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
    """Sizes, which are the same for all seeds, and median speeds over seeds."""
    shared = {
        key: facts[0][key] for key in ("parameters", "mlp_width", "tuning_bits_per_byte", "state_bytes")
    }
    shared["learning_rate"] = facts[0]["run"]["learning_rate"]
    speeds = {
        key: median(f[key] for f in facts)
        for key in ("training_tokens_per_second", "decoding_tokens_per_second")
    }
    steps = min(len(f["loss"]) for f in facts)
    loss = torch.tensor([f["loss"][:steps] for f in facts]).mean(0).tolist()
    return shared | speeds | {"diverged_at": [f["diverged_at"] for f in facts], "training_loss": loss}


def separable(memory: Mapping[str, Any], measure: str) -> bool:
    """Whether the interval of the distance to the best excludes zero; the best itself is not."""
    behind = memory["behind_best"][measure]
    return behind["low"] > 0


def conclusion(results: Mapping[str, Any]) -> list[str]:
    """The conclusions from the figures, in sentences."""
    rows = {row["name"]: row for row in results["memories"]}
    best = results["best"]
    sentences = [
        _winner(rows, best["all"], "all", "predicts this text best"),
        _winner(rows, best["recall"], "recall", "is best on the recall slice"),
        *_smaller(rows, best["recall"]),
    ]
    failed = [name for name, row in rows.items() if row["under_unigram"]["low"] <= 0]
    # the failure comes first if even the best memory has learned nothing
    sentences.insert(0 if best["all"] in failed else len(sentences), _learned(rows, failed))
    for name, row in rows.items():
        steps = [step for step in row["diverged_at"] if step is not None]
        if steps:
            sentences.append(
                f"{name} diverged at step {min(steps)}; its figures are those of its last finite "
                "parameters. Try --tune-lr."
            )
    return sentences


def _winner(rows: Mapping[str, Any], best: str, measure: str, praise: str) -> str:
    sentence = f"{best} {praise} ({bpb(rows[best]['bits_per_byte'][measure])} bits per byte)"
    distance = {name: row["behind_best"][measure]["value"] for name, row in rows.items()}
    equal = [name for name, row in rows.items() if name != best and not separable(row, measure)]
    worse = sorted((name for name, row in rows.items() if separable(row, measure)), key=distance.get)
    if equal:
        sentence += f"; {_list(equal)} cannot be distinguished from it"
    if worse:
        sentence += "; behind it " + _list([f"{name} by {distance[name]:.2f}" for name in worse])
    return sentence + "."


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
