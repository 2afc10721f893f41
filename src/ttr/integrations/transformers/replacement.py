"""The table of replaced rules, and how they are put in place of transformers' and taken out again."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ttr.integrations.transformers import mixers, norms, rules
from ttr.integrations.transformers.products import products
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
    "RecurrentGemmaRglru._rnn_scan": mixers.gated_scan,
    "MiniMaxLightningAttention.forward": mixers.lightning_attention,
    "xLSTMBackend.forward": mixers.mlstm,
    "rwkv_linear_attention_cpu": mixers.wkv,
}
"""transformers' names of its rules, functions of a module (the same in all its models) or methods of a class,
and what replaces them."""

PARTS: dict[str, rules.Rule] = {"*RMSNormGated.forward": norms.gated_norm}
"""What is replaced around the rules, by patterns of names."""

_active: ContextVar[bool] = ContextVar("ttr_accelerated", default=False)
"""Whether replaced rules compute with ttr; otherwise they are transformers'."""

# a finalizer may remove rules in the midst of install, wherever the garbage collector runs
_lock = threading.RLock()
_users: Counter[ModuleType] = Counter()
_originals: dict[ModuleType, list[tuple[ModuleType | type, str, rules.Rule]]] = {}


def modeling_modules() -> list[ModuleType]:
    """The loaded modules of transformers' models that have a rule of the table."""
    named = [m for name, m in list(sys.modules.items()) if name.startswith("transformers.models.")]
    return [module for module in named if has_rules(module)]


def has_rules(module: ModuleType) -> bool:
    return any(_places(module, RULES))


def _places(
    module: ModuleType, table: Mapping[str, rules.Rule]
) -> Iterator[tuple[ModuleType | type, str, rules.Rule]]:
    """Where the module has functions and methods of the table, and what replaces them."""
    # a lazy module would import everything it is asked for
    classes = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    for name, rule in table.items():
        pattern, _, name = name.rpartition(".")
        for owner in [c for c in classes if fnmatchcase(c.__name__, pattern)] if pattern else [module]:
            if name in vars(owner):
                yield owner, name, rule


def install(modules: Iterable[ModuleType]) -> None:
    """Put the rules in place in these modules. They stay transformers' own until ``active``."""
    with _lock:
        for module in modules:
            _users[module] += 1
            if _users[module] > 1:
                continue
            _originals[module] = kept = []
            for owner, name, rule in list(_places(module, RULES | PARTS)):
                kept.append((owner, name, getattr(owner, name)))
                setattr(owner, name, _replaced(rule, getattr(owner, name)))


def remove(modules: Iterable[ModuleType]) -> None:
    """Undo one ``install`` of these modules."""
    with _lock:
        for module in modules:
            _users[module] -= 1
            if not _users[module]:
                del _users[module]
                for owner, name, original in _originals.pop(module):
                    setattr(owner, name, original)


@contextmanager
def active(many_rows: bool = True) -> Iterator[None]:
    """Compute the installed rules with ttr in this thread, and with ``many_rows`` also look for the products
    that oneDNN does faster. As in transformers, numbers are not checked: NaN gives NaN."""
    token = _active.set(True)
    try:
        with checks(values=False), products() if many_rows else nullcontext():
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
        tensors = list(_tensors((*args, *kwargs.values())))
        if not all(x.is_cpu for x in tensors):
            return original(*args, **kwargs)
        if all(type(x) in PLAIN for x in tensors):
            done = rule(*args, **kwargs)
            if done is not NotImplemented:
                return done
        packed = any(kwargs.get(name) is not None for name in ("cu_seqlens", "seq_idx"))
        return (original if packed else reference)(*args, **kwargs)

    return replaced


def _tensors(arguments: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among the arguments, and those of a module whose method is called."""
    for x in arguments:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, nn.Module):
            yield from x.parameters()
