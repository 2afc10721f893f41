"""Faults in attention whose keys are transported, whose values are corrected, and in kernel sums through landmarks."""

from .fault import Fault

PATH, DELTA, NYSTROM = "weights=Uniform(), function=TransportedConstant()", "weights=Uniform(), function=LocalConstant(), solver=FunctionalDelta", "Nystrom("
FAULTS = (
    # definitions
    Fault("functions/transported_constant.py", "return scale_or_default(self.scale, q.shape[-1]) * q", "return q", ("nothing",)),
    Fault("functions/transported_constant.py", "transported: ClassVar[bool] = True", "transported: ClassVar[bool] = False", ("nothing",)),
    Fault("memorize.py", "- step[..., None, None] * turn", "- 2 * step[..., None, None] * turn", ("nothing",)),
    Fault("oracle.py", "turned = memorize.transport(keys[:, before]", "turned = memorize.transport(keys[:, : old + t + 1]", ("nothing",)),
    Fault("solvers/functional_delta_rule.py", "corrects: ClassVar[bool] = True", "corrects: ClassVar[bool] = False", ("nothing",)),
    Fault("solvers/functional_delta_rule.py", 'return {"step_size": "BTH"}', "return {}", ("nothing",)),
    Fault("oracle.py", "values[:, before], log_weight[:, :-1], params)", "values[:, before], 0 * log_weight[:, :-1], params)", ("recurrent", "Geometric(), ", "FunctionalDelta")),
    Fault("functions/gaussian_nystrom.py", "return math.sqrt(scale_or_default(self.scale, q.shape[-1])) * q", "return scale_or_default(self.scale, q.shape[-1]) * q",
          ("nothing",)),
    Fault("functions/gaussian_nystrom.py", "(7 * identity - x)", "(7 * identity - 2 * x)", ("nothing",)),
    Fault("functions/gaussian_nystrom.py", "self.landmarks // 2", "self.landmarks // 2 + 1", ("nothing",)),
    Fault("functions/gaussian_nystrom.py", "x[:, :, a:b].mean(2)", "x[:, :, a]", ("nothing",)),
    # backends
    Fault("backends/steps/rewriting.py", "keys - along * turn", "keys + along * turn", ("recurrent", PATH)),
    Fault("backends/steps/rewriting.py", "<= state.position[:, None] - window", "< state.position[:, None] - window", ("recurrent", "weights=Window", "FunctionalDelta")),
    Fault("backends/steps/rewriting.py", "logits = logits + x.log_decay", "logits = logits", ("recurrent", "weights=Geometric()", "FunctionalDelta")),
    Fault("backends/transported_attention.py", "met = (query @ turn.mT).tril()", "met = (query @ turn.mT).tril(-1)", ("transported", PATH)),
    Fault("backends/transported_attention.py", "(scaled @ key.mT).tril(-1)", "(scaled @ key.mT).tril()", ("transported", PATH)),
    Fault("backends/transported_attention.py", "later.append(later[-1] @ whole)", "later.append(whole @ later[-1])", ("transported", PATH)),
    Fault("backends/transported_attention.py", "(number + 1) * length <= first", "number * length <= first", ("transported", "weights=Window")),
    Fault("backends/corrected_attention.py", "fresh - past @ known", "fresh", ("corrected", DELTA)),
    Fault("backends/corrected_attention.py", "logits.masked_fill(own, -torch.inf), True", "logits.masked_fill(own, -torch.inf), False", ("corrected", DELTA)),
    Fault("backends/corrected_attention.py", "dataclasses.replace(x, v=corrected)", "x", ("corrected", DELTA)),
    Fault("backends/nystrom.py", "residual + 0.25 * residual @ residual", "residual", ("nystrom", NYSTROM)),
    Fault("backends/nystrom.py", "place < segment[1:, None]", "place <= segment[1:, None]", ("nystrom", NYSTROM)),
    Fault("backends/nystrom.py", "return z / scale", "return z", ("nystrom", NYSTROM)),
)
