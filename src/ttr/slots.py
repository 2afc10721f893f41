"""The slots of a memory that stores its pairs: which pair is in which slot, and how new pairs are added."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ttr.state_tensors import StateTensors

EMPTY = {"keys": 0.0, "values": 0.0, "log_weight": -torch.inf}
"""The contents of an empty slot of a memory of pairs."""


def with_slots(state: StateTensors, slots: int) -> StateTensors:
    """The state of a memory of pairs with ``slots`` slots: empty slots are added before the pairs, or removed
    there."""
    held = state["keys"].shape[1]

    def resize(tensor: Tensor, fill: float) -> Tensor:
        empty = tensor.new_full((tensor.shape[0], max(slots - held, 0), *tensor.shape[2:]), fill)
        return torch.cat([empty, tensor[:, max(held - slots, 0) :]], dim=1)

    return state.replace(**{name: resize(state[name], fill) for name, fill in EMPTY.items()})


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


def append_pairs(
    state: StateTensors,
    window: int | None,
    keys: Tensor,
    values: Tensor,
    log_weight: Tensor,
    log_decay: Tensor | None,
) -> StateTensors:
    """The state after T more pairs: keys [B,T,Hk,K], values [B,T,Hv,V], their log weights [B,T,H] seen from
    the last token.

    ``log_decay`` [B,H] is the sum of the T tokens' log decays, which is added to the log weights of earlier
    pairs.

    Raises:
        ValueError: if a fixed capacity is exceeded (checked in eager calls on the CPU).
    """
    time = keys.shape[1]
    old_weight = state["log_weight"] if log_decay is None else state["log_weight"] + log_decay[:, None]
    new = {"keys": keys, "values": values, "log_weight": log_weight}
    old = {"keys": state["keys"], "values": state["values"], "log_weight": old_weight}
    position = state.position + time
    if window is None and state.capacity is None:
        return state.replace(
            **{name: torch.cat([old[name], new[name]], dim=1) for name in new}, position=position
        )
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
        return old_tensor.scatter(1, index, new_tensor)

    return state.replace(**{name: put(old[name], new[name]) for name in new}, position=position)
