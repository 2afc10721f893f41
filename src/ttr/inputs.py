"""One call's tensors, checked and brought to one form, for the oracle and for every engine alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from ttr import values
from ttr.axes import axis_params, with_rates
from ttr.controls import CONTROLS
from ttr.problem import Problem
from ttr.state import State, check_fields, empty_state


@dataclass(frozen=True)
class Inputs:
    """A checked call. All floating tensors have the working dtype (float32 or wider); heads are as given for
    q, k, v.

    With several pairs per token k is [B,T,n,Hk,K] and v [B,T,n,Hv,V]. ``log_decay`` and ``log_importance``
    come from the weights, broadcast to [B,T,H], [B,T,H,K] or [B,T,n,H]; -inf in ``log_decay`` is a reset.
    ``phase`` is the angle by which a complex memory turns at each token. ``controls`` holds the others, ridge
    broadcast to [H,F]. With ``owns_state`` the tensors of ``state`` may be overwritten; without
    ``wants_state`` nobody looks at the state after the call, which may then be any.

    Where the log decay is a product of ``log_retention`` [B,T,H] and ``rates`` [H,K], it is formed only when
    it is asked for: of all tokens it may be large, so restrict the call to some of them before.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_retention: Tensor | None
    log_importance: Tensor | None
    controls: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    state: State
    heads: int
    out_dtype: torch.dtype
    wants_grad: bool
    rates: Tensor | None = None
    phase: Tensor | None = None
    owns_state: bool = False
    wants_state: bool = True

    @property
    def log_decay(self) -> Tensor | None:
        """Log of the retention, [B,T,H] or [B,T,H,K]."""
        return self.log_retention if self.rates is None else with_rates(self.log_retention, self.rates)

    @property
    def own_log_weight(self) -> Tensor:
        """Log weight of every pair at its own token, [B,T,H]; 0 where all count alike."""
        return (
            self.q.new_zeros(*self.q.shape[:2], self.heads)
            if self.log_importance is None
            else self.log_importance
        )

    @property
    def length(self) -> int:
        return self.q.shape[1]

    def tokens(self, start: int, stop: int, state: State) -> Inputs:
        """The call restricted to tokens start..stop, from ``state``."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, start:stop]

        controls = {name: x if name == "ridge" else cut(x) for name, x in self.controls.items()}
        return dataclasses.replace(
            self,
            q=cut(self.q),
            k=cut(self.k),
            v=cut(self.v),
            log_retention=cut(self.log_retention),
            log_importance=cut(self.log_importance),
            phase=cut(self.phase),
            controls=controls,
            state=state,
        )

    def split(self, size: int | list[int]) -> list[Inputs]:
        """The call in blocks of ``size`` tokens, at least one, or of those sizes, all with the call's own
        state.

        Its backward pass joins the blocks' gradients at once; that of ``tokens`` in a loop would be quadratic
        in T."""
        count = max(1, -(-self.length // size)) if isinstance(size, int) else len(size)
        fields = ("q", "k", "v", "log_retention", "log_importance", "phase")
        pieces = {name: x.split(size, dim=1) for name in fields if (x := getattr(self, name)) is not None}
        controls = {
            name: (x,) * count if name == "ridge" else x.split(size, dim=1)
            for name, x in self.controls.items()
        }
        return [
            dataclasses.replace(
                self,
                controls={name: parts[i] for name, parts in controls.items()},
                **{name: parts[i] for name, parts in pieces.items()},
            )
            for i in range(count)
        ]

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same call in another working dtype."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed = {name: x.to(dtype) for name, x in fields.items() if isinstance(x, Tensor)}
        controls, params = (
            {name: x.to(dtype) for name, x in group.items()} for group in (self.controls, self.params)
        )
        return dataclasses.replace(
            self, controls=controls, params=params, state=self.state.to(dtype), owns_state=False, **changed
        )

    def after(self, state: State) -> Inputs:
        """The same call from another state."""
        return dataclasses.replace(self, state=state)

    def axis_params(self, axis: str) -> dict[str, Tensor]:
        """The params of one axis ("weights", "function", "solver"), without the prefix."""
        return axis_params(self.params, axis)

    def grouped(self, x: Float[Tensor, "*lead h d"]) -> Float[Tensor, "*lead H d"]:
        """Keys, values or queries with their heads repeated to the full number: head h of H uses h // (H /
        heads of x)."""
        return repeat_heads(x, self.heads)


def within_graph(y: Tensor, x: Inputs) -> Tensor:
    """The output of a call; one without numbers depends on nothing, but a backward pass through it gives all
    that went in zeros."""
    if not x.wants_grad or y.numel():
        return y
    return y + sum(
        0 * t.sum()
        for t in (x.q, x.k, x.v, *x.controls.values(), *x.params.values(), *x.state.tensors.values())
    )


def repeat_heads(x: Float[Tensor, "*lead h d"], heads: int) -> Float[Tensor, "*lead H d"]:
    """Repeat the second-last axis to ``heads`` entries, neighbours sharing one."""
    return x if x.shape[-2] == heads else x.repeat_interleave(heads // x.shape[-2], dim=-2)


def prepare(
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    params: Mapping[str, Tensor] | None,
    state: State | None,
    cu_seqlens: Tensor | None,
    controls: Mapping[str, Tensor | float],
    dtype: torch.dtype | None = None,
) -> Inputs:
    """Check a call and bring it to the working dtype: ``dtype``, or the promoted dtype of q, k, v, at least
    float32.

    Raises:
        ValueError: a sentence that says what to pass instead; nothing has been changed.
    """
    check_problem(problem)
    heads = _check_layout(problem, q, k, v)
    # every head of the memory turns its keys by itself,
    k = repeat_heads(k, heads) if problem.function.transported else k
    v = repeat_heads(v, heads) if problem.solver.corrects else v  # or corrects its values
    batch, time, key_size, value_size = q.shape[0], q.shape[1], q.shape[-1], v.shape[-1]
    given = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    working = dtype or (torch.float32 if given in (torch.float16, torch.bfloat16) else given)
    like = torch.empty((), dtype=working, device=q.device)

    sizes = {
        "B": batch,
        "T": time,
        "H": heads,
        "K": key_size,
        "V": value_size,
        "n": problem.solver.pairs_per_token,
        "F": problem.function.feature_size(key_size),
        "L": problem.weights.levels,
        "P": problem.function.groups,
    }
    controls = {
        name: _control(name, axes, controls, sizes, like)
        for name, axes in check_names(problem.controls(), controls, "control").items()
    }
    declared, params = problem.parameters(heads, key_size, value_size), {} if params is None else params
    params = {
        name: check_param(name, spec.shape, params, like).to(like)
        for name, spec in check_names(declared, params, "parameter").items()
    }
    rows = check_packing(cu_seqlens, batch, time)
    of_function = axis_params(params, "function")
    state = _check_state(
        problem, state, rows, (heads, k.shape[-2], v.shape[-2]), key_size, value_size, like, of_function
    )

    _check_levels(problem, state, time if cu_seqlens is None else cu_seqlens.diff(), time)

    of_weights = axis_params(params, "weights")
    rates = problem.weights.rates(of_weights)
    axis = "BTHK" if problem.weights.retention == "channel" and rates is None else "BTH"
    log_decay, log_importance = (
        problem.weights.log_retention(controls, of_weights, heads, like),
        problem.weights.log_importance(controls, of_weights),
    )
    if log_decay is not None:
        log_decay = log_decay.expand(_shape(axis, sizes))
    phase = problem.weights.phase(controls, of_weights, like)
    if phase is not None:
        phase = phase.expand(_shape("BTHK" if problem.weights.rotation == "channel" else "BTH", sizes))
    out_dtype = torch.promote_types(given, dtype) if dtype else given
    inputs = Inputs(
        q.to(working),
        k.to(working),
        v.to(working),
        log_decay,
        log_importance,
        controls,
        params,
        state,
        heads,
        out_dtype,
        _wants_grad(q, k, v, params, controls, state),
        rates,
        phase,
    )
    _check_numbers(problem, inputs, controls, cu_seqlens)
    return inputs


def _wants_grad(*groups: Tensor | Mapping[str, Tensor] | State) -> bool:
    tensors = [
        t
        for g in groups
        for t in (
            g.tensors.values() if isinstance(g, State) else g.values() if isinstance(g, Mapping) else (g,)
        )
    ]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def check_problem(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        hint = (
            f"Use ttr.catalogue[{problem!r}].problem."
            if isinstance(problem, str)
            else ("Use ttr.Problem(weights=..., function=..., solver=...).")
        )
        raise ValueError(f"The first argument must be a Problem, got {type(problem).__name__}. {hint}")


def _check_layout(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> int:
    """Check q, k, v against each other; the number of heads of the memory."""
    pairs = problem.solver.pairs_per_token
    for name, x in (("q", q), ("k", k), ("v", v)):
        axes = 4 if name == "q" or pairs == 1 else 5
        values.check_tensor(name, x)
        if x.ndim != axes:
            pair_axis = "" if axes == 4 else f"{pairs} (pairs per token), "
            layout = f"batch, time, {pair_axis}heads, channels"
            raise ValueError(f"{name} must have {axes} axes ({layout}), got shape {tuple(x.shape)}.")
        if x.shape[:2] != q.shape[:2]:
            raise ValueError(
                f"{name} has batch and time {tuple(x.shape[:2])}, but q has "
                f"{tuple(q.shape[:2])}. Give all three the same."
            )
        if axes == 5 and x.shape[2] != pairs:
            raise ValueError(
                f"{name} brings {x.shape[2]} pairs per token on axis 2, but the solver learns {pairs}."
            )
        if x.device != q.device:
            raise ValueError(f"{name} is on {x.device} and q on {q.device}. Move them to one device.")
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(
            f"q has {q.shape[-1]} channels and k has {k.shape[-1]}. Queries and keys must have the same size."
        )
    return check_heads(q.shape[-2], k.shape[-2], v.shape[-2])


def check_heads(*heads: int) -> int:
    """The largest of the numbers of heads, of queries, keys and values, each of which must divide it."""
    for number in heads:
        check_sizes(1, heads=number)
    largest = max(heads)
    if any(largest % number for number in heads):
        raise ValueError(
            "The heads of queries, keys and values must each divide the largest number, got "
            f"{', '.join(map(str, heads))}."
        )
    return largest


def check_device(device: torch.device | str | None) -> torch.device | None:
    """The device of that name.

    Raises:
        ValueError: if there is none.
    """
    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as failure:
        raise ValueError(
            f"There is no device {device!r}. Use 'cpu', 'cuda' or another that torch.device knows."
        ) from failure


def check_sizes(least: int = 0, **sizes: int) -> None:
    """Raises a ValueError unless these are whole numbers from ``least`` on."""
    for name, size in sizes.items():
        if not isinstance(size, Integral | torch.SymInt) or size < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {size!r}.")


def check_streaming(problem: Problem, streams: bool) -> None:
    """Refuse a call that ``streams`` (goes on from a state, returns one, takes a single token) if the problem
    is not causal."""
    if streams and not problem.function.causal:
        raise ValueError(
            f"In {problem.function!r} every token reads the whole sequence, so it has no state "
            "and takes no single steps. "
            "Use ttr.regress on whole sequences without state (use_cache=False in a model), or "
            "a causal function such as LocalConstant."
        )


def check_names(
    declared: Mapping[str, object], given: Mapping[str, object], what: str
) -> Mapping[str, object]:
    """The declared mapping, once the given names are exactly those.

    Raises:
        ValueError: if they are not, or nothing is given by name.
    """
    if not hasattr(given, "keys"):
        raise ValueError(
            f"The {what}s must be a mapping of names to tensors, got {type(given).__name__}. Use a dict."
        )
    unknown, missing = sorted(set(given) - set(declared), key=str), sorted(set(declared) - set(given))
    if missing or unknown:
        words = [f"The {what} {name!r} is missing." for name in missing] + [
            (f"There is no {what} {name!r} in this problem.") for name in unknown
        ]
        wants = ", ".join(
            f"{name} {list(spec) if isinstance(spec, str) else list(spec.shape)}"
            for name, spec in declared.items()
        )
        raise ValueError(f"{' '.join(words)} It takes {'exactly: ' + wants if wants else f'no {what}s'}.")
    return declared


def _shape(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in axes)


def _control(
    name: str, axes: str, given: Mapping[str, Tensor | float], sizes: Mapping[str, int], like: Tensor
) -> Tensor:
    x = given[name]
    if not isinstance(x, Tensor | int | float):
        raise ValueError(
            f"The control {name!r} must be a tensor, got {type(x).__name__}. See "
            "problem.controls() for what to pass."
        )
    x = x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=like.dtype, device=like.device)
    values.check_tensor(f"The control {name!r}", x)
    if x.device != like.device and x.ndim:
        raise ValueError(
            f"The control {name!r} is on {x.device} and q on {like.device}. Move them to one device."
        )
    allowed = [axes] if axes.startswith("BT") else CONTROLS[name].axes
    if tuple(x.shape) not in [_shape(a, sizes) for a in allowed]:
        wanted = " or ".join(
            f"[{','.join(a)}] = {list(_shape(a, sizes))}" if a else "a number" for a in allowed
        )
        raise ValueError(f"The control {name!r} must have shape {wanted}, got {list(x.shape)}.")
    x = x.to(like)
    if axes.startswith("BT"):
        return x
    return x.reshape(x.shape + (1,) * (len(axes) - x.ndim)).expand(_shape(axes, sizes))


def check_param(
    name: str, shape: tuple[int, ...], given: Mapping[str, Tensor], like: Tensor | None = None
) -> Tensor:
    """The parameter of that name, once it is a tensor of that shape that holds numbers if ``like`` does."""
    x = given[name]
    values.check_tensor(f"The parameter {name!r}", x)
    if tuple(x.shape) != tuple(shape):
        raise ValueError(
            f"The parameter {name!r} must be a tensor of shape {list(shape)}, got "
            f"{list(x.shape)}. See ttr.init_params."
        )
    if like is not None:
        check_place(f"The parameter {name!r}", x, like)
    return x


def check_place(what: str, x: Tensor, like: Tensor) -> None:
    """Raises a ValueError if x is on the meta device, which holds no numbers, and ``like`` is not."""
    if x.is_meta and not like.is_meta:
        raise ValueError(
            f"{what} is on the meta device, which holds no numbers. Load it, or use .to_empty() and fill it."
        )


def check_packing(cu_seqlens: Tensor | None, batch: int, time: int) -> int:
    """Check the boundaries of packed sequences; the number of states the call has."""
    if cu_seqlens is None:
        return batch
    if not isinstance(cu_seqlens, Tensor):
        raise ValueError(
            f"cu_seqlens must be a tensor of boundaries, got {type(cu_seqlens).__name__}. Use "
            "torch.tensor([0, ..., T])."
        )
    if cu_seqlens.is_nested or cu_seqlens.layout is not torch.strided:
        raise ValueError("cu_seqlens must be a dense tensor of boundaries. Use torch.tensor([0, ..., T]).")
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.numel() < 1:
        got = f"{cu_seqlens.dtype} {list(cu_seqlens.shape)}"
        raise ValueError(
            f"cu_seqlens must be a 1-D int32 or int64 tensor of boundaries [0, ..., T], got {got}."
        )
    if batch != 1:
        raise ValueError(f"Packed sequences come in a batch of 1, got {batch}. Concatenate them along time.")
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != time or any(b < a for a, b in zip(bounds, bounds[1:])):
        raise ValueError(f"cu_seqlens must rise from 0 to T = {time}, got {bounds}.")
    return len(bounds) - 1


def _check_state(
    problem: Problem,
    state: State | None,
    rows: int,
    heads: tuple[int, int, int],
    key_size: int,
    value_size: int,
    like: Tensor,
    params: Mapping[str, Tensor],
) -> State:
    if state is None:
        return empty_state(
            problem, rows, heads, key_size, value_size, device=like.device, dtype=like.dtype, params=params
        )
    check_fields(state)
    # shapes alone
    expected = empty_state(problem, rows, heads, key_size, value_size, device=torch.device("meta"))
    if set(state.tensors) != set(expected.tensors):
        raise ValueError(
            f"This state holds {sorted(state.tensors)}, but the problem keeps "
            f"{sorted(expected.tensors)}. "
            "Use the state of a call with the same problem."
        )
    slots = (
        state["log_weight"].shape[1:2] if problem.memory == "pairs" and problem.weights.window is None else ()
    )
    for name, tensor in expected.tensors.items():
        shape, wanted = list(state[name].shape), list(tensor.shape)
        wanted[1:2] = slots or wanted[1:2]
        check_place(f"The state's {name!r}", state[name], like)
        if shape != wanted:
            raise ValueError(
                f"The state's {name!r} has shape {shape}, but this call needs {wanted}. "
                "Batch (packed: number of sequences), heads and sizes must stay the same."
            )
    if slots and state.capacity not in (None, *slots):
        raise ValueError(
            f"This state has a capacity of {state.capacity} and {slots[0]} slots. Use "
            "initial_state(capacity=...)."
        )
    if tuple(state.position.shape) != (rows,):
        raise ValueError(
            f"The state's position has shape {list(state.position.shape)}, but this call needs [{rows}]."
        )
    if looks(like):
        values.check_state(state.tensors, state.position)
    if "gram" in state.tensors:  # only its symmetric part means anything, to the fit and to the gradient
        state = state.replace(gram=(state["gram"] + state["gram"].mT) / 2)
    return state.to(like.device, like.dtype)


def _check_levels(problem: Problem, state: State, lengths: int | Tensor, time: int) -> None:
    """L levels end at token 2^(L-1); the states' positions are looked at in eager calls on the CPU."""
    levels = problem.weights.levels
    if levels == 0 or time == 0 or state.position.numel() == 0:
        return
    visible = state.position.device.type == "cpu" and not needs_composite()
    reached = int((state.position + lengths).max()) if visible else time if isinstance(lengths, int) else 0
    if reached > 2 ** (levels - 1):
        raise ValueError(
            f"{problem.weights!r} serves {2 ** (levels - 1)} tokens, and this call reaches "
            f"{reached}. "
            "Use more levels, one for each doubling."
        )


def _check_numbers(
    problem: Problem, inputs: Inputs, controls: Mapping[str, Tensor], cu_seqlens: Tensor | None
) -> None:
    """NaN, infinities, ranges and horizons; skipped where looking at values would stall the device or break a
    graph."""
    if not looks(inputs.q):
        return
    for name, x in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v)):
        values.check_finite(name, x)
    for name, x in inputs.params.items():
        values.check_finite(repr(name), x)
    for name, x in controls.items():
        values.check_control(name, x)
    if problem.weights.horizon is not None:
        ends = inputs.state.position + (
            inputs.length if cu_seqlens is None else cu_seqlens.diff().to(inputs.state.position)
        )
        if (ends > problem.weights.horizon).any():
            raise ValueError(
                f"This call reaches token {int(ends.max())} of a memory whose horizon is "
                f"{problem.weights.horizon}. "
                "Use weights with a longer horizon, or a new state."
            )
    if (
        inputs.log_importance is not None
        and problem.function.local_degree is None
        and not problem.weights.running_maximum
    ):
        limit = 0.9 * math.log(torch.finfo(inputs.q.dtype).max)
        if (inputs.log_importance > limit).any():
            raise ValueError(
                f"log_importance exceeds {limit:.4g}, whose exponential {inputs.q.dtype} "
                "cannot hold. Subtract a constant per head."
            )


def looks(x: Tensor) -> bool:
    """Whether a call with such a tensor looks at numbers: not where that would break a graph, or stall the
    device."""
    return not needs_composite() and values.wanted(x.device)


def needs_composite() -> bool:
    """Whether torch needs to see its own operations: it compiles, or transforms the call."""
    return torch.compiler.is_compiling() or is_transformed()


def is_transformed() -> bool:
    """Whether a functorch transform (vmap, grad, jvp) or forward-mode differentiation is running."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def in_batches(gradient: Tensor) -> bool:
    """Whether this is one of several gradients that torch.autograd.grad takes through the graph together."""
    return torch._C._functorch.is_legacy_batchedtensor(gradient)
