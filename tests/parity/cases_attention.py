"""Memories that keep the pairs and fit a constant around the query: softmax attention and its weighted forms."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

import ttr

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers


def sdpa(q, k, v, **options):
    """torch's attention in the public layout."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True, **options).transpose(1, 2)


@parity("softmax-attention", "torch scaled_dot_product_attention, grouped heads")
def softmax_attention(draw: Draw):
    def ours(q, k, v):
        return fold(problem("softmax-attention"), q, k, v, {})

    def theirs(q, k, v):
        return (sdpa(q, k, v, is_causal=True),)

    return draw.qkv((4, 2, 2)), ours, theirs


@parity("softmax-attention-qknorm", "torch scaled_dot_product_attention of torch's normalize, learned scale")
def softmax_attention_qknorm(draw: Draw):
    """The definition adds 1e-12 under the root of the squared norm: relative error 1e-12 / (2 norm^2), below the bound."""
    memory = problem("softmax-attention-qknorm")

    def ours(q, k, v, scale):
        return (ttr.oracle(memory, q, k, v, params={"function.scale": scale}),)

    def theirs(q, k, v, scale):
        return (sdpa(normalize(q, dim=-1) * scale[:, None], normalize(k, dim=-1), v, is_causal=True, scale=1.0),)

    tensors = {"q": draw.normal(B, T, H, K), "k": draw.normal(B, T, H, K), "v": draw.normal(B, T, H, V)}
    return tensors | {"scale": draw.between(1.0, 4.0, H)}, ours, theirs


def windowed(size: int):
    """The entry with a window that is shorter than the test's sequence."""
    memory = problem("sliding-window-attention")
    return dataclasses.replace(memory, weights=dataclasses.replace(memory.weights, size=size))


@parity("sliding-window-attention", "fla/ops/attn/naive.py naive_parallel_attn(window_size), grouped heads")
def sliding_window_attention(draw: Draw):
    original = fla("ops/attn/naive.py", "naive_parallel_attn").naive_parallel_attn

    def ours(q, k, v):
        return fold(windowed(5), q, k, v, {})

    def theirs(q, k, v):
        return original(q, k, v, window_size=5)[:1]

    return draw.qkv((4, 2, 2)), ours, theirs


def _alibi(draw: Draw, heads: int):
    original = transformers("models/bloom/modeling_bloom.py", "_get_alibi_slopes", "build_alibi_tensor").build_alibi_tensor

    def ours(q, k, v):
        return fold(problem("alibi-attention"), q, k, v, {})

    def theirs(q, k, v):
        bias = original(torch.ones(B, T), heads, torch.float64).reshape(B, heads, 1, T)
        future = torch.ones(T, T).triu(1).bool()
        return (sdpa(q, k, v, attn_mask=(bias + torch.zeros(T, T)).masked_fill(future, -torch.inf)),)

    return draw.qkv((heads, heads, heads)), ours, theirs


@parity("alibi-attention", "transformers models/bloom build_alibi_tensor as torch's attention mask, 4 heads")
def alibi_attention(draw: Draw):
    return _alibi(draw, 4)


@parity("alibi-attention", "transformers models/bloom build_alibi_tensor as torch's attention mask, 6 heads")
def alibi_attention_interleaved(draw: Draw):
    return _alibi(draw, 6)


@parity("forgetting-attention", "fla/ops/forgetting_attn/naive.py naive_forgetting_attn, grouped heads")
def forgetting_attention(draw: Draw):
    original = fla("ops/forgetting_attn/naive.py", "naive_forgetting_attn").naive_forgetting_attn

    def ours(q, k, v, log_decay):
        return fold(problem("forgetting-attention"), q, k, v, {"log_decay": log_decay})

    def theirs(q, k, v, log_decay):
        return (original(q, k, v, log_decay),)

    return draw.qkv((4, 2, 2)) | {"log_decay": draw.log_decay(B, T, 4)}, ours, theirs
