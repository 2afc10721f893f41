"""A model, or all calls inside a block, accelerated."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ttr.integrations.transformers.decoding import Planner
from ttr.integrations.transformers.packing import within_sequences
from ttr.integrations.transformers.products import ROWS
from ttr.integrations.transformers.replacement import active, has_rules, install, modeling_modules, remove

Model = TypeVar("Model", bound=nn.Module)

_planners: WeakKeyDictionary[nn.Module, Planner] = WeakKeyDictionary()
_undo: WeakKeyDictionary[nn.Module, finalize] = WeakKeyDictionary()


def accelerate(model: Model) -> Model:
    """Run the recurrent layers of a transformers model on the CPU with ttr, in place.

    Their rules (gated delta rule, KDA, Mamba, Mamba-2, short convolution) are ttr's in every call of the
    model, with gradients, caches and packed sequences (``cu_seq_lens_q`` or ``seq_idx``, where the model
    passes them on, which attention in torch then keeps apart, too), and layers of all kinds decode single
    tokens without the Python of their modules. Outputs are equal up to rounding. Calls of rules on other
    devices, and compiled ones, stay transformers' own, as do layers with hooks inside them or a ``forward``
    of their own, such as offloaded ones.

    A step of decoding is recorded from a layer's modules; weights, dtypes, hooks, adapters and replaced
    modules are noticed, but not a number set by hand on a module: call ``accelerate`` again after that.

    Args:
        model: a model of transformers, or any module that contains layers of one.

    Returns:
        The model, the same object. ``restore(model)`` undoes it. A copy of the model is accelerated on its
        own; one that is saved and loaded is not, until ``accelerate`` is called on it.

    Raises:
        ValueError: if the model has no layers with rules that ttr replaces, or all have a ``forward`` of
            their own.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no recurrent layers of transformers that ttr can run. Pass a model "
            "such as Qwen3-Next, Kimi-Linear or Mamba-2; `ttr.integrations.transformers.RULES` names the "
            "rules."
        )
    restore(model)
    taken = [layer for layer in layers if "forward" not in layer.__dict__]
    if not taken:
        raise ValueError(
            f"All recurrent layers of {type(model).__name__} have a forward of their own, as offloaded ones "
            "do, which ttr leaves alone. Load the model without a device_map, or remove what sets it."
        )
    for layer in taken:
        _take(layer)
        layer.forward = MethodType(forward, layer)
    return model


def restore(model: Model) -> Model:
    """Undo ``accelerate``, in all layers of the model; those that are not accelerated stay as they are.

    A backward pass that recomputes layers (gradient checkpointing) belongs before it.

    Returns:
        The model, the same object.
    """
    for layer in _layers(model):
        # under the name of ours, torch.load finds the forward of the class, and keeps that in the layer
        known = MethodType(forward, layer), MethodType(type(layer).forward, layer)
        if layer.__dict__.get("forward") in known:
            del layer.forward
            _planners.pop(layer, None)
            undo = _undo.pop(layer, None)
            if undo is not None:
                undo()
    return model


@contextmanager
def accelerated() -> Iterator[None]:
    """Run the rules of all transformers models on the CPU with ttr, in calls of this thread inside the block.

    As ``accelerate``, for models whose classes are imported when the block begins, but without planned steps
    of decoding. All float32 products inside the block, not only those of such models, go through oneDNN where
    it is faster. A backward pass that recomputes layers (gradient checkpointing) belongs inside the block.
    """
    modules = modeling_modules()
    install(modules)
    try:
        with active():
            yield
    finally:
        remove(modules)


def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of an accelerated layer; compiled, that of its class, unless a checkpoint repeats it, which
    is left out of the graph."""
    recomputed = self.training and self.gradient_checkpointing
    if torch.compiler.is_compiling() and not recomputed:
        return type(self).forward(self, *args, **kwargs)
    planner = _planners.get(self)
    if planner is None:  # a copy of an accelerated layer
        planner = _take(self)
    x = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
    args, kwargs = within_sequences(self, args, kwargs)
    with active(many_rows=x is None or x.shape[:-1].numel() >= ROWS):
        if recomputed:
            return type(self).forward(_recomputed_active(self), *args, **kwargs)
        return planner.take(self, args, kwargs)


def _take(layer: nn.Module) -> Planner:
    """Put the rules of a layer in place for as long as it lives or until ``restore``."""
    modules = [sys.modules[type(layer).__module__]]
    install(modules)
    _undo[layer] = finalize(layer, remove, modules)
    planner = _planners[layer] = Planner(layer)
    return planner


def _recomputed_active(layer: nn.Module) -> nn.Module:
    """The layer, its tensors and modules shared, with the rules active in the backward pass, too.

    transformers checkpoints inside the forward of a layer's class, so what the backward pass calls again is
    not ``forward``, but what the class gives to its checkpointing function."""

    def checkpoint(call: Callable[..., Any], *args: Any) -> Any:
        return layer._gradient_checkpointing_func(active()(call), *args)

    layer_once = copy.copy(layer)  # calls of other threads have the layer itself
    layer_once._gradient_checkpointing_func = checkpoint
    return layer_once


def _layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer) and has_rules(sys.modules[type(layer).__module__])
    ]
