"""The dual form as an engine: from a call to whole chunks, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ttr.diagnostics import collecting
from ttr.engines.native import network
from ttr.engines.torch.dual_form import derivative
from ttr.engines.torch.dual_form.chunks import Chunks, Named, Weights, under
from ttr.engines.torch.grid import Grid
from ttr.engines.torch.mini_batch import MiniBatch, coefficients
from ttr.inputs import Inputs
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import in_batches


class DualForm(MiniBatch):
    """As ``MiniBatch``, with its own derivative for whole chunks: it saves the weights once per block of
    chunks and recomputes the rest.

    Perceptrons run in compiled kernels where they were built (``csrc/network.c``), all
    others by torch's operations.

    Tokens of a chunk that is not whole within the call, rows at different places of their chunks, and a chunk
    that a change of the weights enters, are left to ``MiniBatch``."""

    name: ClassVar[str] = "dual-form"
    composite: ClassVar[bool] = False

    def __init__(self, block: int = 8) -> None:
        self.block = block
        """Chunks whose queries are read together."""

    def small(self) -> DualForm:
        return DualForm(block=2)

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        chunk, first = problem.solver.chunk, x.state.position[:1]
        place = int(first) if len(first) and bool((x.state.position % chunk == first % chunk).all()) else None
        start = x.length if place is None else min(-place % chunk, x.length)
        if start == 0 and x.length >= chunk and _changed(x.state):
            start = chunk
        stop = x.length - (x.length - start) % chunk
        if start == stop:
            return super().run(problem, x)
        outputs, state = [], x.state
        if start:
            y, state = super().run(problem, x.tokens(0, start, state))
            outputs.append(y)
        y, state = self._whole(problem, x.tokens(start, stop, state))
        outputs.append(y)
        if stop < x.length:
            y, state = super().run(problem, x.tokens(stop, x.length, state))
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def _whole(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        if collecting():  # MiniBatch reports every step; its result is not used
            with torch.no_grad():
                super().run(problem, x)
        form, function, solver = problem.lower(x), problem.function, problem.solver
        batch, heads, chunk = x.v.shape[0], x.heads, solver.chunk

        def laid(tensor: Tensor) -> Tensor:
            """[B,T,H,...] -> [M,G,C,...]"""
            return tensor.unflatten(1, (-1, chunk)).movedim((1, 3), (0, 2)).flatten(1, 2).contiguous()

        given = {"key": laid(form.key), "value": laid(form.value), "query": laid(form.query)}
        given |= _coefficients(problem, x, laid(form.step), laid)
        given |= {f"control.{name}": laid(x.controls[name]) for name in solver.loss.controls()}
        given |= {
            f"param.{name}": form.params[name][:, None].repeat(batch, *(1,) * form.params[name].ndim)
            for name in function.inner()
        }
        names, momentum = form.names, solver.momentum
        given |= {f"weight.{name}": x.state[name].flatten(0, 1) for name in names}
        given |= {f"momentum.{name}": x.state[f"momentum.{name}"].flatten(0, 1) for name in names if momentum}
        plan = Chunks(function, solver.loss, solver.mirror, form.matrices, self.block)
        y, *ends = _Whole.apply(plan, tuple(given), torch.is_grad_enabled(), *given.values())
        ends = [end.unflatten(0, (batch, heads)) for end in ends]
        tensors = dict(zip(names, ends)) | {
            f"change.{name}": torch.zeros_like(end) for name, end in zip(names, ends)
        }
        if momentum:
            tensors |= {f"momentum.{name}": end for name, end in zip(names, ends[len(names) :])}
        y = y.unflatten(1, (batch, heads)).movedim((0, 2), (1, 3)).flatten(1, 2)
        return y, x.state.replace(**tensors, position=x.state.position + x.length)


def _changed(state: State) -> bool:
    """Whether the change since the last boundary is not 0, or its gradient is asked for: calls leave a 0 at a
    boundary, but the definition adds whatever a given state has there to the weights of the next chunk."""
    changes = (x for name, x in state.tensors.items() if name.startswith("change."))
    return any(x.requires_grad or bool(x.any()) for x in changes)


def _coefficients(problem: Problem, x: Inputs, step: Tensor, laid: Callable[[Tensor], Tensor]) -> Named:
    """The coefficients of ``MiniBatch``, with steps and read steps included, [M,G,...].

    The kernels of a mirror form W_i from W_{i-1}, by the decay [M,G,C], added for them, and the step of the
    token's own pair, P_ii: the two get the whole derivative, since all coefficients are made of them."""
    grid = Grid(torch.zeros_like(x.state.position), x.length, problem.solver.chunk)
    table = coefficients(problem, x, grid)
    count = x.length // problem.solver.chunk
    read = laid(x.controls["read_step"])[..., None] if problem.solver.read_step else None

    def ours(tensor: Tensor, heads_last: bool = False) -> Tensor:
        tensor = tensor[:count]
        return (tensor.transpose(2, 3) if heads_last else tensor).flatten(1, 2)

    pairs = ours(table.pairs) * step[:, :, None]
    found = {"pairs": pairs if read is None else read * pairs}
    if x.log_decay is not None:
        kept = ours(table.kept, True)
        found["kept"] = kept if read is None else 1 + read[..., 0] * (kept - 1)
    if problem.solver.mirror is not None and not problem.solver.momentum and read is None:
        found["decay"] = laid(
            torch.ones_like(x.controls["step_size"]) if x.log_decay is None else x.log_decay.exp()
        )
    if problem.solver.momentum:
        moved = ours(table.moved, True)
        found["moved"] = moved if read is None else read[..., 0] * moved
        found |= {
            "momentum_kept": ours(table.momentum_kept),
            "momentum_pairs": ours(table.momentum_pairs) * step,
        }
    return found


class _Whole(torch.autograd.Function):
    """Whole chunks: the read-outs [M,G,C,V], then the weights and momenta after the last."""

    @staticmethod
    def forward(
        ctx: Any, plan: Chunks, names: tuple[str, ...], recorded: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        x, save = dict(zip(names, tensors)), recorded and any(ctx.needs_input_grad)
        ctx.plan, ctx.names, ctx.compiled = plan, names, network.serves(plan, x)
        y, end, entered = network.forward(plan, x, save) if ctx.compiled else derivative.run(plan, x)
        ctx.save_for_backward(*tensors, *(entered if save else ()))
        return y, *end.now.values(), *end.momentum.values()

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, *grad_end: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, entered = dict(zip(ctx.names, saved)), saved[len(ctx.names) :]
        with torch.autocast(grad_y.device.type, enabled=False):
            if torch.is_grad_enabled() or any(map(in_batches, (grad_y, *grad_end))):
                return None, None, None, *_again(ctx.plan, x, (grad_y, *grad_end))
            each = iter(grad_end)
            grad = Weights(
                *({name: next(each) for name in under(kind, x)} for kind in ("weight", "momentum"))
            )
            found = (network.backward if ctx.compiled else derivative.derivative)(
                ctx.plan, x, entered, grad_y, grad
            )
        return None, None, None, *(found[name] for name in ctx.names)


def _again(plan: Chunks, x: Named, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again: those of the same operations, recorded."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = {
            name: tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
            for name, tensor in x.items()
        }
        y, end, _ = derivative.run(plan, inputs)
    outputs = (y, *end.now.values(), *end.momentum.values())
    return torch.autograd.grad(
        outputs,
        list(inputs.values()),
        grads,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
