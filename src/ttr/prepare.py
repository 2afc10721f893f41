"""From the caller's tensors to ``Inputs``: every check of a call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral

import torch
from torch import Tensor

from ttr import values
from ttr.component import axis_params
from ttr.controls import CONTROLS
from ttr.decay import with_resets
from ttr.forms import CorrectedPairs, Pairs, TransportedPairs
from ttr.inputs import Inputs, checks_values, needs_composite, repeat_heads
from ttr.problem import Problem, Weights
from ttr.state import State, check_fields, empty_state


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
    # every head of the memory transports its keys, or corrects its values, separately
    k = repeat_heads(k, heads) if problem.form is TransportedPairs else k
    v = repeat_heads(v, heads) if problem.form is CorrectedPairs else v
    batch, time, key_size, value_size = q.shape[0], q.shape[1], q.shape[-1], v.shape[-1]
    sizes = _sizes(problem, batch, time, heads, key_size, value_size)
    given = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    working = dtype or (torch.float32 if given in (torch.float16, torch.bfloat16) else given)
    like = torch.empty((), dtype=working, device=q.device)

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

    _check_horizon(problem.weights, state, time if cu_seqlens is None else cu_seqlens.diff(), time)

    inputs = Inputs(
        *(x.to(working) for x in (q, k, v)),
        controls=controls,
        params=params,
        state=state,
        heads=heads,
        out_dtype=torch.promote_types(given, dtype) if dtype else given,
        wants_grad=_wants_grad((q, k, v), params.values(), controls.values(), state.tensors.values()),
        **_weights(problem.weights, controls, axis_params(params, "weights"), sizes, like),
    )
    _check_numbers(problem, inputs, controls)
    return inputs


def _weights(
    weights: Weights,
    controls: Mapping[str, Tensor],
    params: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    like: Tensor,
) -> dict[str, Tensor | None]:
    """The decays and importances of a call, as fields of ``Inputs``."""
    axes = _shape("BTHK" if weights.retention == "channel" else "BTH", sizes)
    rates = weights.rates(params)
    log_retention = weights.log_retention(controls, params, sizes["H"], like)
    if log_retention is not None and rates is None:
        log_retention = with_resets(log_retention.expand(axes))
    elif log_retention is not None:
        log_retention = log_retention.expand(_shape("BTH", sizes))
    phase = weights.phase(controls, params, like)
    return {
        "log_retention": log_retention,
        "log_importance": weights.log_importance(controls, params),
        "rates": rates,
        "phase": None if phase is None else phase.expand(axes),
    }


def _sizes(
    problem: Problem, batch: int, time: int, heads: int, key_size: int, value_size: int
) -> dict[str, int]:
    """The letters of shapes, in a call."""
    return {
        "B": batch,
        "T": time,
        "H": heads,
        "K": key_size,
        "V": value_size,
        "n": problem.solver.pairs_per_token,
        "F": problem.function.feature_size(key_size),
    } | problem.sizes()


def _wants_grad(*groups: Iterable[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for group in groups for x in group)


def check_problem(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        hint = "Use ttr.Problem(weights=..., function=..., solver=...)."
        if isinstance(problem, str):
            hint = f"Use ttr.catalogue[{problem!r}].problem."
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
    """The parameter of that name, checked to be a tensor of that shape, and not on the meta device unless
    ``like`` is."""
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
    if cu_seqlens.is_meta:
        raise ValueError(
            "cu_seqlens is on the meta device, which holds no numbers. Use torch.tensor([0, ..., T])."
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
    # for its shapes only
    expected = empty_state(problem, rows, heads, key_size, value_size, device=torch.device("meta"))
    if set(state.tensors) != set(expected.tensors):
        raise ValueError(
            f"This state holds {sorted(state.tensors)}, but the problem keeps "
            f"{sorted(expected.tensors)}. "
            "Use the state of a call with the same problem."
        )
    grows = issubclass(problem.form, Pairs) and problem.weights.window is None
    slots = state["log_weight"].shape[1:2] if grows else ()
    for name, tensor in expected.tensors.items():
        shape, wanted = list(state[name].shape), list(tensor.shape)
        wanted[1:2] = slots or wanted[1:2]
        check_place(f"The state's {name!r}", state[name], like)
        if shape != wanted:
            raise ValueError(
                f"The state's {name!r} has shape {shape}, but this call needs {wanted}. "
                "Batch (packed: number of sequences), heads and sizes must stay the same."
            )
    if slots and state.capacity is not None and state.capacity != slots[0]:
        raise ValueError(
            f"This state has a capacity of {state.capacity} and {slots[0]} slots. Use "
            "initial_state(capacity=...)."
        )
    if tuple(state.position.shape) != (rows,):
        raise ValueError(
            f"The state's position has shape {list(state.position.shape)}, but this call needs [{rows}]."
        )
    if checks_values(like):
        values.check_state(state.tensors, state.position)
    if "gram" in state.tensors:  # only its symmetric part means anything, to the fit and to the gradient
        state = state.replace(gram=(state["gram"] + state["gram"].mT) / 2)
    return state.to(like.device, like.dtype)


def _check_horizon(weights: Weights, state: State, lengths: int | Tensor, time: int) -> None:
    """Raises a ValueError if a call goes beyond the horizon of the weights; the states' positions are read in
    eager calls on the CPU only."""
    if weights.horizon is None or time == 0 or state.position.numel() == 0:
        return
    visible = state.position.device.type == "cpu" and not needs_composite()
    reached = int((state.position + lengths).max()) if visible else time if isinstance(lengths, int) else 0
    if reached > weights.horizon:
        raise ValueError(
            f"This call reaches token {reached} of a memory whose horizon is {weights.horizon}, that of "
            f"{weights!r}. Use weights with a longer horizon, or a new state."
        )


def _check_numbers(problem: Problem, inputs: Inputs, controls: Mapping[str, Tensor]) -> None:
    """NaN, infinities and ranges; skipped where reading values would stall the device or break a graph."""
    if not checks_values(inputs.q):
        return
    for name, x in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v)):
        values.check_finite(name, x)
    for name, x in inputs.params.items():
        values.check_finite(repr(name), x)
    for name, x in controls.items():
        values.check_control(name, x)
    if (
        inputs.log_importance is not None
        and problem.function.local_degree is None
        and problem.weights.importance_factor(inputs) is not None
    ):
        limit = 0.9 * math.log(torch.finfo(inputs.q.dtype).max)
        if (inputs.log_importance > limit).any():
            raise ValueError(
                f"log_importance exceeds {limit:.4g}, whose exponential {inputs.q.dtype} "
                "cannot hold. Subtract a constant per head."
            )
