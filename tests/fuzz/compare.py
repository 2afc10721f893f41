"""Outputs, states and gradients of a call against those of the definition, within the tolerances and the
bound that follows from its condition."""

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
"""The unit of the values, and so of the outputs, where it is far from 1."""

LEAST_NOISE = 1e-12
"""Relative noise with which a condition is measured, in float64, for results in float64; for other dtypes it
is their eps."""

PER_TOKEN, PER_FIT = 10, 300
"""By which factor more than such noise, in float64, rounding affects a network, which rounds anew at every
token, and a local fit, whose shares 1 - z.rho cancel; in narrower dtypes the definition itself is
measured."""


@dataclass(frozen=True)
class Numbers:
    """``over``: quantities with their error and the bound that it exceeds; ``without_digits``: quantities
    that cannot be compared."""

    over: tuple[tuple[str, float, float], ...]
    without_digits: tuple[str, ...]


def compare(subject: Subject, found: Result, defined: Result, leaves: Mapping[str, Tensor]) -> Numbers:
    """Compare the results with those of the definition, of which ``leaves`` are the input tensors."""
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
    """Whether every quantity has a correct digit in the arithmetic of the call, as measured on the
    definition."""
    dtype = torch.promote_types(getattr(torch, subject.call.dtype), torch.float32)
    reference = _quantities(subject, defined, leaves, _directions(subject, defined))
    return all(
        _holds(x, dtype) and _bound(subject, defined, reference, name, dtype) < 1.0
        for name, x in reference.items()
    )


def wrong_form(subject: Subject, found: Result, defined: Result) -> str:
    """The errors in shapes, dtypes, names and positions; empty if there is none."""
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
    """The incoming gradients of all outputs; 0 where a log weight is -inf."""
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
    """Outputs, states and, where gradients are wanted and possible, those of all leaves."""
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
    """The bound that the condition of the definition gives for a quantity of that dtype."""
    # the arithmetic between half-precision inputs and outputs is float32
    rounding = _coarsest(subject, name, torch.promote_types(dtype, torch.float32))
    return ill_conditioned(_conditions(subject, found, reference, rounding)[name], rounding)


def _coarsest(subject: Subject, name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype to whose rounding a quantity is subject: its own; for gradients and layers the coarsest of
    all inputs and outputs."""
    if not (name.startswith("gradient") or isinstance(subject, Layer)):
        return dtype
    return max((dtype, *(x.dtype for x in subject.leaves.values())), key=lambda dtype: torch.finfo(dtype).eps)


def _conditions(
    subject: Subject, found: Result, reference: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, float]:
    """For every quantity, the factor by which the definition magnifies relative noise in all inputs,
    including incoming gradients. The noise is as large as the rounding of the dtype, so that what saturates
    there does so here. Noise does not model all rounding: in narrow dtypes the error of the definition in
    that dtype is measured too."""
    noise = Noise(max(LEAST_NOISE, torch.finfo(dtype).eps), torch.Generator().manual_seed(1))
    directions = _directions(subject, found)
    worst = dict.fromkeys(reference, subject.call.memory().solver.limits().get("condition", 1.0))
    if subject.rounds and dtype != torch.float64:
        try:
            rounded = _quantities(subject, *subject.define(dtype=dtype), directions)
        except torch.linalg.LinAlgError:  # a matrix that is regular only in float64
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
    """Whether these numbers are in the range of a dtype."""
    return bool(((reference.abs() < torch.finfo(dtype).max) | torch.isneginf(reference)).all())


def _unit(subject: Subject, name: str, dtype: torch.dtype) -> float:
    """The unit to measure outputs in: that of the values, unless their dtype has no digits there."""
    return (
        max(UNITS.get(subject.call.values, 1.0), 1e3 * torch.finfo(dtype).tiny) if name == "output" else 1.0
    )
