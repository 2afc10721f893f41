"""Memories that are networks: TTT, Titans, LaCT, ATLAS and the MIRAS models against their originals, where
these run, and against gradients by hand."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import gelu

import ttr
from ttr.functions.features.taylor import Taylor
from ttr.functions.linear import Linear
from ttr.problem import Problem

from .case import B, Draw, H, K, T, parity, problem
from .networks import gelu_slope, newton_schulz, norm, norm_slope, unrolled
from .originals import fla

CHUNK = 4
MUON = ((3.4445, -4.775, 2.0315),) * 5


def chunked(entry: str, **fields: object) -> Problem:
    """The problem of an entry with chunks so short that the sequence has several."""
    whole = problem(entry)
    return dataclasses.replace(whole, solver=dataclasses.replace(whole.solver, chunk=CHUNK, **fields))


def run(
    memory: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: dict[str, Tensor],
    controls: dict[str, Tensor],
    *states: str,
):
    """Outputs and the named state tensors, where "a + b" stands for a sum."""
    params = {f"function.{name}": x for name, x in params.items()}
    y, end = ttr.oracle(memory, q, k, v, params=params, return_state=True, **controls)
    return (y, *(sum(end[part] for part in name.split(" + ")) for name in states))


def fold_weights(x: Tensor) -> Tensor:
    return x.expand(B, *x.shape)


# -------------------------------------------------------------------------------------------------------- TTT
def _ttt(draw: Draw, time: int = T) -> dict[str, Tensor]:
    tensors = {
        "q": draw.normal(B, time, H, K),
        "k": draw.unit(B, time, H, K),
        "v": draw.normal(B, time, H, K),
    }
    tensors |= {"step": draw.between(0.1, 1.0, B, time, H), "read_step": draw.between(0.2, 1.0, B, time, H)}
    return tensors | {
        "gain": draw.between(0.5, 1.5, H, K),
        "shift": draw.normal(H, K),
        "w1": draw.normal(H, K, K),
        "b1": draw.normal(H, K),
    }


@parity("ttt-linear", "fla/ops/ttt/naive.py chunk_ttt_linear_ref, weights after every chunk")
def ttt_linear_weights(draw: Draw):
    """Its step of the reading token scales the prefix, as our read step does; its read-out o + LN(o) is not
    TTT's q + LN(o)."""
    original = fla("ops/ttt/naive.py", "ttt_linear").ttt_linear
    tensors = _ttt(draw, 3 * CHUNK)
    del tensors["step"]
    memory = chunked("ttt-linear")

    def ours(q, k, v, read_step, gain, shift, w1, b1):
        controls = {"step_size": torch.ones_like(read_step), "read_step": read_step}
        return run(
            memory,
            q,
            k,
            v,
            {"gain": gain, "shift": shift, "w1": w1, "w1_bias": b1},
            controls,
            "w1",
            "w1_bias",
        )[1:]

    def theirs(q, k, v, read_step, gain, shift, w1, b1):
        q, k, v, eta = (x.transpose(1, 2) for x in (q, k, v, read_step[..., None]))
        _, weights, bias = original(
            q.clone(),
            k,
            v,
            gain,
            shift,
            eta,
            1.0,
            1e-6,
            CHUNK,
            fold_weights(w1),
            fold_weights(b1)[:, :, None],
            True,
        )
        return weights, bias[:, :, 0]

    return tensors, ours, theirs


@parity("ttt-linear", "the dual form of the publication, gradients by hand")
def ttt_linear_dual(draw: Draw):
    tensors, memory = _ttt(draw), chunked("ttt-linear")

    def ours(q, k, v, step, read_step, gain, shift, w1, b1):
        params = {"gain": gain, "shift": shift, "w1": w1, "w1_bias": b1}
        return run(memory, q, k, v, params, {"step_size": step, "read_step": read_step}, "w1", "w1_bias")

    def theirs(q, k, v, step, read_step, gain, shift, w1, b1):
        y, (weights,), (bias,) = dual(q, k, v, step, read_step, gain, shift, [w1], [b1])
        return y, weights, bias

    return tensors, ours, theirs


@parity("ttt-mlp", "the dual form of the publication, gradients by hand")
def ttt_mlp_dual(draw: Draw):
    tensors, memory = _ttt(draw), chunked("ttt-mlp")
    tensors |= {
        "w1": draw.normal(H, K, 4 * K) / 2,
        "b1": draw.normal(H, 4 * K),
        "w2": draw.normal(H, 4 * K, K) / 4,
        "b2": draw.normal(H, K),
    }

    def ours(q, k, v, step, read_step, gain, shift, w1, b1, w2, b2):
        params = {"gain": gain, "shift": shift, "w1": w1, "w1_bias": b1, "w2": w2, "w2_bias": b2}
        return run(
            memory,
            q,
            k,
            v,
            params,
            {"step_size": step, "read_step": read_step},
            "w1",
            "w1_bias",
            "w2",
            "w2_bias",
        )

    def theirs(q, k, v, step, read_step, gain, shift, w1, b1, w2, b2):
        y, weights, biases = dual(q, k, v, step, read_step, gain, shift, [w1, w2], [b1, b2])
        return y, weights[0], biases[0], weights[1], biases[1]

    return tensors, ours, theirs


def dual(q, k, v, step, read_step, gain, shift, weights, biases):
    """Chunk by chunk without the weights of single tokens: every layer reads W_0 and, causally, the pairs
    (input, slope) of the chunk."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    step, read_step = (x.transpose(1, 2)[..., None] for x in (step, read_step))
    gain, shift = gain[:, None], shift[:, None]
    weights, biases = [fold_weights(w) for w in weights], [fold_weights(b)[:, :, None] for b in biases]
    outputs = []
    for start in range(0, q.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        inputs, raw, x = [], [], k[:, :, part]
        for i, (w, b) in enumerate(zip(weights, biases)):
            inputs.append(gelu(x, approximate="tanh") if i else x)
            raw.append(x := inputs[-1] @ w + b)
        slopes = [norm_slope(x, norm(x, gain, shift, 1e-6) - (v - k)[:, :, part], gain, 1e-6)]
        for w, z in zip(reversed(weights), reversed(raw[:-1])):
            slopes.insert(0, slopes[0] @ w.mT * gelu_slope(z))
        steps, read, x = step[:, :, part], read_step[:, :, part], q[:, :, part]
        for i, (w, b) in enumerate(zip(weights, biases)):
            x = gelu(x, approximate="tanh") if i else x
            x = x @ w + b - read * (torch.tril(x @ inputs[i].mT + 1) @ (steps * slopes[i]))
        outputs.append(q[:, :, part] + norm(x, gain, shift, 1e-6))
        if steps.shape[2] == CHUNK:
            last = read[:, :, -1:]
            weights = [w - last * x.mT @ (steps * s) for w, x, s in zip(weights, inputs, slopes)]
            biases = [b - last * (steps * s).sum(2, keepdim=True) for b, s in zip(biases, slopes)]
    return torch.cat(outputs, dim=2).transpose(1, 2), weights, [b[:, :, 0] for b in biases]


# ----------------------------------------------------------------------------------------------------- Titans
def _gated(
    draw: Draw, value_size: int = K, features: int = K, hidden: int | None = None
) -> dict[str, Tensor]:
    tensors = {
        "q": draw.normal(B, T, H, K),
        "k": draw.unit(B, T, H, K),
        "v": draw.normal(B, T, H, value_size),
    }
    tensors |= {"step": draw.between(0.1, 0.6, B, T, H), "log_decay": draw.log_decay(B, T, H)}
    hidden = hidden or 4 * features
    return tensors | {
        "w1": draw.normal(H, features, hidden) / features**0.5,
        "w2": draw.normal(H, hidden, value_size) / hidden**0.5,
    }


def _normed(draw: Draw, value_size: int = K) -> dict[str, Tensor]:
    return {"gain": draw.between(0.5, 1.5, H, value_size), "shift": draw.normal(H, value_size)}


def heads(*tensors: Tensor) -> list[Tensor]:
    return [x[:, None] for x in tensors]


@parity("titans", "the weights of every token unrolled, gradients by hand")
def titans(draw: Draw):
    tensors = _gated(draw, value_size=3) | {"momentum": draw.between(0.1, 0.9, B, T, H)}
    memory = chunked("titans")

    def ours(q, k, v, step, log_decay, w1, w2, momentum):
        controls = {"step_size": step, "log_decay": log_decay, "momentum": momentum}
        return run(memory, q, k, v, {"w1": w1, "w2": w2}, controls, "w1 + change.w1", "w2 + change.w2")

    def theirs(q, k, v, step, log_decay, w1, w2, momentum):
        y, now = unrolled(
            q,
            k,
            v,
            [fold_weights(w1), fold_weights(w2)],
            step,
            log_decay.exp(),
            chunk=CHUNK,
            momentum=momentum,
            slope=lambda p, value, t: p - value,
        )
        return y, *now

    return tensors, ours, theirs


@parity(
    "titans",
    "fla/ops/titans/naive.py combine_params, the weights of the pairs of a chunk, for a "
    "matrix without its norm",
)
def titans_linear(draw: Draw):
    original = fla("ops/titans/naive.py", "combine_params", "cal_n", "cal_f", "cal_G").combine_params
    tensors = draw.qkv() | {"step": draw.between(0.1, 0.6, B, T, H), "log_decay": draw.log_decay(B, T, H)}
    tensors |= {"momentum": draw.between(0.1, 0.9, B, T, H)}
    memory = dataclasses.replace(chunked("titans"), function=Linear(scale=1.0))

    def ours(q, k, v, step, log_decay, momentum):
        controls = {"step_size": step, "log_decay": log_decay, "momentum": momentum}
        return run(memory, q, k, v, {}, controls, "memory + change.memory", "momentum.memory")

    def theirs(q, k, v, step, log_decay, momentum):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        gates = [x.transpose(1, 2)[..., None] for x in (step, -torch.expm1(log_decay), momentum)]
        memory, moving, y = q.new_zeros(B, H, K, v.shape[-1]), q.new_zeros(B, H, K, v.shape[-1]), []
        for start in range(0, T, CHUNK):
            part = slice(start, min(start + CHUNK, T))
            kept, last, f, f_last, g, between, m_last, n_last = original(
                *(x[:, :, part] for x in gates), min(CHUNK, T - start)
            )
            keys, error = k[:, :, part], v[:, :, part] - k[:, :, part] @ memory
            scores = q[:, :, part] @ keys.mT
            y.append(
                kept[..., None] * (q[:, :, part] @ memory)
                + f[..., None] * (q[:, :, part] @ moving)
                + (torch.tril(scores) * between) @ error
            )
            memory, moving = (
                last[..., None, None] * memory
                + f_last[..., None, None] * moving
                + keys.mT @ (g[..., None] * error),
                m_last[..., None, None] * moving + keys.mT @ (n_last[..., None] * error),
            )
        return torch.cat(y, dim=2).transpose(1, 2), memory, moving

    return tensors, ours, theirs


# ------------------------------------------------------------------------------------------------------- LaCT
@parity("lact", "the published loop over chunks, gradients by hand")
def lact(draw: Draw):
    tensors = {"q": draw.normal(B, T, H, K), "k": draw.unit(B, T, H, K), "v": draw.normal(B, T, H, 3)}
    tensors |= {"steps": draw.between(0.1, 0.6, B, T, H, 3), "momentum": draw.between(0.1, 0.9, B, T, H)}
    tensors |= {"w0": draw.normal(H, K, K), "w1": draw.normal(H, K, 3), "w2": draw.normal(H, K, K)}
    memory = chunked("lact")

    def ours(q, k, v, steps, momentum, w0, w1, w2):
        return run(
            memory,
            q,
            k,
            v,
            {"w0": w0, "w1": w1, "w2": w2},
            {"step_size": steps, "momentum": momentum},
            "w0",
            "w1",
            "w2",
        )

    def theirs(q, k, v, steps, momentum, w0, w1, w2):
        q, k, v, steps, momentum = (x.transpose(1, 2) for x in (q, k, v, steps, momentum[..., None]))
        weights = first = [fold_weights(w) for w in (w0, w1, w2)]
        moving, y = [0.0, 0.0, 0.0], []
        for start in range(0, T, CHUNK):
            part = slice(start, start + CHUNK)
            a, b, c = weights
            x = q[:, :, part]
            y.append((torch.sigmoid(x @ a) * (x @ a) * (x @ c)) @ b)
            if start + CHUNK > T:
                break
            x, gate, through = k[:, :, part], k[:, :, part] @ a, k[:, :, part] @ c
            on = torch.sigmoid(gate)
            hidden = v[:, :, part] @ b.mT
            lr = steps[:, :, part]
            rises = [
                x.mT @ (lr[..., :1] * hidden * through * (on + gate * on * (1 - on))),
                (on * gate * through).mT @ (lr[..., 1:2] * v[:, :, part]),
                x.mT @ (lr[..., 2:] * hidden * on * gate),
            ]
            moving = [g + momentum[:, :, part].mean(2, keepdim=True) * u for g, u in zip(rises, moving)]
            weights = [
                w + newton_schulz(u, memory.solver.orthogonalise.coefficients)
                for w, u in zip(weights, moving)
            ]
            weights = [
                w / (w.norm(dim=-2, keepdim=True) + 1e-5) * f.norm(dim=-2, keepdim=True)
                for w, f in zip(weights, first)
            ]
        return torch.cat(y, dim=2).transpose(1, 2), *weights

    return tensors, ours, theirs


# -------------------------------------------------------------------------------------------- ATLAS and MIRAS
@parity("atlas", "every token's weights and windowed gradient written out")
def atlas(draw: Draw):
    size = Taylor().size(2)
    tensors = _gated(draw, 3, size, size) | {
        "q": draw.normal(B, T, H, 2),
        "k": draw.unit(B, T, H, 2),
        "momentum": draw.between(0.1, 0.9, B, T, H),
    }
    memory = chunked("atlas")
    memory = dataclasses.replace(memory, function=dataclasses.replace(memory.function, residual=False))

    def ours(q, k, v, step, log_decay, w1, w2, momentum):
        controls = {"step_size": step, "log_decay": log_decay, "momentum": momentum}
        return run(memory, q, k, v, {"w1": w1, "w2": w2}, controls, "w1 + change.w1", "w2 + change.w2")

    def theirs(q, k, v, step, log_decay, w1, w2, momentum):
        y, now = unrolled(
            polynomial(q),
            polynomial(k),
            v,
            [fold_weights(w1), fold_weights(w2)],
            step,
            log_decay.exp(),
            chunk=CHUNK,
            momentum=momentum,
            window=4,
            orthogonalise=lambda z: newton_schulz(z, MUON),
            slope=lambda p, value, t: p - value,
        )
        return y, *now

    return tensors, ours, theirs


def polynomial(x: Tensor) -> Tensor:
    """1, x and its products for two channels, whose dot products are 1 + u + u^2 / 2 with u = x.y /
    sqrt(2)."""
    a, b = x.unbind(-1)
    root = 2**0.25
    return torch.stack(
        [torch.ones_like(a), a / root, b / root, a * b / root**2, a * a / 2, b * b / 2], dim=-1
    )


def _miras(entry: str, slope, mirror, draw: Draw, **extra: Tensor):
    tensors = _gated(draw) | _normed(draw) | extra
    memory = chunked(entry)

    def ours(q, k, v, step, log_decay, w1, w2, gain, shift, **others):
        params = {"w1": w1, "w2": w2, "gain": gain, "shift": shift}
        return run(
            memory,
            q,
            k,
            v,
            params,
            {"step_size": step, "log_decay": log_decay, **others},
            "w1 + change.w1",
            "w2 + change.w2",
        )

    def theirs(q, k, v, step, log_decay, w1, w2, gain, shift, **others):
        y, now = unrolled(
            q,
            k,
            v,
            [fold_weights(w1), fold_weights(w2)],
            step,
            log_decay.exp(),
            chunk=CHUNK,
            mirror=mirror,
            slope=lambda p, value, t: slope(p - value, t, **others),
            gain=gain[:, None],
            shift=shift[:, None],
        )
        return y, *now

    return tensors, ours, theirs


@parity("moneta", "the recurrence with gradients by hand")
def moneta(draw: Draw):
    def mirror(a: Tensor) -> Tensor:
        return a / (a**4).sum((-2, -1), keepdim=True).sqrt()

    return _miras("moneta", lambda e, t: e.sign() * e**2, mirror, draw)


@parity("yaad", "the recurrence with gradients by hand")
def yaad(draw: Draw):
    def slope(e: Tensor, t: int, threshold: Tensor) -> Tensor:
        limit = threshold[:, t, :, None, None]
        length = e.norm(dim=-1, keepdim=True)
        return torch.where(length <= limit, e, limit * e / length)

    return _miras("yaad", slope, lambda a: a, draw, threshold=draw.between(0.5, 6.0, B, T, H))


@parity("memora", "the recurrence with gradients by hand")
def memora(draw: Draw):
    def mirror(a: Tensor) -> Tensor:
        return a.exp() / a.exp().sum(-2, keepdim=True)

    return _miras("memora", lambda e, t: e, mirror, draw)
