"""The ways to call the library, and for each the case for which one call of the definition must give the same
results."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ttr
from tests.fuzz.call import Call
from tests.fuzz.tensors import alike, spoil
from ttr.laws.rows import Case
from ttr.nn import Mixer
from ttr.state import State

Result = tuple[Tensor, State | None]

MODES: Mapping[str, tuple[Callable, Callable]] = {
    "plain": (contextlib.nullcontext,) * 2,
    "grad": (contextlib.nullcontext,) * 2,
    "no_grad": (torch.no_grad,) * 2,
    "inference": (torch.inference_mode,) * 2,
    "inference first": (torch.inference_mode, contextlib.nullcontext),
}
"""The contexts in which the first function of a route is called, and the later ones."""


class InputChanged(Exception):
    """Raised if a call wrote to memory that it must not change."""


class Caller:
    """Calls functions of the library in the way of a ``Call``, and checks that they leave their arguments
    unchanged."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.count = 0
        self.spoiled = False

    def __call__(self, function: Callable, writes: str = "", **arguments: object) -> object:
        """``function(**arguments)`` with the invalid argument inserted; it may overwrite the argument
        ``writes`` if it returns."""
        given = arguments
        arguments = spoil(arguments, self.call.wrong) if self.call.wrong else arguments
        self.spoiled = self.spoiled or not alike(arguments, given)
        before = _memory(arguments)
        first, later = MODES[self.call.mode]
        self.count += 1
        with (first if self.count == 1 else later)():
            try:
                result = function(**arguments)
            except Exception:
                self._compare(before, _memory(arguments), "a call that was refused")
                raise
        kept = {name: x for name, x in arguments.items() if name != writes}
        after = _memory(kept)
        self._compare({name: x for name, x in before.items() if name in after}, after, "a call")
        return result

    @staticmethod
    def _compare(before: Mapping[str, Tensor], after: Mapping[str, Tensor], what: str) -> None:
        changed = [name for name, x in before.items() if not torch.equal(x, after[name])]
        if changed:
            raise InputChanged(f"{what} changed {', '.join(changed)}, or the memory around it")


def _memory(arguments: Mapping[str, object]) -> dict[str, Tensor]:
    """The bytes of every tensor's whole storage, by the argument and its place in it."""
    found = {}
    for name, argument in arguments.items():
        for i, x in enumerate(pytree.tree_leaves(argument)):
            if isinstance(x, Tensor) and x.layout == torch.strided and x.device.type == "cpu":
                found[f"{name} {i}"] = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).clone()
    return found


# --------------------------------------------------------------------------------------------------- memories
def _arguments(case: Case, call: Call, **options: object) -> dict[str, object]:
    causal = case.problem.function.causal
    return {
        "problem": case.problem,
        **case.arguments(),
        "engine": call.chosen(),
        "return_state": causal,
    } | options


def _pair(result: object) -> Result:
    return result if isinstance(result, tuple) else (result, None)


def bounds(call: Call) -> Tensor | None:
    """``cu_seqlens`` of the call."""
    return None if call.lengths is None else torch.tensor([0, *call.lengths]).cumsum(0)


def regress(caller: Caller, case: Case) -> Result:
    return _pair(caller(ttr.regress, **_arguments(case, caller.call, cu_seqlens=bounds(caller.call))))


def plan(caller: Caller, case: Case) -> Result:
    arguments = _arguments(case, caller.call, cu_seqlens=bounds(caller.call))
    run = caller(ttr.plan, **arguments)
    del arguments["problem"], arguments["engine"]
    return _pair(caller(run, **arguments))


def define(caller: Caller, case: Case) -> Result:
    """The oracle itself, at these dtypes and layouts."""
    arguments = _arguments(case, caller.call, cu_seqlens=bounds(caller.call))
    del arguments["engine"]
    return _pair(caller(ttr.oracle, **arguments))


def segments(caller: Caller, case: Case) -> Result:
    parts, state = [], case.state
    for start, stop in zip((0, *caller.call.cuts), (*caller.call.cuts, caller.call.time)):
        y, state = caller(
            ttr.regress, **_arguments(case.tokens(slice(start, stop), state), caller.call, return_state=True)
        )
        parts.append(y)
    return torch.cat(parts, dim=1), state


def _steps(inplace: bool, planned: bool = False) -> Callable[[Caller, Case], Result]:
    """Token by token. With ``inplace``, the first token is not in place, so that the state of the case is not
    overwritten."""

    def route(caller: Caller, case: Case) -> Result:
        rows, state, run = [], case.state, None
        for t in range(case.q.shape[1]):
            at = case.tokens(slice(t, t + 1), state).arguments()
            timed = {name: x[:, 0] for name, x in at.items() if isinstance(x, Tensor) and name != "ridge"}
            arguments = {"problem": case.problem, **at, **timed, "engine": caller.call.chosen()}
            here = inplace and t > 0
            if planned and (run is None or t == 1):
                run = caller(ttr.plan, **arguments, inplace=here)
            if planned:
                arguments = {name: x for name, x in arguments.items() if name not in ("problem", "engine")}
                y, state = caller(run, writes="state" if here else "", **arguments)
            else:
                y, state = caller(ttr.step, writes="state" if here else "", **arguments, inplace=here)
            rows.append(y)
        return (torch.stack(rows, dim=1), state) if rows else regress(caller, case)

    return route


def _middle(call: Call) -> int:
    return call.cuts[0] if call.cuts else call.time // 2


def _through(verb: Callable[[State], State]) -> Callable[[Caller, Case], Result]:
    """Two segments, with an operation between them that does not change the state."""

    def route(caller: Caller, case: Case) -> Result:
        first, second = (
            case.tokens(part, case.state)
            for part in (slice(0, _middle(caller.call)), slice(_middle(caller.call), None))
        )
        y, state = caller(ttr.regress, **_arguments(first, caller.call, return_state=True))
        state = caller(lambda state: verb(state), state=state)
        rest, end = caller(
            ttr.regress,
            **_arguments(dataclasses.replace(second, state=state), caller.call, return_state=True),
        )
        return torch.cat([y, rest], dim=1), end

    return route


def _through_file(state: State) -> State:
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    return State.from_state_dict(torch.load(file, weights_only=True))


def rows(call: Call) -> list[int]:
    """The rows of the batch that ``select`` takes, some more than once."""
    generator = torch.Generator().manual_seed(call.seed)
    return torch.randint(call.batch, (call.batch + 1,), generator=generator).tolist() if call.batch else []


def of_rows(case: Case, chosen: list[int]) -> Case:
    """The case with these rows of its batch, selected without ``State.select``."""
    controls = {name: x if name == "ridge" else x[chosen] for name, x in case.controls.items()}
    state = case.state and State(
        {name: x[chosen] for name, x in case.state.tensors.items()},
        case.state.position[chosen],
        case.state.capacity,
    )
    return dataclasses.replace(
        case, q=case.q[chosen], k=case.k[chosen], v=case.v[chosen], controls=controls, state=state
    )


def select(caller: Caller, case: Case) -> Result:
    """A segment, some rows of its state, and the same rows of the second segment."""
    chosen, middle = rows(caller.call), _middle(caller.call)
    y, state = caller(
        ttr.regress, **_arguments(case.tokens(slice(0, middle), case.state), caller.call, return_state=True)
    )
    beam = chosen if caller.call.seed % 2 else torch.tensor(chosen, dtype=torch.int64)
    state = caller(
        lambda state: (
            state.select(beam)
            if caller.call.seed % 3
            else state.reorder(torch.as_tensor(beam, dtype=torch.int64))
        ),
        state=state,
    )
    second = of_rows(case.tokens(slice(middle, None)), chosen)
    rest, end = caller(
        ttr.regress, **_arguments(dataclasses.replace(second, state=state), caller.call, return_state=True)
    )
    return torch.cat([y[chosen], rest], dim=1), end


def cat(caller: Caller, case: Case) -> Result:
    """The first segment row by row, the second as one batch."""
    middle, parts = _middle(caller.call), []
    for row in range(caller.call.batch):
        alone = of_rows(case, [row])
        parts.append(
            caller(
                ttr.regress,
                **_arguments(alone.tokens(slice(0, middle), alone.state), caller.call, return_state=True),
            )
        )
    if not parts:
        return regress(caller, case)
    state = State.cat([state for _, state in parts])
    rest, end = caller(
        ttr.regress, **_arguments(case.tokens(slice(middle, None), state), caller.call, return_state=True)
    )
    return torch.cat([torch.cat([y for y, _ in parts]), rest], dim=1), end


def combine(caller: Caller, case: Case) -> Result:
    """The state of the whole sequence, combined from those of two segments."""
    first, second = (
        case.tokens(part) for part in (slice(0, _middle(caller.call)), slice(_middle(caller.call), None))
    )
    y, state = caller(
        ttr.regress,
        **_arguments(dataclasses.replace(first, state=case.state), caller.call, return_state=True),
    )
    _, alone = caller(ttr.regress, **_arguments(second, caller.call, return_state=True))
    controls = {
        name: second.controls[name]
        for name in (case.problem.weights.controls() if case.problem.weights.retention else ())
    }
    both = caller(
        State.combine, problem=case.problem, first=state, second=alone, params=case.params, **controls
    )
    rest = caller(
        ttr.regress, **_arguments(dataclasses.replace(second, state=state), caller.call, return_state=False)
    )
    return torch.cat([y, rest], dim=1), both


def rewind(caller: Caller, case: Case) -> Result:
    """The whole sequence; then the newest tokens are dropped and run again."""
    middle = _middle(caller.call)
    y, state = caller(ttr.regress, **_arguments(case, caller.call, return_state=True))
    state = caller(lambda state: state.rewind(case.problem, caller.call.time - middle), state=state)
    rest, end = caller(
        ttr.regress, **_arguments(case.tokens(slice(middle, None), state), caller.call, return_state=True)
    )
    return torch.cat([y[:, :middle], rest], dim=1), end


def with_capacity(call: Call, case: Case) -> Case:
    """The case started with a fixed number of slots, for some seeds too few."""
    sizes = (
        case.q.shape[0],
        (call.heads, case.k.shape[-2], case.v.shape[-2]),
        case.q.shape[-1],
        case.v.shape[-1],
    )
    state = ttr.initial_state(
        case.problem, *sizes, params=case.params, capacity=call.time + call.seed % 5, dtype=case.q.dtype
    )
    return dataclasses.replace(case, state=state)


@dataclasses.dataclass(frozen=True)
class Route:
    """A way to run a case, and the case for which the definition must give the same outputs and state."""

    run: Callable[[Caller, Case], Result]
    expected: Callable[[Call, Case], Case] = lambda call, case: case
    streams: bool = True
    """Continues from a state, so it needs a causal problem."""
    differentiates: bool = True
    fixed: tuple[str, ...] = ()
    """Leaves that get no gradients on this route."""


STEPS = {
    "step": Route(_steps(False)),
    "step in place": Route(_steps(True)),
    "planned step": Route(_steps(False, True)),
    "planned step in place": Route(_steps(True, True)),
}
VERBS = {
    "clone": State.clone,
    "detach": State.detach,
    "file": _through_file,
    "wider": lambda state: state.to(torch.float64),
    "tree": lambda state: pytree.tree_map(lambda x: x, state),
    "copy": copy.deepcopy,
}
CUTS = (State.detach, _through_file)
"""Operations on states without gradients."""
ROUTES = {
    "regress": Route(regress, streams=False),
    "plan": Route(plan, streams=False),
    "oracle": Route(define, streams=False),
    "segments": Route(segments),
} | STEPS
ROUTES |= {
    f"state {name}": Route(_through(verb), differentiates=verb not in CUTS) for name, verb in VERBS.items()
}
ROUTES |= {
    "state select": Route(select, lambda call, case: of_rows(case, rows(call))),
    "state cat": Route(cat),
    "state combine": Route(combine),
    # the decay is computed from the log weight of the newest pair, which was 0
    "state rewind": Route(rewind, fixed=("state.log_weight",)),
    "state capacity": Route(
        lambda caller, case: regress(caller, with_capacity(caller.call, case)), with_capacity
    ),
}


# ----------------------------------------------------------------------------------------------------- layers
def _layer(caller: Caller, layer: Mixer, x: Tensor) -> Result:
    return _pair(
        caller(layer.forward, x=x, return_state=layer.problem.function.causal, cu_seqlens=bounds(caller.call))
    )


def _layer_segments(caller: Caller, layer: Mixer, x: Tensor) -> Result:
    parts, state = [], None
    for start, stop in zip((0, *caller.call.cuts), (*caller.call.cuts, caller.call.time)):
        y, state = caller(layer.forward, x=x[:, start:stop], state=state, return_state=True)
        parts.append(y)
    return torch.cat(parts, dim=1), state


def _layer_steps(inplace: bool) -> Callable[[Caller, Mixer, Tensor], Result]:
    def route(caller: Caller, layer: Mixer, x: Tensor) -> Result:
        rows, state = [], layer.initial_state(x.shape[0])
        for t in range(x.shape[1]):
            y, state = caller(
                layer.step, writes="state" if inplace else "", x=x[:, t], state=state, inplace=inplace
            )
            rows.append(y)
        return (torch.stack(rows, dim=1), state) if rows else _layer(caller, layer, x)

    return route


LAYERS = {
    "layer": _layer,
    "layer segments": _layer_segments,
    "layer steps": _layer_steps(False),
    ("layer steps in place"): _layer_steps(True),
}
