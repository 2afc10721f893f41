"""Ridge regression at every token as one differentiable function, in blocks of chunks, with a backward pass
of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.diagnostics import record
from ttr.engines.torch.ridge.block import Block, cut, join
from ttr.engines.torch.ridge.solve import Report
from ttr.forms import SecondMoments
from ttr.torch_internals import in_batches

BLOCK = 2**17
"""Numbers of the solutions (tokens x heads x batch x F) that are iterated together, so that they stay in the
cache."""


class Regression(NamedTuple):
    """The tensors of ``SecondMoments``; except for ``mix``, 0 where they are absent there."""

    query: Float[Tensor, "B T H F"]
    key: Float[Tensor, "B T H F"]
    value: Float[Tensor, "B T H V"]
    log_decay: Float[Tensor, "B T H"]
    log_importance: Float[Tensor, "B T H"]
    ridge: Float[Tensor, "H F"]
    gram: Float[Tensor, "B H F F"]
    memory: Float[Tensor, "B H F V"]
    mix: Float[Tensor, "B T H"] | None = None

    @staticmethod
    def of(form: SecondMoments) -> Regression:
        """The tensors of a call."""
        none = torch.zeros_like(form.key[..., 0])
        return Regression(
            form.query,
            form.key,
            form.value,
            none if form.log_decay is None else form.log_decay,
            none if form.log_importance is None else form.log_importance,
            form.query.new_zeros(form.query.shape[2:]) if form.ridge is None else form.ridge,
            form.gram,
            form.memory,
            form.mix,
        )


Differentiable = Callable[[Regression], tuple[Tensor, Tensor, Tensor]]
"""``run`` by torch's own operations."""


def run(regression: Regression, chunk: int, differentiable: Differentiable) -> tuple[Tensor, Tensor, Tensor]:
    """y [B,T,H,V], and the moments H and U after the call. Second derivatives are those of
    ``differentiable``."""
    return _Run.apply(chunk, differentiable, torch.is_grad_enabled(), *regression)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chunk: int, differentiable: Differentiable, recorded: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r, save = Regression(*tensors), recorded and any(ctx.needs_input_grad)
        y, report, saved = r.query.new_empty(*r.query.shape[:3], r.value.shape[-1]), Report(), []
        state = torch.cat([r.gram, r.memory], dim=-1).flatten(0, 1)
        for tokens in _blocks(r, chunk):
            block, start = _block(r, tokens, chunk, state), state
            read, *needed = block.forward(cut(r.query[:, tokens], chunk), report)
            join(read, y[:, tokens])
            state = block.end
            if save:
                saved += [start, *needed]
        record(**report.facts())
        ctx.chunk, ctx.differentiable = chunk, differentiable
        ctx.save_for_backward(*tensors, *saved)
        gram, memory = state.unflatten(0, r.gram.shape[:2]).split(
            [r.gram.shape[-1], r.memory.shape[-1]], dim=-1
        )
        return y, gram.contiguous(), memory.contiguous()

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor, grad_gram: Tensor, grad_memory: Tensor
    ) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # read once: activation checkpointing recomputes them at every access
        r, saved = Regression(*tensors[: len(Regression._fields)]), tensors[len(Regression._fields) :]
        grads = grad_y, grad_gram, grad_memory
        with torch.autocast(grad_y.device.type, enabled=False):
            if torch.is_grad_enabled() or any(map(in_batches, grads)):
                return None, None, None, *differentiated_again(r, ctx.differentiable, grads)
            return None, None, None, *_gradients(r, ctx.chunk, saved, *grads)


def _gradients(
    r: Regression,
    chunk: int,
    saved: tuple[Tensor, ...],
    grad_y: Tensor,
    grad_gram: Tensor,
    grad_memory: Tensor,
) -> Regression:
    """Gradients of a call's tensors, from what each block saved: the moments before it, its solutions, its
    preconditioner's factors."""
    grads = Regression(
        *(x.new_empty(x.shape) for x in r[:5]), torch.zeros_like(r.ridge), grad_gram, grad_memory
    )
    grad_state, report = torch.cat([grad_gram, grad_memory], dim=-1).flatten(0, 1), Report()
    for index, tokens in reversed(list(enumerate(_blocks(r, chunk)))):
        start, solution, factors = saved[3 * index : 3 * index + 3]
        block = _block(r, tokens, chunk, start)
        *found, grad_ridge, grad_state = block.backward(
            solution, factors, cut(grad_y[:, tokens], chunk), grad_state, report
        )
        for gradient, out in zip(found, grads):
            join(gradient, out[:, tokens])
        grads.ridge.add_(grad_ridge.unflatten(0, r.gram.shape[:2]).sum(0))
    record(**report.facts())
    gram, memory = grad_state.unflatten(0, r.gram.shape[:2]).split(
        [r.gram.shape[-1], r.memory.shape[-1]], dim=-1
    )
    return grads._replace(gram=gram, memory=memory)


def _blocks(r: Regression, chunk: int) -> Iterator[slice]:
    """The tokens of each block: whole chunks, at least one."""
    batch, time, heads, features = r.query.shape
    size = chunk * max(1, BLOCK // max(batch * heads * chunk * features, 1))
    return (slice(start, start + size) for start in range(0, time, size))


def _block(r: Regression, tokens: slice, chunk: int, start: Tensor) -> Block:
    ridge = r.ridge.expand(r.query.shape[0], -1, -1).flatten(0, 1)
    return Block(
        *(cut(x[:, tokens], chunk) for x in (r.key, r.value, r.log_decay, r.log_importance)), ridge, start
    )


def differentiated_again(
    r: Regression, differentiable: Differentiable, grads: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again. They are taken with respect to views, each a separate
    tensor: where one input was computed from another, the path between them belongs to the outer graph."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = Regression(
            *(x if x is None else x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in r)
        )
        outputs = differentiable(inputs)
    given = [x for x in inputs if x is not None]
    found = iter(
        torch.autograd.grad(
            outputs, given, grads, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )
    return tuple(None if x is None else next(found) for x in inputs)
