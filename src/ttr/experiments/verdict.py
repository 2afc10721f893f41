"""The figures of a comparison in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttr.experiments.replacement import replacement
from ttr.experiments.results import FINE, PRACTICAL, better, recalls, relation
from ttr.experiments.words import bpb, listed, size

Rows = Mapping[str, Mapping[str, Any]]


def conclusion(results: Mapping[str, Any]) -> list[str]:
    """The verdict, the most important sentence first."""
    rows = {row["name"]: row for row in results["memories"]}
    best = rows[results["best"]["all"]]
    failed = [name for name, row in rows.items() if row["under_unigram"]["low"] <= 0]
    pretrained = results["start"]["pretrained"]
    sentences = [
        *(replacement(results, rows, best) if pretrained else ()),
        _order(rows, best["name"], results["timed"]),
        *_power(rows, results),
        *(() if pretrained and best["behind_ngram"]["high"] < 0 else (_counting(best, results),)),
        *(() if pretrained else (_plain(best),)),
        *_recall(results, rows),
        *_crossings(results),
        *_published(results),
    ]
    # if the best memory learned nothing, this comes first
    sentences.insert(0 if best["name"] in failed else len(sentences), _learned(rows, failed))
    return [*sentences, *_training(rows), *results["cautions"]]


def _order(rows: Rows, best: str, timed: bool) -> str:
    """Who is ahead of whom, and by how much; nobody is ahead of memories that are equal or undecided."""
    behind = {name: row["behind_best"]["all"] for name, row in rows.items() if name != best}
    kinds = {
        kind: sorted((n for n in behind if relation(behind[n]) == kind), key=lambda n: behind[n]["value"])
        for kind in ("behind", "equal", "open")
    }
    spent = f"{bpb(rows[best]['bits_per_byte']['all'])} bits per byte"
    equal = f"{listed(kinds['equal'])} {_be(kinds['equal'])} equal to it for practical purposes"
    undecided = f"{listed(kinds['open'])} {_be(kinds['open'])} not told apart from it"
    undecided += " in this time" * timed
    parts = [words for words, kind in ((equal, "equal"), (undecided, "open")) if kinds[kind]]
    if not behind:
        return f"{best} spends {spent}."
    if not kinds["behind"]:
        return (
            f"No memory is ahead of the others. The least figure is that of {best}, {spent}; "
            + "; ".join(parts)
            + "."
        )
    ahead = listed([f"{name} by {bpb(behind[name])}" for name in kinds["behind"]])
    return "; ".join([f"{best} ({spent}) is ahead of {ahead}", *parts]) + "."


def _power(rows: Rows, results: Mapping[str, Any]) -> list[str]:
    """Which differences could have been found, if some were not, and what finds smaller ones."""
    power = results["power"]
    if power is None or all(relation(row["behind_best"]["all"]) != "open" for row in rows.values()):
        return []
    found = (
        f"With {power['seeds']} seeds a difference of {power['detectable']:.2f} bits is found in four of "
        "five cases"
    )
    enough = next((row for row in power["more_seeds"] if row["detectable"] <= FINE), None)
    if power["detectable"] <= FINE or enough is None:
        return [found + "; smaller ones take more --time."]
    options = f"--seeds {enough['seeds']} --steps {results['budget']['steps']}"
    return [f"{found}; {FINE} bits take {enough['seeds']} ({options}){in_all(enough)}."]


def in_all(row: Mapping[str, Any]) -> str:
    """How long more seeds take, if it is known."""
    return "" if row["seconds"] is None else f", about {row['seconds'] / 60:.0f} minutes in all"


def _counting(best: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The best memory beside the best n-gram. Only one that predicts better than counting suits a text."""
    behind, ngram = best["behind_ngram"], results["references"][1]["name"]
    if behind["high"] < 0:
        return (
            f"{best['name']} predicts this text better than a {ngram} of the same bytes, by "
            f"{-behind['value']:.2f} bits per byte."
        )
    sentence = (
        f"No memory predicts better than counting yet: {best['name']} is {max(behind['value'], 0.0):.2f} "
        f"bits per byte behind a {ngram} of the same {size(results['budget']['bytes'])}"
    )
    until = results["until_counting"]
    if until["value"] is None:
        return sentence + ", and by its curve the distance does not shrink."
    to = f"to {size(until['high'])}" if until["high"] else "or far more"
    least = until["low"] or until["value"]
    return (
        sentence + f"; by its curve it takes about {size(until['value'])} ({size(least)} {to}) to draw level."
    )


def _plain(best: Mapping[str, Any]) -> str:
    behind = best["behind_reference"]
    word = {"behind": "worse than", "equal": "no worse than", "open": "not told apart from"}[relation(behind)]
    if better(behind):
        word = "better than"
    difference = f" (by {abs(behind['value']):.2f} bits)" if word in ("better than", "worse than") else ""
    return f"It is {word} a plain transformer of the same size, trained alike{difference}."


def _recall(results: Mapping[str, Any], rows: Rows) -> list[str]:
    """Who recalls from the first half of the window, and who does so best; nobody is the best where none
    recalls."""
    able = {name: row["recall_gain"]["value"] for name, row in rows.items() if recalls(row)}
    cache = results["references"][2]
    possible = f"; {cache['name']} gains {cache['recall_gain']['value']:.2f}"
    if not able:
        return [
            "No memory recalls yet at this budget: replacing the first half of the window costs none of them "
            f"{PRACTICAL} bits, beyond its interval, on the bytes that could be looked up there{possible}. "
            "`ttr recall` trains them on records that can be recalled."
        ]
    gains = listed([f"{name} {able[name]:.2f}" for name in sorted(able, key=able.get, reverse=True)])
    sentences = [
        f"The first half of the window saves, per byte that can be looked up there: {gains} bits{possible}."
    ]
    best = results["best"]["recall"]
    if best not in able:
        return sentences
    equal = [n for n, row in rows.items() if n != best and relation(row["behind_best"]["recall"]) != "behind"]
    least = bpb(rows[best]["bits_per_byte"]["recall"])
    told = f"; {listed(equal)} {_be(equal)} not told apart from it there" if equal else ""
    return [
        *sentences,
        f"{best} spends least on the recall slice, {least} bits per byte{told}.",
        *_smaller(rows, best),
    ]


def _smaller(rows: Rows, best: str) -> list[str]:
    """The memory nearest to the best recall among those with at most half its state, if there is one."""
    smaller = [row for row in rows.values() if row["state_bytes"] <= rows[best]["state_bytes"] / 2]
    if not smaller:
        return []
    nearest = min(smaller, key=lambda row: row["behind_best"]["recall"]["value"])
    share = nearest["state_bytes"] / rows[best]["state_bytes"]
    return [
        f"Of those with at most half its state, {nearest['name']} comes nearest to it there: "
        f"{nearest['behind_best']['recall']['value']:.2f} bits behind with {share:.0%} of its bytes."
    ]


def _crossings(results: Mapping[str, Any]) -> list[str]:
    """Pairs whose order a longer training turned round."""
    pairs = [f"{before} was ahead of {now}" for before, now in results["crossings"]]
    if not pairs:
        return []
    return [
        f"In the shorter runs {listed(pairs)}, and is behind now: the curves cross, so a longer --time may "
        "end otherwise."
    ]


def _published(results: Mapping[str, Any]) -> list[str]:
    if "published" not in results:
        return []
    rows = {row["name"]: row for row in results["published"]["memories"]}
    return [
        "In the layers as published: " + _order(rows, results["published"]["best"]["all"], results["timed"])
    ]


def _learned(rows: Rows, failed: Sequence[str]) -> str:
    if failed:
        them = "it" if len(failed) == 1 else "them"
        return (
            f"{listed(failed)} {_be(failed)} no better than the byte frequencies: this training did not work "
            f"for {them}. Give it more --time, or another --lr."
        )
    least = min(row["under_unigram"]["value"] for row in rows.values())
    return f"All are at least {least:.2f} bits per byte better than the frequencies of the bytes alone."


def _training(rows: Rows) -> list[str]:
    """What went wrong, or may have, in the training."""
    sentences = []
    for name, row in rows.items():
        steps = [step for step in row["diverged_at"] if step is not None]
        if steps:
            sentences.append(
                f"{name} diverged at step {min(steps)}; its figures are those of its last finite parameters. "
                "Try a smaller --lr."
            )
    edge = [f"{name} ({row['learning_rate']:g})" for name, row in rows.items() if row["rate_at_the_edge"]]
    if edge:
        sentences.append(
            f"The best learning rate lies at the edge of those tried for {listed(edge)}: one beyond may be "
            "better."
        )
    return sentences


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
