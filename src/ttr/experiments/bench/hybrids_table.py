"""Models of transformers before and after ``accelerate``: exactness and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ttr.experiments.bench.hybrids import FAMILIES, SMALL, TINY, build
from ttr.experiments.bench.machine import facts
from ttr.experiments.bench.models import CACHES

PREFILL, TRAINING, DECODED, BEFORE = 2048, 1024, 16, 64
"""Tokens of a prompt, of a training step, and decoded one by one after so many others."""

CUTS = (0, 11, 40, 100)

Side = Callable[[nn.Module], nn.Module]


def table(families: Sequence[str], rounds: int, out: Path, console: Console) -> str:
    """The page of the table, also written to ``out``: one row for each family, as they are measured."""
    torch.set_num_threads(1)
    lines = [*_head(), *_shown((_row(family, rounds) for family in families or FAMILIES), console)]
    page = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "hybrids.md").write_text(page)
    return page


def _shown(rows: Iterator[str], console: Console) -> Iterator[str]:
    for row in rows:
        console.print(row, highlight=False, soft_wrap=True)
        yield row


def _head() -> list[str]:
    machine = facts()
    return [
        "# Models of transformers, accelerated",
        "",
        f"Random models of {SMALL.layers} layers, the last one attention where the family has it, hidden "
        f"size {SMALL.hidden}, recurrent heads of {SMALL.channels} channels, float32, batch 1. CPU time of "
        "one thread, before -> after `accelerate`, medians of interleaved rounds. Errors are of tiny models, "
        "against transformers and relative to the largest number; packed: against the sequences alone, or "
        "what transformers does. Written by `ttr bench --hybrids` on "
        f"{machine['processor']}, torch {machine['torch']}, transformers {machine['transformers']}.",
        "",
        f"| model | logits | gradients | packed: before, after | prefill of {PREFILL:,} tokens, tokens/s | "
        f"training step of {TRAINING:,}, tokens/s | decoding, tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]


def _row(family: str, rounds: int) -> str:
    from ttr.integrations.transformers import accelerate, restore

    sides: dict[str, Side] = {"before": restore, "after": accelerate}
    small = build(family, TINY)
    logits, gradients = (_differs(small, sides, what) for what in (_logits, _gradients))
    packed = [_packed(side(small)) for side in sides.values()]
    restore(small)
    model, tokens = build(family, SMALL), {"prefill": PREFILL, "training": TRAINING, "decoding": DECODED}
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, side in sides.items():
            for work, seconds in _timed(side(model)).items():
                if number:  # the first round warms up
                    times.setdefault((work, name), []).append(seconds)
    cells = []
    for work, count in tokens.items():
        before, after = (statistics.median(times[work, name]) for name in sides)
        cells.append(f"{count / before:,.0f} -> {count / after:,.0f} ({before / after:.2f}x)")
    return f"| {family} | {logits:.1e} | {gradients:.1e} | {', '.join(packed)} | {' | '.join(cells)} |"


def _ids(length: int, vocabulary: int) -> Tensor:
    return torch.randint(3, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))


def _differs(model: nn.Module, sides: Mapping[str, Side], what: Callable[[nn.Module], Tensor]) -> float:
    before, after = (what(side(model)) for side in sides.values())
    return ((after - before).abs().max() / before.abs().max()).item()


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    return model(_ids(CUTS[-1], TINY.vocabulary)).logits


def _gradients(model: nn.Module) -> Tensor:
    ids = _ids(CUTS[-1], TINY.vocabulary)
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@torch.no_grad()
def _packed(model: nn.Module) -> str:
    """How far sequences packed with ``cu_seq_lens_q`` are from each alone."""
    ids, bounds = _ids(CUTS[-1], TINY.vocabulary), torch.tensor(CUTS, dtype=torch.int32)
    parts = [slice(*ends) for ends in pairwise(CUTS)]
    positions = torch.cat([torch.arange(part.stop - part.start) for part in parts])[None]
    alone = torch.cat([model(ids[:, part]).logits for part in parts], dim=1)
    named: dict[str, Any] = {"position_ids": positions} if "mamba" not in type(model).__name__.lower() else {}
    longest = int(bounds.diff().max())
    lengths = {"cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest, "use_cache": False}
    try:
        found = model(ids, cu_seq_lens_q=bounds, **lengths, **named).logits
    except (TypeError, ValueError):
        return "refused"
    difference = ((found - alone).abs().max() / alone.abs().max()).item()
    return f"{difference:.0e}" if difference < 1e-4 else f"mixed ({difference:.1g})"


def _timed(model: nn.Module) -> dict[str, float]:
    """CPU seconds of each kind of work."""
    ids = _ids(PREFILL, SMALL.vocabulary)

    def train() -> None:
        model.train()
        model(ids[:, :TRAINING], labels=ids[:, :TRAINING], use_cache=False).loss.backward()
        model.zero_grad()
        model.eval()

    with torch.no_grad():
        start = model(ids[:, :BEFORE], use_cache=True)
        cache = {name: found for name in CACHES if (found := getattr(start, name, None)) is not None}
        model(ids[:, :1], use_cache=True, **cache)
        return {
            "prefill": _clock(lambda: model(ids, use_cache=True)),
            "decoding": _clock(
                lambda: [model(ids[:, t : t + 1], use_cache=True, **cache) for t in range(DECODED)]
            ),
            "training": _clock(torch.enable_grad()(train)),
        }


def _clock(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start
