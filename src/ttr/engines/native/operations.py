"""Runs of small torch operations in a recording as single calls of csrc/operations.c."""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttr.engines.native import library
from ttr.recording import Operation, Recording

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

AXES, MOST_TENSORS = 5, 64
"""As in csrc/operations.c."""


ALIGNED = 16
"""Entries to whose multiples the scratch memory of a result is rounded up."""

LEAST = 3
"""Fewer operations than this in a row are left to torch: a call of the kernel costs as much."""

LARGE = 1 << 14
"""Products of more multiplications than this, for each entry of the leading axes, are faster by torch, but for
that of a single row on one thread, which waits for the memory either way."""


class _Operand(ctypes.Structure):
    """``struct operand`` of csrc/operations.c."""

    _fields_ = [("tensor", ctypes.c_int64), ("offset", ctypes.c_int64), ("strides", ctypes.c_int64 * AXES)]


class _Operation(ctypes.Structure):
    """``struct operation`` of csrc/operations.c."""

    _fields_ = [
        ("code", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * AXES),
        *((name, _Operand) for name in ("out", "a", "b")),
        *((name, ctypes.c_double) for name in ("first", "second")),
    ]


class _Sequence(ctypes.Structure):
    """``struct sequence`` of csrc/operations.c."""

    _fields_ = [
        ("tensors", ctypes.c_void_p * MOST_TENSORS),
        *((name, ctypes.c_int64) for name in ("count", "threads")),
        ("operations", ctypes.c_void_p),
    ]


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


def fused(recording: Recording) -> Recording:
    """The recording with runs of small operations in float32 or float64 on the CPU as single calls; as it is
    where the library is not available or an operation writes to its argument."""
    if not library.available() or any(o.changes for o in recording.operations):
        return recording
    return _Fusion(recording).result()


class _Fusion:
    """Sorts the operations of a recording into runs for the kernel and calls of torch between them.

    An operation in a run that only shows a tensor in another way is not computed: its numbers are those of
    its ``root``, the last tensor before it that was.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording, self.examples = recording, dict(recording.examples)
        self.scope = dict(recording.scope)
        self.names = {id(x): name for name, x in self.scope.items() if isinstance(x, Tensor)}
        self.examples |= {name: self.scope[name] for name in self.names.values()}
        self.names |= recording.names
        self.views = {o.results[0] for o in recording.operations if _is_view(o)}
        entries = {o.results[0]: lowered(o) for o in recording.operations if not o.kept and not _is_view(o)}
        dtypes = [self.examples[name].dtype for name, made in entries.items() if made]
        self.dtype = max(dtypes, key=dtypes.count, default=torch.float32)
        self.entries = {
            name: made
            for name, made in entries.items()
            if made is not None and self.examples[name].dtype is self.dtype
        }

    def result(self) -> Recording:
        groups = self._groups()
        if not any(in_run for in_run, _ in groups):
            return self.recording
        self.in_runs = {name for in_run, group in groups if in_run for o in group for name in o.results}
        self.roots = self._roots()
        visible = self._visible(groups)
        shown = self._shown(visible)
        operations: list[Operation] = []
        for in_run, group in groups:
            if not in_run:
                operations += group
                continue
            call = self._call(group, visible, shown)
            if call is None:
                return self.recording
            operations.append(call)
            made = set(call.results)
            operations += [o for o in group if o.results[0] in (self.views & visible) - made]
        return replace(self.recording, operations=tuple(operations), scope=self.scope).pruned()

    def _groups(self) -> list[tuple[bool, list[Operation]]]:
        """The operations in an order in which those for the kernel come as early as they can, in groups: runs
        for the kernel (True) and calls of torch."""
        left, known = list(self.recording.operations), set(self.recording.inputs)
        groups: list[tuple[bool, list[Operation]]] = []
        while left:
            run, later, written = [], [], set()
            for o in left:
                if self._computes(o) and o.reads <= known and not o.reads & written:
                    run.append(o)
                    known.update(o.results)
                else:
                    later.append(o)
                    written |= o.reads if o.kept else set()  # what it reads it may write to
            groups.append((sum(o.results[0] in self.entries for o in run) >= LEAST, run))
            calls, left = [], []
            for o in later:
                ready = o.reads <= known and not self._computes(o)
                (calls if ready else left).append(o)
            known.update(name for o in calls for name in o.results)
            groups.append((False, calls))
        return groups

    def _computes(self, o: Operation) -> bool:
        """Whether an operation can be part of a run: a view, or one the kernel has, on tensors whose strides
        are known."""
        known = all(name not in self.loose for name in o.reads)
        return known and (o.results[0] in self.entries or o.results[0] in self.views)

    @functools.cached_property
    def kept(self) -> set[str]:
        """The results of calls that are kept whole, which may be laid out differently another time."""
        return {name for o in self.recording.operations if o.kept for name in o.results}

    @functools.cached_property
    def loose(self) -> set[str]:
        """The results of calls that are kept whole and were not contiguous: another time they may be."""
        return {
            name
            for o in self.recording.operations
            if o.kept
            for name, x in zip(o.results, o.made)
            if not x.is_contiguous()
        }

    def _roots(self) -> dict[str, str]:
        roots = {name: name for name in self.examples}
        for o in self.recording.operations:
            if o.results[0] in self.views & self.in_runs:
                roots[o.results[0]] = roots[self.names[id(o.args[0])]]
        return roots

    def _visible(self, groups: list[tuple[bool, list[Operation]]]) -> set[str]:
        """The results of runs that are needed outside them."""
        visible = set(self.recording.outputs)
        visible.update(name for in_run, group in groups if not in_run for o in group for name in o.reads)
        for in_run, group in groups:
            own = {name for o in group for name in o.results}
            if in_run:
                visible |= {self.roots[name] for o in group for name in o.reads} - own
        self.needed = frozenset(visible)
        for o in reversed(self.recording.operations):
            if o.results[0] in visible & self.views & self.in_runs:
                visible |= o.reads
        return visible

    def _shown(self, visible: set[str]) -> dict[str, str]:
        """The results that are seen outside in a single other shape, with the name in which they are: they
        are made in that shape."""
        seen: dict[str, list[str]] = {}
        for name in visible & self.views & self.in_runs:
            seen.setdefault(self.roots[name], []).append(name)
        return {
            root: names[0]
            for root, names in seen.items()
            if len(names) == 1
            and root in self.entries
            and root in self.in_runs
            and root not in self.needed
            and self.examples[names[0]].numel() == self.examples[root].numel()
            and self.examples[names[0]].is_contiguous()
            and self.examples[root].is_contiguous()
        }

    def _call(self, group: list[Operation], visible: set[str], shown: dict[str, str]) -> Operation | None:
        """The call of the kernel for a run; None if it has too many tensors."""
        own = [o.results[0] for o in group if o.results[0] in self.entries]
        entries = [entry.folded() for name in own for entry in self.entries[name]]
        returned = [name for name in own if name in visible]
        operands = [x for entry in entries for x in (entry.a, entry.b) if x is not None]
        roots = dict.fromkeys(self.roots[self.names[id(x.tensor)]] for x in operands)
        given = [name for name in roots if name not in own]
        if len(given) + len(returned) >= MOST_TENSORS:
            return None
        places = {name: (i, 0) for i, name in enumerate((*given, *returned))}
        size = 0
        for name in own:
            if name not in places:  # in the last tensor, which holds all that nobody else sees
                places[name] = len(given) + len(returned), size
                size += -(-self.examples[name].numel() // ALIGNED) * ALIGNED

        def operand(x: Operand | None) -> _Operand:
            if x is None:
                return _Operand(-1, 0, (0,) * AXES)
            root = self.roots[self.names[id(x.tensor)]]
            tensor, start = places[root]
            inside = x.tensor.data_ptr() - self.examples[root].data_ptr()
            return _Operand(tensor, start + inside // self.dtype.itemsize + x.offset, x.strides)

        made = [
            _Operation(CODES.index(e.code), e.sizes, *map(operand, (e.out, e.a, e.b)), e.first, e.second)
            for e in entries
        ]
        results = [shown.get(name, name) for name in returned]
        templates = [torch.empty_like(self.examples[name]) for name in results]
        call = _bound(made, self.dtype, len(given), [*templates, torch.empty(size, dtype=self.dtype)])
        name = f"c{id(call)}"
        self.scope[name] = call
        written = [f"{each}.contiguous()" if each in self.kept else each for each in given]
        return Operation(
            tuple(results),
            True,
            f"{name}({', '.join(written)})",
            frozenset(each for each in given if each not in self.scope),
            False,
            call,
            (),
            {},
            (),
        )


def _bound(
    operations: Sequence[_Operation], dtype: torch.dtype, given: int, templates: Sequence[Tensor]
) -> Callable[..., list[Tensor]]:
    """A call of the kernel: (the given tensors) -> tensors like all templates but the last, which is scratch
    memory."""
    entries = torch.frombuffer(bytearray((_Operation * len(operations))(*operations)), dtype=torch.uint8)
    kernel = library.function("operations", dtype)
    kernel.argtypes = [ctypes.c_char_p, ctypes.POINTER(_Sequence)]
    count = given + len(templates)
    pack = struct.Struct(f"{count}P{(MOST_TENSORS - count) * struct.calcsize('P')}x").pack
    sequence = _Sequence(count=len(operations), threads=1)
    reference = ctypes.byref(sequence)

    def call(*tensors: Tensor) -> list[Tensor]:
        made = [torch.empty_like(template) for template in templates]
        sequence.operations = entries.data_ptr()
        kernel(pack(*map(Tensor.data_ptr, (*tensors, *made))), reference)
        return made[:-1]

    return call


def _is_view(o: Operation) -> bool:
    """Whether an operation shows its first argument in another way."""
    if o.packed or o.kept or not (o.args and isinstance(o.args[0], Tensor)) or len(o.made) != 1:
        return False
    x, made = o.args[0], o.made[0]
    return x.untyped_storage().data_ptr() == made.untyped_storage().data_ptr() and x.dtype is made.dtype


# ------------------------------------------------------------------------------------------------ lowering
def lowered(operation: Operation) -> list[Entry] | None:
    """The entries that compute an operation; None where the kernel has none for it."""
    if len(operation.made) != 1 or operation.packed:
        return None
    out, name = operation.made[0], getattr(operation.function, "__name__", "")
    tensors = list(_tensors((*operation.args, *operation.kwargs.values())))
    if not tensors or out.dtype not in library.REALS or out.ndim > AXES:
        return None
    if any(x.dtype is not out.dtype or not x.is_cpu or x.ndim > AXES or x.is_neg() for x in (*tensors, out)):
        return None
    if any(x.numel() == 0 for x in (*tensors, out)):
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
