"""The file of a benchmark, bench.json, and the figures computed from it.

    schema          2
    command         the command line; ``settings``: its options
    machine         processor, flags, cores, system, versions, the native kernels (their instruction set, or
                    why there are none),
                    environment variables that matter, git commit, digest of the source
    cases           one each, in the order they were run:
      name, family, direction, shape, curve (the name shared by cases that differ only in T), flops of a call
          and their formula
      rows          contestants: name, side (ours, peer, floor), status (timed, left out, refused, stopped,
          wrong), why (a sentence where it is not timed), seconds (CPU time of the first call, or expected),
          peak (bytes over the inputs, and the mark they were read from, ``ttr.experiments.bench.peak``; null
          where not measured), error ("output" and "gradient of NAME" -> against float64, relative as in
          ``ttr.laws.tolerances``, null where not finite; null where not known), solves (of ours: solver,
          iterations and residual, the largest of a call and its derivative, direct: the share of the rows
          that were solved directly; null where nothing is solved)
      float64       the call that the errors are against: of (who made it), status, why, seconds; null where
          nothing is compared
      passes        one per number of threads: threads, rates (operations per second of products; bytes per
          second of a copy), clean and discarded (numbers of rounds), rounds: others (share of a core that
          other processes had), clean, samples: name -> [CPU seconds of this process, elapsed seconds] a call

All printed figures are computed from these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttr.experiments.bench import machine
from ttr.experiments.bench.rounds import Rounds
from ttr.experiments.bench.settings import BenchSettings
from ttr.experiments.errors import UserError
from ttr.experiments.storage import from_json, make_folder, to_json, write

SCHEMA = 2


class Results:
    """The file, written after every case, so that an interrupted run can continue.

    Raises:
        UserError: if the folder cannot be written, or holds measurements with other arguments or of another
            source or machine.
    """

    def __init__(self, settings: BenchSettings) -> None:
        make_folder(settings.out)
        self.path = settings.out / "bench.json"
        self.held: dict[str, Any] = {
            "schema": SCHEMA,
            "command": settings.command(),
            "settings": settings.to_dict(),
            "machine": machine.facts(),
            "cases": [],
        }
        if self.path.exists():
            self.held["cases"] = self._earlier()

    def _earlier(self) -> list[dict[str, Any]]:
        try:
            before = from_json(self.path.read_bytes())
            differ = [
                key for key, value in self.held["settings"].items() if before["settings"].get(key) != value
            ]
            facts = ("processor", "torch", "transformers", "native", "environment", "source")
            differ += [key for key in facts if before["machine"][key] != self.held["machine"][key]]
            if before["schema"] == SCHEMA and not differ:
                return before["cases"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path} is damaged or was not written by ttr bench. Choose another folder with --out."
            ) from None
        raise UserError(
            f"{self.path} holds measurements that cannot be continued "
            f"({', '.join(differ) or 'schema'} changed). "
            "Choose another folder with --out."
        )

    def finished(self, name: str) -> Mapping[str, Any] | None:
        """The case of that name if it has been measured, else None."""
        return next((case for case in self.held["cases"] if case["name"] == name), None)

    def add(self, case: Mapping[str, Any]) -> None:
        self.held["cases"].append(case)
        write(self.path, to_json(self.held))

    @property
    def cases(self) -> list[Mapping[str, Any]]:
        return self.held["cases"]


@dataclass(frozen=True)
class Figures:
    """The figures of a case."""

    case: Mapping[str, Any]

    @property
    def passes(self) -> list[Rounds]:
        return [Rounds.from_dict(held) for held in self.case["passes"]]

    @property
    def timed(self) -> list[Mapping[str, Any]]:
        return [row for row in self.case["rows"] if row["status"] == "timed"]

    def cpu(self, name: str) -> dict[str, float]:
        """CPU seconds of a call with one thread: median and range."""
        return self.passes[0].spread(name, "cpu")

    def wall(self, name: str) -> dict[str, float] | None:
        """Elapsed seconds of a call with several threads; None if not measured, or if the machine was busy
        with other work."""
        several = [rounds for rounds in self.passes if rounds.threads > 1 and rounds.mostly_clean]
        return several[0].spread(name, "wall") if several else None

    def error(self, row: Mapping[str, Any], part: str) -> float | None:
        """The largest error against float64 of the "output" or of any "gradient"; None if none is known,
        infinite if one is not finite."""
        found = [error for what, error in (row["error"] or {}).items() if what.startswith(part)]
        return math.inf if None in found else max(found, default=None)

    def rate(self, name: str) -> float:
        """Operations per second of CPU time with one thread."""
        return self.case["flops"] / self.cpu(name)["median"]

    def share(self, name: str) -> float:
        """The rate relative to that of the large product in the same run."""
        return self.rate(name) / self.case["passes"][0]["rates"][next(iter(machine.PRODUCTS))]


def load(path: Path) -> dict[str, Any]:
    """The content of bench.json."""
    return from_json(path.read_bytes())
