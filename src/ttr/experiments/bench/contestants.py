"""Those that are timed: our backends, other implementations (peers), and the least that the machine needs (floors)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

import ttr
from ttr.backends import BACKENDS, Backend
from ttr.dispatch import refusal
from ttr.inputs import prepare
from ttr.laws.equality import LAWS
from ttr.laws.law import Setting
from ttr.laws.rows import make_case
from ttr.problem import Problem

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Call:
    """A computation on given tensors, ready to be timed.

    ``run`` gives the output; ``leaves`` are the tensors that training differentiates, by the names of the case's inputs. A leaf that
    only this contestant has goes by a name of its own.
    """

    run: Callable[[], Tensor]
    leaves: Tensors = field(default_factory=dict)


def nothing(*_: object) -> None:
    """No objection."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Args:
        prepare: what lays the inputs out and gives the ``Call``; it is not timed.
        missing: why it cannot run here, or, given a case's inputs, run those, as a sentence; None if it can.
        broken: which law its contract breaks, as a sentence; None if it keeps all. Asked before anything is timed.
        compared: it computes the same function, so its output must agree with the others'.
        context: what a call, its derivative included, runs in.
    """

    name: str
    side: Literal["ours", "peer", "floor"]
    prepare: Callable[[Tensors], Call]
    missing: Callable[[Tensors | None], str | None] = nothing
    broken: Callable[[], str | None] = nothing
    compared: bool = True
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    def timed(self, call: Call, grad_y: Tensor | None) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
        """What one sample times: the output and no gradients, or, given the output's gradient, also those of the leaves."""

        def forward() -> tuple[Tensor, dict[str, Tensor]]:
            with self.context(), torch.no_grad():
                return call.run(), {}

        def training() -> tuple[Tensor, dict[str, Tensor]]:
            with self.context():
                y = call.run()
                return y.detach(), dict(zip(call.leaves, torch.autograd.grad(y, list(call.leaves.values()), grad_y)))

        return forward if grad_y is None else training


ONEDNN = " + oneDNN"


def within_onednn(contestant: Contestant) -> Contestant:
    """The same with float32 products through oneDNN, which torch does not use for them by default."""
    return dataclasses.replace(contestant, name=contestant.name + ONEDNN, context=ttr.onednn)


def backends_named(names: tuple[str, ...]) -> tuple[Backend, ...]:
    """The backends of those names; if none are named all but the last resort, which goes token by token and would take the time of all others.

    Raises:
        ValueError: if there is no backend of a name.
    """
    known = {backend.name: backend for backend in BACKENDS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"There is no backend {unknown[0]!r}. Use one of {', '.join(known)}.")
    return tuple(known[name] for name in names) if names else BACKENDS[:-1]


def of_backend(problem: Problem, backend: Backend) -> Contestant:
    """The backend as a contestant for whole sequences: inputs q, k, v and the problem's controls."""

    def controls(x: Tensors) -> dict[str, Tensor]:
        return {name: x[name] for name in problem.controls()}

    def prepared(x: Tensors) -> Call:
        given = controls(x)
        return Call(lambda: ttr.regress(problem, x["q"], x["k"], x["v"], backend=backend, **given), x)

    def missing(x: Tensors | None) -> str | None:
        return refusal(backend, problem, None if x is None else prepare(problem, x["q"], x["k"], x["v"], None, None, None, controls(x)))

    return Contestant(backend.name, "ours", prepared, missing, functools.partial(broken_law, problem, backend))


@functools.cache
def broken_law(problem: Problem, backend: Backend) -> str | None:
    """The first law about equality that the backend breaks, as a sentence: law 1, also over full blocks, and law 7 (strong gates).

    Tried in float64 and float32, as far as the backend takes them.
    """
    for dtype in (torch.float64, torch.float32):
        case = make_case(problem, dtype=dtype)
        if refusal(backend, problem, prepare(problem, case.q, case.k, case.v, case.params, None, None, case.controls)) is not None:
            continue
        for law in LAWS:
            where = f"law {law.number} ({law.name}) in {str(dtype).removeprefix('torch.')}"
            try:
                measured = law(problem, Setting(backend if law.slow else backend.small(), dtype=dtype))
            except Exception as failure:  # whatever a broken backend raises is what is wrong with it
                return f"{backend.name} raises in {where}: {failure}"
            broken = [m for m in measured if not m.kept]
            if broken:
                return (f"{backend.name} breaks {where}: the {broken[0].quantity} is off by {broken[0].error:.1e}, allowed are "
                        f"{broken[0].bound:.0e}. See `ttr verify`.")
    return None
