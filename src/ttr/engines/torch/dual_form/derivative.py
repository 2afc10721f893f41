"""The derivative of whole chunks: block by block from the end, each recomputed from the weights that entered
it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ttr.engines.torch.dual_form.chunks import (
    Chunks,
    Named,
    Pairs,
    Tensors,
    Weights,
    advance,
    affine,
    pairs_at,
    read,
    under,
)

TIMED = ("key", "value", "query", "pairs", "kept", "moved", "momentum_kept", "momentum_pairs", "decay")
"""The tensors that have one entry per chunk, and those of the kind "control"."""


def run(plan: Chunks, x: Tensors) -> tuple[Tensor, Weights, tuple[Tensor, ...]]:
    """The read-outs of all chunks, the weights after the last, and those that enter every block, in order."""
    weights, outputs, entered = Weights(under("weight", x), under("momentum", x)), [], []
    for part in blocks(plan, x):
        entered += [*weights.now.values(), *weights.momentum.values()]
        passed = Block.of(plan, part, weights)
        outputs.append(passed.read(plan, part))
        weights = passed.end
    return torch.cat(outputs), weights, tuple(entered)


def blocks(plan: Chunks, x: Tensors) -> list[Named]:
    """The tensors of every block of chunks, each with those that are the same for all."""
    timed = {
        name: tensor.split(plan.block)
        for name, tensor in x.items()
        if name in TIMED or name.startswith("control.")
    }
    same = {name: tensor for name, tensor in x.items() if name.startswith("param.")}
    return [same | {name: parts[i] for name, parts in timed.items()} for i in range(len(timed["key"]))]


class Block:
    """The weights that enter every chunk of a block, stacked, its pairs, and the weights after it."""

    def __init__(self, weights: Weights, pairs: Pairs, end: Weights) -> None:
        self.weights, self.pairs, self.end = weights, pairs, end

    @staticmethod
    def of(plan: Chunks, x: Tensors, weights: Weights, at: object = pairs_at) -> Block:
        rows, found, params = [], [], under("param", x)
        for chunk in each(x):
            rows.append(weights)
            found.append(at(plan, weights.now, chunk["key"], chunk["value"], under("control", chunk), params))
            weights = advance(weights, found[-1], chunk)
        return Block(
            Weights(*(row(parts) for parts in zip(*rows))),
            Pairs(*(row(parts) for parts in zip(*found))),
            weights,
        )

    def read(self, plan: Chunks, x: Tensors) -> Tensor:
        return plan.function.forward(
            functools.partial(read, plan, self.weights, self.pairs, x), x["query"], under("param", x)
        )


def each(x: Tensors) -> list[Named]:
    """The tensors of every chunk of a block."""
    timed = {name: tensor.unbind() for name, tensor in x.items() if not name.startswith("param.")}
    return [{name: parts[i] for name, parts in timed.items()} for i in range(len(timed["key"]))]


def row(parts: tuple[Named, ...]) -> Named:
    """Named tensors of several chunks, stacked."""
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def derivative(
    plan: Chunks, x: Tensors, entered: tuple[Tensor, ...], grad_y: Tensor, grad_end: Weights
) -> Named:
    """Gradients of all tensors of the call, by name."""
    rest, names = iter(entered), [under(kind, x) for kind in ("weight", "momentum")]
    starts = [
        Weights(*({name: next(rest) for name in part} for part in names)) for _ in grad_y.split(plan.block)
    ]
    found: list[Named] = []
    d_params: Named = {}
    for part, start, grad in reversed(list(zip(blocks(plan, x), starts, grad_y.split(plan.block)))):
        timed, grad_end, params = _block(plan, part, start, grad, grad_end)
        found.append(timed)
        for name, tensor in params.items():
            d_params[name] = d_params[name] + tensor if name in d_params else tensor
    timed = {name: torch.cat([part[name] for part in reversed(found)]) for name in found[0]}
    ends = {
        f"{kind}.{name}": tensor
        for kind, tensors in zip(("weight", "momentum"), grad_end)
        for name, tensor in tensors.items()
    }
    return timed | ends | d_params


def _leaves(x: Tensors) -> Named:
    return {name: tensor.detach().requires_grad_() for name, tensor in x.items()}


def _grad(outputs: list[Tensor], inputs: Tensors, grads: list[Tensor]) -> Named:
    found = torch.autograd.grad(
        outputs, list(inputs.values()), grads, allow_unused=True, materialize_grads=True
    )
    return dict(zip(inputs, found))


def _block(
    plan: Chunks, x: Tensors, start: Weights, grad_y: Tensor, grad_end: Weights
) -> tuple[Named, Weights, Named]:
    graphs: list[tuple[Named, Pairs]] = []

    def recorded(
        plan: Chunks, weights: Tensors, key: Tensor, value: Tensor, controls: Tensors, params: Tensors
    ) -> Pairs:
        with torch.enable_grad():
            leaves = [
                _leaves(tensors) for tensors in (weights, {"key": key, "value": value}, controls, params)
            ]
            pairs = pairs_at(plan, leaves[0], *leaves[1].values(), *leaves[2:])
        names = ("weight", "", "control", "param")
        graphs.append(
            (
                {f"{kind}.{n}".lstrip("."): t for kind, part in zip(names, leaves) for n, t in part.items()},
                pairs,
            )
        )
        return Pairs(*({n: t.detach() for n, t in part.items()} for part in pairs))

    block = Block.of(plan, x, start, recorded)
    with torch.enable_grad():
        leaves = _leaves(x)
        weights, pairs = Weights(*map(_leaves, block.weights)), Pairs(*map(_leaves, block.pairs))
        y = Block(weights, pairs, weights).read(plan, leaves)
    inputs = leaves | {f"{i}.{n}": t for i, part in enumerate((*weights, *pairs)) for n, t in part.items()}
    d = _grad([y], inputs, [grad_y])
    d_params = {name: d.pop(name) for name in list(d) if name.startswith("param.")}
    d_read = [{n: d.pop(f"{i}.{n}").unbind() for n in part} for i, part in enumerate((*weights, *pairs))]
    d_chunks: list[Named] = []
    rows = [{n: t.unbind() for n, t in part.items()} for part in (*block.weights, *block.pairs)]
    for m, chunk in reversed(list(enumerate(each(x)))):
        now = [{n: t[m] for n, t in part.items()} for part in rows]
        reads = [{n: t[m] for n, t in part.items()} for part in d_read]
        grad_end, d_pairs, d_chunk = _advance(Weights(*now[:2]), Pairs(*now[2:]), chunk, grad_end)
        d_in = [d_pairs.inputs[n] + reads[2][n] for n in plan.matrices] + [
            d_pairs.slopes[n] + reads[3][n] for n in plan.matrices
        ]
        leaf, made = graphs[m]
        own = _grad(
            [made.inputs[n] for n in plan.matrices] + [made.slopes[n] for n in plan.matrices], leaf, d_in
        )
        grad_end = Weights(
            {n: g + own.pop(f"weight.{n}") + reads[0][n] for n, g in grad_end.now.items()},
            {n: g + reads[1][n] for n, g in grad_end.momentum.items()},
        )
        for name in d_params:
            d_params[name] = d_params[name] + own.pop(name)
        d_chunks.append(d_chunk | own)
    for name in d_chunks[0]:
        d[name] = d[name] + torch.stack([c[name] for c in reversed(d_chunks)])
    return d, grad_end, d_params


def _advance(weights: Weights, pairs: Pairs, x: Tensors, grad: Weights) -> tuple[Weights, Pairs, Named]:
    """The adjoint of ``advance``: gradients of the weights that enter, of the pairs and of the chunk's
    coefficients."""
    now, momentum, d_inputs, d_slopes = {}, {}, {}, {}
    last, d = x["pairs"][:, -1, :, None], {}
    total = {"last": 0, "added": 0, "kept": 0, "moved": 0, "momentum_kept": 0}
    for name, inputs in pairs.inputs.items():
        slopes, bias = pairs.slopes[name], f"{name}_bias"
        e = grad.now[name]
        d_last = -affine(grad.now, name, inputs)
        d_slopes[name], d_inputs[name] = last * d_last, -(last * slopes) @ e.mT
        total["last"] = total["last"] + (d_last * slopes).sum(-1)
        if weights.momentum:
            f, added = grad.momentum[name], x["momentum_pairs"][..., None]
            d_added = affine(grad.momentum, name, inputs)
            d_slopes[name], d_inputs[name] = (
                d_slopes[name] + added * d_added,
                d_inputs[name] + (added * slopes) @ f.mT,
            )
            total["added"] = total["added"] + (d_added * slopes).sum(-1)
        for n in (name, bias) if bias in weights.now else (name,):
            e = grad.now[n]
            lead = (...,) + (None,) * (e.ndim - 1)
            now[n] = x["kept"][:, -1][lead] * e if "kept" in x else e
            if "kept" in x:
                total["kept"] = total["kept"] + (e * weights.now[n]).flatten(1).sum(1)
            if weights.momentum:
                f = grad.momentum[n]
                momentum[n] = x["moved"][:, -1][lead] * e + x["momentum_kept"][lead] * f
                total["moved"] = total["moved"] + (e * weights.momentum[n]).flatten(1).sum(1)
                total["momentum_kept"] = total["momentum_kept"] + (f * weights.momentum[n]).flatten(1).sum(1)
    d["pairs"] = torch.nn.functional.pad(total["last"][:, None], (0, 0, last.shape[1] - 1, 0))
    if "kept" in x:
        d["kept"] = torch.nn.functional.pad(total["kept"][:, None], (last.shape[1] - 1, 0))
    if weights.momentum:
        d |= {
            "moved": torch.nn.functional.pad(total["moved"][:, None], (last.shape[1] - 1, 0)),
            "momentum_kept": total["momentum_kept"],
            "momentum_pairs": total["added"],
        }
    return Weights(now, momentum), Pairs(d_inputs, d_slopes), d
