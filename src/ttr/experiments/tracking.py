"""The curves of the runs in TensorBoard or Trackio, by their own libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ttr.experiments.errors import UserError
from ttr.experiments.storage import make_folder, write

Run = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The settings of a run, and the facts that ``train_and_judge`` returns."""
Points = list[tuple[str, int, float]]
"""(name of a curve, training step, value)"""


def check_installed(library: str) -> None:
    """
    Raises:
        UserError: if there is no such library, or it is not installed.
    """
    if library not in LIBRARIES:
        raise UserError(f"--track takes {' or '.join(LIBRARIES)}, not {library!r}.")
    if importlib.util.find_spec(library) is None:
        raise UserError(f"--track {library} needs that package. Install it with: pip install {library}")


def track(
    library: str, folder: Path, runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> None:
    """Give each run to a library, once: a file in ``folder``/tracked says which were given.

    ``runs`` are by label the settings of a run and its facts, as ``train_and_judge`` returns them.
    """
    make_folder(folder / "tracked")
    for label, (config, facts) in runs.items():
        mark = folder / "tracked" / f"{library}.{label}"
        if not mark.exists():
            LIBRARIES[library](folder, label, config, _points(facts))
            write(mark, b"")


def _points(facts: Mapping[str, Any]) -> Points:
    points = [("training loss", step, loss) for step, loss in enumerate(facts["loss"], 1)]
    points += [("validation", step, bits) for step, bits in facts.get("curve", ())]
    return [*points, ("tuning", len(facts["loss"]), facts["tuning_bits_per_byte"])]


def _tensorboard(folder: Path, label: str, config: Mapping[str, Any], points: Points) -> None:
    """A folder for each run in ``folder``/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / label)) as writer:
        writer.add_text("settings", "\n\n".join(f"{name}: {value}" for name, value in config.items()))
        for name, step, value in points:
            writer.add_scalar(f"bits per byte/{name}", value, step)


def _trackio(folder: Path, label: str, config: Mapping[str, Any], points: Points) -> None:
    """A project with the name of the folder, where Trackio keeps its projects."""
    import trackio

    quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    trackio.init(project=folder.resolve().name, name=label, config=dict(config), **quiet)
    for step in sorted({step for _, step, _ in points}):
        trackio.log({name: value for name, at, value in points if at == step}, step=step)
    trackio.finish()


LIBRARIES: Mapping[str, Callable[[Path, str, Mapping[str, Any], Points], None]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
