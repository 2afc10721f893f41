"""Runs a call and judges it: equal to the definition, refused in a sentence, or a finding."""

from __future__ import annotations

import contextlib
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import ttr
from tests.fuzz.call import Call
from tests.fuzz.compare import compare, has_digits, wrong_form
from tests.fuzz.routes import LAYERS, ROUTES, Caller, InputChanged
from tests.fuzz.subjects import Layer, Memory, Subject
from tests.fuzz.tensors import PLAIN
from tests.tiers import tier
from ttr.engines.torch.direct_solve import NoDigits
from ttr.problem import Problem

PACKAGE = Path(ttr.__file__).parent
RIGHT = ("equal", "refused", "no digit", "not judged")
"""Outcomes that are no findings. No digit: the definition magnifies rounding so much, or its numbers are so
large, that no digit can be compared. Not judged: NaN where the checks of numbers are off, or an argument that
is valid after all."""


@dataclass(frozen=True)
class Outcome:
    """``kind``: one of ``RIGHT``, or the kind of finding; ``words`` about this call; ``place`` tells two
    findings of a kind apart."""

    kind: str
    words: str = ""
    place: str = ""

    @property
    def found(self) -> bool:
        return self.kind not in RIGHT

    def like(self, other: Outcome) -> bool:
        """Whether both are the same finding."""
        return (self.kind, self.place) == (other.kind, other.place)


class Finding(Exception):
    """Raised to end a call."""

    def __init__(self, kind: str, words: str, place: str) -> None:
        super().__init__(words)
        self.outcome = Outcome(kind, words, place)


class Refusal(Exception):
    """Raised for a refusal by the library, with its message."""


def play(call: Call) -> Outcome:
    """The outcome of a call; exceptions of the library are caught."""
    threads = torch.get_num_threads()
    torch.set_num_threads(call.threads)
    checked = contextlib.nullcontext() if call.checks is None else ttr.checks(values=call.checks)
    kernels = contextlib.nullcontext() if call.tier == "widest" else tier(call.tier)
    try:
        with checked, kernels, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judge(call)
    except Finding as finding:
        return finding.outcome
    except Refusal as refusal:
        return Outcome("refused", str(refusal))
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _watched(call: Call, what: str) -> Iterator[None]:
    """Turns exceptions into ``Refusal``, if they have a message of the library, or else into ``Finding``."""
    try:
        yield
    except (Finding, Refusal):
        raise
    except InputChanged as change:
        raise Finding("input changed", str(change), call.entry) from change
    except Exception as failure:
        frames = traceback.extract_tb(failure.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
        words = str(failure).strip()
        if (
            type(failure) in (ValueError, NoDigits)
            and own[-1:] == frames[-1:]
            and words.endswith((".", ".)"))
        ):
            raise Refusal(words) from failure
        place = f"{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].name}" if own else what
        said, name = textwrap.shorten(words.partition("\n")[0], 200), type(failure).__name__
        words = f"{name} while {what}, in {place}: {said}"
        raise Finding(
            "foreign exception", words, f"{name} {_argument(call) if call.wrong else place}"
        ) from failure


def _argument(call: Call) -> str:
    """The sort of the invalid argument, and what is wrong with it."""
    name, how = call.wrong
    known = ("q", "k", "v", "x", "ridge", "state", *PLAIN)
    return f"{name if name in known else 'parameter' if '.' in name else 'control'}: {how}"


def _judge(call: Call) -> Outcome:
    with _watched(call, "making it"):
        problem = call.memory()
        if Problem.from_dict(problem.to_dict()) != problem or not str(ttr.explain(problem)):
            raise Finding("wrong number", "from_dict(to_dict()) is another problem", "to_dict")
        if not problem.function.causal and (call.entry not in ROUTES or ROUTES[call.entry].streams):
            return Outcome("not judged")
        subject = (Layer if call.entry in LAYERS else Memory)(call, problem)
    caller = Caller(call)
    try:
        with _watched(call, "calling it"):
            found = subject.run(caller)
    except Refusal as refusal:
        if call.wrong is None and call.engine == "auto" and not call.entry.startswith("state "):
            _must_run(subject, str(refusal))
        raise
    if caller.spoiled:
        return _must_refuse(subject)
    try:
        with _watched(call, "defining it"):
            defined, leaves = subject.define()
    except Refusal as refusal:
        raise Finding("not refused", f"though the definition says: {refusal}", call.entry) from refusal
    if wrong := wrong_form(subject, found, defined):
        raise Finding("wrong form", f"{wrong} on {subject.engine()}", f"{wrong} on {subject.engine()}")
    with _watched(call, "differentiating it"):
        numbers = compare(subject, found, defined, leaves)
    for name, off, allowed in numbers.over:
        words = (
            f"{name} is off by {off:.2g} of its scale where its condition allows {allowed:.1g}, on "
            f"{subject.engine()}"
        )
        raise Finding("wrong number", words, f"{name.split(' ')[0]} on {subject.engine()}")
    return Outcome("no digit" if numbers.without_digits else "equal")


def _must_run(subject: Subject, refusal: str) -> None:
    """A valid call may be refused only where the definition refuses it too, or has no correct digit."""
    with _watched(subject.call, "defining it"):
        digits = has_digits(subject, *subject.define())
    if digits:
        raise Finding("refuses what is right", refusal, refusal[:40])


def _must_refuse(subject: Subject) -> Outcome:
    """The call had an invalid argument and was not refused."""
    call, (name, how) = subject.call, subject.call.wrong
    shapes = how in ("another axis", "an axis less", "a channel more", "two batches", "no heads")
    numbers = how in ("NaN", "infinity", "negative position", "position at the end")
    if numbers and call.checks is False or shapes and (name == "ridge" or call.batch == 0):
        return Outcome("not judged")
    if (name, how) == ("v", "a channel more") and not (call.past or call.cuts):
        return Outcome("not judged")  # values of any size are valid where no state has values of another size
    raise Finding("not refused", f"{name}: {how}", _argument(call))
