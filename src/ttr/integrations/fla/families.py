"""The models of flash-linear-attention (fla 0.6.0) that a ``TTRForCausalLM`` can be: what their config.json
means here, and the names of their weights.

fla's decoder has the same shape as ours. So a family is its settings, its layer as an Architecture, and a
table of names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ttr.catalogue import ENTRIES
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.identity import Identity
from ttr.functions.features.relu import Relu
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.output.gates import OutputGate
from ttr.layer.output.norms import GatedRMSNorm, RMSNorm
from ttr.layer.part import Output, QKVTransform
from ttr.layer.qkv.norms import HeadRMSNorm
from ttr.layer.qkv.pointwise import Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

Settings = SimpleNamespace
"""What config.json says, completed by fla's defaults."""

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
CONVOLUTIONS = {f"{name}_conv1d.weight": f"qkv.short_convolution.{name}" for name in "qkv"}
ATTENTION = PROJECTIONS | {f"{name}_norm.weight": f"qkv.head_rms_norm.{name}" for name in "qk"}
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


# ------------------------------------------------------------------------------------------- parts of a layer
def _convolution(s: Settings, *otherwise: QKVTransform) -> tuple[QKVTransform, ...]:
    return (ShortConvolution(width=s.conv_size),) if s.use_short_conv else otherwise


def _output(s: Settings, gated: bool, gate: str = "swish") -> tuple[Output, ...]:
    """The norm of the read-out, with an output gate or without; fla calls SiLU swish, too."""
    if not gated:
        return (RMSNorm(eps=s.norm_eps),)
    return (GatedRMSNorm("silu" if gate == "swish" else gate, eps=s.norm_eps),)


def _step_size(s: Settings) -> SigmoidGate:
    return SigmoidGate("step_size", scale=2.0 if s.allow_neg_eigval else 1.0)


def attention(s: Settings) -> Architecture:
    """fla's softmax attention, which may also be single layers of the other families."""
    published = ENTRIES["softmax-attention"]
    weights = Uniform() if s.window_size is None else Window(s.window_size)
    return replace(
        published,
        problem=replace(published.problem, weights=weights),
        qkv=(*((HeadRMSNorm(eps=1e-5),) if s.qk_norm else ()), Rotary(base=s.rope_theta)),
    )


def _forgetting_attention(s: Settings) -> Architecture:
    output = (OutputGate("sigmoid"),) if s.use_output_gate else ()
    return replace(ENTRIES["forgetting-attention"], output=output)


def _gated_deltanet(s: Settings) -> Architecture:
    return replace(
        ENTRIES["gated-deltanet"],
        qkv=(*_convolution(s, Silu()), *ENTRIES["gated-deltanet"].qkv[1:]),
        gates=(MambaDecay(), _step_size(s)),
        output=_output(s, s.use_gate, s.output_gate_activation),
    )


def _kda(s: Settings) -> Architecture:
    published = ENTRIES["kda"]
    return replace(
        published,
        qkv=(*_convolution(s, Silu()), *published.qkv[1:]),
        gates=(published.gates[0], _step_size(s)),
        output=(replace(published.output[0], eps=s.norm_eps),),
    )


def _deltanet(s: Settings) -> Architecture:
    return replace(
        ENTRIES["deltanet"],
        qkv=(*_convolution(s, Silu()), *ENTRIES["deltanet"].qkv[1:]),
        gates=(_step_size(s),),
        output=_output(s, s.use_gate),
    )


def _deltaproduct(s: Settings) -> Architecture:
    published = ENTRIES["gated-deltaproduct" if s.use_forget_gate else "deltaproduct"]
    return replace(
        published,
        problem=replace(published.problem, solver=DeltaRule(pairs_per_token=s.num_householder)),
        qkv=(*_convolution(s, Silu()), *published.qkv[1:]),
        gates=(*((MambaDecay(),) if s.use_forget_gate else ()), _step_size(s)),
        output=_output(s, s.use_output_gate),
    )


def _gla(s: Settings) -> Architecture:
    return replace(
        ENTRIES["gla"],
        qkv=_convolution(s),
        output=_output(s, s.use_output_gate),
    )


def _retnet(s: Settings) -> Architecture:
    return replace(ENTRIES["retnet"], output=_output(s, s.use_output_gate))


FEATURE_MAPS = {"elu": EluPlusOne(), "relu": Relu(), "identity": Identity()}


def _linear_attention(s: Settings) -> Architecture:
    published = ENTRIES["linear-attention"]
    function = Linear(FEATURE_MAPS[s.feature_map], normalized=s.norm_feature_map)
    memory = Problem(published.problem.weights, function, published.problem.solver)
    return replace(published, problem=memory, output=_output(s, gated=False))


# ------------------------------------------------------------------------------------------------------ sizes
def _given_sizes(s: Settings) -> dict[str, int]:
    """Of the families that state the size of a head."""
    return {
        "num_heads": s.num_heads,
        "value_heads": s.num_v_heads or s.num_heads,
        "key_size": s.head_dim,
        "value_size": round(s.head_dim * s.expand_v),
    }


def _expanded_sizes(s: Settings) -> dict[str, int]:
    """Of the families whose heads share an expanded width, with grouped keys and values."""
    grouped = s.num_kv_heads or s.num_heads
    return {
        "num_heads": s.num_heads,
        "key_heads": grouped,
        "value_heads": grouped,
        "key_size": round(s.hidden_size * s.expand_k) // s.num_heads,
        "value_size": round(s.hidden_size * s.expand_v) // s.num_heads,
    }


def attention_sizes(s: Settings) -> dict[str, int]:
    """Of softmax attention."""
    return _expanded_sizes(Settings(**vars(s) | {"expand_k": 1, "expand_v": 1}))


def _hgrn2_sizes(s: Settings) -> dict[str, int]:
    heads = s.hidden_size // s.expand_ratio if s.expand_ratio else s.num_heads
    size = s.hidden_size // heads
    return {"num_heads": heads, "key_size": s.expand_ratio or size, "value_size": size}


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
        _gated_deltanet,
        _given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_HEAD | GATE | _norm(s.use_gate),
    ),
    Family(
        "kda",
        CONVOLVED
        | {"head_dim": 128, "num_heads": 16, "num_v_heads": None, "expand_v": 1.0}
        | {"allow_neg_eigval": False, "safe_gate": False, "lower_bound": None},
        _kda,
        _given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_CHANNEL | LOW_RANK_GATE | _norm(True),
        only={"safe_gate": (False,), "lower_bound": (None,)},
    ),
    Family(
        "delta_net",
        CONVOLVED
        | {"num_heads": 16, "num_kv_heads": None, "expand_k": 1.0, "expand_v": 1.0, "use_gate": False}
        | {"allow_neg_eigval": False, "use_beta": True, "qk_norm": "l2", "qk_activation": "silu"}
        | {"use_output_norm": True},
        _deltanet,
        _expanded_sizes,
        lambda s: DELTA_RULE | GATE | _norm(s.use_gate),
        only={"use_beta": (True,), "qk_norm": ("l2",), "qk_activation": ("silu",), "num_kv_heads": (None,)},
    ),
    Family(
        "gated_deltaproduct",
        CONVOLVED
        | HEADS
        | {"use_output_gate": True, "use_forget_gate": False}
        | {"allow_neg_eigval": False, "num_householder": 1},
        _deltaproduct,
        _given_sizes,
        lambda s: DELTA_RULE | DECAY_PER_HEAD | GATE | _norm(s.use_output_gate),
        only={"num_v_heads": (None,)},
    ),
    Family(
        "gla",
        {"use_short_conv": False, "conv_size": 4, "num_heads": 4, "num_kv_heads": None}
        | {"expand_k": 0.5, "expand_v": 1.0, "use_output_gate": True, "clamp_min": None}
        | {"feature_map": None, "use_gk": True, "use_gv": False},
        _gla,
        _expanded_sizes,
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
        _retnet,
        _expanded_sizes,
        lambda s: PROJECTIONS | GATE | _norm_of_gla(s),
        only={"feature_map": (None,)},
    ),
    Family(
        "linear_attn",
        {"num_heads": 4, "num_kv_heads": None, "expand_k": 1.0, "expand_v": 1.0}
        | {"feature_map": "elementwise_product", "norm_q": False, "norm_k": False}
        | {"norm_feature_map": False, "tie_feature_map_qk": False},
        _linear_attention,
        _expanded_sizes,
        lambda s: PROJECTIONS | _norm(False, "norm"),
        only={"feature_map": tuple(FEATURE_MAPS), "norm_q": (False,), "norm_k": (False,)},
    ),
    Family(
        "hgrn2",
        {"num_heads": None, "expand_ratio": 128, "use_lower_bound": True}
        | {"use_short_conv": False, "conv_size": 4},
        lambda s: ENTRIES["hgrn2"],  # its norm has fla's default epsilon, whatever norm_eps
        _hgrn2_sizes,
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
        attention,
        attention_sizes,
        lambda s: ATTENTION,
        only={"qkv_bias": (False,)},
    ),
    Family(
        "forgetting_transformer",
        {"num_heads": 32, "num_kv_heads": None, "qk_norm": False, "window_size": None}
        | {"qkv_bias": False, "use_output_gate": False},
        _forgetting_attention,
        attention_sizes,
        lambda s: (
            PROJECTIONS
            | {
                "f_proj.weight": "gates.log_decay.proj.weight",
                "f_proj.bias": "gates.log_decay.bias",
                "g_proj.weight": "output.output_gate.proj.weight",
            }
        ),
        only={"qkv_bias": (False,), "qk_norm": (False,), "window_size": (None,)},
    ),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _FAMILIES}
"""fla's model_type -> the family."""
