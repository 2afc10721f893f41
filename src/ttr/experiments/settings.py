"""The settings of a comparison, as data."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttr.experiments.errors import UserError

LAYERS = (
    "softmax-attention-qknorm",
    "linear-attention",
    "gated-deltanet",
    "mesanet",
    "local-linear-attention",
)


@dataclass(frozen=True)
class Recipe:
    """How a model is built, trained and judged; ``width`` is the model's, ``context`` and ``ngram`` count
    bytes. It was chosen so that the default comparison takes about four minutes on two CPU cores."""

    steps: int = 400
    width: int = 64
    context: int = 256
    batch: int = 8

    depth: int = 2
    head_size: int = 32
    mlp_ratio: float = 2.0
    warmup: float = 0.1
    final_rate: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ngram: int = 4
    evaluation_windows: int = 256
    checkpoint_every: int = 25


@dataclass(frozen=True)
class CompareSettings(Recipe):
    """What to compare, on what, and the recipe; two runs with equal settings give equal results.

    ``files`` empty means Python's own standard library. ``memory`` is a Python file that defines ``memory``
    or ``memories``; it is executed. ``jobs`` processes of one thread each do the work, without influence on
    the results, or the Ray cluster at the address ``ray``. ``rounds`` of all memories measure the speeds.
    """

    files: tuple[Path, ...] = ()
    layers: tuple[str, ...] = LAYERS
    memory: Path | None = None
    out: Path = Path("runs/compare")
    jobs: int = 1
    ray: str | None = None
    seed: int = 0
    seeds: int = 2
    tune_lr: bool = False
    as_published: bool = False

    learning_rate: float = 8e-3
    tuning_factors: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    rounds: int = 5
    resamples: int = 2000

    def __post_init__(self) -> None:
        for name in ("steps", "width", "context", "batch", "seeds", "jobs"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}.")
        if self.seed + self.seeds > 2**63:
            raise UserError(
                "--seed plus --seeds must be at most 2**63, the number of seeds, not "
                f"{self.seed + self.seeds}."
            )
        if self.width % self.head_size:
            raise UserError(
                f"--width must be a multiple of {self.head_size}, the size of a head, not {self.width}."
            )
        if self.context <= self.ngram:
            raise UserError(
                f"--context must be more than {self.ngram}, the length of the n-grams of the "
                f"recall slice, not {self.context}."
            )
        if not self.layers and self.memory is None:
            raise UserError(
                "There is nothing to compare. Name memories with --layers, or a file that "
                "defines one with --memory."
            )

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates every memory is trained with; the best on the tuning split is reported."""
        factors = self.tuning_factors if self.tune_lr else (1.0,)
        return tuple(float(f"{self.learning_rate * factor:.3g}") for factor in factors)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    def recipe(self) -> dict[str, Any]:
        """The fields of ``Recipe``, JSON-ready."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(Recipe)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what has no influence on the results: their folder, and who does the work."""
        fields = dataclasses.asdict(self).items()
        return {name: _plain(value) for name, value in fields if name not in ("out", "jobs", "ray")}

    def command(self) -> str:
        """The command line with these settings."""
        default = CompareSettings()
        words = ["ttr", "compare", *map(str, self.files)]
        if self.layers != default.layers:
            words += ["--layers", ",".join(self.layers)]
        for name in ("memory", "out", "steps", "width", "context", "batch", "seed", "seeds"):
            if getattr(self, name) != getattr(default, name):
                words += [f"--{name}", str(getattr(self, name))]
        return shlex.join(words + ["--tune-lr"] * self.tune_lr + ["--as-published"] * self.as_published)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
