"""Saved models of earlier revisions: translates the names in their configuration and of their tensors into
today's.

It converts folders saved since 00d8126, the last revision before the parts of a layer got their present
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from ttr.catalogue.networks import BEFORE_VERSIONS
from ttr.component import Matrix
from ttr.layer.architecture import Architecture
from ttr.layer.initialisers import inverse_softplus
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import MODULES
from ttr.problem import Problem

SETTINGS = {"backend": "engine"}
"""Old settings of a configuration."""

FIELDS = {"keys": "qkv", "controls": "gates"}
"""Old fields of an architecture."""

KINDS = {"keys": "qkv", "controls": "gate"}
"""Old kinds of the parts of a layer."""

Fields = dict[str, Any]

PARTS: dict[str, Callable[..., tuple[str, Fields]]] = {
    # qkv transforms
    "ReadOffValue": lambda **old: ("QueryKeyFromValue", old),
    # gates that are a function of a linear map
    "LinearPhase": lambda **old: ("LinearGate", {"control": "phase"} | old),
    "CappedImportance": lambda cap=15.0, bias=-10.0: (
        "LinearGate",
        {"control": "log_importance", "bias": bias, "cap": cap, "zero": True},
    ),
    "SigmoidStepSize": lambda doubled=False: (
        "SigmoidGate",
        {"control": "step_size", "scale": 2.0 if doubled else 1.0},
    ),
    "PreconditionerStep": lambda: ("SigmoidGate", {"control": "precond_step"}),
    "SigmoidTrapezoid": lambda: ("SigmoidGate", {"control": "trapezoid"}),
    "SigmoidWrite": lambda: ("SigmoidGate", {"control": "write"}),
    "SigmoidMomentum": lambda: ("SigmoidGate", {"control": "momentum", "bias": 0.0}),
    "SigmoidMix": lambda: ("SigmoidGate", {"control": "mix", "bias": 0.0}),
    "LogSigmoidDecay": lambda **old: ("LogSigmoidGate", {"control": "log_decay"} | old),
    "LogSigmoidImportance": lambda power=1.0: (
        "LogSigmoidGate",
        {"control": "log_importance", "scale": power},
    ),
    "LowRankDecay": lambda rank=16, temperature=16.0: (
        "LogSigmoidGate",
        {"control": "log_decay", "per": "channel", "rank": rank, "scale": 1 / temperature},
    ),
    "SoftplusRates": lambda start=0.001: (
        "SoftplusGate",
        {"control": "step_size", "per": "group", "bias": inverse_softplus(start)},
    ),
    "SoftplusThreshold": lambda bias=0.5: ("SoftplusGate", {"control": "threshold", "bias": bias}),
    "SoftplusLevelWeight": lambda: ("LevelWeight", {}),
    # decays
    "SoftplusDecay": lambda **old: ("MambaDecay", old),
    "PreconditionerDecay": lambda **old: ("MambaDecay", {"control": "precond_log_decay"} | old),
    "ChannelSoftplusDecay": lambda **old: ("KDADecay", old),
    "ValueSoftplusDecay": lambda: ("KDADecay", {"control": "value_log_decay"}),
    "SelectiveDecay": lambda **old: ("Mamba3Decay", old),
    "BoundedForgetGate": lambda: ("HGRNDecay", {}),
    "LowRankExponentialDecay": lambda **old: ("RWKV6Decay", old),
    "BoundedLowRankDecay": lambda **old: ("RWKV7Decay", old),
    "NegativeTimeStep": lambda: ("TimeStepDecay", {}),
    "CappedSoftplusDecay": lambda: ("CappedDecay", {}),
    "SoftplusMomentum": lambda **old: ("DecayMomentum", old),
    # other gates
    "SigmoidRate": lambda **old: ("TTTStepSize", old),
    "LowRankStepSize": lambda **old: ("LonghornStepSize", old),
    "LowRankEraseKey": lambda **old: ("RWKV7EraseKey", old),
    # parts applied to the read-out
    "Gate": lambda **old: ("OutputGate", old),
    "GeluGate": lambda: ("OutputGate", {"gate": "gelu"}),
    "LowRankGate": lambda **old: ("LowRankOutputGate", old),
    "LayerNorm": lambda eps=1e-6: ("LayerNorm", {"over": "all", "eps": eps}),
    "HeadLayerNorm": lambda **old: ("LayerNorm", old),
    "GroupNorm": lambda eps=64e-5: ("LayerNorm", {"eps": eps, "by_depth": True}),
}
"""The parts of a layer that have another name or other fields today: old name -> today's name and fields,
computed from the old fields."""

PROJECTIONS = {
    **{rf"mixer\.project\.{name}\.": f"mixer.{name}_proj." for name in "qkv"},
    r"mixer\.output\.projection\.": "mixer.o_proj.",
}
"""Old keys of the projections, as patterns."""

TENSORS = {r"mixer\.output\.learned\.(\d+)\.shift": r"mixer.output.learned.\1.bias"}
"""Old names of the tensors of parts, as patterns."""

FLAT = "flattened_weight"
"""The name, while a folder is loaded, of a matrix that was saved with all its axes: a linear module holds it
with two."""

SIZES = Sizes(2, 1, 1, 1, 2, 2, 2, levels=1)
"""Sizes for which every part declares the names of its tensors."""


class Flatten(ConversionOps):
    """A matrix of two axes from one whose outputs have several."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: Any, target_patterns: list[str], **others: Any
    ) -> dict[str, Any]:
        """The tensor under the name that it has today."""
        ((tensor,),) = input_dict.values()
        return {target_patterns[0]: tensor.flatten(0, -2)}


register_checkpoint_conversion_mapping(
    "ttr", [WeightConverter(rf"\.{FLAT}", r"\.weight", [Flatten()])], overwrite=True
)


def renamed_keys(memories: Sequence[Architecture | Problem]) -> dict[str, str]:
    """Patterns of old keys of a model with these memories -> today's keys, for ``from_pretrained`` of
    transformers; no pattern matches a key of today."""
    keys = PROJECTIONS | TENSORS
    for layer, memory in enumerate(memories):
        architecture = memory if isinstance(memory, Architecture) else Architecture.of(memory)
        mixer = f"layers.{layer}.mixer"
        for place, parts in (
            ("project", architecture.named_before_memory()),
            ("output", architecture.named("output")),
        ):
            for number, (name, part) in enumerate(parts):
                keys[re.escape(f"{mixer}.{place}.learned.{number}.")] = f"{mixer}.{name}."
                for matrix, spec in part.parameters(SIZES).items():
                    if isinstance(spec, Matrix):
                        module = MODULES.get(matrix, matrix)
                        keys[re.escape(f"{mixer}.{name}.{matrix}") + "$"] = f"{mixer}.{name}.{module}.{FLAT}"
    return keys


def as_saved(layers: Any) -> Any:
    """The ``layers`` of a configuration without a version: entries that have changed since, as described
    then."""
    if isinstance(layers, list | tuple):
        return [as_saved(memory) for memory in layers]
    known = isinstance(layers, str) and layers in BEFORE_VERSIONS
    return BEFORE_VERSIONS[layers].to_dict() if known else layers


def described(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The description of an architecture in today's names, from a description by any revision."""
    if not FIELDS.keys() & architecture.keys():
        return dict(architecture)
    fields = {FIELDS.get(name, name): value for name, value in architecture.items()}
    return fields | {
        field: [_part(part) for part in fields.get(field, ())] for field in ("qkv", "gates", "output")
    }


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a part in today's names, from an old one."""
    fields = {name: value for name, value in part.items() if name not in ("kind", "type")}
    name, fields = PARTS.get(part["type"], lambda **same: (part["type"], same))(**fields)
    return {"kind": KINDS.get(part["kind"], part["kind"]), "type": name} | fields
