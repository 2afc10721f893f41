"""The progress bar of a running comparison: the current run, its step, and the time left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ttr.experiments.training import History


class Bar:
    """A progress bar over the training steps of all runs, with the time left; a context manager."""

    def __init__(self, console: Console, total: int) -> None:
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
        self._task = self._progress.add_task("starting", total=total)
        self._name = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def skip(self, steps: int) -> None:
        """Count steps that an earlier call has completed."""
        self._progress.advance(self._task, steps)

    def say(self, what: str) -> None:
        """Show the current activity of the run."""
        self._progress.update(self._task, description=f"{self._name}: {what}")

    def finished(self, result: str) -> None:
        """Print a permanent line: the result of a run."""
        self._progress.console.print(f"{self._name}: {result}", highlight=False, markup=False)

    def follow(self, name: str, seed: int, rate: float) -> Callable[[History], None]:
        """A callback for the training of one run, called with its history before the first and after every
        step."""
        self._name = name
        seen = 0

        def on_step(history: History) -> None:
            nonlocal seen
            done = len(history.loss)
            self._progress.advance(self._task, done - seen)
            seen = done
            recent = history.loss[-10:]
            self.say(
                f"seed {seed}, rate {rate:g}, step {done}"
                + ((f", {sum(recent) / len(recent):.2f} bits a byte") if recent else "")
            )

        return on_step
