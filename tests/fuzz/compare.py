"""Outputs, states and gradients of a call beside those of the definition, within the tolerances and what its
condition allows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.fuzz.routes import Result
from tests.fuzz.subjects import Layer, Noise, Subject
from tests.fuzz.tensors import laid_out
from ttr.forms import Network
from ttr.laws.tolerances import error, ill_conditioned, tolerance

UNITS: Mapping[str, float] = {"tiny values": 1e-9, "tiny": 1e-6}
"""Units of the values, and so of the outputs, where they are far from 1."""

LEAST_NOISE = 1e-12
"""Relative noise by which a condition is measured, in float64, for results of float64; for others it is the
eps of their dtype."""

PER_TOKEN, PER_FIT = 10, 300
"""By how much more than such noise, in float64, a network loses that rounds at every token anew, and a local
fit whose shares 1 - z.rho cancel; in narrower numbers the definition itself tells."""


@dataclass(frozen=True)
class Numbers:
    """``over``: quantities with their error and the bound that it breaks; ``without_digits``: those of which
    nothing can be compared."""

    over: tuple[tuple[str, float, float], ...]
    without_digits: tuple[str, ...]


def compare(subject: Subject, found: Result, defined: Result, leaves: Mapping[str, Tensor]) -> Numbers:
    """The numbers that were found beside those of the definition, of which ``leaves`` are the tensors that
    went in."""
    directions = _directions(subject, found)
    values = _quantities(subject, found, subject.leaves, directions)
    reference = _quantities(subject, defined, leaves, directions)
    lost = [name for name, wanted in reference.items() if not _holds(wanted, values[name].dtype)]
    over = []
    for name in (name for name in reference if name not in lost):
        unit = _unit(subject, name, values[name].dtype)
        off = error(values[name].double() / unit, reference[name] / unit)
        if off <= tolerance(_coarsest(subject, name, values[name].dtype)):
            continue
        bound = _bound(subject, found, reference, name, values[name].dtype)
        if bound >= 1.0:
            lost.append(name)
        elif off > bound:
            over.append((name, off, bound))
    return Numbers(tuple(over), tuple(lost))


def has_digits(subject: Subject, defined: Result, leaves: Mapping[str, Tensor]) -> bool:
    """Whether the arithmetic of the call leaves a digit of everything, as the definition has it."""
    dtype = torch.promote_types(getattr(torch, subject.call.dtype), torch.float32)
    reference = _quantities(subject, defined, leaves, _directions(subject, defined))
    return all(
        _holds(x, dtype) and _bound(subject, defined, reference, name, dtype) < 1.0
        for name, x in reference.items()
    )


def wrong_form(subject: Subject, found: Result, defined: Result) -> str:
    """What is wrong with shapes, dtypes, names and positions; empty if nothing is."""
    (y, state), (wanted, expected) = found, defined
    dtypes = [subject.leaves[name].dtype for name in ("q", "k", "v", "x") if name in subject.leaves]
    dtype = torch.float64 if subject.call.entry == "oracle" else functools.reduce(torch.promote_types, dtypes)
    wrong = {"the shape of its output": y.shape != wanted.shape, "the dtype of its output": y.dtype != dtype}
    if expected is not None:
        wrong |= {
            "the names of its state": set(state) != set(expected),
            "its position": not torch.equal(state.position, expected.position),
        }
        wrong |= {
            f"the shape of {name}": state[name].shape != x.shape
            for name, x in expected.tensors.items()
            if name in state.tensors
        }
        wrong |= {
            f"the dtype of {name}": x.dtype != torch.promote_types(x.dtype, torch.float32)
            for name, x in state.tensors.items()
        }
    return ", ".join(what for what, is_wrong in wrong.items() if is_wrong)


def _outputs(found: Result) -> dict[str, Tensor]:
    y, state = found
    return {"output": y} | ({} if state is None else {f"state {name}": state[name] for name in sorted(state)})


def _directions(subject: Subject, found: Result) -> dict[str, Tensor]:
    """The gradients that come in, of all that comes out; 0 where a log weight is -inf."""
    generator = torch.Generator().manual_seed(subject.call.seed)

    def drawn(x: Tensor) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).masked_fill(
            torch.isneginf(x), 0.0
        )
        return laid_out(subject.call, "gradient", direction.to(x.dtype))

    return {name: drawn(x.detach()) for name, x in _outputs(found).items()}


def _quantities(
    subject: Subject, found: Result, leaves: Mapping[str, Tensor], directions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Outputs, states and, where gradients are wanted and go through, those of all leaves."""
    outputs = _outputs(found)
    wanted = {
        name: x
        for name, x in leaves.items()
        if x.requires_grad and subject.differentiates and name not in subject.fixed
    }
    graph = [name for name, x in outputs.items() if x.requires_grad]
    gradients = [torch.zeros_like(x) for x in wanted.values()]
    if graph and wanted:
        given = [directions[name].to(outputs[name].dtype) for name in graph]
        gradients = torch.autograd.grad(
            [outputs[name] for name in graph],
            list(wanted.values()),
            given,
            allow_unused=True,
            materialize_grads=True,
        )
    return {name: x.detach() for name, x in outputs.items()} | {
        f"gradient of {name}": g for name, g in zip(wanted, gradients)
    }


# ----------------------------------------------------------------------------------------------------- bounds
def _bound(
    subject: Subject, found: Result, reference: Mapping[str, Tensor], name: str, dtype: torch.dtype
) -> float:
    """What the condition of the definition allows of a quantity with that dtype."""
    # between half inputs and outputs all is float32
    rounding = _coarsest(subject, name, torch.promote_types(dtype, torch.float32))
    return ill_conditioned(_conditions(subject, found, reference, rounding)[name], rounding)


def _coarsest(subject: Subject, name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype whose rounding a quantity has: its own; in gradients and in layers the coarsest of all that
    goes in or comes out."""
    if not (name.startswith("gradient") or isinstance(subject, Layer)):
        return dtype
    return max((dtype, *(x.dtype for x in subject.leaves.values())), key=lambda dtype: torch.finfo(dtype).eps)


def _conditions(
    subject: Subject, found: Result, reference: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, float]:
    """By how much the definition magnifies relative noise of everything that goes in, incoming gradients too,
    for every quantity: noise as large as the rounding of the dtype, so that what saturates there does so
    here. Noise is not all of the rounding: in narrow numbers the definition tells by how much it is off in
    that dtype."""
    noise = Noise(max(LEAST_NOISE, torch.finfo(dtype).eps), torch.Generator().manual_seed(1))
    directions = _directions(subject, found)
    worst = dict.fromkeys(reference, subject.call.memory().solver.limits().get("condition", 1.0))
    if subject.rounds and dtype != torch.float64:
        try:
            rounded = _quantities(subject, *subject.define(dtype=dtype), directions)
        except torch.linalg.LinAlgError:  # a matrix that is regular in float64 alone
            return dict.fromkeys(reference, torch.inf)
        worst = {
            name: max(worst[name], error(rounded[name], x) / torch.finfo(dtype).eps)
            for name, x in reference.items()
        }
    for _ in range(3):
        noisy = {name: noise.on(x.double()) for name, x in directions.items()}
        moved = _quantities(subject, *subject.define(noise), noisy)
        for name, x in reference.items():
            change = error(moved[name], x)
            worst[name] = max(worst[name], change / noise.relative if change < 0.1 else torch.inf)
    problem = subject.call.memory()
    unseen = (PER_TOKEN * subject.call.time if issubclass(problem.form, Network) else 1) * (
        1 if problem.function.local_degree is None else PER_FIT
    )
    return (
        {name: unseen * condition for name, condition in worst.items()} if dtype == torch.float64 else worst
    )


def _holds(reference: Tensor, dtype: torch.dtype) -> bool:
    """Whether a dtype can hold these numbers."""
    return bool(((reference.abs() < torch.finfo(dtype).max) | torch.isneginf(reference)).all())


def _unit(subject: Subject, name: str, dtype: torch.dtype) -> float:
    """What to measure outputs in: the unit of the values, unless their dtype has no digits there."""
    return (
        max(UNITS.get(subject.call.values, 1.0), 1e3 * torch.finfo(dtype).tiny) if name == "output" else 1.0
    )
