"""Softmax attention with any weights of position: the exact local constant fit, in query blocks where one call cannot serve."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ttr.backends.backend import Backend, shape_of
from ttr.backends.position_bias import PairWeights, probabilities
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State


class Attention(Backend):
    """p = softmax(logits + log gamma), y = p V. Position weights enter as a bias of the logits, ``block`` queries at a time,
    so memory grows linearly with T; plain causal attention is one call of torch's."""

    name: ClassVar[str] = "attention"

    def __init__(self, block: int = 128) -> None:
        self.block = block

    def small(self) -> Attention:
        return Attention(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.function.local_degree != 0:
            return f"It fits a constant around every query (softmax attention), and this function is {shape_of(problem.function.local_degree)}."
        if problem.function.transported or problem.solver.corrects:
            return "It keeps keys and values as they come, and in this memory later tokens turn the keys, or older pairs correct the values."
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        pairs = PairWeights.of(problem, x)
        # A parameter has an entry per head, so with one the heads of a group no longer share their keys.
        params = x.axis_params("function")
        query = problem.function.query(x.grouped(x.q), params).transpose(1, 2)
        keys, values = (torch.cat([x.state[name], new], dim=1) for name, new in (("keys", x.k), ("values", x.v)))
        keys = problem.function.key(x.grouped(keys) if params else keys, params).transpose(1, 2)
        values = values.transpose(1, 2)
        # torch's fused kernels cannot be differentiated twice, nor transformed by functorch; float64 is for checking gradients.
        transformed = not torch.compiler.is_compiling() and needs_composite()
        fused = not transformed and not (x.wants_grad and query.dtype == torch.float64)
        if pairs.plain and fused and query.shape[-1] == values.shape[-1] and x.length:  # its kernels of linear memory need equal sizes
            y = _fused(query, keys, values, None)
        else:
            recompute = x.wants_grad and x.length > self.block and not transformed and not torch.compiler.is_compiling()
            y = self._blocks(pairs, query, keys, values, fused, recompute)
        return y.transpose(1, 2), pairs.final_state(x)

    def _blocks(self, pairs: PairWeights, query: Tensor, keys: Tensor, values: Tensor, fused: bool, recompute: bool) -> Tensor:
        """The read-outs [B,H,T,V] of queries [B,H,T,F], keys [B,Hk,N+T,F] and values [B,Hv,N+T,V]."""
        outputs = [query.new_zeros(*query.shape[:2], 0, values.shape[-1])]
        for start, part in zip(range(0, query.shape[2], self.block), query.split(self.block, dim=2)):
            arguments = (pairs, start, part, keys, values, fused)
            y = checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False) if recompute else _block(*arguments)
            outputs.append(y)
        return torch.cat(outputs, dim=2)


def _block(pairs: PairWeights, start: int, query: Tensor, keys: Tensor, values: Tensor, fused: bool) -> Tensor:
    stop = start + query.shape[2]
    bias = pairs.block(start, stop)
    keys, values = (pairs.seen(x, start, stop) for x in (keys, values))
    if fused and pairs.importance is None:  # a row without any pair reads 0, which torch's kernels do not promise
        return _fused(query, keys, values, bias)
    weights = probabilities(grouped_product(query, keys.mT) + bias, pairs.importance is not None)
    return grouped_product(weights, values)


def _fused(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    if keys.shape[1] != values.shape[1]:
        keys, values = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (keys, values))
    grouping = {"enable_gqa": True} if keys.shape[1] != query.shape[1] else {}
    return scaled_dot_product_attention(query, keys, values, attn_mask=bias, is_causal=bias is None, scale=1.0, **grouping)


def grouped_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right for [B,H,C,M] and [B,Hs,M,N], heads sharing one right-hand side stacked instead of copying it."""
    stacked = left.reshape(left.shape[0], right.shape[1], left.shape[1] // right.shape[1] * left.shape[2], left.shape[-1])
    return (stacked @ right).reshape(*left.shape[:3], right.shape[-1])
