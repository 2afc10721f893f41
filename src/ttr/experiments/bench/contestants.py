"""The rows of a benchmark: our engines, other implementations (peers), and lower bounds of the machine
(floors)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

import ttr
from ttr.dispatch import refusal
from ttr.engines import ENGINES, Engine
from ttr.engines.native import library
from ttr.engines.native.engine import Native
from ttr.engines.native.recurrence import NativeKernel
from ttr.laws import equality, streaming
from ttr.laws.law import Law, Setting
from ttr.laws.rows import make_case
from ttr.layer.part import Part
from ttr.prepare import prepare
from ttr.problem import Problem

Tensors = Mapping[str, Tensor]

EQUALITY = equality.LAWS
"""The laws that an engine must pass before it is timed: law 1, also over full blocks, and law 7, strong
gates."""

STEPS = tuple(law for law in streaming.LAWS if law.number == 2)
"""The laws for decoding: the whole sequence, any split and single tokens give the same result."""


@dataclass(frozen=True)
class Call:
    """A computation on given tensors, ready to be timed.

    ``run`` returns the output; ``leaves`` are the tensors that training differentiates, by the names of the
    case's inputs. A leaf that only this contestant has gets another name.
    """

    run: Callable[[], Tensor]
    leaves: Tensors = field(default_factory=dict)


def nothing(*_: object) -> None:
    """No objection."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Args:
        prepare: lays out the inputs and returns the ``Call``; it is not timed.
        missing: a sentence that says why it cannot run here, or cannot run the given inputs; None if it can.
        broken: a sentence that says which law it fails; None if it passes all. Called before anything is
            timed.
        compared: whether it computes the same function, so that its output must agree with the others'.
        context: the context manager in which a call and its derivative run.
    """

    name: str
    side: Literal["ours", "peer", "floor"]
    prepare: Callable[[Tensors], Call]
    missing: Callable[[Tensors | None], str | None] = nothing
    broken: Callable[[], str | None] = nothing
    compared: bool = True
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    def timed(self, call: Call, training: bool) -> Callable[[], tuple[Tensor, dict[str, Tensor]]]:
        """The function that a sample times: the output, without gradients or with those of the leaves for a
        random gradient of the output."""
        grad_y: list[Tensor] = []

        def forward() -> tuple[Tensor, dict[str, Tensor]]:
            with self.context(), torch.no_grad():
                return call.run(), {}

        def forward_and_backward() -> tuple[Tensor, dict[str, Tensor]]:
            with self.context():
                y = call.run()
                if not grad_y:  # the same for all; created in the first call, which is not timed
                    grad_y.append(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
                return y.detach(), dict(
                    zip(call.leaves, torch.autograd.grad(y, list(call.leaves.values()), grad_y[0]))
                )

        return forward_and_backward if training else forward


ONEDNN = " + oneDNN"


def within_onednn(contestant: Contestant) -> Contestant:
    """The contestant with float32 products through oneDNN, which torch does not use for them by default."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contestant.context(), ttr.onednn():
            yield

    return dataclasses.replace(contestant, name=contestant.name + ONEDNN, context=context)


WITHOUT_NATIVE = ", torch alone"


def without_native(contestant: Contestant) -> Contestant:
    """The contestant without the native kernels, if it would use them: the torch tier, in the same rounds."""

    def broken() -> str | None:
        with library.left_out():
            return contestant.broken()

    def missing(x: Tensors | None) -> str | None:
        return contestant.missing(x) or library.reason()

    return dataclasses.replace(
        contestant,
        name=contestant.name + WITHOUT_NATIVE,
        missing=missing,
        broken=broken,
        context=library.left_out,
    )


def engines_named(names: tuple[str, ...]) -> tuple[Engine, ...]:
    """The engines of those names; if none are named, all but the recurrent one, which runs token by token and
    would take as long as all others together.

    Raises:
        ValueError: if a name is unknown.
    """
    known = {engine.name: engine for engine in ENGINES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"There is no engine {unknown[0]!r}. Use one of {', '.join(known)}.")
    return tuple(known[name] for name in names) if names else ENGINES[:-1]


def of_engine(problem: Problem, engine: Engine, every: int = 1) -> Contestant:
    """The engine as a contestant for whole sequences: inputs q, k, v and the problem's controls and
    parameters.

    Its output is the read-out of the last of every ``every`` tokens."""

    def prepared(x: Tensors) -> Call:
        given, params = (
            {name: x[name] for name in ("q", "k", "v", *problem.controls())},
            _parameters(problem, x),
        )
        return Call(
            lambda: ttr.regress(problem, engine=engine, params=params, **given)[:, every - 1 :: every],
            given | params,
        )

    def missing(x: Tensors | None) -> str | None:
        return _refusal(problem, engine, x)

    return Contestant(
        engine.name, "ours", prepared, missing, functools.partial(broken_law, problem, engine, EQUALITY)
    )


def of_call(problem: Problem, name: str) -> Contestant:
    """A sequence through "regress", or through a "plan" for its sizes, as a user calls them, with all
    checks."""

    def prepared(x: Tensors) -> Call:
        given = {name: x[name] for name in ("q", "k", "v", *problem.controls())}
        run = functools.partial(ttr.regress, problem) if name == "regress" else ttr.plan(problem, **given)
        return Call(lambda: run(**given), given)

    return Contestant(name, "ours", prepared)


def of_kernel(problem: Problem) -> Contestant:
    """The compiled kernel of a linear recurrence alone, with its operands laid out beforehand."""

    def prepared(x: Tensors) -> Call:
        given = {name: x[name] for name in ("q", "k", "v", *problem.controls())}
        form = problem.lower(
            prepare(problem, given.pop("q"), given.pop("k"), given.pop("v"), None, None, None, given)
        )
        kernel, chunk = NativeKernel(), Native().chunk
        return Call(lambda: kernel.forward(form, chunk, save=False)[0])

    return Contestant("the kernel alone", "floor", prepared, lambda x: library.reason())


def of_engine_decoding(problem: Problem, engine: Engine) -> Contestant:
    """The engine decoding token by token through ``ttr.plan``: inputs [B,1,...], and the initial memory,
    which is updated in place."""

    def prepared(x: Tensors) -> Call:
        given, state = _token(problem, x), _memory(problem, x)
        advance = ttr.plan(problem, **given, state=state, inplace=True, engine=engine)

        def run() -> Tensor:
            nonlocal state
            y, state = advance(state=state, **given)
            return y[:, None]

        return Call(run)

    def missing(x: Tensors | None) -> str | None:
        return _refusal(
            problem,
            engine,
            x if x is None else {name: tensor[:, None] for name, tensor in _token(problem, x).items()},
        )

    return Contestant(
        engine.name,
        "ours",
        prepared,
        missing,
        functools.partial(broken_law, problem, engine, EQUALITY + STEPS),
    )


COMPILER = "inductor"
"""The backend of torch.compile."""


def of_plan_compiled(problem: Problem) -> Contestant:
    """Decoding token by token through a plan compiled by torch.compile; inputs as in
    ``of_engine_decoding``."""

    def prepared(x: Tensors) -> Call:
        given, state = _token(problem, x), _memory(problem, x)
        advance = torch.compile(
            ttr.plan(problem, **given, state=state, inplace=True), fullgraph=True, backend=COMPILER
        )
        with torch.no_grad():
            advance(state=state.clone(), **given)  # compiles; not timed

        def run() -> Tensor:
            return advance(state=state, **given)[0][:, None]

        return Call(run)

    def missing(_: Tensors | None) -> str | None:
        wanted = os.environ.get("CXX", "g++")
        return (
            None
            if shutil.which(wanted)
            else (
                "torch.compile needs a C++ compiler, and there is no "
                f"{wanted}. Install it, or name another in CXX."
            )
        )

    return Contestant("compiled", "ours", prepared, missing)


def _token(problem: Problem, x: Tensors) -> dict[str, Tensor]:
    """The arguments of one token from inputs [B,1,...]."""
    return {name: x[name][:, 0] for name in ("q", "k", "v", *problem.controls())}


def _memory(problem: Problem, x: Tensors) -> ttr.State:
    """A separate state that starts from the memory of the inputs."""
    batch, heads, key_size, value_size = x["memory"].shape
    return ttr.initial_state(problem, batch, heads, key_size, value_size).replace(memory=x["memory"].clone())


def of_part(name: str, step: Part, streams: tuple[str, ...], params: Mapping[str, str]) -> Contestant:
    """A part of a layer that changes the first of its streams; its peers must agree with it.

    Args:
        streams: the names of the inputs that it gets as streams, preceded by their past if it has one.
        params: names of its parameters -> names of the inputs.
    """

    def prepared(x: Tensors) -> Call:
        tensors, given = {own: x[name] for own, name in params.items()}, {name: x[name] for name in streams}
        return Call(lambda: step(tensors, given)[streams[0]], x)

    return Contestant(name, "ours", prepared)


def _refusal(problem: Problem, engine: Engine, x: Tensors | None) -> str | None:
    if x is None:
        return refusal(engine, problem)
    controls = {name: x[name] for name in problem.controls()}
    return refusal(
        engine,
        problem,
        prepare(problem, x["q"], x["k"], x["v"], _parameters(problem, x), None, None, controls),
    )


def _parameters(problem: Problem, x: Tensors) -> dict[str, Tensor]:
    return {
        name: x[name] for name in problem.parameters(x["q"].shape[-2], x["k"].shape[-1], x["v"].shape[-1])
    }


@functools.cache
def broken_law(problem: Problem, engine: Engine, laws: tuple[Law, ...]) -> str | None:
    """A sentence about the first of the laws that the engine fails, in those of float64 and float32 that it
    supports. An engine that supports neither at the sizes of the laws has passed none."""
    tried = False
    for dtype in (torch.float64, torch.float32):
        case = make_case(problem, dtype=dtype)
        if (
            _refusal(problem, engine, {"q": case.q, "k": case.k, "v": case.v, **case.controls, **case.params})
            is not None
        ):
            continue
        tried = True
        for law in laws:
            where = f"law {law.number} ({law.name}) in {str(dtype).removeprefix('torch.')}"
            try:
                measured = law(problem, Setting(engine if law.slow else engine.small(), dtype=dtype))
            except Exception as failure:  # any exception of the engine is a failure of its contract
                return f"{engine.name} raises in {where}: {failure}"
            broken = [m for m in measured if not m.passed]
            if broken:
                return (
                    f"{engine.name} fails {where}: the {broken[0].quantity} is off by "
                    f"{broken[0].error:.1e}, allowed are {broken[0].bound:.0e}. Run ttr verify."
                )
    return (
        None
        if tried
        else (f"{engine.name} runs no call of the laws' sizes, so none was checked. Name other engines.")
    )
