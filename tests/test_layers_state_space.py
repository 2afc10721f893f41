"""Whole layers of state spaces and recurrent units against transformers, with the same weights."""

import dataclasses

import torch

import ttr
from ttr.nn import Mixer

from .test_mixer import D, compare_with, heads_first, off_start


def test_mamba_is_that_of_transformers():
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    inner, size, rank = 2 * D, 5, 1
    original = off_start(
        MambaMixer(
            MambaConfig(hidden_size=D, state_size=size, expand=2, time_step_rank=rank, num_hidden_layers=1), 0
        )
    )
    x, z = heads_first(original.in_proj.weight, 2, inner)
    down, k, q = original.x_proj.weight.detach().split([rank, size, size])
    layer = Mixer(D, ttr.catalogue["mamba"], heads=1, value_heads=inner, key_size=size, value_size=1)
    compare_with(
        original,
        layer,
        {
            "v_proj.weight": x,
            "qkv.short_convolution.v": original.conv1d.weight[:, 0].T[..., None],
            "qkv.short_convolution.v_bias": original.conv1d.bias[:, None],
            "qkv.query_key_from_value.q": q[None, ..., None],
            "qkv.query_key_from_value.k": k[None, ..., None],
            "qkv.low_rank_time_step.down": down[..., None],
            "qkv.low_rank_time_step.up.weight": original.dt_proj.weight,
            "qkv.low_rank_time_step.bias": original.dt_proj.bias,
            "memory.weights.rate": original.A_log,
            "output.skip.strength": original.D,
            "output.output_gate.proj.weight": z.flatten(0, -2),
            "o_proj.weight": original.out_proj.weight,
        },
    )


def test_rg_lru_is_that_of_recurrent_gemma():
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    blocks = 2
    config = RecurrentGemmaConfig(hidden_size=D, lru_width=D, num_attention_heads=blocks, num_hidden_layers=1)
    original = RecurrentGemmaRecurrentBlock(config, 0)
    for parameter in original.rg_lru.parameters():
        torch.nn.init.normal_(parameter)
    off_start(original)
    for linear in (original.linear_x, original.linear_y, original.linear_out):
        torch.nn.init.zeros_(linear.bias)
    entry, unit = ttr.catalogue["rg-lru"], original.rg_lru
    gate = dataclasses.replace(entry.qkv[1], block=D // blocks)
    layer = Mixer(
        D,
        dataclasses.replace(entry, qkv=(entry.qkv[0], gate, entry.qkv[2])),
        heads=D,
        key_size=1,
        value_size=1,
    )
    compare_with(
        lambda x: original(x, torch.arange(11)[None], None, use_cache=False)[0],
        layer,
        {
            "v_proj.weight": original.linear_x.weight,
            "qkv.short_convolution.v": original.conv_1d.weight[:, 0].T[..., None],
            "qkv.short_convolution.v_bias": original.conv_1d.bias[:, None],
            "qkv.recurrent_gate.decay": unit.recurrent_param,
            "qkv.recurrent_gate.input_weight": unit.input_gate_weight,
            "qkv.recurrent_gate.input_bias": unit.input_gate_bias,
            "qkv.recurrent_gate.recurrence_weight": unit.recurrent_gate_weight,
            "qkv.recurrent_gate.recurrence_bias": unit.recurrent_gate_bias,
            "output.output_gate.proj.weight": original.linear_y.weight,
            "o_proj.weight": original.linear_out.weight,
        },
    )
