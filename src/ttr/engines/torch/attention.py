"""Softmax attention with any weights of position: the exact local constant fit, in query blocks where one
call does not suffice."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ttr.engines.engine import Engine, shape_of
from ttr.engines.torch.fused_attention import attend
from ttr.forms import WeightedPairs
from ttr.forms.pair_weights import PairWeights, probabilities
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import FLASH_ATTENTION, is_transformed


class Attention(Engine):
    """p = softmax(logits + log gamma), y = p V, ``block`` queries at a time, so that memory grows linearly
    with T. On the CPU by torch's fused kernel, see ``fused_attention``; elsewhere, and where torch must see
    its own operations, the weights are a bias of the logits."""

    name: ClassVar[str] = "attention"

    def __init__(self, block: int = 256) -> None:
        self.block = block

    def small(self) -> Attention:
        return Attention(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.function.local_degree != 0:
            return (
                "It fits a constant around every query (softmax attention), and this function is "
                f"{shape_of(problem.function.local_degree)}."
            )
        if problem.form is not WeightedPairs:
            return (
                "It needs keys and values that do not change, and in this memory later tokens transport "
                "the keys, or older pairs correct the values."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        traced = needs_composite()  # torch must see its own operations
        form = problem.lower(x)
        pairs, scale = form.weights, form.scale
        query, keys, values = (tensor.transpose(1, 2) for tensor in (form.query, form.key, form.value))
        plain = pairs.plain
        if x.q.is_cpu and not traced and query.numel() and FLASH_ATTENTION is not None:
            y = attend(
                pairs,
                query,
                keys,
                values,
                scale,
                x.length if plain else self._queries(pairs.window),
                self._blocks,
            )
        # torch's memory-efficient kernels need keys and values of equal size
        elif plain and not is_transformed() and query.shape[-1] == values.shape[-1] and x.length:
            y = _fused(query, keys, values, None, scale)
        else:
            recompute = x.wants_grad and x.length > self.block and not traced
            y = self._blocks(
                pairs, query, keys, values, scale, fused=not is_transformed(), recompute=recompute
            )
        return form.finish(x, y.transpose(1, 2))

    def _queries(self, window: int | None) -> int:
        """Queries of a block; fewer for narrow windows, since a block of C queries reads window + C - 1
        pairs."""
        return self.block if window is None else min(self.block, max(64, window // 4))

    def _blocks(
        self,
        pairs: PairWeights,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        fused: bool = False,
        recompute: bool = False,
    ) -> Tensor:
        """The read-outs [B,H,T,V] of queries [B,H,T,F], keys [B,Hk,N+T,F] and values [B,Hk,N+T,V]."""
        outputs = [query.new_zeros(*query.shape[:2], 0, values.shape[-1])]
        for start, part in zip(range(0, query.shape[2], self.block), query.split(self.block, dim=2)):
            arguments = (pairs, start, part, keys, values, scale, fused)
            y = (
                checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _block(*arguments)
            )
            outputs.append(y)
        return torch.cat(outputs, dim=2)


def _block(
    pairs: PairWeights, start: int, query: Tensor, keys: Tensor, values: Tensor, scale: float, fused: bool
) -> Tensor:
    stop = start + query.shape[2]
    bias = pairs.block(start, stop)
    keys, values = (pairs.seen(x, start, stop) for x in (keys, values))
    # with importances a row may have no pair and then reads 0, which torch's kernels do not guarantee
    if fused and pairs.importance is None:
        return _fused(query, keys, values, bias, scale)
    weights = probabilities(grouped_product(scale * query, keys.mT) + bias, pairs.importance is not None)
    return grouped_product(weights, values)


def _fused(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    grouping = {"enable_gqa": True} if keys.shape[1] != query.shape[1] else {}
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=bias, is_causal=bias is None, scale=scale, **grouping
    )


def grouped_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right for [B,H,C,M] and [B,Hs,M,N], heads sharing one right-hand side stacked instead of copying
    it."""
    stacked = left.reshape(
        left.shape[0], right.shape[1], left.shape[1] // right.shape[1] * left.shape[2], left.shape[-1]
    )
    return (stacked @ right).reshape(*left.shape[:3], right.shape[-1])
