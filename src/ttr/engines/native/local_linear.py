"""Compiled local linear regression for blocks of queries: how csrc/local_linear.c is called. Letters as in
engines/torch/local_linear.py."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ttr.diagnostics import record
from ttr.engines.native import library
from ttr.engines.torch.covariance_solve import ACCEPTED, LEAST_PIVOT, TARGET, products_of
from ttr.engines.torch.direct_solve import SINGULAR, NoDigits

UNIT, TILE = 16, 64
"""Numbers of channels are padded to a multiple of UNIT (csrc/matrix.h), numbers of pairs by TILE
(csrc/local_linear.h)."""

COUNTS = (
    "groups",
    "sharing",
    "time",
    "pairs",
    "columns",
    "key_size",
    "size",
    "value_size",
    "moments",
    "start",
    "stop",
    "first",
    "slots",
    "threads",
)
NUMBERS = ("target", "accepted", "least_pivot")
GIVEN = (
    "query",
    "places",
    "ridge",
    "slope",
    "bias",
    "keys_t",
    "points_t",
    "values_t",
    "keys",
    "points",
    "values",
)
MADE = (
    "y",
    "rho",
    "report",
    "grad",
    "grad_query",
    "grad_places",
    "grad_slope",
    "grad_ridge",
    "grad_keys",
    "grad_points",
    "grad_values",
    "grad_logits",
)


class _Arguments(ctypes.Structure):
    """``local_linear`` of csrc/local_linear.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in COUNTS),
        *((name, ctypes.c_double) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in (*GIVEN, *MADE)),
    ]


def serves(tensors: Iterable[Tensor | None]) -> bool:
    """Whether the library is available and all are plain tensors of one real type on the CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    real = all(tensor.is_cpu and type(tensor) in library.PLAIN and tensor.dtype in TARGET for tensor in given)
    return real and len({tensor.dtype for tensor in given}) == 1 and library.available()


class Kernel:
    """The local fits of one call, to be read or differentiated block by block.

    Args:
        given: the tensors of the call, by the names of ``GIVEN`` without ``bias`` and transposes.
        slots: the number of pairs before the first token.
        backwards: whether blocks will be differentiated.
    """

    def __init__(self, given: Mapping[str, Tensor | None], slots: int, backwards: bool = False) -> None:
        query, keys, points, values = (given[name] for name in ("query", "keys", "points", "values"))
        groups, sharing, time, key_size = query.shape
        pairs, size = points.shape[1:]
        # Only differences of points matter. Relative to one of the points, which every query sees, those of
        # points far from 0 lose no digits.
        origin = points[:, slots : slots + 1] if time else points[:, :1]
        points = points - origin
        products = points if given["slope"] is not None else products_of(points)
        features = points if products is None else products
        tensors = {
            "query": query,
            "places": given["places"] - origin[:, None],
            "ridge": given["ridge"],
            "slope": given["slope"],
            "keys_t": _columns(keys),
            "points_t": _columns(points),
            "points": _rows(features),
            "values": _rows(values),
        }
        if backwards:
            tensors |= {"values_t": _columns(values), "keys": _rows(keys)}
        self._report = torch.zeros(groups, 4, dtype=torch.float64)
        self._call = _Arguments(
            groups=groups,
            sharing=sharing,
            time=time,
            pairs=pairs,
            columns=pairs + TILE,
            key_size=key_size,
            size=size,
            value_size=values.shape[-1],
            moments=features.shape[-1],
            slots=slots,
            threads=torch.get_num_threads(),
            target=TARGET[query.dtype],
            accepted=ACCEPTED,
            least_pivot=LEAST_PIVOT,
            report=self._report.data_ptr(),
        )
        self._solver = (
            None
            if given["slope"] is not None
            else "conjugate gradient"
            if products is None
            else "elimination"
        )
        self._held: dict[str, Tensor] = {}
        self._hold(
            {name: library.contiguous(tensor) for name, tensor in tensors.items() if tensor is not None}
        )

    def outputs(self) -> tuple[Float[Tensor, "U S T V"], Float[Tensor, "U S T D"]]:
        """The tensors to which ``read`` writes the read-outs and, unless they are given, the slopes."""
        held = self._held
        y = held["query"].new_empty(*held["query"].shape[:3], self._call.value_size)
        rho = held["slope"] if "slope" in held else torch.empty_like(held["places"])
        self._hold({"y": y, "rho": rho})
        return y, rho

    def gradients(self, rho: Tensor, grad: Tensor) -> dict[str, Tensor | None]:
        """The tensors to which ``differentiate`` adds the gradients, by the names of the call's tensors;
        ``rho`` are the slopes, ``grad`` is the gradient of the output. Those of pairs are views of padded
        tensors."""
        call = self._call
        sizes = {"keys": call.key_size, "points": call.size, "values": call.value_size}
        whole = {
            name: grad.new_zeros(call.groups, call.columns, size + -size % UNIT)
            for name, size in sizes.items()
        }
        rows = {
            name: torch.zeros_like(self._held[name])
            for name in ("query", "places", "ridge", "slope")
            if name in self._held
        }
        given = {"rho": library.contiguous(rho), "grad": library.contiguous(grad)}
        self._hold(given | {f"grad_{name}": tensor for name, tensor in (whole | rows).items()})
        return rows | {name: whole[name][:, : call.pairs, :size] for name, size in sizes.items()}

    def read(self, start: int, stop: int, first: int, bias: Float[Tensor, "U S C P"] | None) -> None:
        """Reads the block of tokens start..stop, which see the pairs from ``first`` on.

        Raises:
            ValueError: if a regression is singular.
        """
        self._run("local_linear_forward", start, stop, first, bias)

    def differentiate(
        self, start: int, stop: int, first: int, bias: Float[Tensor, "U S C P"] | None, wanted: bool
    ) -> Float[Tensor, "U S C P"] | None:
        """Adds the block's part to the gradients; returns those of its logits if they are ``wanted``."""
        shape = (self._call.groups, self._call.sharing, stop - start, self._call.slots + stop - first)
        logits = self._held["grad"].new_empty(shape) if wanted else None
        self._call.grad_logits = None if logits is None else logits.data_ptr()
        self._run("local_linear_backward", start, stop, first, bias)
        return logits

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Pass the tensors to the kernels, and keep them alive."""
        self._held |= tensors
        for name, tensor in tensors.items():
            setattr(self._call, name, tensor.data_ptr())

    def _run(self, kernel: str, start: int, stop: int, first: int, bias: Tensor | None) -> None:
        call = self._call
        bias = None if bias is None else library.contiguous(bias)
        call.start, call.stop, call.first, call.bias = (
            start,
            stop,
            first,
            None if bias is None else bias.data_ptr(),
        )
        library.run(kernel, self._held["query"].dtype, call)
        if self._solver is None:
            return
        steps, direct, residual, singular = self._report.unbind(1)
        if bool(singular.any()):
            raise NoDigits(SINGULAR)
        if call.groups:
            record(
                solver=self._solver,
                iterations=int(steps.max()),
                rows=call.groups * call.sharing * (stop - start),
                direct_rows=int(direct.sum()),
                residual=residual.max(),
            )


def _rows(pairs: Float[Tensor, "U M d"]) -> Float[Tensor, "U M e"]:
    return pad(pairs, (0, -pairs.shape[-1] % UNIT)) if pairs.shape[-1] % UNIT else pairs


def _columns(pairs: Float[Tensor, "U M d"]) -> Float[Tensor, "U d N"]:
    return pad(pairs.mT, (0, TILE))
