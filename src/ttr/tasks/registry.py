"""The synthetic tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttr.tasks.associative_recall import (
    AssociativeRecall,
    CompositionalRecall,
    ContinuousRecall,
    StackedRecall,
)
from ttr.tasks.copying import Copying
from ttr.tasks.in_context_regression import InContextRegression
from ttr.tasks.mad import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorisation,
    SelectiveCopying,
)
from ttr.tasks.needle import Needle
from ttr.tasks.state_tracking import WordProblem
from ttr.tasks.task import Task

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        AssociativeRecall,
        CompositionalRecall,
        StackedRecall,
        ContinuousRecall,
        InContextRecall,
        FuzzyRecall,
        SelectiveCopying,
        Compression,
        Memorisation,
        InContextRegression,
        WordProblem,
        Copying,
        Needle,
    )
}


def task_of(description: Mapping[str, Any]) -> Task:
    """What ``Task.to_dict`` wrote."""
    settings = dict(description)
    return TASKS[settings.pop("task")](**settings)
