"""A function of tensors, recorded once and replayed without the Python around its torch operations.

Decoding calls the same small operations for every token, and the Python between them (dictionaries, checks,
dispatch) takes several times as long. A recording is the straight sequence of those operations for one set of
shapes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function

Replay = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""(tensors like those recorded) -> the outputs."""

METADATA = {
    *("size", "dim", "stride", "numel", "is_contiguous", "is_floating_point", "is_complex", "__len__"),
    *("is_inference", "result_type", "promote_types", "finfo", "storage_offset", "element_size"),
}
"""Names of functions that read a tensor's shape or kind, not its numbers."""

INPLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"}
"""Names of functions that write to their first argument, beside those that end in an underscore."""

BY_NUMBERS = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"}
"""Names of functions whose result has a shape that depends on the numbers of their arguments."""

CONSTANTS = {torch.arange, torch.eye, torch.full, torch.linspace, torch.ones, torch.tensor, torch.zeros}
"""Functions whose result, where no tensor is among their arguments, is the same at every call."""


class _Thread(threading.local):
    recording = False


_thread = _Thread()


class NotRecordable(Exception):
    """The function reads numbers of its tensors, so that another call might take another path."""


def is_recording() -> bool:
    """Whether this thread is recording: only torch's own operations, without checks of values, are wanted."""
    return _thread.recording


def record(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]) -> Recording:
    """The torch operations by which ``function(*tensors)`` computes its outputs, for tensors of the same
    shapes, dtypes and strides, without gradients. Operations that the outputs do not need are left out, and
    the same operation on the same tensors is done once.

    Raises:
        NotRecordable: if the function looks at the numbers of a tensor or does not return tensors alone.
    """
    for shares in (True, False):
        recorder = _Recorder(tensors, shares)
        _thread.recording = True
        try:
            with torch.no_grad(), recorder:
                outputs = tuple(function(*tensors))
        finally:
            _thread.recording = False
        # a tensor that is written to must not stand for two results
        if not any(operation.changes for operation in recorder.operations):
            break
    return recorder.recording(outputs)


def kept_whole(function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor]:
    """``function(*tensors)``, recorded as one operation: every replay calls it, and it may do anything."""

    def unrecorded(*tensors: Tensor) -> Sequence[Tensor]:
        recording, _thread.recording = is_recording(), False
        try:
            return function(*tensors)
        finally:
            _thread.recording = recording

    unrecorded._kept_whole = True
    return handle_torch_function(unrecorded, tensors, *tensors) if is_recording() else function(*tensors)


@dataclass(frozen=True)
class Operation:
    """One operation in the source of a replay: ``made`` = ``function(*args, **kwargs)``, with tensors by
    their names.

    Attributes:
        results: the names of ``made``.
        packed: whether it returns a sequence, not a tensor.
        reads: the names of the tensors among its arguments.
        changes: whether it writes to one of them.
        kept: whether it was ``kept_whole``.
    """

    results: tuple[str, ...]
    packed: bool
    call: str
    reads: frozenset[str]
    changes: bool
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made: tuple[Tensor, ...]

    @property
    def kept(self) -> bool:
        return getattr(self.function, "_kept_whole", False)

    @property
    def source(self) -> str:
        left = f"{', '.join(self.results)}{',' if self.packed else ''} = " if self.results else ""
        return left + self.call


@dataclass(frozen=True)
class Recording:
    """Operations that compute outputs from inputs, all by their names. ``scope`` holds what the calls refer
    to besides tensors, ``examples`` the named tensors as they were when recorded, and ``names`` the names of
    all tensors by their ids, which ``alive`` keeps theirs."""

    inputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    scope: Mapping[str, object]
    examples: Mapping[str, Tensor]
    names: Mapping[int, str]
    alive: Sequence[object]

    def pruned(self) -> Recording:
        """Without the operations that the outputs do not need."""
        needed, kept = set(self.outputs), []
        for operation in reversed(self.operations):
            if operation.changes or needed & set(operation.results):
                kept.append(operation)
                needed |= operation.reads
        return replace(self, operations=tuple(reversed(kept)))

    def replay(self) -> Replay:
        """A function that takes the inputs and does the operations."""
        needed, lines = set(self.outputs), []
        for operation in reversed(self.pruned().operations):
            # memory that the next results can take
            over = sorted((operation.reads | set(operation.results)) - needed)
            lines.append(operation.source + "".join(f"; del {name}" for name in over))
            needed |= operation.reads
        lines = [f"{', '.join(self.inputs)}, = tensors", *reversed(lines)]
        body = "\n    ".join([*lines, f"return {', '.join(self.outputs)},"])
        scope = dict(self.scope)
        exec(f"def replay(tensors):\n    {body}", scope)
        return scope["replay"]


def _is_shaped_by_numbers(name: str, args: tuple, kwargs: Mapping[str, object]) -> bool:
    if name == "repeat_interleave":  # by a tensor of repeats, which may be all that is given
        others = *args[1:], *kwargs.values()
        return not others or any(isinstance(x, Tensor) for x in others)
    if name == "__getitem__":  # by a mask
        places = args[1] if isinstance(args[1], tuple | list) else (args[1],)
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in places)
    return name in BY_NUMBERS or name == "where" and len(args) == 1


def _form(args: tuple[object, ...]) -> tuple[object, ...] | None:
    """Shape and strides of the first argument, if it is a tensor."""
    first = args[0] if args else None
    return (first.shape, first.stride()) if type(first) is Tensor and first.layout is torch.strided else None


class _Recorder(TorchFunctionMode):
    """Writes down every torch function that is called, with tensors by their names; with ``shares`` equal
    calls once, and those without tensors not at all."""

    def __init__(self, tensors: Sequence[Tensor], shares: bool) -> None:
        super().__init__()
        self.shares = shares
        self.inputs = [f"t{i}" for i in range(len(tensors))]
        self.fresh = itertools.count(len(tensors))
        self.kept: list[object] = list(tensors)  # otherwise an id could be given again
        self.names = {id(tensor): name for tensor, name in zip(tensors, self.inputs)}
        self.scope: dict[str, object] = {}
        self.operations: list[Operation] = []
        self.done: dict[str, object] = {}
        self.bases: dict[str, Tensor] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        form = _form(args)
        result = function(*args, **kwargs)
        if _form(args) != form:
            raise NotRecordable(f"{name} changes the shape of a tensor in place.")
        results = result if isinstance(result, tuple | list) else (result,)
        if name in METADATA or name == "__get__" and not isinstance(result, Tensor):
            return result
        reads: set[str] = set()
        call = self._call(function, args, kwargs, reads)
        tensors = bool(results) and all(isinstance(x, Tensor) for x in results)
        if not reads and (not tensors or self.shares and function in CONSTANTS):
            return result
        if _is_shaped_by_numbers(name, args, kwargs):
            raise NotRecordable(f"{name} returns a tensor whose shape depends on numbers.")
        if name != "__setitem__" and not tensors:
            raise NotRecordable(f"{name} returns {type(result).__name__}.")
        if self.shares and call in self.done:
            return self.done[call]
        changes = name == "__setitem__" or name in INPLACE or name[-1:] == "_" and name[-2:] != "__"
        if not changes and args and result is args[0]:  # a conversion that was not needed
            return result
        if not changes and self._is_reshaped(result, args):
            base, shape = self.bases[self.names[id(args[0])]], tuple(result.shape)
            if shape == tuple(base.shape):
                self.kept.append(result)
                self.names[id(result)] = self.names[id(base)]
                return result
            function, args, kwargs = Tensor.view, (base, shape), {}
            call = self._call(function, args, kwargs, reads := set())
            if self.shares and call in self.done:
                return self.done[call]
            self.bases[self._named(result)] = base
        tensors = results if name != "__setitem__" else ()
        self._write(tensors, isinstance(result, tuple | list), call, reads, changes, function, args, kwargs)
        self.done[call] = result
        if getattr(function, "_kept_whole", False):  # it may have written to what it reads
            self.done.clear()
        return result

    def _write(
        self,
        made: Sequence[Tensor],
        packed: bool,
        call: str,
        reads: set[str],
        changes: bool,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        names = tuple(map(self._named, made))
        self.operations.append(
            Operation(names, packed, call, frozenset(reads), changes, function, args, kwargs, tuple(made))
        )

    def _is_reshaped(self, result: object, args: tuple) -> bool:
        """Whether an operation returns its first argument in another shape, or as it is: a view of it."""
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and isinstance(result, Tensor) and id(x) in self.names and x.numel()):
            return False
        self.bases.setdefault(self.names[id(x)], x)
        return (
            x.data_ptr() == result.data_ptr()
            and x.dtype is result.dtype
            and x.numel() == result.numel()
            and x.is_contiguous()
            and result.is_contiguous()
        )

    def _named(self, tensor: Tensor) -> str:
        """The name of a result: its own if an operation returned its argument."""
        if id(tensor) not in self.names:
            self.kept.append(tensor)
            self.names[id(tensor)] = f"t{next(self.fresh)}"
        return self.names[id(tensor)]

    def _call(self, function: Any, args: tuple, kwargs: Mapping[str, Any], reads: set[str]) -> str:
        words = [self._source(x, reads) for x in args]
        words += [f"{key}={self._source(x, reads)}" for key, x in kwargs.items()]
        return f"{self._constant(function)}({', '.join(words)})"

    def _source(self, x: object, reads: set[str]) -> str:
        """An argument as source: tensors by name, sequences entry by entry, everything else as a constant."""
        if isinstance(x, Tensor) and id(x) in self.names:
            reads.add(self.names[id(x)])
            return self.names[id(x)]
        if type(x) in (list, tuple) and any(isinstance(each, Tensor | list | tuple) for each in x):
            inner = ", ".join(self._source(each, reads) for each in x)
            return f"[{inner}]" if type(x) is list else f"({inner},)"
        if x is None or type(x) in (bool, int) or type(x) in (list, tuple) and all(type(i) is int for i in x):
            return repr(x)
        return self._constant(x)

    def _constant(self, x: object) -> str:
        name = f"c{id(x)}"
        if name not in self.scope:
            self.kept.append(x)
            self.scope[name] = x
        return name

    def recording(self, outputs: tuple[object, ...]) -> Recording:
        if not all(isinstance(x, Tensor) for x in outputs):
            raise NotRecordable("The function does not return tensors alone.")
        returned = tuple(self._source(x, set()) for x in outputs)
        examples = {self.names[id(x)]: x for x in reversed(self.kept) if id(x) in self.names}
        return Recording(
            tuple(self.inputs),
            tuple(self.operations),
            returned,
            self.scope,
            examples,
            self.names,
            self.kept,
        ).pruned()
