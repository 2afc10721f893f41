"""Sums of pairs of features: Performer, RFA, Hedgehog, ReBased, DiJiang, power attention; and lightning
attention."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

import ttr
from ttr.problem import Problem

from .case import B, Draw, H, K, T, V, fold, parity, problem
from .originals import fla, transformers

REBASED = ("_triu_indices", "flatten_diag_outer_product_off1", "RebasedFeatureMap")
MINIMAX = ("apply_mask_to_padding_states", "MiniMaxLightningAttention")


def with_params(
    entry: Problem, q: Tensor, k: Tensor, v: Tensor, params: dict[str, Tensor], **state: Tensor
) -> tuple[Tensor, ...]:
    """The oracle's outputs and final state tensors, with parameters of the function, continuing from
    ``state``."""
    params = {f"function.{name}": tensor for name, tensor in params.items()}
    start = ttr.initial_state(entry, B, H, K, V, dtype=torch.float64).replace(**state)
    y, end = ttr.oracle(entry, q, k, v, params=params, state=start, return_state=True)
    return (y, *(end[name] for name in state))


def dense(kernel: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of values and of weights for the kernel [B,H,T,T] of every query with every key, the later
    ones left out."""
    kernel = kernel.tril()
    return (kernel @ v.transpose(1, 2)).transpose(1, 2), kernel.sum(-1).transpose(1, 2)[..., None]


@parity(
    "performer",
    "the weights of all pairs by its kernel, mean_r exp(w_r.(q + k)) with q, k / K^(1/4), over their sum",
)
def performer(draw: Draw):
    def ours(q, k, v, directions):
        return with_params(problem("performer"), q, k, v, {"directions": directions})

    def theirs(q, k, v, directions):
        kernel = 0.0
        for direction in directions:
            logits = (
                torch.einsum("bthk,k->bth", q, direction)[:, :, None]
                + torch.einsum("bthk,k->bth", k, direction)[:, None]
            )
            norms = (q * q).sum(-1)[:, :, None] + (k * k).sum(-1)[:, None]
            kernel = kernel + torch.exp(logits / K**0.25 - norms / (2 * K**0.5))
        numerator, denominator = dense(kernel.movedim(-1, 1), v)
        return (numerator / denominator,)

    return draw.qkv() | {"directions": draw.normal(8, K)}, ours, theirs


@parity("rfa", "the weights of all pairs by its kernel, sum_r cos(w_r.(q - k)) / 100, over their sum or 1")
def rfa(draw: Draw):
    memory = problem("rfa")
    number = memory.function.features.number

    def ours(q, k, v, directions, sigma, state, normalizer):
        return with_params(
            memory, q, k, v, {"directions": directions, "sigma": sigma}, memory=state, normalizer=normalizer
        )

    def theirs(q, k, v, directions, sigma, state, normalizer):
        q, k = (x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-3) for x in (q, k))
        frequency = sigma[:, None] * directions
        cosines = (
            torch.einsum("bthk,hmk->bhtm", q, frequency)[:, :, :, None]
            - torch.einsum("bthk,hmk->bhtm", k, frequency)[:, :, None]
        )
        numerator, denominator = dense(cosines.cos().sum(-1) / 100, v)
        phase = torch.einsum("bthk,hmk->bthm", q, frequency)
        phi = torch.cat([phase.sin(), phase.cos()], dim=-1) / 10
        numerator = numerator + torch.einsum("bthf,bhfv->bthv", phi, state)
        denominator = denominator + torch.einsum("bthf,bhf->bth", phi, normalizer)[..., None]
        phase = torch.einsum("bthk,hmk->bthm", k, frequency)
        keys = torch.cat([phase.sin(), phase.cos()], dim=-1) / 10
        end = state + torch.einsum("bthf,bthv->bhfv", keys, v)
        return numerator / denominator.clamp(min=1.0), end, normalizer + keys.sum(1)

    tensors = draw.qkv() | {"directions": draw.normal(H, number, K), "sigma": draw.between(0.5, 1.5, H, K)}
    return (
        tensors | {"state": draw.normal(B, H, 2 * number, V), "normalizer": draw.normal(B, H, 2 * number)},
        ours,
        theirs,
    )


@parity(
    "hedgehog",
    "fla/modules/feature_map.py HedgehogFeatureMap, then fla/ops/linear_attn/naive.py "
    "(normalize=True, scale=1)",
)
def hedgehog(draw: Draw):
    features = fla("modules/feature_map.py", "HedgehogFeatureMap").HedgehogFeatureMap
    original = fla("ops/linear_attn/naive.py", "naive_recurrent_linear_attn").naive_recurrent_linear_attn

    def ours(q, k, v, Wq, bq, Wk, bk, state, normalizer):
        params = {
            "query.weight": Wq.expand(H, K, K),
            "query.bias": bq.expand(H, K),
            "key.weight": Wk.expand(H, K, K),
            "key.bias": bk.expand(H, K),
        }
        return with_params(problem("hedgehog"), q, k, v, params, memory=state, normalizer=normalizer)

    def theirs(q, k, v, Wq, bq, Wk, bk, state, normalizer):
        q, k = (
            torch.func.functional_call(features(K), {"layer.weight": weight, "layer.bias": bias}, x)
            for weight, bias, x in ((Wq, bq, q), (Wk, bk, k))
        )
        y, (memory, ones) = original(
            q,
            k,
            v,
            scale=1.0,
            initial_state=(state, normalizer[:, None]),
            output_final_state=True,
            normalize=True,
        )
        return y, memory, ones[:, 0]

    tensors = draw.qkv() | {
        "Wq": draw.normal(K, K),
        "bq": draw.normal(K),
        "Wk": draw.normal(K, K),
        "bk": draw.normal(K),
    }
    return (
        tensors | {"state": draw.normal(B, H, 2 * K, V), "normalizer": draw.between(0.5, 2.0, B, H, 2 * K)},
        ours,
        theirs,
    )


@parity("rebased", "fla/ops/rebased/naive.py naive_parallel_rebased of torch's layer_norm")
def rebased(draw: Draw):
    original = fla("ops/rebased/naive.py", "naive_parallel_rebased").naive_parallel_rebased

    def ours(q, k, v, gain, bias):
        return with_params(problem("rebased"), q, k, v, {"gain": gain, "bias": bias})

    def theirs(q, k, v, gain, bias):
        q, k = (layer_norm(x, (K,), gain, bias) for x in (q, k))
        return (original(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2),)

    return draw.qkv() | {"gain": draw.normal(K), "bias": draw.normal(K)}, ours, theirs


@parity(
    "rebased",
    "fla/modules/feature_map.py RebasedFeatureMap, then fla/ops/linear_attn/naive.py "
    "(normalize=True, scale=1)",
)
def rebased_features(draw: Draw):
    features = fla("modules/feature_map.py", *REBASED).RebasedFeatureMap
    original = fla("ops/linear_attn/naive.py", "naive_recurrent_linear_attn").naive_recurrent_linear_attn
    memory = problem("rebased")
    # what this original adds
    memory = dataclasses.replace(memory, function=dataclasses.replace(memory.function, eps=1e-10))

    def ours(q, k, v, gain, bias):
        return with_params(memory, q, k, v, {"gain": gain, "bias": bias})

    def theirs(q, k, v, gain, bias):
        module = features(K)
        # then it takes torch's layer norm, still with gain and bias, instead of a kernel for GPUs
        module.use_gamma = False
        q, k = (torch.func.functional_call(module, {"gamma": gain, "beta": bias}, x) for x in (q, k))
        return original(q, k, v, scale=1.0, normalize=True)[:1]

    return draw.qkv() | {"gain": draw.normal(K), "bias": draw.normal(K)}, ours, theirs


@parity(
    "dijiang",
    "the released parallel form: powers of the decay folded into q and k, the cosine transform by FFT",
)
def dijiang(draw: Draw):
    heads = 3

    def ours(q, k, v, diagonal):
        return (ttr.oracle(problem("dijiang"), q, k, v, params={"function.diagonal": diagonal}),)

    def theirs(q, k, v, diagonal):
        unit = torch.eye(K, dtype=torch.float64)
        turn = torch.exp(-0.5j * torch.pi * torch.arange(K, dtype=torch.float64) / K)
        transform = (turn * torch.fft.fft(torch.cat([unit, unit.flip(-1)], dim=-1))[:, :K]).real.T / (
            2 * K
        ) ** 0.5
        transform = torch.cat([transform[:1] / 2**0.5, transform[1:]])
        q, k = (torch.softmax((x @ transform) * diagonal, dim=-1) for x in (q, k))
        kept = 1 - torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64))
        time = torch.arange(T, dtype=torch.float64)[:, None]
        scores = torch.einsum("bthk,bshk->bhts", q * (kept**time)[..., None], k * (kept**-time)[..., None])
        return dense(scores, v)[:1]

    return draw.qkv((heads, heads, heads)) | {"diagonal": draw.normal(K)}, ours, theirs


@parity(
    "power-attention",
    "the weights of all pairs: the square of the scores times the product of the gates, over their sum",
)
def power_attention(draw: Draw):
    def ours(q, k, v, log_decay):
        return fold(problem("power-attention"), q, k, v, {"log_decay": log_decay})

    def theirs(q, k, v, log_decay):
        total = log_decay.cumsum(1).transpose(1, 2)
        kernel = (
            torch.einsum("bthk,bshk->bhts", q, k).square()
            / K
            * torch.exp(total[..., None] - total[:, :, None])
        )
        numerator, denominator = dense(kernel, v)
        return (numerator / (denominator + 1e-6),)

    return draw.qkv() | {"log_decay": draw.log_decay(B, T, H)}, ours, theirs


def minimax(heads: int, layer: int, layers: int, block: int):
    """The memory of MiniMaxLightningAttention in that layer, without its projections, gate and norm: (q, k,
    v, state) -> y, state."""
    original = transformers("models/minimax/modeling_minimax.py", *MINIMAX).MiniMaxLightningAttention
    me = SimpleNamespace(
        num_attention_heads=heads, head_dim=K, layer_idx=layer, num_hidden_layers=layers, block_size=block
    )
    me.act_fn = me.qkv_proj = me.norm = me.out_proj = lambda x: x
    me.output_gate = lambda x: torch.full_like(x[..., : heads * K], torch.inf)

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor | None):
        me.slope_rate = original.get_slope_rate(me)
        me.query_decay, me.key_decay, me.diagonal_decay = original.decay_factors(me, me.slope_rate)
        cache = (
            None
            if state is None
            else SimpleNamespace(get_linear_cache=lambda _: state, set_linear_cache=lambda *_: None)
        )
        y, end = original.forward(
            me, torch.cat([q, k, v], dim=-1).flatten(2), None, None, past_key_values=cache
        )
        return y.unflatten(-1, (heads, K)), end

    return run


@parity(
    "lightning-attention", "transformers models/minimax MiniMaxLightningAttention, the blocks of layer 2 of 5"
)
def lightning_attention(draw: Draw):
    run = minimax(heads=3, layer=2, layers=5, block=4)
    memory = problem("lightning-attention").at_layer(2, 5)

    def ours(q, k, v):
        y, end = ttr.oracle(memory, q, k, v, return_state=True)
        return y, end["memory"]

    def theirs(q, k, v):
        return run(q, k, v, None)

    return draw.qkv((3, 3, 3), value_size=K), ours, theirs


@parity(
    "lightning-attention",
    "transformers models/minimax MiniMaxLightningAttention, decoding in the last of 4 layers",
)
def lightning_attention_decoding(draw: Draw):
    run = minimax(heads=H, layer=3, layers=4, block=4)

    def ours(q, k, v, state):
        return fold(problem("lightning-attention").at_layer(3, 4), q, k, v, {}, memory=state)

    return draw.qkv(value_size=K) | {"state": draw.normal(B, H, K, K)}, ours, run
