"""The folder of a training run: whose it is, its checkpoints, and what it holds in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ttr.experiments.cells import versions
from ttr.experiments.errors import UserError
from ttr.experiments.saved_model import sha256_of
from ttr.experiments.storage import from_json, locked, make_folder, to_json, write
from ttr.experiments.train.settings import TrainSettings

RUN, STATE, METRICS, PICTURE = "train.json", "trainer_state.json", "metrics.json", "loss.png"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
"""The file that a checkpoint gets last."""


@contextlib.contextmanager
def claimed(settings: TrainSettings, text: Mapping[str, Any], keep_out: bool) -> Iterator[Path | None]:
    """The last checkpoint in the folder of this run, which is nobody else's. Of the processes that train
    together one is to ``keep_out`` other runs.

    Raises:
        UserError: if the folder cannot be written, another run is at work there, or it holds something else.
    """
    make_folder(checkpoints(settings))
    about = {"settings": settings.to_dict(), "text": dict(text)}
    if settings.start is not None:
        about["start"] = {"weights": sha256_of(settings.start)}
    with (
        locked(checkpoints(settings) / RUN, block=False) if keep_out else contextlib.nullcontext(True) as mine
    ):
        if not mine:
            raise UserError(
                f"Another process trains in {settings.out}. Wait for it, or choose another --out."
            )
        _claim(settings.out, about, settings.command())
        yield _last_checkpoint(checkpoints(settings))


def _claim(folder: Path, about: Mapping[str, Any], command: str) -> None:
    path = folder / RUN
    left = [name for name in ("config.json", STATE, METRICS) if (folder / name).exists()]
    if left and not path.exists():
        raise UserError(
            f"{folder} holds {', '.join(left)}, but no {RUN} that they belong to. Choose another --out."
        )
    if not left and _last_checkpoint(folder / CHECKPOINTS) is None:  # so far there is nothing to continue
        write(path, to_json({"command": command, **about, "versions": versions()}))
        return
    try:
        held = from_json(path.read_bytes())
        changed = [
            name if part == "settings" else f"the {part}'s {name}"
            for part, now in about.items()
            for name in {**held[part], **now}
            if held[part].get(name) != from_json(to_json(now)).get(name)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged. Restore it, or choose another --out; nothing was changed."
        ) from None
    if changed:
        raise UserError(
            f"{folder} holds a run with other arguments ({', '.join(changed)} changed). Give the same to "
            "continue it, or choose another --out."
        )


def checkpoints(settings: TrainSettings) -> Path:
    return settings.out / CHECKPOINTS


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None if there is none."""
    found = (path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}"))
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def finished(folder: Path) -> dict[str, Any] | None:
    """What a finished run measured; None if it is not finished.

    Raises:
        UserError: if the file that says so is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        return None
    try:
        return from_json(path.read_bytes())
    except (OSError, ValueError):
        raise UserError(
            f"{path} is damaged. Delete it to have it written again from the last checkpoint."
        ) from None


def points(history: Sequence[Mapping[str, float]], name: str, unit: float) -> list[list[float]]:
    """The [step, loss] of a curve in the Trainer's history, losses divided by ``unit``."""
    return [[entry["step"], entry[name] / unit] for entry in history if name in entry]
