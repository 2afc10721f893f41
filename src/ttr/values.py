"""Checks of the tensors of a call and of a state, and of their numbers.

By default numbers are checked only in eager calls on the CPU; ``checks`` changes that.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import torch
from torch import Tensor

from ttr.controls import CONTROLS

LAST_POSITION = 2**62
"""The largest valid position of a state, as in csrc/step.c."""

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_wanted: ContextVar[bool | None] = ContextVar("ttr_check_values", default=None)


@contextlib.contextmanager
def checks(*, values: bool) -> Iterator[None]:
    """Turn the checks of values (NaN, positive log decay) on or off inside the block.

    By default they run in eager calls on the CPU only; shapes, dtypes and names are always checked. Where
    they do not run, what NaN, or a control outside its range, makes of results, states and gradients is
    undefined: a positive log decay may grow, be cut off or give NaN, depending on the engine.
    """
    token = _wanted.set(values)
    try:
        yield
    finally:
        _wanted.reset(token)


def check_tensor(what: str, x: object) -> None:
    """Raises a ValueError unless x is a dense tensor of floating-point numbers of 16 bits or more."""
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{what} must be a floating-point tensor, got {type(x).__name__}. Convert it with "
            "torch.as_tensor."
        )
    if x.is_nested or x.layout is not torch.strided:
        kind, remedy = (
            ("nested", "torch.nested.to_padded_tensor, or pack the sequences")
            if x.is_nested
            else (x.layout, ".to_dense()")
        )
        raise ValueError(f"{what} must be a dense tensor, got a {kind} one. Use {remedy}.")
    if x.dtype not in FLOATING:
        raise ValueError(f"{what} must be a floating-point tensor, got {x.dtype}. Convert it with .float().")


def wanted(device: torch.device) -> bool:
    """Whether eager calls on that device check numbers."""
    chosen = _wanted.get()
    return device.type == "cpu" if chosen is None else chosen


def suspicious(x: Tensor) -> bool:
    """Whether x may contain NaN or infinities: if it does, its sum is not finite. A sum needs one pass and no
    memory; a mask several of each."""
    return not math.isfinite((x.detach() if x.requires_grad else x).sum().item())


def check_finite(name: str, x: Tensor) -> None:
    """Raises a ValueError if x contains NaN or infinities."""
    if suspicious(x) and not torch.isfinite(x).all():
        raise ValueError(
            f"{name} holds NaN or infinite numbers. Look at what produced it; "
            "ttr.checks(values=False) skips this check."
        )


def check_control(name: str, x: Tensor) -> None:
    """Raises a ValueError if a control contains NaN or values outside its declared range."""
    control = CONTROLS[name]
    if x.numel() == 0:
        return
    low, high = (end.item() for end in torch.aminmax(x.detach()))
    if math.isnan(low):
        raise ValueError(
            f"{name!r} holds NaN. Look at what produced it; ttr.checks(values=False) skips this check."
        )
    inside, wanted = (
        (high < math.inf, "below infinity")
        if control.logarithm
        else (math.isfinite(low) and math.isfinite(high), "finite")
    )
    for bound, end, holds, words in (
        (control.at_most, high, operator.le, "<="),
        (control.at_least, low, operator.ge, ">="),
        (control.above, low, operator.gt, "above"),
    ):
        if bound is not None:
            inside, wanted = inside and holds(end, bound), f"{words} {bound} and {wanted}"
    if not inside:
        raise ValueError(
            f"The control {name!r} ({control.meaning}) must be {wanted}, but reaches from "
            f"{low:.4g} to {high:.4g}."
        )


def check_state(tensors: Mapping[str, Tensor], position: Tensor) -> None:
    """Raises a ValueError if a state contains NaN or infinities (except -inf, the log weight of an empty
    slot), or its position is not a valid count of tokens."""
    for name, x in tensors.items():
        if not sound(x, logarithm=name == "log_weight"):
            raise ValueError(
                f"The state's {name!r} holds NaN or infinite numbers. Continue from a clone of an "
                "earlier state, or from a new one; "
                "ttr.checks(values=False) skips this check."
            )
    if not counts(position):
        raise ValueError(
            f"The state's position must count tokens, from 0 to 2^62, got {position.tolist()}. "
            "Use the position that a call returned."
        )


def counts(position: Tensor) -> bool:
    """Whether all positions [B] are valid counts of tokens."""
    return all(0 <= tokens <= LAST_POSITION for tokens in position.tolist())


def sound(x: Tensor, logarithm: bool = False) -> bool:
    """Whether a tensor of a state is finite, or -inf in a ``logarithm``. The result is remembered until the
    tensor is written to, so that a large state is not checked at every token."""
    if getattr(x, "_ttr_sound", None) == _stamp(x):
        return True
    if suspicious(x) and not (torch.isfinite(x) | (torch.isneginf(x) if logarithm else False)).all():
        return False
    vouch(x)
    return True


def vouch(x: Tensor) -> None:
    """Remember that a tensor is sound, because it was checked or computed from sound tensors."""
    x._ttr_sound = _stamp(x)


def _stamp(x: Tensor) -> tuple[int, int | None]:
    """A stamp that differs after the tensor was written to, and for copies, which inherit the attribute."""
    try:
        return id(x), x._version
    except RuntimeError:  # torch does not count writes to tensors created in inference mode
        return id(x), None
