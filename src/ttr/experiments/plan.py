"""The plan of a comparison, a file in its folder: what is compared, on what, and every run that was decided
on.

A timed comparison decides by the clock. Its plan makes it repeatable: whoever computes the runs of the plan
gets the same results to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttr.experiments.cells import versions
from ttr.experiments.errors import UserError
from ttr.experiments.protocol import FULL, Stage
from ttr.experiments.settings import CompareSettings
from ttr.experiments.storage import from_json, locked, make_folder, to_json, write
from ttr.tasks.text import Text
from ttr.tasks.tokens import Encoding

REPORT = ("results.json", "results.csv", "comparison.png", "report.html")
"""Files of a folder that are made anew from the results of its plan."""
FILE = "plan.json"


class Plan:
    """The plan of a folder.

    Attributes:
        about: command, settings, definitions, text, versions (those of the call that began it).
        stages: those decided on so far.
        seconds: how long each took, None for one that is not finished.
        complete: whether no stage follows.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], stages: Sequence[Stage], complete: bool) -> None:
        self.path, self.about = path, about
        self.stages, self.complete = list(stages), complete
        self.seconds: list[float | None] = [None] * len(self.stages)

    @staticmethod
    def claim(
        settings: CompareSettings,
        text: Text,
        encoding: Encoding,
        definitions: Mapping[str, Any],
        replayed: Plan | None = None,
    ) -> Plan:
        """The plan of ``settings.out``: a new one, or with the stages of another one that is ``replayed``, or
        the one that is there if it belongs to this comparison.

        Raises:
            UserError: if the folder cannot be written, holds another comparison, or its plan is damaged.
        """
        make_folder(settings.out / "cells" / "inputs")
        path = settings.out / FILE
        about = {
            "command": settings.command(),
            "settings": settings.to_dict(),
            "definitions": definitions,
            "text": {"bytes": len(text.content), "sha256": text.sha256, "files": list(text.names)}
            | encoding.facts,
            "versions": versions(),
        }
        if replayed is not None and (differ := _differences(replayed.about, about)):
            raise UserError(
                f"{replayed.path} is the plan of another comparison ({', '.join(differ)} changed since). "
                "Restore what changed, or begin a new comparison without --plan."
            )
        if replayed is not None and len(replayed.stages) <= FULL:
            raise UserError(
                f"{replayed.path} was stopped before it had planned all memories. Finish that comparison "
                "first."
            )
        with locked(path, block=True):
            if not path.exists():
                _refuse_foreign(settings.out)
                plan = Plan(path, about, replayed.stages if replayed else (), replayed is not None)
                plan._write()
                return plan
            plan = Plan.read(path)
        if differ := _differences(plan.about, about):
            raise UserError(
                f"{settings.out} holds a comparison with other arguments ({', '.join(differ)} changed). "
                "Give the same arguments to continue it, or another folder with --out."
            )
        return plan

    @staticmethod
    def read(path: Path) -> Plan:
        """The plan in a file.

        Raises:
            UserError: if it is missing or damaged.
        """
        try:
            held = from_json(path.read_bytes())
            about = {key: held[key] for key in KINDS}
            if any(not isinstance(held[key], kind) for key, kind in KINDS.items()):
                raise TypeError
            plan = Plan(path, about, [Stage.from_dict(stage) for stage in held["stages"]], held["complete"])
            plan.seconds = [stage["seconds"] for stage in held["stages"]]
            CompareSettings.from_dict(about["settings"])
        except FileNotFoundError:
            raise UserError(
                f"There is no plan {path}. It is the plan.json of a comparison's folder."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, UserError):
            raise UserError(
                f"{path} is damaged. Restore it, or choose another folder with --out; nothing was "
                "overwritten."
            ) from None
        return plan

    def stage(self, number: int, decide: Callable[[], Stage | None]) -> Stage | None:
        """The stage of this number: as the plan has it, perhaps from another process at work in the same
        folder; otherwise what ``decide`` says, which becomes part of the plan. None after the last one."""
        with locked(self.path, block=True):
            held = Plan.read(self.path)
            self.stages, self.seconds, self.complete = held.stages, held.seconds, held.complete
            if number == len(self.stages) and not self.complete:
                if (new := decide()) is None:
                    self.complete = True
                else:
                    self.stages.append(new)
                    self.seconds.append(None)
                self._write()
        return self.stages[number] if number < len(self.stages) else None

    def took(self, number: int, seconds: float) -> None:
        """Note how long a stage took, unless that is known."""
        with locked(self.path, block=True):
            self.seconds = Plan.read(self.path).seconds
            if self.seconds[number] is None:
                self.seconds[number] = round(seconds, 1)
                self._write()

    def _write(self) -> None:
        stages = [stage.to_dict() | {"seconds": seconds} for stage, seconds in zip(self.stages, self.seconds)]
        write(self.path, to_json({**self.about, "stages": stages, "complete": self.complete}))


KINDS = {"command": str, "settings": dict, "definitions": dict, "text": dict, "versions": dict}
"""What a plan says about its comparison."""


def _refuse_foreign(folder: Path) -> None:
    foreign = [name for name in REPORT if (folder / name).exists()]
    foreign += ["cells"] * any((folder / "cells" / "inputs").iterdir())
    if foreign:
        raise UserError(
            f"{folder} holds {', '.join(foreign)} but no {FILE} that they belong to. Choose another folder "
            "with --out."
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words, between what two plans say about their comparisons."""

    def of(key: str) -> list[str]:
        return [name for name in now[key] if before[key].get(name) != now[key][name]]

    found = of("settings") + [f"the text's {name}" for name in of("text")]
    return found or [f"the definition of {name}" for name in of("definitions")]
