"""The models of flash-linear-attention (fla 0.6.0) that a ``TTRForCausalLM`` can be: what their config.json
means here, and the names of their weights.

fla's decoder has the same shape as ours. So a family is its settings, its layer as an Architecture, and a
table of names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttr.catalogue import ENTRIES
from ttr.integrations.fla import layers
from ttr.integrations.fla.layers import Settings
from ttr.layer.architecture import Architecture

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """One of fla's models.

    Args:
        model_type: its name in config.json.
        defaults: fla's defaults of the settings that only this family has.
        layer: the settings -> its layer.
        sizes: the settings -> heads and sizes, as ``TTRConfig`` calls them.
        names: the settings -> fla's name of a layer's tensor -> ours; those that a layer lacks are skipped.
        only: the values of settings that our layers have, where they do not have all.
        to_layers: moves what fla keeps outside of the layers into them. ``from_layers`` undoes it.
    """

    model_type: str
    defaults: Mapping[str, Any]
    layer: Callable[[Settings], Architecture]
    sizes: Callable[[Settings], dict[str, int]]
    names: Callable[[Settings], Mapping[str, str]]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    to_layers: Callable[[Tensors], Tensors] = dict
    from_layers: Callable[[Tensors], Tensors] = dict


# ------------------------------------------------------------------------------------------- names of tensors
PROJECTIONS = {f"{name}_proj.weight": f"{name}_proj.weight" for name in "qkvo"}
BIASES = {f"{name}_proj.bias": f"qkv.projection_bias.{name}" for name in "qkv"}
CONVOLUTIONS = {f"{name}_conv1d.weight": f"qkv.short_convolution.{name}" for name in "qkv"}
ATTENTION = PROJECTIONS | BIASES | {f"{name}_norm.weight": f"qkv.head_rms_norm.{name}" for name in "qk"}
DELTA_RULE = PROJECTIONS | CONVOLUTIONS | {"b_proj.weight": "gates.step_size.proj.weight"}
DECAY_PER_HEAD = {
    "a_proj.weight": "gates.log_decay.proj.weight",
    "A_log": "gates.log_decay.rate",
    "dt_bias": "gates.log_decay.bias",
}
DECAY_PER_CHANNEL = {
    "f_proj.0.weight": "gates.log_decay.down.weight",
    "f_proj.1.weight": "gates.log_decay.up.weight",
    "A_log": "gates.log_decay.rate",
    "dt_bias": "gates.log_decay.bias",
}
GATE = {"g_proj.weight": "output.gated_rms_norm.proj.weight"}
LOW_RANK_GATE = {
    "g_proj.0.weight": "output.gated_rms_norm.down.weight",
    "g_proj.1.weight": "output.gated_rms_norm.proj.weight",
    "g_proj.1.bias": "output.gated_rms_norm.bias",
}


def _norm(gated: bool, name: str = "o_norm") -> dict[str, str]:
    return {f"{name}.weight": f"output.{'gated_rms_norm' if gated else 'rms_norm'}.gain"}


def _norm_of_gla(s: Settings) -> dict[str, str]:
    fused = s.fuse_norm and s.use_output_gate
    return _norm(s.use_output_gate, "g_norm_swish_gate" if fused else "g_norm")


# ------------------------------------------------------------- HGRN2's lower bounds, which all layers share
BOUNDS, BOUND = "model.lower_bounds", "model.layers.{}.attn.lower_bound"


def _to_bounds(tensors: Tensors) -> Tensors:
    """The bound of every layer but the first, which has none, before a sigmoid: fla keeps the increments from
    layer to layer, before a softmax."""
    shared = tensors.get(BOUNDS)
    if shared is None:
        return tensors
    increments = shared.double().softmax(0)
    bounds = (increments.cumsum(0) - increments[0]).logit().to(shared.dtype)
    layers = {BOUND.format(layer): bound for layer, bound in enumerate(bounds) if layer}
    return {name: x for name, x in tensors.items() if name != BOUNDS} | layers


def _from_bounds(tensors: Tensors) -> Tensors:
    """The inverse of ``_to_bounds``."""
    layers = {name: x for name, x in tensors.items() if name.endswith(".attn.lower_bound")}
    rest = {name: x for name, x in tensors.items() if name not in layers}
    like = tensors["model.layers.0.attn.q_proj.weight"]
    bounds = [like.new_zeros(len(like)), *(layers[BOUND.format(1 + n)] for n in range(len(layers)))]
    bounds = torch.stack([bounds[0].double(), *(x.double().sigmoid() for x in bounds[1:])])
    increments = torch.cat([1 - bounds[-1:], bounds.diff(dim=0)])
    if not (increments > 0).all():
        raise ValueError(
            "fla's HGRN2 needs lower bounds that rise from layer to layer, and in this model some do not. "
            "Save it by its own save_pretrained."
        )
    return rest | {BOUNDS: increments.log().to(like.dtype)}


# --------------------------------------------------------------------------------------------------- families
CONVOLVED = {"use_short_conv": True, "conv_size": 4}
HEADS = {"head_dim": 256, "num_heads": 6, "num_v_heads": None, "expand_v": 2.0}

_FAMILIES = (
    Family(
        "gated_deltanet",
        CONVOLVED | HEADS | {"use_gate": True, "output_gate_activation": "swish", "allow_neg_eigval": False},
        layers.gated_deltanet,
        layers.given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_HEAD | GATE | _norm(s.use_gate),
    ),
    Family(
        "kda",
        CONVOLVED
        | {"head_dim": 128, "num_heads": 16, "num_v_heads": None, "expand_v": 1.0}
        | {"allow_neg_eigval": False, "safe_gate": False, "lower_bound": None},
        layers.kda,
        layers.given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_CHANNEL | LOW_RANK_GATE | _norm(True),
        only={"safe_gate": (False,), "lower_bound": (None,)},
    ),
    Family(
        "delta_net",
        CONVOLVED
        | {"num_heads": 16, "num_kv_heads": None, "expand_k": 1.0, "expand_v": 1.0, "use_gate": False}
        | {"allow_neg_eigval": False, "use_beta": True, "qk_norm": "l2", "qk_activation": "silu"}
        | {"use_output_norm": True},
        layers.deltanet,
        layers.expanded_sizes,
        lambda s: DELTA_RULE | GATE | _norm(s.use_gate),
        only={"use_beta": (True,), "qk_norm": ("l2",), "qk_activation": ("silu",), "num_kv_heads": (None,)},
    ),
    Family(
        "gated_deltaproduct",
        CONVOLVED
        | HEADS
        | {"use_output_gate": True, "use_forget_gate": False}
        | {"allow_neg_eigval": False, "num_householder": 1},
        layers.deltaproduct,
        layers.given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_HEAD | GATE | _norm(s.use_output_gate),
        only={"num_v_heads": (None,)},
    ),
    Family(
        "gla",
        {"use_short_conv": False, "conv_size": 4, "num_heads": 4, "num_kv_heads": None}
        | {"expand_k": 0.5, "expand_v": 1.0, "use_output_gate": True, "clamp_min": None}
        | {"feature_map": None, "use_gk": True, "use_gv": False},
        layers.gla,
        layers.expanded_sizes,
        lambda s: (
            PROJECTIONS
            | CONVOLUTIONS
            | GATE
            | _norm_of_gla(s)
            | {
                "gk_proj.0.weight": "gates.log_decay.down.weight",
                "gk_proj.1.weight": "gates.log_decay.up.weight",
                "gk_proj.1.bias": "gates.log_decay.bias",
            }
        ),
        only={
            "feature_map": (None,),
            "clamp_min": (None,),
            "num_kv_heads": (None,),
            "use_gk": (True,),
            "use_gv": (False,),
        },
    ),
    Family(  # its blocks give use_short_conv no effect
        "retnet",
        {"num_heads": 8, "num_kv_heads": None, "expand_k": 1.0, "expand_v": 2.0}
        | {"use_output_gate": True, "feature_map": None, "hidden_ratio": 2}
        | {"use_short_conv": False, "conv_size": 4},
        layers.retnet,
        layers.expanded_sizes,
        lambda s: PROJECTIONS | GATE | _norm_of_gla(s),
        only={"feature_map": (None,)},
    ),
    Family(
        "linear_attn",
        {"num_heads": 4, "num_kv_heads": None, "expand_k": 1.0, "expand_v": 1.0}
        | {"feature_map": "elementwise_product", "norm_q": False, "norm_k": False}
        | {"norm_feature_map": False, "tie_feature_map_qk": False},
        layers.linear_attention,
        layers.expanded_sizes,
        lambda s: PROJECTIONS | _norm(False, "norm"),
        only={"feature_map": tuple(layers.FEATURE_MAPS), "norm_q": (False,), "norm_k": (False,)},
    ),
    Family(  # its layers always have convolutions, whatever use_short_conv
        "mesa_net",
        CONVOLVED
        | {"num_heads": 16, "head_dim": 128, "use_output_gate": False, "lambda_lower_bound": 0.25}
        | {"max_cg_step_training": 30, "max_cg_step_decoding": 30},
        layers.mesanet,
        layers.mesanet_sizes,
        lambda s: (
            PROJECTIONS
            | CONVOLUTIONS
            | GATE
            | _norm(s.use_output_gate)
            | {
                "a_proj.weight": "gates.log_decay.proj.weight",
                "a_proj.bias": "gates.log_decay.bias",
                "b_proj.weight": "gates.log_importance.proj.weight",
                "b_proj.bias": "gates.log_importance.bias",
                "lambda_params": "gates.ridge.weight",
            }
        ),
    ),
    Family(
        "hgrn2",
        {"num_heads": None, "expand_ratio": 128, "use_lower_bound": True}
        | {"use_short_conv": False, "conv_size": 4},
        lambda s: ENTRIES["hgrn2"],  # its norm has fla's default epsilon, whatever norm_eps
        layers.hgrn2_sizes,
        lambda s: {
            "q_proj.weight": "q_proj.weight",
            "f_proj.weight": "k_proj.weight",
            "i_proj.weight": "v_proj.weight",
            "o_proj.weight": "o_proj.weight",
            "g_norm.weight": "output.rms_norm.gain",
            "lower_bound": "gates.log_decay.bound",
        },
        only={"use_lower_bound": (True,), "use_short_conv": (False,), "attn": (None,)},
        to_layers=_to_bounds,
        from_layers=_from_bounds,
    ),
    Family(
        "transformer",
        {"num_heads": 32, "num_kv_heads": None, "qk_norm": False, "window_size": None}
        | {"qkv_bias": False, "rope_theta": 10000.0},
        layers.attention,
        layers.attention_sizes,
        lambda s: ATTENTION,
        only={"attn": (None,)},
    ),
    Family(
        "forgetting_transformer",
        {"num_heads": 32, "num_kv_heads": None, "qk_norm": False, "window_size": None}
        | {"qkv_bias": False, "use_output_gate": False},
        layers.forgetting_attention,
        layers.attention_sizes,
        lambda s: (
            PROJECTIONS
            | BIASES
            | {
                "f_proj.weight": "gates.log_decay.proj.weight",
                "f_proj.bias": "gates.log_decay.bias",
                "g_proj.weight": "output.output_gate.proj.weight",
            }
        ),
        only={"qk_norm": (False,), "window_size": (None,), "attn": (None,)},
    ),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _FAMILIES}
"""fla's model_type -> the family."""

REFUSED = dict(
    comba="fla's kernel gives the read key norm 1, whatever use_inner_decay has learned, and in our layer "
    "it keeps its length",
    mamba2="its blocks have no MLP, and ours have one",
    rwkv7="its blocks have LayerNorms with a bias (norm_bias, norm_first), a squared ReLU behind a token "
    "shift for an MLP (hidden_act, ffn.x_k), and the values of the first layer in all (v_low_rank_dim); ours "
    "have RMSNorms and SwiGLU, and share nothing",
)
"""fla's model_type -> why our decoder cannot be it, of models whose memory we have."""
