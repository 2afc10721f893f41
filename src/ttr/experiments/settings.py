"""The settings of a comparison, as data."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ttr.experiments.errors import UserError

LAYERS = (
    "softmax-attention-qknorm",
    "linear-attention",
    "gated-deltanet",
    "mesanet",
    "local-linear-attention",
)

AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")

OF_NEW_MODELS = ("width", "depth")
"""The settings that pretrained models have of their own."""

OF_PRETRAINED = (1e-4, 3e-4, 1e-3)
"""The learning rates that are tried with pretrained models."""

LOOKED_UP = 2
"""Tokens of a tokenizer that stand for the four bytes before one that can be recalled."""


WITHOUT_INFLUENCE = ("out", "jobs", "ray", "track")
"""The settings of a comparison that its results do not depend on."""


@dataclass(frozen=True)
class Recipe:
    """How a model is built, trained and judged; ``width`` is the model's, ``context`` counts tokens, and
    ``ngram`` bytes where those are the tokens."""

    width: int = 64
    depth: int = 2
    context: int = 256
    batch: int = 8
    device: str = "cpu"

    head_size: int = 32
    mlp_ratio: float = 2.0
    warmup: float = 0.1
    final_rate: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ngram: int = 4
    tuning_windows: int = 96
    evaluation_windows: int = 256
    checkpoint_every: int = 25

    @classmethod
    def of(cls: type[AnyRecipe], recipe: Mapping[str, Any]) -> AnyRecipe:
        """The recipe that a cell's arguments hold, where tuples are lists."""
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}
        )


@dataclass(frozen=True)
class CompareSettings(Recipe):
    """What to compare, on what, for how long, and the recipe.

    ``files`` empty means Python's own standard library. ``memory`` is a Python file that defines ``memory``
    or ``memories``; it is executed. ``tokenizer`` is a JSON file of the tokenizers library; without one the
    tokens are bytes. ``pretrained`` is the folder of a model of transformers in which memories replace the
    attention layers that ``convert`` names, instead of new models; tokens are then those of its tokenizer.
    ``time`` in seconds is for the whole; with ``steps`` instead every model
    of the final stage is trained for so many, and equal settings give equal results. ``lr`` is the one
    learning rate of all, instead of ``learning_rates`` of which each memory gets its best. ``seeds`` is the
    least number for every memory. ``jobs`` processes of one thread each do the work, or the Ray cluster at
    the address ``ray``, without influence on the results. ``track`` names the library that gets the curves of
    the runs. ``rounds`` of all memories measure the speeds.
    """

    files: tuple[Path, ...] = ()
    layers: tuple[str, ...] = LAYERS
    memory: Path | None = None
    tokenizer: Path | None = None
    pretrained: Path | None = None
    convert: str | None = None
    out: Path = Path("runs/compare")
    jobs: int = 1
    ray: str | None = None
    track: str | None = None
    time: float = 360.0
    steps: int | None = None
    lr: float | None = None
    seed: int = 0
    seeds: int = 2
    as_published: bool = False

    learning_rates: tuple[float, ...] = (2.7e-3, 8e-3, 2.4e-2)
    rounds: int = 5
    resamples: int = 2000

    def __post_init__(self) -> None:
        for name in ("steps", "width", "depth", "context", "batch", "seeds", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, not {value}.")
        for name in ("time", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name} must be more than 0, not {value:g}.")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}.")
        if self.seed + self.seeds > 2**62:
            raise UserError(f"--seed must be less than 2**62, not {self.seed}.")
        if self.width % self.head_size:
            raise UserError(
                f"--width must be a multiple of {self.head_size}, the size of a head, not {self.width}."
            )
        if self.pretrained is not None and self.tokenizer is not None:
            raise UserError("--from brings the tokenizer of its model. Leave --tokenizer out.")
        if self.pretrained is None and self.convert is not None:
            raise UserError("--convert names layers of a pretrained model. Name its folder with --from.")
        if self.context <= self.looked_up:
            raise UserError(
                f"--context must be more than {self.looked_up}, the length of the n-grams of the "
                f"recall slice, not {self.context}."
            )
        if not self.layers and self.memory is None:
            raise UserError(
                "There is nothing to compare. Name memories with --layers, or a file that "
                "defines one with --memory."
            )

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried with every memory, rising."""
        if self.lr is not None:
            return (self.lr,)
        return self.learning_rates if self.pretrained is None else OF_PRETRAINED

    @property
    def tokenizer_file(self) -> Path | None:
        """The JSON file of the tokenizer; None if tokens are bytes."""
        return self.tokenizer if self.pretrained is None else self.pretrained / "tokenizer.json"

    @property
    def looked_up(self) -> int:
        """The length of the n-grams of the recall slice, in tokens."""
        return self.ngram if self.tokenizer_file is None else LOOKED_UP

    def recipe(self) -> dict[str, Any]:
        """The fields of ``Recipe``, JSON-ready."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(Recipe)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what has no influence on the results: their folder, who does the work, and who
        else gets the curves."""
        fields = dataclasses.asdict(self).items()
        return {name: _plain(value) for name, value in fields if name not in WITHOUT_INFLUENCE}

    @staticmethod
    def from_dict(held: Mapping[str, Any], **others: Any) -> CompareSettings:
        """The settings that ``to_dict`` wrote, with ``others`` for those it left out.

        Raises:
            ValueError, TypeError: if they are not such.
        """
        values = dict(held)
        values["files"] = tuple(map(Path, values["files"]))
        for name in ("memory", "tokenizer", "pretrained"):
            values[name] = Path(values[name]) if values.get(name) else None
        return CompareSettings.of(values | others)

    def command(self) -> str:
        """The command line with these settings."""
        default = CompareSettings()
        words = ["ttr", "compare", *map(str, self.files)]
        if self.layers != default.layers:
            words += ["--layers", ",".join(self.layers)]
        if self.pretrained is not None:
            words += ["--from", str(self.pretrained)]
        for name in ("convert", "memory", "tokenizer", "out", "steps", "lr", "device", "seed", "seeds"):
            if getattr(self, name) != getattr(default, name):
                words += [f"--{name}", str(getattr(self, name))]
        sizes = OF_NEW_MODELS if self.pretrained is None else ()
        for name in (*sizes, "context", "batch"):  # their defaults depend on the machine
            words += [f"--{name}", str(getattr(self, name))]
        if self.time != default.time and self.steps is None:
            words += ["--time", f"{self.time:g}s"]
        return shlex.join(words + ["--as-published"] * self.as_published)


def model_sizes(device: str, cores: int) -> dict[str, int]:
    """The fields of ``Recipe`` that make its models larger where there is room: on many cores eight times the
    work of a step, on a GPU as much as keeps it busy."""
    if device != "cpu":
        return {"width": 256, "depth": 4, "context": 1024, "batch": 16}
    return {"width": 128, "context": 512} if cores >= MANY_CORES else {}


MANY_CORES = 16


def names_in(words: str) -> tuple[str, ...]:
    """The names in "a, b"."""
    return tuple(name.strip() for name in words.split(",") if name.strip())


def numbers_in(words: str, option: str) -> tuple[int, ...]:
    """The numbers in "8, 16".

    Raises:
        UserError: naming the option, if something else is there.
    """
    try:
        return tuple(map(int, names_in(words)))
    except ValueError:
        raise UserError(f"{option} takes numbers separated by commas, not {words!r}.") from None


def seconds(words: str) -> float:
    """The seconds of "90s", "6m", "1.5h"; without a unit they are seconds.

    Raises:
        UserError: for anything else.
    """
    number, unit = (words[:-1], words[-1]) if words and words[-1] in UNITS else (words, "s")
    try:
        return float(number) * UNITS[unit]
    except ValueError:
        raise UserError(f"{words!r} is no time. Write for example 90s, 6m or 1.5h.") from None


UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
