"""The tables of docs/ that are made from the code: ``python -m ttr.documentation docs`` (``make docs``)."""

from __future__ import annotations

import sys
from pathlib import Path

import ttr
from ttr.backends import BACKENDS
from ttr.dispatch import refusal
from ttr.explain import STATE


def coverage() -> str:
    """The matrix backend x catalogue: which runs what, and each refusal as a footnote."""
    reasons: list[str] = []
    rows = []
    for name, entry in ttr.catalogue.items():
        cells = []
        for backend in BACKENDS:
            reason = refusal(backend, entry.problem)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append("runs" if reason is None else f"[{reasons.index(reason) + 1}]")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    head = f"| entry | {' | '.join(backend.name for backend in BACKENDS)} |\n|---|{'---|' * len(BACKENDS)}"
    notes = "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))
    return f"{_title('Which backend runs which layer')}{head}\n" + "\n".join(rows) + f"\n\nWhy a backend refuses:\n\n{notes}\n"


def layers() -> str:
    """The table of named layers: the three choices, what they keep, and their sources."""
    rows = []
    for name, entry in ttr.catalogue.items():
        p = entry.problem
        choices = " | ".join(f"`{part!r}`" for part in (p.weights, p.function, p.solver))
        rows.append(f"| `{name}` | {choices} | {p.memory} | {entry.source}, arXiv {entry.arxiv} ({entry.year}) | {entry.verified} |")
    head = "| entry | weights | function | solver | memory | source | verified against |\n|---|---|---|---|---|---|---|"
    kinds = "\n".join(f"- {kind}: {text[0].format(normalizer='', slots='of every token or of a window')}" for kind, text in STATE.items())
    return f"{_title('The named layers')}{head}\n" + "\n".join(rows) + f"\n\nWhat a memory keeps:\n\n{kinds}\n"


def _title(title: str) -> str:
    return f"# {title}\n\nMade by `make docs` from the code; a test keeps it current.\n\n"


PAGES = {"coverage.md": coverage, "layers.md": layers}

if __name__ == "__main__":
    for page, text in PAGES.items():
        path = Path(sys.argv[1]) / page
        path.write_text(text())
        print(f"wrote {path}")
