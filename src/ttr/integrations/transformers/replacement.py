"""The table of replaced rules, and how they are put in place of transformers' and taken out again."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ttr.integrations.transformers import rules
from ttr.torch_internals import PLAIN
from ttr.values import checks

_gated_delta, _kda = map(rules.delta_rule, (rules.GATED_DELTA, rules.KDA))

RULES: dict[str, rules.Rule] = {
    "torch_chunk_gated_delta_rule": _gated_delta[0],
    "torch_recurrent_gated_delta_rule": _gated_delta[1],
    "chunk_kimi_delta_attention": _kda[0],
    "recurrent_kimi_delta_attention": _kda[1],
    "mamba2_chunk_scan": rules.mamba2_scan,
    "mamba2_selective_state_update": rules.mamba2_update,
    "mamba_selective_scan": rules.mamba_scan,
    "mamba_selective_state_update": rules.mamba_update,
    "causal_conv1d_fn": rules.convolution,
    "causal_conv1d_update": rules.convolution_update,
}
"""transformers' names of its rules, the same in all its models, and what replaces them."""

_active: ContextVar[bool] = ContextVar("ttr_accelerated", default=False)
"""Whether replaced rules compute with ttr; otherwise they are transformers'."""

# a finalizer may remove rules in the midst of install, wherever the garbage collector runs
_lock = threading.RLock()
_users: Counter[ModuleType] = Counter()
_originals: dict[tuple[ModuleType, str], rules.Rule] = {}


def modeling_modules() -> list[ModuleType]:
    """The loaded modules of transformers' models that have a rule of the table."""
    named = [m for name, m in list(sys.modules.items()) if name.startswith("transformers.models.")]
    return [module for module in named if has_rules(module)]


def has_rules(module: ModuleType) -> bool:
    # a lazy module would import everything it is asked for
    return any(name in vars(module) for name in RULES)


def install(modules: Iterable[ModuleType]) -> None:
    """Put the rules in place in these modules. They stay transformers' own until ``active``."""
    with _lock:
        for module in modules:
            _users[module] += 1
            if _users[module] > 1:
                continue
            for name, rule in RULES.items():
                if name in vars(module):
                    original = _originals[module, name] = getattr(module, name)
                    setattr(module, name, _replaced(rule, original))


def remove(modules: Iterable[ModuleType]) -> None:
    """Undo one ``install`` of these modules."""
    with _lock:
        for module in modules:
            _users[module] -= 1
            if not _users[module]:
                del _users[module]
                for name in RULES:
                    if name in vars(module):
                        setattr(module, name, _originals.pop((module, name)))


@contextmanager
def active() -> Iterator[None]:
    """Compute the installed rules with ttr in this thread. As in transformers, numbers are not checked: NaN
    gives NaN."""
    token = _active.set(True)
    try:
        with checks(values=False):
            yield
    finally:
        _active.reset(token)


def _replaced(rule: rules.Rule, original: rules.Rule) -> rules.Rule:
    """A rule by ttr where it is active and all tensors are plain ones on the CPU; else transformers' own.

    transformers' is the one of a package such as fla where that is installed, and some of these need a GPU:
    on the CPU it is the one in torch, which keeps no packed sequences apart."""
    reference = inspect.unwrap(original)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _active.get():
            return original(*args, **kwargs)
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not all(x.is_cpu for x in tensors):
            return original(*args, **kwargs)
        if all(type(x) in PLAIN for x in tensors):
            done = rule(*args, **kwargs)
            if done is not NotImplemented:
                return done
        packed = any(kwargs.get(name) is not None for name in ("cu_seqlens", "seq_idx"))
        return (original if packed else reference)(*args, **kwargs)

    return replaced
