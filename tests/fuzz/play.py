"""Runs a call and judges it: equal to the definition, refused in a sentence, or a finding."""

from __future__ import annotations

import contextlib
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import ttr
from tests.fuzz.call import Call
from tests.fuzz.routes import LAYERS, ROUTES, InputChanged, Result
from tests.fuzz.subjects import NOISE, Layer, Memory, Subject
from tests.fuzz.tensors import PLAIN, laid_out
from ttr.laws.tolerances import error, ill_conditioned, tolerance
from ttr.problem import Problem

PACKAGE = Path(ttr.__file__).parent
RIGHT = ("equal", "refused", "no digit", "not judged")
"""What is not a finding. No digit: the definition magnifies rounding so much, or its numbers are so large, that none is left to
compare. Not judged: NaN where the checks of numbers are off, or an argument that is not wrong after all."""

UNITS: Mapping[str, float] = {"tiny values": 1e-9, "tiny": 1e-6}
"""Units of the values, and so of the outputs, where they are far from 1."""


@dataclass(frozen=True)
class Outcome:
    """``kind``: one of ``RIGHT`` or what was found; ``words`` about this call; ``place`` tells two findings of a kind apart."""

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
    """Ends the play of a call."""

    def __init__(self, kind: str, words: str, place: str) -> None:
        super().__init__(words)
        self.outcome = Outcome(kind, words, place)


class Refusal(Exception):
    """The library's own sentence."""


def play(call: Call) -> Outcome:
    """The outcome of a call; no exception of the library leaves it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(call.threads)
    checked = contextlib.nullcontext() if call.checks is None else ttr.checks(values=call.checks)
    try:
        with checked, warnings.catch_warnings():
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
    """Lets no exception out but ``Refusal`` for a sentence of the library, and ``Finding`` for everything else."""
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
        if type(failure) is ValueError and own[-1:] == frames[-1:] and words.endswith((".", ".)")):
            raise Refusal(words) from failure
        place = f"{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].name}" if own else what
        said, name = textwrap.shorten(words.partition("\n")[0], 200), type(failure).__name__
        words = f"{name} while {what}, in {place}: {said}"
        raise Finding("foreign exception", words, f"{name} {_argument(call) if call.wrong else place}") from failure


def _argument(call: Call) -> str:
    """The sort of the wrong argument, and what is wrong with it."""
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
    try:
        with _watched(call, "calling it"):
            found = subject.run()
    except Refusal as refusal:
        if call.wrong is None and call.backend == "auto" and not call.entry.startswith("state "):
            _must_run(subject, str(refusal))
        raise
    if call.wrong is not None:
        return _must_refuse(subject)
    try:
        with _watched(call, "defining it"):
            defined, leaves = subject.define()
    except Refusal as refusal:
        raise Finding("not refused", f"though the definition says: {refusal}", call.entry) from refusal
    return _compare(subject, found, defined, leaves)


def _must_run(subject: Subject, refusal: str) -> None:
    """A right call is refused only where the definition is refused too, or has no digit."""
    with _watched(subject.call, "defining it"):
        defined, leaves = subject.define()
        reference = _quantities(defined, leaves, _directions(subject.call, defined))
        conditions = _conditions(subject, reference, defined)
    if any(not _has_digits(x, _working(subject.call)) for x in reference.values()):
        return
    if max(conditions.values()) * 50 * torch.finfo(_working(subject.call)).eps < 1.0:
        raise Finding("refuses what is right", refusal, refusal[:40])


def _must_refuse(subject: Subject) -> Outcome:
    """The call had a wrong argument and was not refused."""
    call, (name, how) = subject.call, subject.call.wrong
    numbers, shapes = how in ("NaN", "infinity"), how in ("another axis", "an axis less", "a channel more", "two batches", "no heads")
    empty = name in subject.leaves and subject.leaves[name].numel() == 0 or 0 in (call.time, call.batch) and name not in subject.leaves
    if numbers and (call.checks is False or empty) or shapes and (name == "ridge" or call.batch == 0) or name == "state" and not call.past:
        return Outcome("not judged")
    raise Finding("not refused", f"{name}: {how}", _argument(call))


# ----------------------------------------------------------------------------------------------------------- comparing
def _compare(subject: Subject, found: Result, defined: Result, leaves: Mapping[str, Tensor]) -> Outcome:
    """Outputs, states and gradients beside those of the definition."""
    call = subject.call
    _check_form(subject, found, defined)
    directions = _directions(call, found)
    with _watched(call, "differentiating it"):
        values = _quantities(found, subject.leaves if subject.differentiates else {}, directions)
    reference = _quantities(defined, leaves if subject.differentiates else {}, directions)
    digits = {name: _has_digits(wanted, values[name].dtype) for name, wanted in reference.items()}
    errors = {name: error(values[name].double() / _unit(call, name, values), reference[name] / _unit(call, name, values))
              for name in reference if digits[name]}
    over = [name for name, found in errors.items() if found > tolerance(_dtype(subject, name, values))]
    conditions = _conditions(subject, reference, found) if over else {}
    for name in over:
        bound = ill_conditioned(conditions[name], _dtype(subject, name, values, working=True))
        digits[name] = bound < 1.0
        if errors[name] > bound and digits[name]:
            words = f"{name} is off by {errors[name]:.2g} of its scale where its condition allows {bound:.1g}"
            raise Finding("wrong number", f"{words}, on {subject.backend()}", f"{name.split(' ')[0]} on {subject.backend()}")
    return Outcome("equal" if all(digits.values()) else "no digit")


def _check_form(subject: Subject, found: Result, defined: Result) -> None:
    """Shapes, dtypes, names and positions."""
    (y, state), (wanted, expected), call = found, defined, subject.call
    narrow = torch.float64 if call.entry == "oracle" else _promoted(subject)
    wrong = {"its shape": y.shape != wanted.shape, "its dtype": y.dtype != narrow}
    if expected is not None:
        wrong |= {"the names of its state": set(state) != set(expected), "the position": not torch.equal(state.position, expected.position)}
        wrong |= {f"the shape of {name}": state[name].shape != x.shape for name, x in expected.tensors.items() if name in state.tensors}
        wrong |= {f"the dtype of {name}": x.dtype != torch.promote_types(x.dtype, torch.float32) for name, x in state.tensors.items()}
    if any(wrong.values()):
        words = ", ".join(what for what, is_wrong in wrong.items() if is_wrong)
        raise Finding("wrong form", f"{words} on {subject.backend()}", f"{words} on {subject.backend()}")


def _promoted(subject: Subject) -> torch.dtype:
    """The dtype of the outputs."""
    dtypes = [subject.leaves[name].dtype for name in ("q", "k", "v", "x") if name in subject.leaves]
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


def _directions(call: Call, found: Result) -> dict[str, Tensor]:
    """The gradients that come in, of all that comes out and has one; 0 where a log weight is -inf."""
    generator = torch.Generator().manual_seed(call.seed)

    def drawn(x: Tensor) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).masked_fill(torch.isneginf(x), 0.0)
        return laid_out(call, "gradient", direction.to(x.dtype))

    return {name: drawn(x.detach()) for name, x in _outputs(found).items()}


def _outputs(found: Result) -> dict[str, Tensor]:
    y, state = found
    return {"output": y} | ({} if state is None else {f"state {name}": state[name] for name in sorted(state)})


def _quantities(found: Result, leaves: Mapping[str, Tensor], directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs, states and, where leaves want them, gradients in their dtypes."""
    outputs = _outputs(found)
    wanted = {name: x for name, x in leaves.items() if x.requires_grad}
    graph = [name for name, x in outputs.items() if x.requires_grad]
    gradients = [torch.zeros_like(x) for x in wanted.values()]
    if graph and wanted:
        given = [directions[name].to(outputs[name].dtype) for name in graph]
        gradients = torch.autograd.grad([outputs[name] for name in graph], list(wanted.values()), given, allow_unused=True, materialize_grads=True)
    return {name: x.detach() for name, x in outputs.items()} | {f"gradient of {name}": g for name, g in zip(wanted, gradients)}


def _conditions(subject: Subject, reference: Mapping[str, Tensor], found: Result) -> dict[str, float]:
    """By how much the definition magnifies relative noise of everything that goes in, incoming gradients too, for every quantity; of a layer
    also the rounding of what stands around its memory."""
    generator = torch.Generator().manual_seed(1)
    worst = dict.fromkeys(reference, subject.call.memory().solver.condition)
    if isinstance(subject, Layer):
        dtype = subject.x.dtype
        rounded = _quantities(*subject.define(dtype=dtype), _directions(subject.call, found))
        worst = {name: max(worst[name], error(rounded[name], reference[name]) / torch.finfo(dtype).eps) for name in reference}
    for _ in range(3):
        noisy = {name: x.double() * (1 + NOISE * torch.randn(x.shape, generator=generator, dtype=torch.float64))
                 for name, x in _directions(subject.call, found).items()}
        moved = {name: error(x, reference[name]) for name, x in _quantities(*subject.define(generator), noisy).items() if name in reference}
        worst = {name: max(worst[name], moved[name] / NOISE if moved[name] < 0.01 else torch.inf) for name in reference}
    return worst


def _dtype(subject: Subject, name: str, values: Mapping[str, Tensor], working: bool = False) -> torch.dtype:
    """The dtype whose rounding a quantity has: of gradients the coarsest of all that goes in and out, of outputs and states their own, and
    in between that of the arithmetic, except in a layer, whose projections round too."""
    dtype = values[name].dtype
    if name.startswith("gradient") or isinstance(subject, Layer):
        return max((x.dtype for x in (*subject.leaves.values(), values["output"])), key=lambda dtype: torch.finfo(dtype).eps)
    return torch.promote_types(dtype, torch.float32) if working else dtype


def _working(call: Call) -> torch.dtype:
    return torch.promote_types(getattr(torch, call.dtype), torch.float32)


def _has_digits(reference: Tensor, dtype: torch.dtype) -> bool:
    """Whether a dtype can hold these numbers."""
    return bool(((reference.abs() < torch.finfo(dtype).max) | torch.isneginf(reference)).all())


def _unit(call: Call, name: str, values: Mapping[str, Tensor]) -> float:
    """What to measure outputs in: the unit of the values, unless their dtype has no digits there."""
    least = 1e3 * torch.finfo(values[name].dtype).tiny
    return max(UNITS.get(call.values, 1.0), least) if name == "output" else 1.0
