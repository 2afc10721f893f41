"""Faults in weights that are recurrences of their own, and in the forms they are lowered to."""

from .fault import Fault

BONUS, TRAPEZOID = ("Bonus()", "Linear()"), ("Trapezoid()", "Linear()")
GATE, LEVELS = ("ExponentialGate()", "EluPlusOne"), ("FenwickLevels", "Linear()")

FAULTS = (
    # definitions
    Fault("weights/bonus.py", "joined(before) + outer(before", "joined(after) + outer(before", BONUS),
    Fault("weights/bonus.py", 'params["weights.bonus"] * pair.key', "pair.key", BONUS),
    Fault(
        "weights/bonus.py", "pair.log_decay.exp()[..., None] * joined(memory) +", "joined(memory) +", BONUS
    ),
    Fault(
        "weights/trapezoid.py",
        "(1 - newer) * step * decay * previous",
        "(1 - newer) * step * previous",
        TRAPEZOID,
    ),
    Fault(
        "weights/trapezoid.py",
        "newer * step * outer(memory, pair.key",
        "step * outer(memory, pair.key",
        TRAPEZOID,
    ),
    Fault(
        "weights/trapezoid.py",
        '{"previous_key": pair.key,',
        '{"previous_key": memory["previous_key"],',
        TRAPEZOID,
    ),
    Fault(
        "weights/exponential_gate.py",
        "past = pair.log_decay + memory",
        "past = 0 * pair.log_decay + memory",
        GATE,
    ),
    Fault(
        "weights/exponential_gate.py",
        'torch.exp(-after["log_scale"])',
        'torch.exp(0 * after["log_scale"])',
        ("ExponentialGate()", "floor=0.5"),
    ),
    Fault(
        "weights/exponential_gate.py",
        "relu(torch.maximum(past, pair.log_importance))",
        "torch.maximum(past, pair.log_importance)",
        GATE,
    ),
    Fault("weights/fenwick_levels.py", "top = (t & -t).bit_length()", "top = t.bit_length()", LEVELS),
    Fault("weights/fenwick_levels.py", "levels[:, : top + 1].sum(1", "levels[:, : top].sum(1", LEVELS),
    Fault(
        "weights/_recurrence.py",
        "pad(value, (0, 1), value=1.0)",
        "pad(value, (0, 1), value=2.0)",
        ("Trapezoid()", "EluPlusOne"),
    ),
    Fault("weights/_recurrence.py", "y[..., -1:], unit)", "y[..., -1:])", ("ExponentialGate()", "floor=0.5")),
    Fault("weights/_recurrence.py", "if not solver.additive:", "if False:", BONUS),
    Fault("functions/linear.py", "self.eps * unit", "self.eps", ("nothing",)),
    Fault("functions/linear.py", "min=self.floor * unit", "min=self.floor", ("nothing",)),
    # engines
    Fault("weights/trapezoid.py", "torch.stack([1 - x.controls", "torch.stack([x.controls", TRAPEZOID),
    Fault(
        "weights/trapezoid.py",
        "torch.stack([torch.zeros_like(form.log_decay), form.log_decay]",
        "torch.stack([form.log_decay, 0 * form.log_decay]",
        TRAPEZOID,
    ),
    Fault(
        "weights/trapezoid.py",
        "previous.shape[-1]), value=1.0)",
        "previous.shape[-1]), value=0.0)",
        ("Trapezoid()", "EluPlusOne"),
    ),
    Fault(
        "weights/exponential_gate.py",
        "top = torch.maximum(total + earlier, top)",
        "top = torch.maximum(earlier, top)",
        ("chunkwise-additive", *GATE),
    ),
    Fault("weights/exponential_gate.py", "decay + scale[:, :-1] - scale[:, 1:]", "decay", GATE),
    Fault(
        "weights/exponential_gate.py",
        "(-scale[:, 1:]).exp().to(x.q.dtype)",
        "(-scale[:, :-1]).exp().to(x.q.dtype)",
        ("ExponentialGate()", "floor=0.5"),
    ),
    Fault(
        "weights/bonus.py",
        "form.scaled_query * bonus * form.key",
        "form.query * bonus * form.key",
        ("recurrent", *BONUS),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "pad(log, (0, 0, 1, -1)), visible - 1",
        "log, visible - 1",
        ("chunkwise-additive", *BONUS),
    ),
    Fault(
        "weights/bonus.py",
        "form.scaled_query * bonus * form.key",
        "form.scaled_query * form.key",
        ("chunkwise-additive", *BONUS),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "log[..., r.pairs - 1 :: r.pairs, :], log",
        "log[..., :: r.pairs, :], log",
        ("chunkwise-additive", *TRAPEZOID),
    ),
    Fault(
        "forms/fenwick.py",
        "torch.maximum(torch.arange(levels, device=since.device), since[..., None])",
        "torch.arange(levels, device=since.device).expand(*since.shape, -1)",
        LEVELS,
    ),
    Fault(
        "engines/torch/chunkwise_levels.py",
        "token ^ (token - 1)",
        "token ^ (token + 1)",
        ("chunkwise-levels", *LEVELS),
    ),
    Fault(
        "engines/torch/chunkwise_levels.py",
        "memory[each] + decay * held",
        "memory[each] + held",
        ("chunkwise-levels", *LEVELS),
    ),
    Fault(
        "forms/fenwick.py", "torch.arange(levels - 1, device", "torch.arange(1, levels - 1, device", LEVELS
    ),
    Fault(
        "engines/torch/steps/fenwick.py",
        "level(token, token - 1,",
        "level(token + 1, token,",
        ("recurrent", *LEVELS),
    ),
    Fault(
        "engines/torch/steps/fenwick.py",
        "past = past * linear.log_decay",
        "past = past + 0 * linear.log_decay",
        ("recurrent", *LEVELS),
    ),
    Fault(
        "engines/torch/chunkwise_levels.py",
        "start + place[..., 0] - 1, token",
        "start + place[..., 0], token",
        ("chunkwise-levels", *LEVELS),
    ),
    Fault(
        "engines/torch/chunkwise_levels.py",
        "inside = _at(weight, level(token[..., None], token[..., None, :], levels))",
        "inside = weight[..., :1]",
        ("chunkwise-levels", *LEVELS),
    ),
    Fault(
        "engines/torch/chunkwise_levels.py",
        "torch.minimum(start[:, None] + place, (start + length - 1)[:, None])",
        "start[:, None] + place",
        ("chunkwise-levels", *LEVELS),
    ),
)
