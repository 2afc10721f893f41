"""Memories that store the pairs and fit a constant around the query: softmax attention and its weighted
forms."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

import ttr
from ttr.weights.geometric import Geometric

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers


def sdpa(q, k, v, **options):
    """torch's attention in the public layout."""
    return scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True, **options
    ).transpose(1, 2)


@parity("softmax-attention", "torch scaled_dot_product_attention, grouped heads")
def softmax_attention(draw: Draw):
    def ours(q, k, v):
        return fold(problem("softmax-attention"), q, k, v, {})

    def theirs(q, k, v):
        return (sdpa(q, k, v, is_causal=True),)

    return draw.qkv((4, 2, 2)), ours, theirs


@parity("softmax-attention-qknorm", "torch scaled_dot_product_attention of torch's normalize, learned scale")
def softmax_attention_qknorm(draw: Draw):
    """The definition adds 1e-12 under the root of the squared norm: relative error 1e-12 / (2 norm^2), below
    the bound."""
    memory = problem("softmax-attention-qknorm")

    def ours(q, k, v, scale):
        return (ttr.oracle(memory, q, k, v, params={"function.scale": scale}),)

    def theirs(q, k, v, scale):
        return (
            sdpa(normalize(q, dim=-1) * scale[:, None], normalize(k, dim=-1), v, is_causal=True, scale=1.0),
        )

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
    original = transformers(
        "models/bloom/modeling_bloom.py", "_get_alibi_slopes", "build_alibi_tensor"
    ).build_alibi_tensor

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


def _path(draw: Draw, gated: bool):
    """The original's transport keys and steps belong to key heads; its gate is multiplied by the scale like
    the rest of the logit."""
    original = fla("ops/path_attn/naive.py", "naive_path_attn").naive_path_attn
    memory = (
        dataclasses.replace(problem("path-attention"), weights=Geometric())
        if gated
        else problem("path-attention")
    )
    scale = K**-0.5

    def ours(q, k, v, w, beta, gate=None):
        controls = {"transport_key": w.repeat_interleave(2, 2), "step_size": beta.repeat_interleave(2, 2)}
        return (ttr.oracle(memory, q, k, v, **controls | ({"log_decay": scale * gate} if gated else {})),)

    def theirs(q, k, v, w, beta, gate=None):
        return (
            original(q, k, v, w, beta, torch.zeros(B, T, 4) if gate is None else gate, scale, chunk_size=4),
        )

    tensors = draw.qkv((4, 2, 2)) | {"w": draw.unit(B, T, 2, K), "beta": draw.between(0.1, 1.9, B, T, 2)}
    return tensors | ({"gate": draw.log_decay(B, T, 4)} if gated else {}), ours, theirs


@parity("path-attention", "fla/ops/path_attn/naive.py naive_path_attn, grouped heads")
def path_attention(draw: Draw):
    return _path(draw, gated=False)


@parity("path-attention", "fla/ops/path_attn/naive.py naive_path_attn with a forget gate, grouped heads")
def path_attention_gated(draw: Draw):
    return _path(draw, gated=True)


@parity("path-attention", "the cache of decoding: past keys less beta (k.w) w at every token")
def path_attention_state(draw: Draw):
    def ours(q, k, v, w, beta):
        y, state = ttr.oracle(
            problem("path-attention"), q, k, v, transport_key=w, step_size=beta, return_state=True
        )
        return y, state["keys"]

    def theirs(q, k, v, w, beta):
        past, rows = k[:, :0], []
        for t in range(T):
            past = (
                past
                - beta[:, t, None, :, None] * (past * w[:, t, None]).sum(-1, keepdim=True) * w[:, t, None]
            )
            past = torch.cat([past, k[:, t : t + 1]], dim=1)
            rows.append(sdpa(q[:, t : t + 1], past, v[:, : t + 1]))
        return torch.cat(rows, dim=1), past

    return draw.qkv() | {"w": draw.unit(B, T, H, K), "beta": draw.between(0.1, 1.9, B, T, H)}, ours, theirs


@parity(
    "deltaformer",
    "fla/ops/deltaformer/naive.py naive_deltaformer_attn, and its softmax in one dense triangular solve",
)
def deltaformer(draw: Draw):
    original = fla("ops/deltaformer/naive.py", "tril_softmax", "naive_deltaformer_attn")

    def ours(q, k, v, beta):
        y, state = ttr.oracle(problem("deltaformer"), q, k, v, step_size=beta, return_state=True)
        return y, state["values"]

    def theirs(q, k, v, beta):
        strict = original.tril_softmax(torch.einsum("bthk,bshk->bhts", q, k) * K**-0.5, strict=True)
        system = torch.eye(T) + beta.mT[..., None] * strict
        return original.naive_deltaformer_attn(q, k, v, beta), torch.linalg.solve(
            system, v.transpose(1, 2)
        ).transpose(1, 2)

    return draw.qkv(value_size=K) | {"beta": draw.between(0.1, 1.0, B, T, H)}, ours, theirs


def _nystrom(entry: str, landmarks, start, step):
    """Two second derivations of one kind: the kernel matrix of all queries and keys made explicit, the
    landmarks' part of it inverted by the published iteration of each of its eigenvalues: ``start`` from the
    matrix and ``step`` of an eigenvalue."""
    memory = dataclasses.replace(
        problem(entry), function=dataclasses.replace(problem(entry).function, landmarks=6)
    )
    function = memory.function

    def ours(q, k, v):
        return (ttr.oracle(memory, q, k, v),)

    def theirs(q, k, v):
        points = [x.transpose(1, 2) / K**0.25 for x in (q, k)]
        points = torch.cat([*points, landmarks(*points)], dim=2)
        kernel = torch.exp(
            -torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        )
        rows = kernel[:, :, :, 2 * T :]
        small = rows[:, :, 2 * T :] + function.ridge * torch.eye(6)
        small, scale, first = start(small)
        values, vectors = torch.linalg.eigh(small)
        inverse = first[..., None] * values
        for _ in range(function.steps):
            inverse = step(inverse, values * inverse)
        inverse = scale[..., None] * (vectors * inverse[..., None, :] @ vectors.mT) * scale[..., None, :]
        return ((rows[:, :, :T] @ inverse @ rows[:, :, T : 2 * T].mT @ v.transpose(1, 2)).transpose(1, 2),)

    return ours, theirs


@parity("skyformer", "the published iteration of every eigenvalue of the explicit kernel matrix")
def skyformer(draw: Draw):
    """Landmarks: points 0, 13/3, 26/3 of queries and keys."""

    def start(small):
        scale = small.sum(-1).rsqrt()
        balanced = scale[..., :, None] * small * scale[..., None, :]
        return balanced, scale, 1 / balanced.sum(-2).amax(-1)

    def step(z, x):
        return z * (13 - x * (15 - x * (7 - x))) / 4

    return draw.qkv(), *_nystrom(
        "skyformer", lambda q, k: torch.cat([x[:, :, [0, 4, 8]] for x in (q, k)], dim=2), start, step
    )


@parity("soft", "the published iteration of every eigenvalue of the explicit kernel matrix")
def soft(draw: Draw):
    """Landmarks: means of the queries from 0, 13/6, 26/6, ... on."""

    def start(small):
        return small, torch.ones(B, H, 6), 2 / small.sum(-1).amax(-1).square()

    def step(z, x):
        return z * (2 - x)

    lengths = [2, 2, 2, 2, 2, 3]
    return draw.qkv(), *_nystrom(
        "soft",
        lambda q, k: torch.stack([part.mean(2) for part in q.split(lengths, dim=2)], dim=2),
        start,
        step,
    )
