"""Kernel ridge regression of all prefixes at once: their systems are the leading blocks of one matrix.

With G the roots of the weights, A = G kappa(K, K) G + ridge, r_t = G kappa(K, q_t), w = G V and a subscript t
for the leading t rows and columns,

    y_t = r_t^T A_t^-1 w_t.

Without decay and window A_t is the leading block of the last token's matrix, and so is its Cholesky factor
U_t, A = U^T U: y_t is the product of the first t rows of X = U^-T r and of W = U^-T w. Both are eliminated
together with A, a block of rows at a time, and only where t reaches the row: 2 T^3 / 3 operations in all,
where T systems of their own would take T^4 / 12.

The derivative needs no derivative of the factor. For g_t that of a loss in y_t and a_t = A_t^-1 r_t, c_t =
A_t^-1 w_t g_t, both again leading parts, 0 beyond the row t,

    dr_t = c_t,   dw = sum_t a_t g_t^T,   dA = - sum_t a_t c_t^T,

and U_t a_t is column t of X, U_t c_t is W_t g_t: one back-substitution for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ttr.engines.engine import Engine
from ttr.engines.torch.direct_solve import HOPELESS, NO_DIGITS, SINGULAR, NoDigits, wide_dtype
from ttr.forms import KernelPairs
from ttr.inputs import Inputs, needs_composite
from ttr.problem import Problem
from ttr.state import State
from ttr.torch_internals import in_batches

ENTRIES = 2**20
"""Entries of kernel matrices that are eliminated together: about what a cache holds."""


class KernelRidge(Engine):
    """The formulas at the head of this file, in blocks of pairs."""

    name: ClassVar[str] = "kernel-ridge"

    def __init__(self, block: int = 128) -> None:
        self.block = block

    def small(self) -> KernelRidge:
        return KernelRidge(block=4)

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if problem.form is not KernelPairs:
            return "It solves for one coefficient per pair, and this function has parameters of its own."
        if problem.weights.retention is not None or problem.weights.window is not None:
            return (
                "It extends one factor of growing kernel matrices, and a decay or a window changes all of "
                "their older entries."
            )
        return None

    def run(self, problem: Problem, x: Inputs) -> tuple[Tensor, State]:
        form, wide = problem.lower(x), wide_dtype(x.q)
        query, keys, values = (t.transpose(1, 2).to(wide) for t in (form.query, form.key, form.value))
        # without decay and window every pair has the same weight at the last token as at its own
        root = None
        if not form.weights.plain:
            log_weight = form.weights.block(x.length - 1, x.length)[:, :, 0, :, None]
            root = (0.5 * log_weight).exp().to(wide).expand(*query.shape[:2], -1, -1)
        ridge = form.ridge[..., None].to(wide).expand(*query.shape[:2], 1, 1)
        tensors = (query, keys, values, ridge, root)
        if needs_composite():
            y = _composite(form.kernel, *tensors)
        else:
            flat = [None if t is None else t.flatten(0, 1) for t in tensors]
            y = _Prefixes.apply(form.kernel, self.block, x.wants_grad, *flat).unflatten(0, query.shape[:2])
        return form.finish(x, y.transpose(1, 2).to(x.q.dtype))


class _Regression(NamedTuple):
    """The tensors of a call: U units, T queries after P - T pairs."""

    query: Float[Tensor, "U T K"]
    keys: Float[Tensor, "U P K"]
    values: Float[Tensor, "U P V"]
    ridge: Float[Tensor, "U 1 1"]
    root: Float[Tensor, "U P 1"] | None

    @property
    def earlier(self) -> int:
        return self.keys.shape[1] - self.query.shape[1]

    def parts(self) -> list[slice]:
        """The units that are solved together."""
        units, pairs, _ = self.keys.shape
        step = max(ENTRIES // max(pairs * pairs, 1), 1)
        return [slice(start, min(start + step, units)) for start in range(0, units, step)]

    def units(self, part: slice) -> _Regression:
        """The call for some of its units."""
        return _Regression(*(t if t is None else t[part] for t in self))

    def blocks(self, block: int) -> Iterator[tuple[slice, slice]]:
        """The rows of every block, and the tokens that see its first row; none has rows on both sides of the
        first token."""
        pairs = self.keys.shape[1]
        for first, last in ((0, self.earlier), (self.earlier, pairs)):
            for start in range(first, last, block):
                yield slice(start, min(start + block, last)), slice(max(start - self.earlier, 0), None)

    def rows(
        self, kernel: Any, rows: slice, tokens: slice
    ) -> tuple[Float[Tensor, "U C N"], Float[Tensor, "U C S"]]:
        """Those rows of A - ridge, from their first column on, and of r."""
        keys = self.keys[:, rows]
        gram, right = kernel(keys, self.keys[:, rows.start :]), kernel(keys, self.query[:, tokens])
        if self.root is not None:
            root = self.root[:, rows]
            gram, right = root * gram * self.root[:, rows.start :].mT, root * right
        return gram, right

    def written(self) -> Float[Tensor, "U P V"]:
        """w."""
        return self.values if self.root is None else self.root * self.values


class _Factors(NamedTuple):
    """U, X and W, of which only entries that are read are written: of U the blocks right of the diagonal and
    the inverses of those on it."""

    factor: Float[Tensor, "U P P"]
    read: Float[Tensor, "U P T"]
    written: Float[Tensor, "U P V"]


class _Prefixes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Any, block: int, keep: bool, *tensors: Tensor | None) -> Tensor:
        call = _Regression(*tensors)
        time, (units, pairs, _), size = call.query.shape[1], call.keys.shape, call.values.shape[2]
        parts = call.parts()
        held = units if keep else parts[0].stop if parts else 0
        factors = _Factors(*(call.keys.new_empty(held, pairs, width) for width in (pairs, time, size)))
        y = call.values.new_empty(units, time, size)
        for part in parts:  # without a derivative to come, all use the same memory
            own = part if keep else slice(0, part.stop - part.start)
            _eliminate(kernel, block, call.units(part), _Factors(*(t[own] for t in factors)), y[part])
        ctx.kernel, ctx.block = kernel, block
        ctx.save_for_backward(*tensors, *(factors if keep else ()))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call, factors = _Regression(*ctx.saved_tensors[:5]), ctx.saved_tensors[5:]
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or in_batches(grad):
            return None, None, None, *_differentiable(ctx.kernel, call, grad, needed)
        parts = [
            _gradients(
                ctx.kernel,
                ctx.block,
                call.units(part),
                _Factors(*(t[part] for t in factors)),
                grad[part],
                needed,
            )
            for part in call.parts()
        ]
        of_inputs = zip(*parts) if parts else [[torch.zeros_like(t)] if t is not None else [] for t in call]
        return (
            None,
            None,
            None,
            *(torch.cat(x) if wanted else None for x, wanted in zip(of_inputs, needed)),
        )


def _eliminate(kernel: Any, block: int, call: _Regression, factors: _Factors, y: Tensor) -> None:
    """Write the factors and the read-outs."""
    factor, read, written = factors
    written.copy_(call.written())
    units = y.shape[0]
    squares, least = call.ridge.new_zeros(units), call.ridge.new_full((units,), torch.inf)
    for rows, tokens in call.blocks(block):
        gram, right = call.rows(kernel, rows, tokens)
        size, before = gram.shape[1], slice(0, rows.start)
        gram.diagonal(dim1=-2, dim2=-1).add_(call.ridge[..., 0])
        squares += 2 * gram.square().sum((1, 2)) - gram[..., :size].square().sum((1, 2))
        above = factor[:, before, rows].mT
        gram.baddbmm_(above, factor[:, before, rows.start :], alpha=-1)
        right.baddbmm_(above, read[:, before, tokens], alpha=-1)
        try:
            corner = torch.linalg.cholesky(gram[..., :size])
        except torch.linalg.LinAlgError as error:
            raise NoDigits(SINGULAR) from error
        least = torch.minimum(least, corner.diagonal(dim1=-2, dim2=-1).amin(-1).square())
        inverse = _inverse(corner)
        factor[:, rows, rows] = inverse.mT
        torch.bmm(inverse, gram[..., size:], out=factor[:, rows, rows.stop :])
        torch.bmm(inverse, right, out=read[:, rows, tokens])
        written[:, rows] = inverse @ torch.baddbmm(written[:, rows], above, written[:, before], alpha=-1)
        if rows.start >= call.earlier:
            own, seen = slice(tokens.start, tokens.start + size), slice(0, rows.stop)
            read[:, rows, own].triu_()
            y[:, own] = read[:, seen, own].mT @ written[:, seen]
    if not bool((torch.finfo(y.dtype).eps * squares.sqrt() <= HOPELESS * least).all()):
        raise NoDigits(NO_DIGITS)


def _inverse(corner: Float[Tensor, "U C C"]) -> Float[Tensor, "U C C"]:
    identity = torch.eye(corner.shape[-1], dtype=corner.dtype, device=corner.device)
    return torch.linalg.solve_triangular(corner, identity.expand_as(corner), upper=False)


def _gradients(
    kernel: Any,
    block: int,
    call: _Regression,
    factors: _Factors,
    grad: Float[Tensor, "U T V"],
    needed: tuple[bool, ...],
) -> list[Tensor | None]:
    """By the formulas at the head of this file."""
    factor, read, written = factors
    inner, outer = read.clone(), written @ grad.mT  # become the a_t and the c_t
    grad_written = torch.empty_like(written)
    blocks = list(call.blocks(block))
    for rows, tokens in reversed(blocks):
        size, before = rows.stop - rows.start, slice(0, rows.start)
        if rows.start >= call.earlier:
            outer[:, rows, tokens.start : tokens.start + size].triu_()
        for side in (inner, outer):
            side[:, rows, tokens] = factor[:, rows, rows] @ side[:, rows, tokens]
            side[:, before, tokens].baddbmm_(factor[:, before, rows], side[:, rows, tokens], alpha=-1)
        grad_written[:, rows] = inner[:, rows, tokens] @ grad[:, tokens]
    grad_gram = torch.zeros_like(factor)
    for rows, tokens in blocks:
        if rows.start >= call.earlier:
            own, seen = slice(tokens.start, tokens.start + rows.stop - rows.start), slice(0, rows.stop)
            grad_gram[:, seen, seen].baddbmm_(inner[:, seen, own], outer[:, seen, own].mT, alpha=-1)

    leaves = _Regression(
        *(t if t is None else t.detach().requires_grad_(wanted) for t, wanted in zip(call, needed))
    )
    sums = [torch.zeros_like(t) if wanted else None for t, wanted in zip(call, needed)]
    wanted = [t for t, is_wanted in zip(leaves, needed) if is_wanted]

    def add(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
        found = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True, materialize_grads=True)
        for total, part in zip((t for t in sums if t is not None), found):
            total += part

    for rows, tokens in blocks:
        with torch.enable_grad():
            outputs = leaves.rows(kernel, rows, tokens)
        grad_rows = grad_gram[:, rows, rows.start :]
        grad_rows[..., rows.stop - rows.start :] += grad_gram[:, rows.stop :, rows].mT
        pairs = zip(outputs, (grad_rows, outer[:, rows, tokens]))
        if of_inputs := [(t, gradient) for t, gradient in pairs if t.requires_grad]:
            add(*zip(*of_inputs))
    with torch.enable_grad():
        weighted = leaves.written()
    if weighted.requires_grad:
        add((weighted,), (grad_written,))
    if needed[3]:  # the ridge is the diagonal's
        sums[3] += grad_gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return sums


def _differentiable(
    kernel: Any, call: _Regression, grad: Tensor, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, through torch's own operations, with respect to views:
    where one input was computed from another, the path between them belongs to the outer graph."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        call = _Regression(*(t.view_as(t) if wanted else t for t, wanted in zip(call, needed)))
        y = _composite(kernel, *call)
    wanted = [t for t, is_wanted in zip(call, needed) if is_wanted]
    found = iter(
        torch.autograd.grad(
            y, wanted, grad, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )
    return [next(found) if is_wanted else None for is_wanted in needed]


def _composite(
    kernel: Any, query: Tensor, keys: Tensor, values: Tensor, ridge: Tensor, root: Tensor | None
) -> Tensor:
    """The read-outs by torch's own operations, of whole matrices."""
    pairs, earlier = keys.shape[-2], keys.shape[-2] - query.shape[-2]
    root = 1.0 if root is None else root
    gram = root * kernel(keys, keys) * (root if isinstance(root, float) else root.mT)
    try:
        factor = torch.linalg.cholesky(gram + ridge * torch.eye(pairs, dtype=keys.dtype, device=keys.device))
    except torch.linalg.LinAlgError as error:
        raise NoDigits(SINGULAR) from error
    read = torch.linalg.solve_triangular(factor, root * kernel(keys, query), upper=False)
    place = torch.arange(pairs, device=keys.device)
    read = read.masked_fill(place[:, None] > place[earlier:], 0.0)
    return read.mT @ torch.linalg.solve_triangular(factor, root * values, upper=False)
