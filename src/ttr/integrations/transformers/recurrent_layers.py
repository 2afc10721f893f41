"""The recurrent layers of transformers' hybrids as ``ttr.nn.Mixer``: the same weights in another order, and
the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from ttr.catalogue import ENTRIES
from ttr.integrations.transformers.cached_mixer import CachedMixer
from ttr.integrations.weights import Rows, Table, converted, reverted
from ttr.layer.architecture import Architecture
from ttr.layer.mixer import Mixer
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.qkv.short_convolution import ShortConvolution


@dataclass(frozen=True)
class Layout:
    """How a kind of layer of transformers keeps its weights.

    Args:
        memory: the layer -> its Architecture.
        sizes: the layer -> heads and sizes, as ``Mixer`` calls them.
        names: the layer -> its tensors and those of the Mixer.
        zero: tensors of the Mixer that the layer does not have.
    """

    memory: Callable[[nn.Module], Architecture]
    sizes: Callable[[nn.Module], dict[str, int]]
    names: Callable[[nn.Module], Table]
    zero: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ gated delta
PROJECTIONS = {f"{name}_proj.weight": f"{name}_proj.weight" for name in "qkvo"}
CONVOLUTION = {"conv1d.weight": Rows(tuple(f"qkv.short_convolution.{name}" for name in "qkv"))}
STEP_SIZE, DECAY, GATE = (
    f"{part}.proj.weight" for part in ("gates.step_size", "gates.log_decay", "output.gated_rms_norm")
)
RATE = {"A_log": "gates.log_decay.rate", "dt_bias": "gates.log_decay.bias"}
NORM = "output.gated_rms_norm.gain"


def _delta_rule(name: str, layer: nn.Module, norm: nn.Module, **step: float) -> Architecture:
    published = ENTRIES[name]
    return replace(
        published,
        qkv=(ShortConvolution(width=layer.conv_kernel_size), *published.qkv[1:]),
        gates=(published.gates[0], replace(published.gates[1], **step)),
        output=(replace(published.output[0], eps=norm.variance_epsilon),),
    )


def _gated_deltanet(layer: nn.Module) -> Architecture:
    return _delta_rule("gated-deltanet", layer, layer.norm)


def _gated_deltanet_sizes(layer: nn.Module) -> dict[str, int]:
    return {
        "heads": layer.num_k_heads,
        "value_heads": layer.num_v_heads,
        "key_size": layer.head_k_dim,
        "value_size": layer.head_v_dim,
    }


def _qwen3_next(layer: nn.Module) -> Table:
    """The rows of every key head stand together."""
    qkvz = (*(f"{name}_proj.weight" for name in "qkv"), GATE)
    return {
        "in_proj_qkvz.weight": Rows(qkvz, groups=layer.num_k_heads),
        "in_proj_ba.weight": Rows((STEP_SIZE, DECAY), groups=layer.num_k_heads),
        "norm.weight": NORM,
        "out_proj.weight": "o_proj.weight",
        **CONVOLUTION,
        **RATE,
    }


def _qwen3_5(layer: nn.Module) -> Table:
    return {
        "in_proj_qkv.weight": Rows(tuple(f"{name}_proj.weight" for name in "qkv")),
        "in_proj_z.weight": GATE,
        "in_proj_b.weight": STEP_SIZE,
        "in_proj_a.weight": DECAY,
        "norm.weight": NORM,
        "out_proj.weight": "o_proj.weight",
        **CONVOLUTION,
        **RATE,
    }


def _olmo_hybrid(layer: nn.Module) -> Table:
    return {
        "a_proj.weight": DECAY,
        "b_proj.weight": STEP_SIZE,
        "g_proj.weight": GATE,
        "o_norm.weight": NORM,
        **PROJECTIONS,
        **CONVOLUTION,
        **RATE,
    }


def _kimi_linear(layer: nn.Module) -> Table:
    return {
        "forget_gate.f_a_proj.weight": "gates.log_decay.down.weight",
        "forget_gate.f_b_proj.weight": "gates.log_decay.up.weight",
        **{f"forget_gate.{name}": ours for name, ours in RATE.items()},
        "b_proj.weight": STEP_SIZE,
        "g_a_proj.weight": "output.gated_rms_norm.down.weight",
        "g_b_proj.weight": GATE,
        "o_norm.weight": NORM,
        **PROJECTIONS,
        **CONVOLUTION,
    }


# ---------------------------------------------------------------------------------------------------- Mamba-2
def _mamba2(layer: nn.Module) -> Architecture:
    lowest, highest = layer.time_step_limit
    if lowest > 0 or highest < float("inf"):
        raise ValueError(
            f"Layer {layer.layer_idx} clamps its time steps to {list(layer.time_step_limit)}, and a Mixer "
            "does not. Use accelerate, which runs the layer as it is."
        )
    if layer.in_proj.bias is not None:
        raise ValueError(
            f"Layer {layer.layer_idx} has biases in its projections, and a Mixer has none. Use accelerate, "
            "which runs the layer as it is."
        )
    published, channels = ENTRIES["mamba2"], layer.intermediate_size
    over = "all" if getattr(layer.norm, "group_size", channels) == channels else "group"
    return replace(
        published,
        qkv=(
            ShortConvolution(width=layer.conv_kernel_size, bias=layer.conv1d.bias is not None),
            *published.qkv[1:],
        ),
        output=(
            published.output[0],
            GatedRMSNorm("silu", over=over, gate_first=True, eps=layer.norm.variance_epsilon),
        ),
    )


def _mamba2_sizes(layer: nn.Module) -> dict[str, int]:
    return {
        "heads": layer.n_groups,
        "value_heads": layer.num_heads,
        "key_size": layer.ssm_state_size,
        "value_size": layer.head_dim,
    }


def _mamba2_names(layer: nn.Module) -> Table:
    """Values, keys and queries are x, B and C there."""
    table: dict[str, str | Rows] = {
        "in_proj.weight": Rows((GATE, *(f"{name}_proj.weight" for name in "vkq"), DECAY)),
        "conv1d.weight": Rows(tuple(f"qkv.short_convolution.{name}" for name in "vkq")),
        "D": "output.skip.strength",
        "norm.weight": NORM,
        "out_proj.weight": "o_proj.weight",
        **RATE,
    }
    if layer.conv1d.bias is not None:
        table["conv1d.bias"] = Rows(tuple(f"qkv.short_convolution.{name}_bias" for name in "vkq"))
    return table


QWEN3_5 = Layout(_gated_deltanet, _gated_deltanet_sizes, _qwen3_5)
MAMBA2 = Layout(_mamba2, _mamba2_sizes, _mamba2_names)

LAYOUTS: Mapping[str, Layout] = {
    "Qwen3NextGatedDeltaNet": Layout(_gated_deltanet, _gated_deltanet_sizes, _qwen3_next),
    "Qwen3_5GatedDeltaNet": QWEN3_5,
    "Qwen3_5MoeGatedDeltaNet": QWEN3_5,
    "OlmoHybridGatedDeltaNet": Layout(
        lambda layer: _delta_rule(
            "gated-deltanet", layer, layer.o_norm, scale=2.0 if layer.allow_neg_eigval else 1.0
        ),
        _gated_deltanet_sizes,
        _olmo_hybrid,
    ),
    "KimiLinearDeltaAttention": Layout(
        lambda layer: _delta_rule("kda", layer, layer.o_norm),
        lambda layer: {"heads": layer.num_heads, "key_size": layer.head_dim, "value_size": layer.head_dim},
        _kimi_linear,
        zero=("output.gated_rms_norm.bias",),
    ),
    "Mamba2Mixer": MAMBA2,
    "BambaMixer": MAMBA2,
    "GraniteMoeHybridMambaLayer": MAMBA2,
}
"""Names of classes of transformers -> how they keep their weights."""


class MemoryMixer(CachedMixer):
    """A Mixer that is called like a recurrent layer of transformers, and is saved under its names.

    ``state_dict`` has the tensors of the layer that it replaces, as long as those of the Mixer have their own
    names, which adapters change. So ``save_pretrained`` writes a model of transformers.
    """

    def __init__(self, layer: nn.Module) -> None:
        layout, tensors = LAYOUTS[type(layer).__name__], layer.state_dict()
        mixer = Mixer(layer.hidden_size, layout.memory(layer), **layout.sizes(layer))
        super().__init__(mixer, layer.layer_idx)
        self.names = layout.names(layer)
        _check_plain(layer, self.names.keys() ^ tensors.keys())
        self.shapes = {name: x.shape for name, x in tensors.items()}
        self.zero = {
            name: torch.zeros_like(x, dtype=tensors["conv1d.weight"].dtype)
            for name, x in mixer.state_dict().items()
            if name in layout.zero
        }
        ours = converted(tensors, self.names, mixer.state_dict()) | self.zero
        self.names_of_mixer = set(ours)
        place = tensors["conv1d.weight"].device
        mixer.load_state_dict({name: x.to(place, copy=True) for name, x in ours.items()}, assign=True)
        mixer.requires_grad_(False).train(layer.training)
        for theirs, entry in self.names.items():
            learns = layer.get_parameter(theirs).requires_grad
            for name in entry.names if isinstance(entry, Rows) else (entry,):
                mixer.get_parameter(name).requires_grad_(learns)
        self.register_state_dict_post_hook(_saved)
        self.register_load_state_dict_pre_hook(_loaded)

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,
        cu_seq_lens_q: Int[Tensor, " bounds"] | None = None,
        cu_seq_lens_k: Int[Tensor, " bounds"] | None = None,
        seq_idx: Int[Tensor, "B T"] | None = None,
        **others: Any,
    ) -> Float[Tensor, "B T D"]:
        """The output of the layer."""
        return self.mixed(
            hidden_states,
            cache_params,
            attention_mask=attention_mask,
            cu_seq_lens_q=cu_seq_lens_q,
            cu_seq_lens_k=cu_seq_lens_k,
            seq_idx=seq_idx,
        )


def _check_plain(layer: nn.Module, others: Set[str]) -> None:
    """Raise if a layer has an activation that a Mixer lacks, or ``others`` than the tensors of its kind."""
    if layer.activation not in ("silu", "swish"):
        raise ValueError(
            f"Layer {layer.layer_idx} has the activation {layer.activation!r} behind its convolution, and a "
            "Mixer has silu. Use accelerate, which runs the layer as it is."
        )
    if others:
        raise ValueError(
            f"Layer {layer.layer_idx} has or lacks {', '.join(sorted(others))}, unlike other layers of its "
            "kind. Merge adapters, and load the model without quantisation, before its layers become Mixers."
        )


def _saved(layer: MemoryMixer, tensors: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Put the tensors of the layer that was replaced in the place of those of its Mixer."""
    place = f"{prefix}mixer."
    ours = {name.removeprefix(place): x for name, x in tensors.items() if name.startswith(place)}
    if ours.keys() != layer.names_of_mixer:
        return
    for name in ours:
        del tensors[f"{place}{name}"]
    for name, x in reverted(ours, layer.names).items():
        tensors[f"{prefix}{name}"] = x.reshape(layer.shapes[name])


def _loaded(layer: MemoryMixer, tensors: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The inverse of ``_saved``."""
    theirs = {name: tensors.get(f"{prefix}{name}") for name in layer.names}
    like = layer.mixer.state_dict()
    if any(x is None for x in theirs.values()) or like.keys() != layer.names_of_mixer:
        return
    for name in theirs:
        del tensors[f"{prefix}{name}"]
    for name, x in (converted(theirs, layer.names, like) | layer.zero).items():
        tensors[f"{prefix}mixer.{name}"] = x


def to_mixers(model: PreTrainedModel) -> PreTrainedModel:
    """Put a ``ttr.nn.Mixer`` in place of every recurrent layer of a hybrid of transformers, in the model
    itself, with the same weights: the outputs stay the same.

    The layers are then memories like any other of ttr: ``layer.mixer.problem`` and ``architecture`` say what
    they are, and ``layer.mixer`` runs alone, with states as objects. The model trains, generates, pads and
    packs as before, and ``save_pretrained`` writes it as a model of transformers, which ``from_pretrained``
    there opens.

    Returns:
        The model.

    Raises:
        ValueError: if there is no such layer, or one has a part that a Mixer lacks; then nothing is changed.
    """
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer).__name__ in LAYOUTS
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no recurrent layers that a Mixer can be. Those are "
            f"{', '.join(LAYOUTS)}."
        )
    made = [(parent, name, MemoryMixer(layer)) for parent, name, layer in found]
    for parent, name, mixer in made:
        setattr(parent, name, mixer)
    return model
