"""The layers of flash-linear-attention's models (fla 0.6.0) as Architectures, and their sizes, by the
settings of config.json."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from ttr.catalogue import ENTRIES
from ttr.functions.features.elu_plus_one import EluPlusOne
from ttr.functions.features.identity import Identity
from ttr.functions.features.relu import Relu
from ttr.functions.linear import Linear
from ttr.layer.architecture import Architecture
from ttr.layer.gates.decays import MambaDecay
from ttr.layer.gates.projected import SigmoidGate
from ttr.layer.gates.ridges import LearnedRidge
from ttr.layer.output.gates import OutputGate
from ttr.layer.output.norms import GatedRMSNorm, RMSNorm
from ttr.layer.part import Output, QKVTransform
from ttr.layer.qkv.norms import HeadRMSNorm
from ttr.layer.qkv.pointwise import ProjectionBias, Silu
from ttr.layer.qkv.rotary import Rotary
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.conjugate_gradient import ConjugateGradient
from ttr.solvers.delta_rule import DeltaRule
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window

Settings = SimpleNamespace
"""What config.json says, completed by fla's defaults."""


# ------------------------------------------------------------------------------------------- parts of a layer
def _convolution(s: Settings, *otherwise: QKVTransform) -> tuple[QKVTransform, ...]:
    return (ShortConvolution(width=s.conv_size),) if s.use_short_conv else otherwise


def _bias(s: Settings) -> tuple[QKVTransform, ...]:
    return (ProjectionBias(),) if s.qkv_bias else ()


def _output(s: Settings, gated: bool, gate: str = "swish") -> tuple[Output, ...]:
    """The norm of the read-out, with an output gate or without; fla calls SiLU swish, too."""
    if not gated:
        return (RMSNorm(eps=s.norm_eps),)
    return (GatedRMSNorm("silu" if gate == "swish" else gate, eps=s.norm_eps),)


def _step_size(s: Settings) -> SigmoidGate:
    return SigmoidGate("step_size", scale=2.0 if s.allow_neg_eigval else 1.0)


def attention(s: Settings) -> Architecture:
    """``fla.layers.Attention``, which may also be single layers of the other families."""
    published = ENTRIES["softmax-attention"]
    weights = Uniform() if s.window_size is None else Window(s.window_size)
    return replace(
        published,
        problem=replace(published.problem, weights=weights),
        qkv=(*_bias(s), *((HeadRMSNorm(eps=1e-5),) if s.qk_norm else ()), Rotary(base=s.rope_theta)),
    )


def forgetting_attention(s: Settings) -> Architecture:
    """``fla.layers.ForgettingAttention``."""
    output = (OutputGate("sigmoid"),) if s.use_output_gate else ()
    return replace(ENTRIES["forgetting-attention"], qkv=_bias(s), output=output)


def gated_deltanet(s: Settings) -> Architecture:
    """``fla.layers.GatedDeltaNet``."""
    return replace(
        ENTRIES["gated-deltanet"],
        qkv=(*_convolution(s, Silu()), *ENTRIES["gated-deltanet"].qkv[1:]),
        gates=(MambaDecay(), _step_size(s)),
        output=_output(s, s.use_gate, s.output_gate_activation),
    )


def kda(s: Settings) -> Architecture:
    """``fla.layers.KimiDeltaAttention``."""
    published = ENTRIES["kda"]
    return replace(
        published,
        qkv=(*_convolution(s, Silu()), *published.qkv[1:]),
        gates=(published.gates[0], _step_size(s)),
        output=(replace(published.output[0], eps=s.norm_eps),),
    )


def deltanet(s: Settings) -> Architecture:
    """``fla.layers.DeltaNet``."""
    return replace(
        ENTRIES["deltanet"],
        qkv=(*_convolution(s, Silu()), *ENTRIES["deltanet"].qkv[1:]),
        gates=(_step_size(s),),
        output=_output(s, s.use_gate),
    )


def deltaproduct(s: Settings) -> Architecture:
    """``fla.layers.GatedDeltaProduct``."""
    published = ENTRIES["gated-deltaproduct" if s.use_forget_gate else "deltaproduct"]
    return replace(
        published,
        problem=replace(published.problem, solver=DeltaRule(pairs_per_token=s.num_householder)),
        qkv=(*_convolution(s, Silu()), *published.qkv[1:]),
        gates=(*((MambaDecay(),) if s.use_forget_gate else ()), _step_size(s)),
        output=_output(s, s.use_output_gate),
    )


def gla(s: Settings) -> Architecture:
    """``fla.layers.GatedLinearAttention``."""
    return replace(
        ENTRIES["gla"],
        qkv=_convolution(s),
        output=_output(s, s.use_output_gate),
    )


def retnet(s: Settings) -> Architecture:
    """``fla.layers.MultiScaleRetention``."""
    return replace(ENTRIES["retnet"], output=_output(s, s.use_output_gate))


FEATURE_MAPS = {"elu": EluPlusOne(), "relu": Relu(), "identity": Identity()}


def linear_attention(s: Settings) -> Architecture:
    """``fla.layers.LinearAttention``."""
    published = ENTRIES["linear-attention"]
    function = Linear(FEATURE_MAPS[s.feature_map], normalized=s.norm_feature_map)
    memory = Problem(published.problem.weights, function, published.problem.solver)
    return replace(published, problem=memory, output=_output(s, gated=False))


def mesanet(s: Settings) -> Architecture:
    """``fla.layers.MesaNet``, by the steps of conjugate gradient that it takes for a prompt."""
    published = ENTRIES["mesanet"]
    solver = ConjugateGradient(iterations=s.max_cg_step_training)
    return replace(
        published,
        problem=replace(published.problem, solver=solver),
        qkv=(ShortConvolution(width=s.conv_size, streams=("q", "k")), *published.qkv[1:]),
        gates=(*published.gates[:2], LearnedRidge(at_least=s.lambda_lower_bound)),
        output=_output(s, s.use_output_gate),
    )


# ------------------------------------------------------------------------------------------------------ sizes
def given_sizes(s: Settings) -> dict[str, int]:
    """Of the families that state the size of a head."""
    return {
        "num_heads": s.num_heads,
        "key_heads": s.num_heads,
        "value_heads": s.num_v_heads or s.num_heads,
        "key_size": s.head_dim,
        "value_size": round(s.head_dim * s.expand_v),
    }


def expanded_sizes(s: Settings) -> dict[str, int]:
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
    return expanded_sizes(Settings(**vars(s) | {"expand_k": 1, "expand_v": 1}))


def mesanet_sizes(s: Settings) -> dict[str, int]:
    """Of MesaNet, whose values are like its keys."""
    return given_sizes(Settings(**vars(s) | {"num_v_heads": None, "expand_v": 1}))


def hgrn2_sizes(s: Settings) -> dict[str, int]:
    """Of HGRN2, which states the channels of a key or the number of heads."""
    heads = s.hidden_size // s.expand_ratio if s.expand_ratio else s.num_heads
    size = s.hidden_size // heads
    return {
        "num_heads": heads,
        "key_heads": heads,
        "value_heads": heads,
        "key_size": s.expand_ratio or size,
        "value_size": size,
    }
