"""The states of two segments combined into that of both: sums of pairs add up, stored pairs are joined."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ttr import values
from ttr.component import axis_params
from ttr.decay import with_rates, with_resets
from ttr.forms import CorrectedPairs, LinearRecurrence, Pairs, SecondMoments, TransportedPairs
from ttr.problem import Problem
from ttr.slots import EMPTY, beside, pair_index
from ttr.state_tensors import StateTensors


def combine(
    problem: Problem,
    first: StateTensors,
    second: StateTensors,
    params: Mapping[str, Tensor],
    controls: Mapping[str, Tensor],
) -> StateTensors:
    """See ``State.combine``."""
    _check_summaries(problem, first, second)
    return merged(problem, first, second, _log_decay_over(problem, second, params, controls))


def merged(
    problem: Problem, first: StateTensors, second: StateTensors, log_decay: Tensor | None
) -> StateTensors:
    """The state after two segments; ``log_decay`` is that of the whole second one, [B,H] or [B,H,K]."""
    position = first.position + second.position
    if issubclass(problem.form, Pairs):
        return _join(first, second, problem.weights.window, log_decay).replace(position=position)
    if log_decay is None:
        return first.replace(**{name: first[name] + second[name] for name in first}, position=position)
    decay = log_decay.exp()
    return first.replace(
        **{name: beside(decay, first[name]) * first[name] + second[name] for name in first}, position=position
    )


def no_summary(problem: Problem) -> str | None:
    """Why a segment of this memory has no summary that does not depend on what came before it, as a sentence;
    None if its state is one."""
    summed = problem.form is SecondMoments or problem.form is LinearRecurrence and problem.solver.additive
    # stored unchanged
    stored = issubclass(problem.form, Pairs) and problem.form not in (TransportedPairs, CorrectedPairs)
    if problem.recurrence is not None or problem.solver.weights_act_on == "memory" or not (summed or stored):
        return (
            "The update of this memory by a segment depends on its contents, so segments "
            "have no summary. "
            "Pass the first segment's state to regress with the second."
        )
    return None


def _check_summaries(problem: Problem, first: StateTensors, second: StateTensors) -> None:
    """Raises a ValueError unless the two states are associative summaries of segments of the same problem."""
    if not isinstance(problem, Problem):
        raise ValueError(f"combine needs the problem of the segments, got {problem!r}. Use a ttr.Problem.")
    if reason := no_summary(problem):
        raise ValueError(reason)
    if first.capacity is not None or second.capacity is not None:
        raise ValueError(
            "States with a fixed capacity cannot be joined. Use states that grow, as "
            "regress(return_state=True) returns them."
        )

    def shapes(state: StateTensors) -> dict[str, tuple[int, ...]]:
        slots = issubclass(problem.form, Pairs) and problem.weights.window is None
        return {
            name: (*tensor.shape[:1], *tensor.shape[2:]) if slots else tuple(tensor.shape)
            for name, tensor in state.tensors.items()
        }

    expected = set(EMPTY) if issubclass(problem.form, Pairs) else set(problem.state_shapes(2, 2))
    if shapes(first) != shapes(second) or set(first.tensors) != expected:
        raise ValueError(
            f"States of {shapes(first)} and {shapes(second)} cannot be combined. Use two "
            "states of this problem, with the same sizes."
        )


def _log_decay_over(
    problem: Problem, segment: StateTensors, params: Mapping[str, Tensor], controls: Mapping[str, Tensor]
) -> Tensor | None:
    """The log decay over a whole segment, [B,H] or [B,H,K]; None without a decay."""
    weights = problem.weights
    if weights.retention is None:
        return None
    if set(controls) != set(weights.controls()):
        raise ValueError(
            "combine needs the second segment's "
            f"{', '.join(weights.controls()) or 'state alone, and no controls'}, "
            f"got {', '.join(controls) or 'nothing'}. Pass the controls of the weights that "
            "regress got."
        )
    tensor = next(iter(segment.tensors.values()))
    heads = segment["log_weight"].shape[-1] if issubclass(problem.form, Pairs) else tensor.shape[1]
    seen = segment.position.unique().tolist() or [0]
    sizes = {
        "B": len(segment.position),
        "T": seen[0] if len(seen) == 1 else seen,
        "H": heads,
        "K": tensor.shape[2],
    }
    for name, axes in weights.controls().items():
        values.check_tensor(f"The control {name!r}", control := controls[name])
        if list(control.shape) != (wanted := [sizes[letter] for letter in axes]):
            raise ValueError(
                f"The second segment has seen {segment.position.tolist()} tokens and needs "
                f"{name} {wanted}, got {list(control.shape)}. "
                "Pass the controls of exactly its tokens."
            )
        if control.device != tensor.device:
            raise ValueError(
                f"The control {name!r} is on {control.device} and the state on "
                f"{tensor.device}. Move them to one device."
            )
        if values.wanted(control.device):
            values.check_control(name, control)
    if not hasattr(params, "keys") or not all(isinstance(name, str) for name in params):
        raise ValueError(
            f"The parameters must be a mapping of names to tensors, got {type(params).__name__}. Use a dict."
        )
    of_weights = axis_params(params, "weights")
    if set(of_weights) != set(declared := weights.parameters(heads, *tensor.shape[-2:])):
        raise ValueError(
            f"combine needs the parameters of the weights, {', '.join(declared) or 'none'}, "
            f"got {', '.join(of_weights) or 'none'}. "
            "Pass the params that regress got."
        )
    log_decay = weights.log_retention(
        {name: x.to(tensor) for name, x in controls.items()}, of_weights, heads, tensor
    )
    rates = weights.rates(of_weights)
    log_decay = with_resets(log_decay) if rates is None else with_rates(log_decay, rates.to(tensor))
    axes = 4 if weights.retention == "channel" else 3
    if log_decay.ndim == axes and controls:
        return log_decay.sum(1)
    rate = log_decay.reshape(log_decay.shape[2 - axes :])  # the same at every token
    time = segment.position.reshape(-1, *(1,) * rate.ndim)
    return torch.where(time > 0, time * rate, 0.0)


def _join(
    first: StateTensors, second: StateTensors, window: int | None, log_decay: Tensor | None
) -> StateTensors:
    """The pairs of both, those of the first with their weights decayed by the second."""
    old = first if log_decay is None else first.replace(log_weight=first["log_weight"] + log_decay[:, None])
    if window is None:
        both = {name: torch.cat([old[name], second[name]], dim=1) for name in old}
        slots = [pair_index(state, None) >= 0 for state in (first, second)]
        order = torch.cat(slots, dim=1).long().argsort(dim=1, stable=True)  # the empty ones first
        longest = int((first.position + second.position).max()) if order.shape[0] else 0
        order = order[:, order.shape[1] - longest :]
        return first.replace(**{name: _take(tensor, order) for name, tensor in both.items()})
    order = (torch.arange(window, device=first.position.device) - first.position[:, None]) % window
    index = pair_index(second, window).gather(1, order)
    newer = {name: _take(second[name], order) for name in old}
    return first.replace(
        **{
            name: torch.where(beside(index >= 0, tensor), newer[name], tensor)
            for name, tensor in old.tensors.items()
        }
    )


def _take(tensor: Tensor, slots: Tensor) -> Tensor:
    """The tensor [B,N,...] with its slots in the order [B,M]."""
    return tensor.gather(1, beside(slots, tensor).expand(-1, -1, *tensor.shape[2:]))
