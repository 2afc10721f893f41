"""The settings of a benchmark, as data."""

from __future__ import annotations

import dataclasses
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttr.experiments.errors import UserError


@dataclass(frozen=True)
class BenchSettings:
    """The settings of a benchmark, which are the command line's options.

    Args:
        cases: names or prefixes of names, as ``ttr bench --list`` shows them; none means all.
        engines: our engines to time; none means all that do not refuse.
        lengths: sequence lengths, instead of those of the cases.
        rounds: the wanted number of clean rounds.
        limit: seconds; a contestant that takes longer for one call is left out at greater lengths.
        threads: number of threads for elapsed times; 1 leaves them out.
        onednn: time every row again with float32 products through oneDNN.
        memory: measure peak memory too, each in a separate process.
        quick: short sequences and three rounds, as a smoke test.
    """

    cases: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    rounds: int = 7
    limit: float = 30.0
    threads: int = min(2, os.cpu_count() or 1)
    onednn: bool = False
    memory: bool = True
    quick: bool = False
    out: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        for name in ("rounds", "limit", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        if any(length < 1 for length in self.lengths):
            raise UserError(f"--lengths must be at least 1, not {min(self.lengths)}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the folder of the results."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if name != "out"
        }

    def command(self) -> str:
        """The command line with these settings."""
        default, words = BenchSettings(), ["ttr", "bench", *self.cases]
        for name in ("engines", "lengths", "rounds", "limit", "threads", "out"):
            value = getattr(self, name)
            if value != getattr(default, name):
                words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        return shlex.join(
            words
            + ["--onednn"] * self.onednn
            + ["--no-memory"] * (not self.memory)
            + ["--quick"] * self.quick
        )
