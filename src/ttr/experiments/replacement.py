"""What it costs to put memories in place of the attention of a pretrained model, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ttr.experiments.results import better, relation
from ttr.experiments.words import bpb, listed, size

SMALLER = 0.9
"""The share of the unchanged model's state up to which a state is called smaller."""


def replacement(
    results: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], best: Mapping[str, Any]
) -> list[str]:
    """A sentence about the memory that predicts best, and one about the best of those that make the state
    smaller, if that is another one."""
    unchanged = results["references"][-1]
    smaller = [row for row in rows.values() if row["state_bytes"] <= SMALLER * unchanged["state_bytes"]]
    least = min(smaller, key=lambda row: row["bits_per_byte"]["all"]["value"], default=None)
    sentences = [f"Replacing {replaced(results)} by {best['name']} {_in_all(best, unchanged, results)}."]
    if least is None:
        sentences.append("No memory makes the state of the model smaller.")
    elif least is not best:
        sentences.append(
            f"Of the memories that make the state smaller, {least['name']} predicts best: it "
            f"{_in_all(least, unchanged, results)}."
        )
    return sentences


def replaced(results: Mapping[str, Any]) -> str:
    """The layers that were converted, in words."""
    start = results["start"]
    layers = "layers " if len(start["converted"]) > 1 else "layer "
    return f"the attention of {layers}{listed(list(map(str, start['converted'])))} (of {start['layers']})"


def _in_all(row: Mapping[str, Any], unchanged: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What a memory costs, and what it saves."""
    times = {
        kind: f"{row[key] / unchanged[key]:.1f} times"
        for kind, key in (
            ("decodes", "decoding_tokens_per_second"),
            ("reads", "prefill_tokens_per_second"),
        )
    }
    doubt = ", by speeds that other programs disturbed" * (row["disturbed"] or unchanged["disturbed"])
    return (
        f"{_costs(row['behind_reference'], results)}; behind {results['state_after']:,} "
        f"{results['tokens']['unit']} the model decodes {times['decodes']} and reads {times['reads']} as fast"
        f"{doubt}, with a state of {size(row['state_bytes'])} instead of {size(unchanged['state_bytes'])}"
    )


def _costs(behind: Mapping[str, float], results: Mapping[str, Any]) -> str:
    """The distance to the unchanged model that was trained on the text alike, as what was found."""
    nats = behind["value"] * results["tokens"]["bytes_per_token"] * math.log(2)
    found = f"{bpb(behind)} bits per byte ({nats:.3f} nats per {results['tokens']['unit'].removesuffix('s')})"
    if better(behind):
        return f"does not cost, but gains on this text: {found} against the unchanged model, trained alike"
    return {
        "behind": f"costs {found} of this text against the unchanged model, trained alike",
        "equal": f"costs nothing that matters in practice on this text: {found} against the unchanged model, "
        "trained alike",
        "open": f"is not told apart from the unchanged model, trained alike, on this text: {found}",
    }[relation(behind)]
