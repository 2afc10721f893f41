"""The tensors of a fuzzed call: their numbers, dtypes and layouts, and invalid arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.fuzz.call import Call
from ttr.controls import CONTROLS
from ttr.laws.rows import Case, Sizes, make_case
from ttr.problem import Problem
from ttr.state import State

Change = Callable[[Tensor], Tensor]


# ---------------------------------------------------------------------------------------------------- layouts
def _permuted(x: Tensor, order: list[int]) -> Tensor:
    back = sorted(range(x.ndim), key=order.__getitem__)
    return x.permute(order).contiguous().permute(back)


def _transposed(x: Tensor) -> Tensor:
    """Time and heads, or the first two axes, exchanged in memory, as after a projection and a
    transposition."""
    return (
        _permuted(x, [0, 2, 1, *range(3, x.ndim)]) if x.ndim > 2 else _permuted(x, list(range(x.ndim))[::-1])
    )


def _in_buffer(x: Tensor, step: int, axis: int = -1) -> Tensor:
    """A view, every ``step``-th entry of an axis, of a larger buffer that holds NaN everywhere else."""
    if x.ndim == 0:
        return x.clone()
    shape, index = list(x.shape), [slice(None)] * x.ndim
    index[axis] = slice(1, 1 + step * shape[axis], step)
    shape[axis] = step * shape[axis] + 3
    view = torch.full(shape, torch.nan, dtype=x.dtype)[tuple(index)]
    view.copy_(x)
    return view


def _negated(x: Tensor) -> Tensor:
    """The same numbers behind torch's lazy negation, where the dtype has complex numbers."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.clone()
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _expanded(axis: int) -> Change:
    """The first entry along an axis, expanded over it from one place in memory: this changes the numbers."""
    return lambda x: (
        x.narrow(axis, 0, 1).clone().expand_as(x) if x.ndim > axis and x.shape[axis] else x.clone()
    )


LAYOUTS: Mapping[str, Change] = {
    "contiguous": torch.clone,
    "transposed": _transposed,
    "reversed": lambda x: _permuted(x, list(range(x.ndim))[::-1]),
    "channels last but one": lambda x: (
        _permuted(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]) if x.ndim > 1 else x.clone()
    ),
    "inside a buffer": lambda x: _in_buffer(x, 1),
    "every second channel": lambda x: _in_buffer(x, 2),
    "every third token": lambda x: _in_buffer(x, 3, 1) if x.ndim > 1 else x.clone(),
    "negated": _negated,
    "one row": _expanded(0),
    "one token": _expanded(1),
    "one head": _expanded(2),
    "one channel": _expanded(3),
}
RIDGES: Mapping[str, Change] = {"number": torch.mean, "per head": lambda x: x.mean(1)}
"""The shorter forms of a ridge."""


# ----------------------------------------------------------------------------------------------------- values
def _scaled(factor: float, *names: str) -> Callable[..., Tensor]:
    return lambda name, x, g: x * factor if name in names else x


def _at_end(end: str) -> Callable[..., Tensor]:
    """Controls at an end of their range, if the range includes it."""

    def change(name: str, x: Tensor, g: torch.Generator) -> Tensor:
        bound = getattr(CONTROLS[name], end) if name in CONTROLS else None
        return x if bound is None else torch.full_like(x, bound)

    return change


def _some(value: float, *names: str) -> Callable[..., Tensor]:
    """The value at about half of the places [B,T]."""

    def change(name: str, x: Tensor, g: torch.Generator) -> Tensor:
        if name not in names:
            return x
        at = torch.rand(x.shape[:2], generator=g) < 0.5
        return x.masked_fill(at.reshape(*at.shape, *(1,) * (x.ndim - 2)), value)

    return change


def _near(noise: float) -> Callable[..., Tensor]:
    """All keys of a head and row equal but for relative noise."""

    def change(name: str, x: Tensor, g: torch.Generator) -> Tensor:
        keys = ("k", "read_key", "erase_key", "transport_key")
        return (
            x[:, :1] * (1 + noise * torch.randn(x.shape, generator=g, dtype=x.dtype)) if name in keys else x
        )

    return change


VALUES: Mapping[str, Callable[[str, Tensor, torch.Generator], Tensor]] = {
    "unit": lambda name, x, g: x,
    "strong gates": lambda name, x, g: x,
    "tiny values": _scaled(1e-9, "v"),
    "tiny": _scaled(1e-6, "q", "k", "v"),
    "large keys": _scaled(100.0, "k"),
    "large queries": _scaled(100.0, "q"),
    "huge values": _scaled(1e4, "v"),
    "huge": _scaled(1e4, "q", "k", "v"),
    "zeros": _scaled(0.0, "q", "k", "v"),
    "zero keys": _scaled(0.0, "k"),
    "some zeros": _some(0.0, "q", "k", "v"),
    "resets": lambda name, x, g: (
        torch.full_like(x, -torch.inf) if name in CONTROLS and CONTROLS[name].at_most == 0.0 else x
    ),
    "no importance": _some(-torch.inf, "log_importance"),
    "great importance": _scaled(20.0, "log_importance"),
    "least": _at_end("at_least"),
    "most": _at_end("at_most"),
    "equal keys": _near(0.0),
    "near-equal keys": _near(1e-4),
    "nearly equal keys": _near(1e-7),
    "small ridge": _scaled(1e-6, "ridge"),
    "large ridge": _scaled(1e4, "ridge"),
}


def build(call: Call, problem: Problem) -> Case:
    """The case of a call: ``make_case`` with its numbers, dtypes and layouts."""
    names = ("query_heads", "key_heads", "value_heads")
    sizes = Sizes(
        call.batch,
        call.time,
        call.heads,
        call.key,
        call.value,
        **{n: call.heads // g for n, g in zip(names, call.groups)},
    )
    case = make_case(
        problem, sizes, strong_gates=call.values == "strong gates", past=call.past, seed=call.seed
    )
    if case.state is not None and call.lengths is not None:  # one for each sequence, all different
        pasts = [
            make_case(problem, sizes, past=call.past + row, seed=call.seed + row).state
            for row in range(len(call.lengths))
        ]
        case = dataclasses.replace(case, state=State.cat(pasts))
    generator = torch.Generator().manual_seed(call.seed)
    dtypes = dict(call.dtypes)

    def made(name: str, x: Tensor) -> Tensor:
        wide = name.startswith("state.")
        dtype = getattr(torch, dtypes.get(name, call.dtype))
        x = VALUES[call.values](name, x, generator).to(
            torch.promote_types(dtype, torch.float32) if wide else dtype
        )
        return laid_out(call, name, x)

    return each(case, made)


def laid_out(call: Call, name: str, x: Tensor) -> Tensor:
    """The tensor in the layout that the call has for this name."""
    layouts = dict(call.layouts)
    return (RIDGES | LAYOUTS)[layouts.get(name, layouts.get("all", "contiguous"))](x)


def each(case: Case, change: Callable[[str, Tensor], Tensor]) -> Case:
    """The case with every tensor changed; those of the state are called "state.NAME"."""
    groups = {
        group: {name: change(name, x) for name, x in getattr(case, group).items()}
        for group in ("controls", "params")
    }
    state = case.state and case.state.replace(
        **{name: change(f"state.{name}", x) for name, x in case.state.tensors.items()}
    )
    return dataclasses.replace(
        case, **{name: change(name, getattr(case, name)) for name in "qkv"}, **groups, state=state
    )


# -------------------------------------------------------------------------------------------- wrong arguments
def _filled(value: float) -> Change:
    """The value in one place."""

    def change(x: Tensor) -> Tensor:
        x = x.detach().clone(memory_format=torch.contiguous_format)
        x.view(-1)[-1:] = value
        return x

    return change


WRONG: Mapping[str, Callable[[Tensor], object]] = {
    "NaN": _filled(torch.nan),
    "infinity": _filled(torch.inf),
    "None": lambda x: None,
    "text": lambda x: "text",
    "a list": lambda x: x.tolist(),
    "a dict": lambda x: {},
    "an array": lambda x: x.detach().float().numpy(),
    "integers": lambda x: x.detach().nan_to_num().long(),
    "booleans": lambda x: x.detach() > 0,
    "complex": lambda x: x.detach().to(torch.complex64),
    "on meta": lambda x: x.detach().to("meta"),
    "sparse": lambda x: x.detach().to_sparse(),
    "float8": lambda x: x.detach().to(torch.float8_e4m3fn),
    ("another axis"): lambda x: x[None],
    "an axis less": lambda x: x.new_zeros(x.shape[1:]),
    "a channel more": lambda x: torch.cat([x, x[..., :1]], -1) if x.shape[-1] else x[..., None],
    "two batches": lambda x: torch.cat([x, x]),
    "no heads": lambda x: x[..., :0, :],
}
"""Ways in which a tensor can be invalid."""

STATES: Mapping[str, Callable[[State], object]] = {
    "a dict": lambda s: dict(s.tensors),
    "text": lambda s: "text",
    "a tensor missing": lambda s: dataclasses.replace(s, tensors={}),
    "a tensor more": lambda s: s.replace(nothing=torch.zeros(1)),
    "two batches": lambda s: State.cat([s, s]),
    "negative position": lambda s: s.replace(position=s.position - 100),
    "position at the end": lambda s: s.replace(position=torch.full_like(s.position, 2**63 - 1)),
    "position of floats": lambda s: s.replace(position=s.position.double()),
    "position of two axes": lambda s: s.replace(position=s.position[None]),
    "integers": lambda s: s.map(lambda x: x.nan_to_num().long()),
    "NaN": lambda s: s.map(torch.Tensor.clone).map(_filled(torch.nan)),
    "infinity": lambda s: s.map(_filled(torch.inf)),
    "on meta": lambda s: s.to("meta"),
    "an axis more": lambda s: s.map(lambda x: x[None]),
    "lists": lambda s: s.map(torch.Tensor.tolist),
}
"""Ways in which a state can be invalid."""

PLAIN: Mapping[str, Mapping[str, object]] = {
    "problem": {"a name": "gla", "None": None, "a class": Problem, "a number": 3, "a list": []},
    "engine": {
        "unknown": "nobody",
        "None": None,
        "a number": 3,
        "a list": ["native"],
        "an object": object(),
    },
    "cu_seqlens": {
        "a list": [0, 1],
        "floats": torch.tensor([0.0, 1.0]),
        "falling": torch.tensor([0, 5, 1]),
        ("two axes"): torch.tensor([[0, 1]]),
        "bytes": torch.tensor([0, 1], dtype=torch.int8),
        "empty": torch.tensor([], dtype=torch.int64),
        "text": "text",
        "too far": torch.tensor([0, 10**6]),
        "negative": torch.tensor([-1, 1]),
        "on meta": torch.zeros(2, dtype=torch.int64, device="meta"),
    },
    "params": {
        "a list": [3],
        "text": "text",
        "a number": 3,
        "unknown": {"function.nothing": torch.zeros(1)},
        "numbers": {1: 2, "a": 3},
    },
    "unknown_control": {"a tensor": torch.zeros(1), "a number": 1.0, "None": None},
}
"""Ways in which arguments that are no tensors can be invalid, for any valid ones."""


def spoil(arguments: dict[str, object], wrong: tuple[str, str]) -> dict[str, object]:
    """The arguments of a call, one of them invalid; those of parameters are called by their own names.
    "missing" leaves it out."""
    name, how = wrong
    if "q" not in arguments and "x" not in arguments:
        return arguments  # an operation on the state
    if name in PLAIN:
        return arguments | {name: PLAIN[name][how]}
    if name in (arguments.get("params") or {}):
        params = dict(arguments["params"])
        x = params.pop(name)
        return arguments | {"params": params if how == "missing" else params | {name: WRONG[how](x)}}
    if how == "missing":
        return {other: x for other, x in arguments.items() if other != name}
    if arguments.get(name) is None:
        return arguments
    return arguments | {name: (STATES if name == "state" else WRONG)[how](arguments[name])}


def alike(one: object, other: object) -> bool:
    """Whether two arguments are equal, so that the change is none: an empty tensor has no number to
    change."""
    (x, kind), (y, other_kind) = (pytree.tree_flatten(argument) for argument in (one, other))
    return kind == other_kind and all(_same(a, b) for a, b in zip(x, y))


def _same(x: object, y: object) -> bool:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return x is y
    form = [(z.shape, z.dtype, z.device, z.layout) for z in (x, y)]
    return (
        x is y
        or form[0] == form[1]
        and x.layout == torch.strided
        and not x.is_meta
        and bool(((x == y) | (x.isnan() & y.isnan())).all())
    )
