"""The slots of a memory that stores its pairs: which pair is in which slot, and how new pairs are added."""

from __future__ import annotations

import threading

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ttr.recording import is_recording
from ttr.state_tensors import StateTensors
from ttr.torch_internals import is_transformed

EMPTY = {"keys": 0.0, "values": 0.0, "log_weight": -torch.inf}
"""The contents of an empty slot of a memory of pairs."""


def with_slots(state: StateTensors, slots: int) -> StateTensors:
    """The state of a memory of pairs with ``slots`` slots: empty slots are added before the pairs, or removed
    there."""
    return state.replace(**{name: _resized(state[name], slots, fill) for name, fill in EMPTY.items()})


def _resized(tensor: Tensor, slots: int, fill: float) -> Tensor:
    held = tensor.shape[1]
    empty = tensor.new_full((tensor.shape[0], max(slots - held, 0), *tensor.shape[2:]), fill)
    return torch.cat([empty, tensor[:, max(held - slots, 0) :]], dim=1)


def beside(x: Tensor, tensor: Tensor) -> Tensor:
    """x [B,...] with further axes of size 1, to be broadcast with ``tensor`` [B,...,...]."""
    return x.reshape(*x.shape, *(1,) * (tensor.ndim - x.ndim))


def single(state: StateTensors, row: int, window: int | None) -> StateTensors:
    """The state of one packed sequence, without the empty slots that pad it to the longest one."""
    one = state.select(slice(row, row + 1))
    if "keys" not in state.tensors or window is not None or state.capacity is not None:
        return one
    return with_slots(one, int(one.position))


def pair_index(state: StateTensors, window: int | None) -> Int[Tensor, "B N"]:
    """The number of the pair in every slot, counted from the first token; meaningful only for slots with a
    weight."""
    slots = torch.arange(state["keys"].shape[1], device=state.position.device)
    if window is None:
        empty = 0 if state.capacity is not None else state["keys"].shape[1] - state.position[:, None]
        return (slots - empty).expand(state.position.shape[0], -1)
    newest = state.position[:, None] - 1
    return newest - (newest - slots) % window


class Buffer:
    """A tensor [B,M,...] whose first ``filled`` slots are used by growing states, in such a way that every
    token adds one slot instead of copying those before it.

    Slots are only ever added: a state that is not the newest one of its buffer keeps its slots, and what is
    added to it goes to another buffer.
    """

    _claiming = threading.Lock()
    _of_tensors: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
    """The buffer of every growing tensor. As an attribute of the tensor it would be saved with it."""

    def __init__(self, tensor: Tensor, slots: int) -> None:
        self.filled = tensor.shape[1]
        self.tensor = tensor.new_empty(tensor.shape[0], slots, *tensor.shape[2:])
        self.tensor[:, : self.filled] = tensor

    def _claim(self, start: int, stop: int) -> bool:
        """Whether the slots start..stop were free; they are then taken."""
        with self._claiming:
            free = self.filled == start and stop <= self.tensor.shape[1]
            self.filled = stop if free else self.filled
            return free

    @staticmethod
    def append(old: Tensor, new: Tensor) -> Tensor:
        """``old`` [B,N,...] followed by ``new`` [B,T,...], T > 0, in the buffer of ``old`` if that has room;
        in a larger one otherwise."""
        start, stop = old.shape[1], old.shape[1] + new.shape[1]
        buffer = Buffer._of_tensors.get(old)
        usable = (
            buffer is not None
            and old.data_ptr() == buffer.tensor.data_ptr()
            and (torch.is_inference_mode_enabled() or not buffer.tensor.is_inference())
        )
        if not usable or not buffer._claim(start, stop):
            buffer = Buffer(old, max(2 * stop, 64))
            buffer.filled = stop
        buffer.tensor[:, start:stop] = new
        # through .data, so that a graph that has saved these slots does not count later ones as a change
        grown = buffer.tensor.data[:, :stop]
        Buffer._of_tensors[grown] = buffer
        return grown


def _grown(old: Tensor, new: Tensor) -> Tensor:
    """``old`` followed by ``new`` along the slots."""
    watched = torch.is_grad_enabled() and (old.requires_grad or new.requires_grad)
    # a prompt is copied once, as it is; a buffer pays for the tokens that follow it
    if watched or new.shape[1] == 0 or new.shape[1] > old.shape[1] or not old.is_cpu and old.is_meta:
        return torch.cat([old, new], dim=1)
    if torch.compiler.is_compiling() or is_transformed() or is_recording() or type(old) is not Tensor:
        return torch.cat([old, new], dim=1)
    return Buffer.append(old, new)


def append_pairs(
    state: StateTensors,
    window: int | None,
    keys: Tensor,
    values: Tensor,
    log_weight: Tensor,
    log_decay: Tensor | None,
    inplace: bool = False,
) -> StateTensors:
    """The state after T more pairs: keys [B,T,Hk,K], values [B,T,Hv,V], their log weights [B,T,H] seen from
    the last token.

    ``log_decay`` [B,H] is the sum of the T tokens' log decays, which is added to the log weights of earlier
    pairs. With ``inplace`` a fixed number of slots is written to instead of copied.

    Raises:
        ValueError: if a fixed capacity is exceeded (checked in eager calls on the CPU).
    """
    time = keys.shape[1]
    old_weight = state["log_weight"] if log_decay is None else state["log_weight"] + log_decay[:, None]
    new = {"keys": keys, "values": values, "log_weight": log_weight}
    old = {"keys": state["keys"], "values": state["values"], "log_weight": old_weight}
    position = state.position + time
    if window is None and state.capacity is None:
        return state.replace(**{name: _grown(old[name], new[name]) for name in new}, position=position)
    if window is not None:
        new = {name: tensor[:, max(time - window, 0) :] for name, tensor in new.items()}
    elif (
        position.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and (position > state.capacity).any()
    ):
        raise ValueError(
            f"This state has a capacity of {state.capacity} pairs and needs {int(position.max())}. "
            "Use initial_state with a larger capacity."
        )
    written = new["keys"].shape[1]
    slots = position[:, None] - written + torch.arange(written, device=position.device)
    slots = slots if window is None else slots % window

    def put(old_tensor: Tensor, new_tensor: Tensor) -> Tensor:
        index = slots.reshape(*slots.shape, *(1,) * (old_tensor.ndim - 2)).expand_as(new_tensor)
        return (old_tensor.scatter_ if inplace else old_tensor.scatter)(1, index, new_tensor)

    return state.replace(**{name: put(old[name], new[name]) for name in new}, position=position)
