"""A model, or all calls inside a block, accelerated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, finalize

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ttr.integrations.transformers.decoding import Planner
from ttr.integrations.transformers.replacement import active, has_rules, install, modeling_modules, remove

Model = TypeVar("Model", bound=nn.Module)

_planners: WeakKeyDictionary[nn.Module, Planner] = WeakKeyDictionary()
_undo: WeakKeyDictionary[nn.Module, finalize] = WeakKeyDictionary()


def accelerate(model: Model) -> Model:
    """Run the recurrent layers of a transformers model on the CPU with ttr, in place.

    Their rules (gated delta rule, KDA, Mamba, Mamba-2, short convolution) are ttr's in every call of the
    model, with gradients, caches and packed sequences (``cu_seq_lens_q``, where the model passes them on),
    and layers of all kinds decode single tokens without the Python of their modules. Outputs are equal up to
    rounding. Calls of rules on other devices, and compiled ones, stay transformers' own, as do layers with
    hooks inside them or a ``forward`` of their own, such as offloaded ones.

    A step of decoding is recorded from a layer's modules; weights, dtypes, hooks, adapters and replaced
    modules are noticed, but not a number set by hand on a module: call ``accelerate`` again after that.

    Args:
        model: a model of transformers, or any module that contains layers of one.

    Returns:
        The model, the same object. ``restore(model)`` undoes it; a copy or a saved model is not affected.

    Raises:
        ValueError: if the model has no layers with rules that ttr replaces.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no recurrent layers of transformers that ttr can run. Pass a model "
            "such as Qwen3-Next, Kimi-Linear or Mamba-2; `ttr.integrations.transformers.RULES` names the "
            "rules."
        )
    restore(model)
    modules = {sys.modules[type(layer).__module__] for layer in layers}
    install(modules)
    _undo[model] = finalize(model, remove, modules)
    for layer in layers:
        if "forward" not in layer.__dict__:
            _planners[layer] = Planner(layer)
            layer.forward = MethodType(forward, layer)
    return model


def restore(model: Model) -> Model:
    """Undo ``accelerate``; a model that is not accelerated stays as it is.

    Returns:
        The model, the same object.
    """
    for layer in _layers(model):
        if getattr(layer.__dict__.get("forward"), "__func__", None) is forward:
            del layer.forward
            _planners.pop(layer, None)
    undo = _undo.pop(model, None)
    if undo is not None:
        undo()
    return model


@contextmanager
def accelerated() -> Iterator[None]:
    """Run the rules of all transformers models on the CPU with ttr, in calls of this thread inside the block.

    As ``accelerate``, for models whose classes are imported when the block begins, but without planned steps
    of decoding. A backward pass that recomputes layers (gradient checkpointing) belongs inside the block.
    """
    modules = modeling_modules()
    install(modules)
    try:
        with active():
            yield
    finally:
        remove(modules)


def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of an accelerated layer."""
    planner = _planners.get(self)
    if planner is None:  # a copy of an accelerated layer
        planner = _planners[self] = Planner(self)
    with active():
        return planner.take(self, args, kwargs)


def _layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer) and has_rules(sys.modules[type(layer).__module__])
    ]
