"""The progress bar of a running comparison: the current stage and run, its step, and the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar:
    """A progress bar over the training steps of a stage, with the time left; a context manager."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=console, transient=True, expand=True, speed_estimate_period=60
        )
        self._stage, self._task = "", self._progress.add_task("starting", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str, total: int) -> None:
        """A new stage of so many steps; 0 if nobody knows."""
        self._stage = stage
        self._progress.reset(self._task, total=total or None, description=stage)

    def report(self, label: str, steps: int, words: str, last: bool = False) -> None:
        """Count the steps that a cell has done since its last report, and show what it does now; its ``last``
        words stay on the screen."""
        self._progress.update(self._task, advance=steps, description=f"{self._stage}: {label}, {words}")
        if last:
            self.say(f"{label}: {words}")

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        self._progress.console.print(line, highlight=False, markup=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, which would break ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
