"""The operations that csrc/operations.c computes, and which torch operations are among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttr.engines.native import library
from ttr.recording import Operation

CODES = (
    *("copy", "neg", "exp", "log", "sigmoid", "silu", "softplus", "tanh", "square", "rsqrt", "sqrt"),
    *("reciprocal", "abs", "relu", "expm1", "log1p", "cos", "sin", "log_sigmoid", "clamp", "threshold"),
    *("add", "sub", "mul", "div", "maximum", "minimum", "sum", "matmul"),
)
"""The operations of csrc/operations.c, in its order."""

UNARY = frozenset(CODES[: CODES.index("clamp")])
BINARY = frozenset(CODES[CODES.index("add") : CODES.index("sum")])

SPELLINGS = {
    **{name: name for name in (*UNARY, *BINARY)},
    **{f"__{name}__": name for name in ("add", "sub", "mul", "neg", "abs")},
    **{"__truediv__": "div", "true_divide": "div", "__radd__": "add", "__rmul__": "mul"},
    **dict.fromkeys(("contiguous", "reshape", "flatten", "clone", "_to_copy"), "copy"),
}
"""torch's names of them."""

REVERSED = {"__rsub__": "sub", "rsub": "sub", "__rtruediv__": "div", "__rdiv__": "div"}
"""Those whose second argument is the first operand."""

AXES = 5
"""As in csrc/operations.c."""

LARGE = 1 << 14
"""Products of more multiplications than this, for each entry of the leading axes, are faster by torch, but
for that of a single row on one thread, which waits for the memory either way."""


class Operand(NamedTuple):
    """A tensor of a recording as an operand: where it starts, and its stride along every axis of the
    operation."""

    tensor: Tensor
    strides: tuple[int, ...]
    offset: int = 0


class Entry(NamedTuple):
    """An operation of the kernel over axes of ``sizes``. An operand that is None is the number ``first``."""

    code: str
    sizes: tuple[int, ...]
    out: Operand
    a: Operand | None
    b: Operand | None = None
    first: float = 0.0
    second: float = 1.0

    def folded(self) -> Entry:
        """The same over as few axes as possible, the last ones of five; those of a product stay."""
        if self.code == "matmul":
            return self
        operands = [None if x is None else x.strides for x in (self.out, self.a, self.b)]
        axes: list[tuple[int, list[int | None]]] = []
        for axis, size in enumerate(self.sizes):
            if size == 1:
                continue
            here = [None if x is None else x[axis] for x in operands]
            before = axes[-1] if axes else None
            if before and all(s is None or t == s * size for t, s in zip(before[1], here)):
                axes[-1] = (before[0] * size, here)
            else:
                axes.append((size, here))
        missing = AXES - len(axes)
        sizes = (*(1,) * missing, *(size for size, _ in axes))

        def folded(index: int, x: Operand | None) -> Operand | None:
            return x and x._replace(strides=(*(0,) * missing, *(here[index] for _, here in axes)))

        out, a, b = (folded(i, x) for i, x in enumerate((self.out, self.a, self.b)))
        return self._replace(sizes=sizes, out=out, a=a, b=b)


def lowered(operation: Operation) -> list[Entry] | None:
    """The entries that compute an operation; None where the kernel has none for it."""
    if len(operation.made) != 1 or operation.packed:
        return None
    out, name = operation.made[0], getattr(operation.function, "__name__", "")
    tensors = list(_tensors((*operation.args, *operation.kwargs.values())))
    if not tensors or out.dtype not in library.REALS or out.ndim > AXES:
        return None
    for x in (*tensors, out):
        if type(x) not in library.PLAIN or x.dtype is not out.dtype or not x.is_cpu or x.is_neg():
            return None
        if x.ndim > AXES or x.numel() == 0:
            return None
    rules = {"linear": _linear, "matmul": _matmul, "__matmul__": _matmul, "bmm": _matmul, "cat": _cat}
    rules |= {"sum": _sum, "mean": _sum, "clamp": _clamp, "_threshold": _threshold, "threshold": _threshold}
    rule = rules.get(name, _pointwise)
    return rule(name, out, operation.args, dict(operation.kwargs))


def _pointwise(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    if kwargs.pop("inplace", False) or kwargs:
        return None
    if name in REVERSED:
        name, args = REVERSED[name], args[::-1]
    code = SPELLINGS.get(name)
    if code == "copy":
        x = args[0]
        # in the order of the entries, whatever the shape of the result
        shaped = _contiguous_strides(x.shape)
        made = [Entry("copy", tuple(x.shape), Operand(out, shaped), Operand(x, x.stride()))]
        return made if out.is_contiguous() and out.numel() == x.numel() else None
    if name == "pow" and args[1:] == (2,):
        code, args = "square", args[:1]
    if code in UNARY and len(args) == 1:
        return [Entry(code, tuple(out.shape), Operand(out, out.stride()), _spread(args[0], out))]
    if code in BINARY and len(args) == 2 and all(isinstance(x, Tensor | int | float) for x in args):
        number = next((float(x) for x in args if not isinstance(x, Tensor)), 0.0)
        a, b = (_spread(x, out) if isinstance(x, Tensor) else None for x in args)
        return [Entry(code, tuple(out.shape), Operand(out, out.stride()), a, b, number)]
    return None


def _clamp(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    x, low, high = (*args, *(None,) * (3 - len(args)))
    low, high = kwargs.get("min", low), kwargs.get("max", high)
    if any(isinstance(end, Tensor) for end in (low, high)):
        return None
    ends = (-math.inf if low is None else low, math.inf if high is None else high)
    return [Entry("clamp", tuple(out.shape), Operand(out, out.stride()), _spread(x, out), None, *ends)]


def _threshold(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    if kwargs.get("inplace") or len(args) != 3:
        return None
    return [
        Entry(
            "threshold", tuple(out.shape), Operand(out, out.stride()), _spread(args[0], out), None, *args[1:]
        )
    ]


def _sum(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    x, axes, keepdim = (*args, *(None,) * (3 - len(args)))
    axes, keepdim = kwargs.get("dim", axes), bool(kwargs.get("keepdim", keepdim))
    if kwargs.get("dtype") is not None or len(args) > 3:
        return None
    axes = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = {axis % max(x.ndim, 1) for axis in axes}
    kept = iter(out.stride())
    strides = []
    for axis in range(x.ndim):
        stride = next(kept) if keepdim or axis not in axes else 0
        strides.append(0 if axis in axes else stride)
    share = 1.0 if name == "sum" else 1 / math.prod(x.shape[axis] for axis in axes)
    return [
        Entry("sum", tuple(x.shape), Operand(out, tuple(strides)), Operand(x, x.stride()), None, 0.0, share)
    ]


def _cat(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    parts, axis = args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0)
    axis, start, entries = axis % out.ndim, 0, []
    for x in parts:
        if x.ndim != out.ndim:  # torch skips empty tensors [0]
            return None
        if x.numel():
            place = Operand(out, out.stride(), start * out.stride(axis))
            entries.append(Entry("copy", tuple(x.shape), place, Operand(x, x.stride())))
        start += x.shape[axis]
    return entries


def _linear(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    x, weight, bias = (*args, *(kwargs.get(key) for key in ("weight", "bias")[len(args) - 1 :]))
    if bias is not None or weight.ndim != 2:
        return None
    return _product(out, x, weight, weight.stride()[::-1])


def _matmul(name: str, out: Tensor, args: tuple, kwargs: dict[str, Any]) -> list[Entry] | None:
    a, b = args
    return None if min(a.ndim, b.ndim) < 2 or kwargs else _product(out, a, b, b.stride())


def _product(out: Tensor, a: Tensor, b: Tensor, strides: tuple[int, ...]) -> list[Entry] | None:
    """a [..., M, K] times b [..., K, N] with these strides of b."""
    seen = {"out": (out.shape, out.stride()), "a": (a.shape, a.stride())}
    if b.ndim == 2 and a.is_contiguous() and out.is_contiguous():  # all rows of a share b
        seen = {
            name: (x.flatten(0, -2).shape, x.flatten(0, -2).stride()) for name, x in (("out", out), ("a", a))
        }
    (shape, of_out), (a_shape, of_a) = seen["out"], seen["a"]
    lead = shape[:-2]
    alone = shape[-2] == 1 and torch.get_num_threads() == 1
    if len(lead) > AXES - 3 or math.prod((*shape[-2:], a_shape[-1])) > LARGE and not alone:
        return None
    missing = AXES - 3 - len(lead)

    def leading(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
        """The strides of the leading axes, 0 where an operand is repeated."""
        absent = len(lead) - (len(sizes) - 2)
        own = (0 if size == 1 else stride for size, stride in zip(sizes[:-2], strides))
        return (*(0,) * (missing + absent), *own)

    sizes = (*(1,) * missing, *shape, a_shape[-1])
    return [
        Entry(
            "matmul",
            sizes,
            Operand(out, (*leading(shape, of_out), *of_out[-2:], 0)),
            Operand(a, (*leading(a_shape, of_a), of_a[-2], 0, of_a[-1])),
            Operand(b, (*leading(b.shape, strides), 0, strides[-1], strides[-2])),
        )
    ]


def _spread(x: Tensor, out: Tensor) -> Operand:
    """x with its strides along the axes of ``out``, to whose shape it is broadcast."""
    return Operand(x, x.expand(out.shape).stride())


def _contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _tensors(arguments: Iterable[object]) -> Iterable[Tensor]:
    for x in arguments:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from _tensors(x)
