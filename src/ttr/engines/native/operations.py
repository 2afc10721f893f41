"""Runs of small torch operations in a recording as single calls of csrc/operations.c."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ttr.engines.native import library
from ttr.engines.native.entries import AXES, CODES, Operand, lowered
from ttr.recording import Operation, Recording

MOST_TENSORS = 64
"""As in csrc/operations.c."""

ALIGNED = 16
"""Entries to whose multiples the scratch memory of a result is rounded up."""

LEAST = 3
"""Fewer operations than this in a row are left to torch: a call of the kernel costs as much."""


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


def fused(recording: Recording) -> Recording:
    """The recording with runs of small operations in float32 or float64 on the CPU as single calls; as it is
    where the library is not available."""
    if not library.available():
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
        self.pure = [o for o in recording.operations if not o.changes]
        self.views = {o.results[0] for o in self.pure if _is_view(o)}
        entries = {o.results[0]: lowered(o) for o in self.pure if not o.kept and not _is_view(o)}
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
        """The operations in groups: runs for the kernel (True) and calls of torch. None is moved past an
        operation that writes to its argument, which other tensors may show too."""
        known = set(self.recording.inputs)
        groups: list[tuple[bool, list[Operation]]] = []
        between: list[Operation] = []
        for o in self.recording.operations:
            if o.changes:
                groups += [*self._ordered(between, known), (False, [o])]
                known.update(o.results)
                between = []
            else:
                between.append(o)
        return groups + self._ordered(between, known)

    def _ordered(self, left: list[Operation], known: set[str]) -> list[tuple[bool, list[Operation]]]:
        """Operations in groups, in an order in which those for the kernel come as early as they can;
        ``known`` tensors become those after them."""
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
        for o in self.pure:
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
        for o in reversed(self.pure):
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
