"""The families that are timed, one declaration each."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ttr import catalogue
from ttr.experiments.bench import peers
from ttr.experiments.bench.cases import Calls, Family, Memories, Parts, Shape
from ttr.experiments.bench.contestants import Contestant, of_call, of_kernel, of_part, without_native
from ttr.experiments.bench.entries import ENTRIES
from ttr.experiments.bench.models import MODELS
from ttr.experiments.bench.operation_counts import (
    ADDITIVE,
    DELTA,
    NETWORK,
    NETWORK_CHUNK,
    RIDGE,
    additive_flops,
    delta_flops,
    network_flops,
    ridge_flops,
)
from ttr.functions.local_constant import LocalConstant
from ttr.layer.output.norms import GatedRMSNorm
from ttr.layer.qkv.short_convolution import ShortConvolution
from ttr.problem import Problem
from ttr.solvers.exact_local_fit import ExactLocalFit
from ttr.weights.uniform import Uniform
from ttr.weights.window import Window


def qkv(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Queries and keys [B,T,H,K] of length 1, as after the l2 norm of these layers; values [B,T,H,V] of unit
    variance."""
    q, k = (
        normalize(torch.randn(s.batch, s.time, s.heads, s.key, generator=generator), dim=-1) for _ in "qk"
    )
    return {"q": q, "k": k, "v": torch.randn(s.batch, s.time, s.heads, s.value, generator=generator)}


def fixed_decay(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A constant decay per head, exp(-2^(-8 h / H)), h = 1..H (ALiBi's slopes, as in MiniMax), given at every
    token."""
    slopes = 2.0 ** (-8 / s.heads * torch.arange(1, s.heads + 1))
    return qkv(s, generator) | {"log_decay": -slopes.expand(s.batch, s.time, s.heads).clone()}


def gated(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A decay per head and token, mostly 0.9 to 1; steps between 0 and 1; the memory [B,H,K,V] that decoding
    starts from."""
    drawn = qkv(s, generator) | {
        "log_decay": logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator) + 4)
    }
    drawn["step_size"] = torch.randn(s.batch, s.time, s.heads, generator=generator).sigmoid()
    return drawn | {"memory": torch.randn(s.batch, s.heads, s.key, s.value, generator=generator)}


def gated_channels(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """As ``gated``, with a decay per key channel."""
    return gated(s, generator) | {
        "log_decay": logsigmoid(torch.randn(s.batch, s.time, s.heads, s.key, generator=generator) + 4)
    }


def forgetting(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A decay per head and token, mostly 0.9 to 1."""
    return qkv(s, generator) | {
        "log_decay": logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator) + 4)
    }


def regressed(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A decay per head and token, mostly 0.9 to 1; sample weights between 0 and 1; the ridge [H,K], MesaNet's
    lower bound of 0.25."""
    drawn = qkv(s, generator) | {
        "log_decay": logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator) + 4)
    }
    drawn["log_importance"] = logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator))
    return drawn | {"ridge": torch.full((s.heads, s.key), 0.25)}


def trained(s: Shape, generator: torch.Generator, problem: Problem) -> dict[str, Tensor]:
    """Queries, keys and values, small steps, and the problem's parameters, all drawn, biases and shifts
    too."""
    drawn = qkv(s, generator) | {"step_size": 0.1 * torch.rand(s.batch, s.time, s.heads, generator=generator)}
    declared = problem.parameters(s.heads, s.key, s.value)
    return drawn | {
        name: p.draw(generator) + 0.02 * torch.randn(p.shape, generator=generator)
        for name, p in declared.items()
    }


def ttt(s: Shape, generator: torch.Generator, problem: Problem) -> dict[str, Tensor]:
    """With read steps 1 / i at token i of a mini-batch, the initial values of TTT's learned ones."""
    read_step = 1 / (1 + torch.arange(s.time) % NETWORK_CHUNK)
    return trained(s, generator, problem) | {
        "read_step": read_step[None, :, None].repeat(s.batch, 1, s.heads)
    }


def titans(s: Shape, generator: torch.Generator, problem: Problem) -> dict[str, Tensor]:
    """A decay at the first token of every chunk and a momentum of 0. Only for these inputs titans-pytorch,
    whose decay and momentum act once per chunk, computes the same weights as the publication, in which they
    act at every token. Both implementations compute them for any numbers."""
    first = (torch.arange(s.time) % NETWORK_CHUNK == 0)[None, :, None]
    decay = logsigmoid(torch.randn(s.batch, s.time, s.heads, generator=generator) + 3)
    return trained(s, generator, problem) | {
        "log_decay": decay * first,
        "momentum": torch.zeros(s.batch, s.time, s.heads),
    }


def _network(
    name: str,
    words: str,
    layers: int,
    draw: Callable[..., dict[str, Tensor]],
    peer: Contestant,
    every: int = 1,
) -> Memories:
    problem = catalogue[name].problem
    return Memories(
        name=name,
        words=words,
        problem=problem,
        draw=functools.partial(draw, problem=problem),
        every=every,
        formula=NETWORK,
        token_flops=functools.partial(network_flops, layers=layers, momentum=problem.solver.momentum),
        peers=dict.fromkeys(("forward", "training"), (peer,)),
        shapes=dict.fromkeys(("forward", "training"), at(512, 2048, size=64, heads=4)),
    )


GATED_DELTA = catalogue["gated-deltanet"].problem


def short(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """As ``gated``, from an empty memory."""
    return {name: x for name, x in gated(s, generator).items() if name != "memory"}


CONVOLUTION = ShortConvolution(streams=("v",))


def stream(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A stream [B,past+T,H,V] that begins with the zeros before a sequence, and the weight [width,H,V]."""
    v = torch.randn(s.batch, CONVOLUTION.past + s.time, s.heads, s.value, generator=generator)
    v[:, : CONVOLUTION.past] = 0
    return {"v": v, "weight": torch.randn(CONVOLUTION.width, s.heads, s.value, generator=generator) / 2}


GATED_NORM = GatedRMSNorm("silu", eps=1e-6)


def heads_and_gate(s: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A read-out y [B,T,H,V]; the gain [V]; and the input x [B,T,1] and weight [H,V,1] of the gate's
    projection: with one input channel, so that the projection, which ours and peers share, costs little more
    than writing the gate."""
    return {
        "y": torch.randn(s.batch, s.time, s.heads, s.value, generator=generator),
        "gain": 1 + torch.rand(s.value, generator=generator),
        "x": torch.randn(s.batch, s.time, 1, generator=generator),
        "weight": torch.randn(s.heads, s.value, 1, generator=generator),
    }


def softmax(
    member: str,
    words: str,
    problem: Problem,
    draw: Callable[[Shape, torch.Generator], dict[str, Tensor]],
    masked: Contestant,
) -> Memories:
    """A variant of softmax attention, compared with the same function through a mask or an explicit norm, and
    with plain attention."""
    return Memories(
        name=f"softmax.{member}",
        words=words,
        problem=problem,
        draw=draw,
        peers=dict.fromkeys(("forward", "training"), (masked, peers.attention)),
        shapes=dict.fromkeys(("forward", "training"), at(1024, 4096, size=64)),
    )


RIDGE_OF_LINES = 0.1
"""The ridge of local linear regression, for queries and keys of unit variance per channel."""


def lines(s: Shape, generator: torch.Generator, rank: int | None = None) -> dict[str, Tensor]:
    """Queries, keys and values of unit variance; for a slope of limited rank also its projection [H,rank,K]
    with orthonormal rows."""
    drawn = {
        name: torch.randn(s.batch, s.time, s.heads, size, generator=generator)
        for name, size in zip("qkv", (s.key, s.key, s.value))
    }
    drawn["ridge"] = torch.full((s.heads, rank or s.key), RIDGE_OF_LINES)
    if rank:
        drawn["function.projection"] = torch.linalg.qr(
            torch.randn(s.heads, s.key, rank, generator=generator)
        )[0].mT.contiguous()
    return drawn


RANK = 8


def at(*times: int, size: int = 128, **others: int) -> tuple[Shape, ...]:
    return tuple(Shape(time=time, key=size, value=size, **others) for time in times)


convolution = of_part("short-convolution", CONVOLUTION, ("v",), {"v": "weight"})

FAMILIES: tuple[Family, ...] = (
    Memories(
        name="additive",
        words="a sum of pairs with a decay per head (Mamba-2, RetNet, lightning attention)",
        problem=catalogue["mamba2"].problem,
        draw=fixed_decay,
        token_flops=additive_flops,
        formula=ADDITIVE,
        peers={
            "forward": (peers.mamba2, peers.minimax, peers.fla_additive, peers.attention),
            "training": (peers.mamba2, peers.minimax, peers.attention),
        },
        shapes={"forward": at(512, 4096) + at(4096, size=64), "training": at(512, 4096)},
    ),
    Memories(
        name="gated-delta",
        words="the delta rule with a decay per head (Gated DeltaNet)",
        problem=catalogue["gated-deltanet"].problem,
        draw=gated,
        token_flops=delta_flops,
        formula=DELTA,
        peers={
            "forward": (peers.gated_delta, peers.fla_gated_delta),
            "training": (peers.gated_delta,),
            "decode": (peers.gated_delta_token, peers.state_copy),
        },
        shapes={
            "forward": at(512, 4096) + at(512, 4096, size=64),
            "training": at(512, 4096, 8192),
            "decode": at(1) + at(1, batch=4) + at(1, batch=32) + at(1, size=64),
        },
    ),
    Memories(
        name="kda",
        words="the delta rule with a decay per key channel (Kimi Delta Attention)",
        problem=catalogue["kda"].problem,
        draw=gated_channels,
        token_flops=delta_flops,
        formula=DELTA,
        peers={
            "forward": (peers.kda, peers.kda_recurrent, peers.fla_kda),
            "training": (peers.kda, peers.kda_recurrent),
        },
        shapes={"forward": at(512), "training": at(512)},
    ),
    softmax(
        "qknorm",
        "softmax attention of unit queries and keys (QK-norm)",
        Problem(Uniform(), LocalConstant(scale=10.0, unit_norm=True), ExactLocalFit()),
        qkv,
        peers.unit_norm_attention(scale=10.0),
    ),
    softmax(
        "forget",
        "softmax attention with a forget gate (Forgetting Transformer)",
        catalogue["forgetting-attention"].problem,
        forgetting,
        peers.masked_attention(peers.forget_bias),
    ),
    softmax(
        "alibi",
        "softmax attention with a slope per head (ALiBi)",
        catalogue["alibi-attention"].problem,
        qkv,
        peers.masked_attention(peers.alibi_bias),
    ),
    softmax(
        "window",
        "softmax attention over the newest 128 tokens",
        Problem(Window(128), LocalConstant(), ExactLocalFit()),
        qkv,
        peers.masked_attention(functools.partial(peers.window_bias, width=128)),
    ),
    Memories(
        name="mesanet",
        words="ridge regression at every token, with a decay per head (MesaNet)",
        problem=catalogue["mesanet"].problem,
        draw=regressed,
        token_flops=ridge_flops,
        formula=RIDGE,
        peers=dict.fromkeys(("forward", "training"), (peers.mesanet,)),
        shapes=dict.fromkeys(("forward", "training"), at(512, 2048, size=64) + at(512, 2048)),
    ),
    Memories(
        name="local-linear",
        words="local linear regression around every query (local linear attention)",
        problem=catalogue["local-linear-attention"].problem,
        draw=lines,
        peers=dict.fromkeys(("forward", "training"), (peers.line_by_lapack, peers.attention)),
        shapes={"forward": at(1024, 2048, 4096, size=64), "training": at(1024, 2048, size=64)},
    ),
    Memories(
        name="local-linear-rank8",
        words="local linear regression with a slope along 8 directions of the keys",
        problem=catalogue["local-linear-rank8"].problem,
        draw=functools.partial(lines, rank=RANK),
        peers=dict.fromkeys(("forward", "training"), (peers.low_rank_line_by_lapack, peers.attention)),
        shapes={
            "forward": at(1024, 2048, 4096, size=64) + at(1024, 2048),
            "training": at(1024, 2048, size=64),
        },
    ),
    _network(
        "ttt-linear",
        "a matrix followed by a norm, trained in mini-batches of 16 (TTT-Linear)",
        1,
        ttt,
        peers.ttt_linear,
    ),
    _network(
        "ttt-mlp",
        "two matrices followed by a norm, trained in mini-batches of 16 (TTT-MLP)",
        2,
        ttt,
        peers.ttt_mlp,
    ),
    _network(
        "titans",
        "two matrices, trained with momentum and decay in chunks of 16 (Titans), read at the ends of chunks",
        2,
        titans,
        peers.titans,
        every=NETWORK_CHUNK,
    ),
    Calls(
        name="overhead",
        words="short calls of Gated DeltaNet without gradients: the overhead of a call over its kernel",
        contestants=tuple(of_call(GATED_DELTA, name) for name in ("regress", "plan")),
        draw=short,
        peers={"forward": (of_kernel(GATED_DELTA),)},
        shapes={"forward": at(1, 4, 16, 64, size=64, heads=4)},
    ),
    Parts(
        name="short-convolution",
        words="a causal depthwise convolution of width 4, then SiLU (Mamba, Gated DeltaNet)",
        contestants=(convolution, without_native(convolution)),
        draw=stream,
        peers={"forward": (peers.convolution, peers.silu), "training": (peers.convolution,)},
        shapes={"forward": at(512, 2048, heads=24), "training": at(2048, heads=24)},
    ),
    Parts(
        name="gated-norm",
        words="RMSNorm of every head, times a gate (Gated DeltaNet)",
        contestants=(of_part("gated-norm", GATED_NORM, ("y", "x"), {"gain": "gain", "weight": "weight"}),),
        draw=heads_and_gate,
        peers=dict.fromkeys(("forward", "training"), (peers.gated_norm,)),
        shapes={"forward": at(512, 2048), "training": at(2048)},
    ),
    *MODELS,
    *ENTRIES,
)
