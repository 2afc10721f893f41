"""Models of flash-linear-attention from the text of its own files, in float64. What needs Triton there is
plain torch here: short convolutions and norms by their definitions, kernels by fla's ``naive.py``."""

from __future__ import annotations

import re
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import conv1d, silu
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from tests.parity.originals import fla, in_float64, parity_folder

ACTIVATIONS = {"silu": silu, "swish": silu, "sigmoid": torch.sigmoid}

MODELS = {
    "gated_deltanet": ("GatedDeltaNet", "gated_deltanet", "GatedDeltaNet"),
    "kda": ("KDA", "kda", "KimiDeltaAttention"),
    "delta_net": ("DeltaNet", "delta_net", "DeltaNet"),
    "gated_deltaproduct": ("GatedDeltaProduct", "gated_deltaproduct", "GatedDeltaProduct"),
    "gla": ("GLA", "gla", "GatedLinearAttention"),
    "retnet": ("RetNet", "multiscale_retention", "MultiScaleRetention"),
    "linear_attn": ("LinearAttention", "linear_attn", "LinearAttention"),
    "mesa_net": ("MesaNet", "mesa_net", "MesaNet"),
    "hgrn2": ("HGRN2", "hgrn2", "HGRN2Attention"),
    "transformer": ("Transformer", "attn", "Attention"),
    "forgetting_transformer": ("ForgettingTransformer", "forgetting_attn", "ForgettingAttention"),
}
"""model_type -> the start of its classes' names, the file of its layer, the layer's class."""


class ShortConvolution(nn.Conv1d):
    def __init__(self, hidden_size, kernel_size, bias=False, activation="silu", **others):
        super().__init__(hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=bias)
        self.activation, self.backend = activation, None

    def forward(self, x, **others):
        return causal_conv1d(x, self.weight[:, 0], self.bias, self.activation)


def causal_conv1d(x, weight, bias, activation, backend=None):
    padded = nn.functional.pad(x.mT, (weight.shape[1] - 1, 0))
    y = conv1d(padded, weight[:, None], bias, groups=len(weight)).mT
    return (silu(y) if activation else y), None


def rms(x, eps):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, elementwise_affine=True, bias=False, eps=1e-5, dtype=None):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(hidden_size)), None, eps

    def forward(self, x, residual=None, prenorm=False):
        x = x if residual is None else x + residual
        y = rms(x, self.eps) * self.weight
        return (y, x) if prenorm else y


class FusedRMSNormGated(RMSNorm):
    def __init__(self, hidden_size, elementwise_affine=True, eps=1e-5, activation="swish"):
        super().__init__(hidden_size, eps=eps)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x, g):
        return super().forward(x) * self.activation(g)


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base=10000.0):
        super().__init__()
        self.rates = base ** (-torch.arange(0, dim, 2) / dim)

    def forward(self, q, k, **others):
        angle = torch.arange(q.shape[1])[:, None, None] * self.rates
        cos, sin = angle.cos().repeat(1, 1, 2), angle.sin().repeat(1, 1, 2)

        def rotate(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        return rotate(q), rotate(k)


def unit(x):
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def ops(path, *names):
    return vars(fla(f"ops/{path}.py", *names)).values()


def stand_ins():
    (gated_delta,) = ops("gated_delta_rule/naive", "naive_recurrent_gated_delta_rule")
    (kda,) = ops("kda/naive", "naive_recurrent_kda")
    (kda_gate,) = ops("kda/gate", "naive_kda_gate")
    (delta,) = ops("delta_rule/naive", "delta_rule_recurrence")
    (gla,) = ops("gla/naive", "naive_recurrent_gla")
    (retention,) = ops("retention/naive", "naive_retention")
    (linear,) = ops("linear_attn/naive", "naive_recurrent_linear_attn")
    (attention,) = ops("attn/naive", "naive_parallel_attn")
    (mesa,) = ops("mesa_net/naive", "naive_mesa_net_CG")
    (forgetting,) = ops("forgetting_attn/naive", "naive_forgetting_attn")

    def gates(g, beta, A_log, dt_bias, allow_neg_eigval, gate):
        return gate(g, A_log, dt_bias), beta.sigmoid() * (2 if allow_neg_eigval else 1)

    def decay(g, A_log, dt_bias):
        return -A_log.exp() * nn.functional.softplus(g + dt_bias)

    def fused_recurrent_gated_delta_rule(q, k, v, g, beta, use_gate_in_kernel=False, **others):
        if use_gate_in_kernel:
            g, beta = gates(
                g, beta, *(others[n] for n in ("A_log", "dt_bias", "allow_neg_eigval")), gate=decay
            )
        g = torch.zeros_like(beta) if g is None else g
        q, k = (x.repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (unit(q), unit(k)))
        return gated_delta(q, k, v, beta, g)

    def fused_recurrent_kda(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, **others):
        return kda(unit(q), unit(k), v, *gates(g, beta, A_log, dt_bias, allow_neg_eigval, gate=kda_gate))

    def fused_recurrent_delta_rule(q, k, v, beta, **others):
        y = delta(*(x.transpose(1, 2) for x in (unit(q), unit(k), v, beta)))[0]
        return y.transpose(1, 2), None

    def fused_recurrent_retention(q, k, v, **others):
        return retention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2), None

    def chunk_mesa_net(q, k, v, g, beta, lamb, max_CG_iteration, **others):
        return mesa(unit(q), unit(k), v, g, lamb, beta, q.shape[1], max_CG_iteration)

    def flash_attn_func(q, k, v, causal, window_size):
        back = window_size[0]
        return attention(q, k, v, window_size=None if back < 0 else back + 1)[0]

    return {
        "fused_recurrent_gated_delta_rule": fused_recurrent_gated_delta_rule,
        "fused_recurrent_kda": fused_recurrent_kda,
        "fused_recurrent_delta_rule": fused_recurrent_delta_rule,
        "fused_recurrent_gla": lambda q, k, v, gk, **others: gla(q, k, v, gk),
        "fused_recurrent_retention": fused_recurrent_retention,
        "fused_recurrent_linear_attn": lambda q, k, v, normalize, **others: linear(
            q, k, v, normalize=normalize
        ),
        "chunk_mesa_net": chunk_mesa_net,
        "flash_attn_func": flash_attn_func,
        "parallel_forgetting_attn": lambda q, k, v, f, cu_seqlens: forgetting(q, k, v, f),
        "rms_norm_linear": lambda x, weight, bias, W, b: nn.functional.linear(rms(x, 1e-5) * weight, W, b),
        "ShortConvolution": ShortConvolution,
        "causal_conv1d": causal_conv1d,
        "RMSNorm": RMSNorm,
        "FusedRMSNormGated": FusedRMSNormGated,
        "RotaryEmbedding": RotaryEmbedding,
        "swiglu": lambda gate, y: silu(gate) * y,
        "swish": silu,
        "elu_p1": lambda x: nn.functional.elu(x) + 1,
        "ACT2FN": ACTIVATIONS,
        "get_layer_cache": lambda *args, **others: None,
        "update_layer_cache": lambda *args, **others: None,
        "unpad_hidden_states": lambda hidden_states, cu_seqlens, attention_mask, q_len: (
            hidden_states,
            None,
            cu_seqlens,
        ),
        "repad_hidden_states": lambda hidden_states, indices, batch_size, q_len: hidden_states,
        "warnings": SimpleNamespace(warn=lambda *args, **others: None),
        "GradientCheckpointingLayer": GradientCheckpointingLayer,
        "BaseModelOutputWithPast": BaseModelOutputWithPast,
        "CausalLMOutputWithPast": CausalLMOutputWithPast,
        "PreTrainedConfig": PreTrainedConfig,
        "PreTrainedModel": PreTrainedModel,
        "deprecate_kwarg": lambda *args, **others: lambda method: method,
        "FLAUnsupportedCacheGenerationMixin": object,
        "FLAGenerationMixin": object,
    }


def classes(model_type):
    """The configuration and the model of a family."""
    start, file, layer = MODELS[model_type]
    folder, space = f"models/{model_type}", stand_ins()
    text = (parity_folder() / "fla" / f"{folder}/modeling_{model_type}.py").read_text()
    mlp = re.search(r"GatedMLP as (\w+)", text).group(1)
    for path, *names in (
        (
            "models/configuration_utils.py",
            *("parse_attention_config", "AttentionConfigBase", "get_attention_spec"),
            *("validate_loss_config", "validate_attnres_config"),
        ),
        (f"{folder}/configuration_{model_type}.py", f"{start}Config"),
        ("modules/mlp.py", "GatedMLP"),
        ("layers/attn.py", "Attention"),
        ("models/modeling_utils.py", "get_attention", "FLAPreTrainedModel", "FLAModel", "FLAForCausalLM"),
        *(() if layer == "Attention" else ((f"layers/{file}.py", layer),)),
    ):
        space |= vars(fla(path, *names, **space))
    space[mlp] = space["GatedMLP"]
    names = [f"{start}{part}" for part in ("Block", "PreTrainedModel", "Model", "ForCausalLM")]
    made = fla(f"{folder}/modeling_{model_type}.py", *names, **space)
    return space[f"{start}Config"], getattr(made, names[-1])


SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "vocab_size": 61,
    "fuse_swiglu": False,
    "bos_token_id": None,
    "eos_token_id": None,
}


def build(model_type, **settings):
    """A random model of a family in float64, in which no tensor has the values of a fresh one."""
    torch.manual_seed(0)
    with in_float64():
        Config, Model = classes(model_type)
        model = Model(Config(**SIZES | settings)).double().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.25 + (p.ndim == 1))
    return model


@torch.no_grad()
def logits(model, ids):
    """[B,T] -> [B,T,vocabulary], without caches."""
    with in_float64():
        return model(input_ids=ids, use_cache=False, return_dict=True).logits
