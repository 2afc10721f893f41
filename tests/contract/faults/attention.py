"""Faults in attention with transported keys, in value correction, and in kernel sums through landmarks."""

from .fault import Fault

SOFTMAX = "attention", "weights=Geometric(), function=LocalConstant(), solver=ExactLocalFit"
PATH, DELTA, NYSTROM = (
    "weights=Uniform(), function=TransportedConstant()",
    ("weights=Uniform(), function=LocalConstant(), solver=FunctionalDelta"),
    "Nystrom(",
)
FAULTS = (
    # definitions
    Fault(
        "functions/transported_constant.py",
        "return scale_or_default(self.scale, q.shape[-1]) * q",
        "return q",
        ("nothing",),
    ),
    Fault(
        "functions/transported_constant.py",
        "form: ClassVar[type] = TransportedPairs",
        "form: ClassVar[type] = TransportedPairs.__mro__[1]",
        ("nothing",),
    ),
    Fault(
        "memorize.py",
        "- step[..., None, None] * transport_key",
        "- 2 * step[..., None, None] * transport_key",
        ("nothing",),
    ),
    Fault(
        "oracle.py",
        "transported = memorize.transport(keys[:, before]",
        "transported = memorize.transport(keys[:, : old + t + 1]",
        ("nothing",),
    ),
    Fault(
        "solvers/functional_delta_rule.py",
        "form: ClassVar[type] = CorrectedPairs",
        "form: ClassVar[type] = CorrectedPairs.__mro__[1]",
        ("nothing",),
    ),
    Fault("solvers/functional_delta_rule.py", 'return {"step_size": "BTH"}', "return {}", ("nothing",)),
    Fault(
        "oracle.py",
        "values[:, before], log_weight[:, :-1], params)",
        "values[:, before], 0 * log_weight[:, :-1], params)",
        ("recurrent", "Geometric(), ", "FunctionalDelta"),
    ),
    Fault(
        "functions/gaussian_nystrom.py",
        "return math.sqrt(scale_or_default(self.scale, q.shape[-1])) * q",
        "return scale_or_default(self.scale, q.shape[-1]) * q",
        ("nothing",),
    ),
    Fault("functions/gaussian_nystrom.py", "(7 * identity - x)", "(7 * identity - 2 * x)", ("nothing",)),
    Fault("functions/gaussian_nystrom.py", "self.landmarks // 2", "self.landmarks // 2 + 1", ("nothing",)),
    Fault("functions/gaussian_nystrom.py", "x[:, :, a:b].mean(2)", "x[:, :, a]", ("nothing",)),
    # engines
    Fault(
        "forms/weighted_pairs.py",
        'state["keys"], state["values"]',
        'state["keys"], 0 * state["values"]',
        SOFTMAX,
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "wide[0][..., features] = 1 / call.scale",
        "wide[0][..., features] = 1.0",
        SOFTMAX,
    ),
    Fault("engines/torch/fused_attention.py", "None if x is None else library.rows(x)", "x", SOFTMAX),
    Fault(
        "engines/torch/fused_attention.py",
        "*(_rows(_by_group(x, heads)) for x in (grad_y, query))",
        "*(_by_group(x, heads) for x in (grad_y, query))",
        ("attention", "weights=Uniform(), function=LocalConstant(), solver=ExactLocalFit"),
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "log_sum if piece.decay is None else log_sum + piece.decay",
        "log_sum",
        SOFTMAX,
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "norm if piece.decay is None else norm - piece.decay",
        "norm",
        SOFTMAX,
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "(log_first - log_second).sigmoid()",
        "(log_second - log_first).sigmoid()",
        SOFTMAX,
    ),
    Fault(
        "engines/torch/fused_attention.py",
        "x.unflatten(1, (heads, -1)).sum(2)",
        "x.unflatten(1, (heads, -1))[:, :, 0]",
        ("test_first_and_second_derivatives",),
    ),
    Fault("engines/torch/fused_attention.py", "-of_tokens.to(total)", "of_tokens.to(total)", SOFTMAX),
    Fault(
        "engines/torch/fused_attention.py",
        "norm.masked_fill(empty, torch.inf)",
        "norm",
        ("test_pairs_without_weight",),
    ),
    Fault("engines/torch/fused_attention.py", "call.pairs(*views[3:])", "call.pairs(*inputs[3:])", SOFTMAX),
    Fault("engines/torch/fused_attention.py", "or in_batches(grad_y)", "", ("test_gradients_in_batches",)),
    Fault(
        "engines/torch/fused_attention.py",
        "slice(own.rows.stop, time), own.pairs, own.rows.stop",
        "slice(own.rows.stop, time), own.pairs, own.rows.start",
        SOFTMAX,
    ),
    Fault("forms/pair_weights.py", ".add_(rest[..., None]).sub_(rest[..., None, :])", "", ("test_digits",)),
    Fault(
        "forms/pair_weights.py",
        "resets[..., None] != resets[..., None, :]",
        "resets[..., None] < resets[..., None, :]",
        SOFTMAX,
    ),
    Fault(
        "forms/pair_weights.py",
        "self.decay.to_end(start).to(past)",
        "0 * self.decay.to_end(start).to(past)",
        SOFTMAX,
    ),
    Fault(
        "forms/pair_weights.py",
        "resets[..., 1:] != resets[..., :1], -torch.inf",
        "resets[..., 1:] < resets[..., :1], -torch.inf",
        SOFTMAX,
    ),
    Fault(
        "forms/pair_weights.py",
        "self.past[..., :count], age=self.age[:, :count]",
        "self.past[..., count:], age=self.age[:, count:]",
        ("test_slots",),
    ),
    Fault(
        "engines/torch/steps/pair_updates.py",
        "keys - along * w",
        "keys + along * w",
        ("recurrent", PATH),
    ),
    Fault(
        "engines/torch/steps/pair_updates.py",
        "<= state.position[:, None] - window",
        "< state.position[:, None] - window",
        ("recurrent", "weights=Window", "FunctionalDelta"),
    ),
    Fault(
        "engines/torch/steps/pair_updates.py",
        "logits = logits + x.log_decay",
        "logits = logits",
        ("recurrent", "weights=Geometric()", "FunctionalDelta"),
    ),
    Fault(
        "engines/torch/transported_attention.py",
        "met = (query @ w.mT).tril()",
        "met = (query @ w.mT).tril(-1)",
        ("transported", PATH),
    ),
    Fault(
        "engines/torch/transported_attention.py",
        "(scaled @ key.mT).tril(-1)",
        "(scaled @ key.mT).tril()",
        ("transported", PATH),
    ),
    Fault(
        "engines/torch/transported_attention.py",
        "later.append(later[-1] @ whole)",
        "later.append(whole @ later[-1])",
        ("transported", PATH),
    ),
    Fault(
        "engines/torch/transported_attention.py",
        "(number + 1) * length <= first",
        "number * length <= first",
        ("transported", "weights=Window"),
    ),
    Fault("engines/torch/corrected_attention.py", "fresh - past @ known", "fresh", ("corrected", DELTA)),
    Fault(
        "engines/torch/corrected_attention.py",
        "logits.masked_fill(own, -torch.inf), True",
        "logits.masked_fill(own, -torch.inf), False",
        ("corrected", DELTA),
    ),
    Fault(
        "engines/torch/corrected_attention.py",
        "transpose(1, 2), corrected)",
        "transpose(1, 2), x.v)",
        ("corrected", DELTA),
    ),
    Fault(
        "engines/torch/nystrom.py", "residual + 0.25 * residual @ residual", "residual", ("nystrom", NYSTROM)
    ),
    Fault(
        "engines/torch/nystrom.py",
        "place < segment[1:, None]",
        "place <= segment[1:, None]",
        ("nystrom", NYSTROM),
    ),
    Fault("engines/torch/nystrom.py", "return z / scale", "return z", ("nystrom", NYSTROM)),
)
