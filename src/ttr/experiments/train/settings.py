"""The settings of a training run, as data."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttr.experiments.errors import UserError

WITHOUT_INFLUENCE = ("out", "track", "save_every")
"""The settings that the trained model does not depend on."""


@dataclass(frozen=True)
class TrainSettings:
    """What to train, on what, and for how long.

    Attributes:
        files: the text; empty for Python's own standard library.
        layers: a name of the catalogue or a hybrid, as ``gated-deltanet:3+softmax-attention``, for a new
            model of ``depth`` layers, ``width`` channels and heads of ``head_size``.
        start: the folder of a causal language model to continue instead.
        tokenizer: a JSON file of the tokenizers library, or a folder that a tokenizer was saved in; None for
            that of ``start``, or bytes.
        stream: read ``column`` of the files through ``datasets``, in the order of the files, instead of
            holding their text in memory.
        steps: None for as many as read the text once.
        context: tokens of a window.
        batch: windows of a step, over all processes and accumulated passes.
        accumulate: passes of a step, one after the other.
        bf16: compute in bfloat16, with weights in float32.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
        track: libraries that get the curves, as transformers names them.
        save_every, evaluate_every: steps between checkpoints, and between losses on held-out text; None for a
            twentieth of all.
    """

    files: tuple[Path, ...] = ()
    layers: str = "gated-deltanet:3+softmax-attention"
    start: Path | None = None
    tokenizer: Path | None = None
    stream: bool = False
    column: str = "text"
    out: Path = Path("runs/train")
    steps: int | None = None
    width: int = 256
    depth: int = 4
    head_size: int = 64
    context: int = 512
    batch: int = 8
    accumulate: int = 1
    lr: float = 2e-3
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    track: tuple[str, ...] = ()
    save_every: int | None = None
    evaluate_every: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and field.name != "seed" and value < 1:
                raise UserError(f"--{field.name.replace('_', '-')} must be at least 1, not {value}.")
        if not 0 < self.lr < math.inf:
            raise UserError(f"--lr must be more than 0, not {self.lr:g}.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed must be from 0 to 2**32 - 1, not {self.seed}.")
        if self.context < 2:
            raise UserError("--context must be at least 2, since a token is predicted from those before it.")
        if self.width % self.head_size:
            raise UserError(f"--width must be a multiple of --head-size {self.head_size}, not {self.width}.")
        if self.stream and (not self.files or self.steps is None):
            raise UserError("--stream needs files, and --steps: nobody knows how long a stream is.")
        if self.batch % (self.accumulate * processes()):
            raise UserError(
                f"--batch {self.batch} is divided among {processes()} processes and {self.accumulate} passes "
                f"(--accumulate). Use a multiple of {self.accumulate * processes()}."
            )

    @property
    def windows_at_once(self) -> int:
        """The windows of one pass of one process."""
        return self.batch // (self.accumulate * processes())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what has no influence on the trained model."""
        fields = dataclasses.asdict(self).items()
        return {name: _plain(value) for name, value in fields if name not in WITHOUT_INFLUENCE}

    def command(self) -> str:
        """The command line with these settings."""
        words = ["ttr", "train", *map(str, self.files)]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "files" or value == field.default:
                continue
            words.append("--from" if field.name == "start" else f"--{field.name.replace('_', '-')}")
            if value is not True:
                words.append(",".join(value) if isinstance(value, tuple) else str(value))
        return shlex.join(words)


def processes() -> int:
    """How many processes train together, as ``accelerate launch`` and ``torchrun`` say."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_process() -> bool:
    """Whether this is the process among them that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
