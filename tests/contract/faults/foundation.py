"""Faults in the first weights, functions, solvers and engines, in the definition, in calls and in states."""

from .fault import Fault

PLAIN = ("recurrent", "weights=Geometric(),", "Linear()", "OneStep")
MINIMUM = ("test_the_memory_minimises_the_objective_the_solver_states",)

FAULTS = (
    Fault("dispatch.py", "@torch.no_grad()", "@torch.enable_grad()", ("test_a_call_saves",)),
    # weights
    Fault(
        "weights/geometric.py",
        'return controls["log_decay"]',
        'return controls["log_decay"] * 1.01',
        ("chunkwise-additive", "Geometric()"),
    ),
    Fault(
        "weights/geometric.py",
        'return controls["log_decay"]',
        'return controls["log_decay"].clamp(min=-5.0)',
        ("chunkwise-additive", "Geometric()"),
    ),
    Fault("weights/multi_scale.py", "self.first + step * h)", "self.first + step * h + 1)"),
    Fault("weights/alibi.py", "(h + 0.5)", "(h + 1)"),
    Fault("weights/alibi.py", "return -of_heads", "return of_heads"),
    Fault("weights/window.py", "return self.size\n", "return self.size + 1\n"),
    Fault(
        "weights/importance.py", 'return controls["log_importance"]', 'return 2 * controls["log_importance"]'
    ),
    Fault("weights/product.py", "return min(", "return max("),
    Fault(
        "weights/product.py",
        "return sum(logs[1:], logs[0]) if logs else None\n\n    def rates",
        "return logs[0] if logs else None\n\n    def rates",
    ),
    # functions
    Fault(
        "functions/linear.py",
        "scale_or_default(self.scale, q.shape[-1]) * self.features(q,",
        "self.features(q,",
    ),
    Fault(
        "functions/linear.py",
        "scale_or_default(self.scale, q.shape[-1]) * self.features(q,",
        "self.features(scale_or_default(self.scale, q.shape[-1]) * q,",
    ),
    Fault("functions/features/elu_plus_one.py", "return elu(x) + 1", "return elu(x) + 1.01"),
    Fault("functions/features/taylor.py", "(2 * size) ** 0.5", "size ** 0.5"),
    Fault(
        "functions/_kernel.py",
        "k * _inverse_norm(k) if self.unit_norm",
        "k * _inverse_norm(k) if not self.unit_norm",
    ),
    Fault(
        "functions/_kernel.py",
        'params["scale"][..., None] if self.learned_scale',
        "scale_or_default(self.scale, q.shape[-1]) if self.learned_scale",
    ),
    Fault("functions/features/identity.py", "return x\n", "return x / x.norm(dim=-1, keepdim=True)\n"),
    Fault(
        "functions/local_constant.py", "local_degree: ClassVar[int] = 0", "local_degree: ClassVar[int] = 1"
    ),
    Fault("functions/local_linear.py", "local_degree: ClassVar[int] = 1", "local_degree: ClassVar[int] = 0"),
    # solvers
    Fault(
        "solvers/delta_rule.py",
        "0.5 * (value - predict(memory, key)).square().sum()",
        "(value - predict(memory, key)).square().sum()",
    ),
    Fault("solvers/delta_rule.py", "predict(anchor, read_key) - value", "predict(anchor, key) - value"),
    Fault(
        "solvers/implicit_delta_rule.py",
        "step / (1 + step * form.key.square().sum(-1))",
        "step / (1 + step)",
    ),
    Fault("solvers/implicit_delta_rule.py", "0.5 * (step * error).sum()", "(step * error).sum()"),
    Fault(
        "solvers/exact_ridge.py",
        'exact: ClassVar[Literal["global"]] = "global"',
        "additive: ClassVar[bool] = True",
    ),
    Fault(
        "solvers/one_step.py", "return 0.5 * memory.square().sum()", "return memory.square().sum()", MINIMUM
    ),
    Fault(
        "solvers/exact_ridge.py",
        "0.5 * (ridge[..., None] * memory.square()).sum()",
        "(ridge[..., None] * memory.square()).sum()",
        MINIMUM,
    ),
    Fault("solvers/exact_local_fit.py", "memory[..., 1:, :]", "memory", MINIMUM),
    # the definition
    Fault(
        "memorize.py",
        "penalty = torch.cat([empty.to(ridge), ridge",
        "penalty = torch.cat([empty.to(ridge), 2 * ridge",
    ),
    Fault(
        "memorize.py", "anchor = dict(memory) if solver.gradient_at", "anchor = decayed if solver.gradient_at"
    ),
    Fault(
        "memorize.py", "gram + torch.diag_embed(ridge)", "gram + torch.diag_embed(ridge.mean() + 0 * ridge)"
    ),
    Fault("oracle.py", "x.log_decay[:, pair + 1 : t + 1]", "x.log_decay[:, max(pair, 0) : t + 1]"),
    Fault("memorize.py", "return weights / torch.where(total == 0, 1.0, total)", "return weights"),
    Fault(
        "retrieve.py",
        "predict(ones[..., None], query))",
        "predict(ones[..., None].detach(), query))",
        ("recurrent", "weights=Uniform(),", "EluPlusOne"),
    ),
    Fault("oracle.py", "+ t - window", "+ t - window + 1"),
    Fault("oracle.py", "for j in range(pairs):", "for j in reversed(range(pairs)):"),
    Fault(
        "oracle.py",
        "None if x.log_decay is None or j else",
        "None if x.log_decay is None else",
        ("pairs_per_token=2", "Geometric"),
    ),
    # calls and state
    Fault(
        "inputs.py",
        "x.repeat_interleave(heads // x.shape[-2], dim=-2)",
        "torch.cat([x] * (heads // x.shape[-2]), dim=-2)",
        PLAIN,
    ),
    Fault("prepare.py", "if missing or unknown:", "if missing:", PLAIN),
    Fault(
        "prepare.py",
        "values.check_finite(repr(name), x)",
        "pass",
        ("recurrent", "FactoredGeometric()", "EluPlusOne"),
    ),
    Fault("prepare.py", "values.check_state(state.tensors, state.position)", "pass", PLAIN),
    Fault(
        "inputs.py",
        "self.q.new_zeros(*self.q.shape[:2], self.heads)",
        "torch.zeros_like(self.q[:, :, :1, 0]).expand(-1, -1, self.heads)",
        ("recurrent", "weights=Uniform()", "LocalConstant()"),
    ),
    Fault("values.py", "all(0 <= tokens", "all(-9 <= tokens", PLAIN),
    Fault(
        "values.py",
        '"_ttr_sound", None) == _stamp(x)',
        '"_ttr_sound", None)',
        ("test_a_state_that_was_sound",),
    ),
    Fault("values.py", "if x.is_nested or x.layout is not torch.strided", "if False", ("test_odd_tensors",)),
    Fault(
        "engines/specialised_step.py",
        "and sound(memory) and",
        "and",
        ("chunkwise-delta", "weights=Geometric(),", "DeltaRule()"),
    ),
    Fault("engines/specialised_sequence.py", "seen + length", "seen + 1", ("test_a_short_call_is",)),
    Fault(
        "engines/specialised_sequence.py", "clamp(min=RESET)", "clamp(min=-5.0)", ("test_a_short_call_takes",)
    ),
    Fault(
        "engines/specialised_sequence.py", "any(map(Tensor.is_neg, every))", "False", ("test_other_calls_of",)
    ),
    Fault("engines/sources.py", "low.item() >= 0 and", "", ("test_what_is_wrong_is_refused",)),
    Fault("dispatch.py", "with self._adding:", "if self._adding:", ("test_what_is_bound_stays_few",)),
    Fault(
        "engines/sources.py",
        "places.append(found.get(log.data_ptr()))",
        'places.append(3 + names.index("log_decay"))',
        ("test_a_token_is_that_of_the_weights",),
    ),
    Fault(
        "slots.py",
        "return newest - (newest - slots) % window",
        "return newest - (newest + 1 - slots) % window",
        ("Window",),
    ),
    Fault(
        "slots.py",
        "slots = slots if window is None else slots % window",
        "slots = slots if window is None else (slots + 1) % window",
        ("Window",),
    ),
    Fault(
        "slots.py",
        'state["log_weight"] + log_decay[:, None]',
        'state["log_weight"] + 0 * log_decay[:, None]',
        ("Alibi", "LocalConstant"),
    ),
    Fault("slots.py", "position = state.position + time", "position = state.position + 1", ("Window",)),
    # engines
    Fault(
        "engines/linear.py",
        "if form.memory.numel() == 0:",
        "if False:",
        ("superblock", "weights=Uniform()", "OneStep"),
    ),
    Fault(
        "functions/features/taylor.py",
        "x.new_ones(*x.shape[:-1], 1)",
        "torch.ones_like(x[..., :1])",
        ("test_sizes_in_narrow_types",),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        "        system.tilt(right)\n        return torch",
        "        return torch",
        ("test_sizes_on_every_tier",),
    ),
    Fault(
        "axes.py",
        "y[..., -1:], form.unit)",
        "y[..., -1:] - 0.001, form.unit)",
        ("normalized=True",),
    ),
    Fault(
        "forms/linear_recurrence.py",
        "finite = log_decay.clamp(min=RESET)",
        "finite = log_decay.clamp(min=-10.0)",
        ("recurrent", "weights=Geometric()", "OneStep"),
    ),
    Fault(
        "forms/linear_recurrence.py",
        "torch.cat([finite[:, :, None], others], dim=2)",
        "torch.cat([others, finite[:, :, None]], dim=2)",
        ("Geometric", "pairs_per_token=2"),
    ),
    Fault(
        "forms/linear_recurrence.py", "key=flat(x.grouped(x.k))", "key=flat(x.grouped(x.k)).detach()", PLAIN
    ),
    Fault(
        "engines/torch/steps/matrix.py",
        "read if old or factor is None",
        "read if factor is None",
        ("recurrent", "'old'"),
    ),
    Fault(
        "engines/torch/steps/moments.py",
        "gram + torch.diag_embed(ridge)",
        "gram + 1.001 * torch.diag_embed(ridge)",
        ("recurrent", "ExactRidge"),
    ),
    Fault(
        "engines/torch/steps/pairs.py",
        "monomials(keys - query[..., None, :]",
        "monomials(keys",
        ("recurrent", "LocalLinear"),
    ),
    Fault(
        "engines/torch/steps/pairs.py",
        "torch.where(total == 0, 1.0, total)",
        "total",
        ("recurrent", "LocalConstant"),
    ),
    Fault(
        "engines/torch/recurrent.py",
        "min(start + size, x.length), state)",
        "min(start + size, x.length), x.state)",
        PLAIN,
    ),
    Fault(
        "engines/torch/chunks.py",
        "across = shrink(late, log_late - border)",
        "across = shrink(late, 0 * log_late)",
        ("chunkwise-additive", "'channel'", "OneStep"),
    ),
    Fault(
        "forms/sums.py",
        "before = pad(running_sum(inside[..., -1], block)[..., :-1], (1, 0))",
        "before = 0 * inside[..., -1]",
        ("test_long_decays_add_up",),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "memory = decay * memory + new",
        "memory = memory + new",
        ("chunkwise-additive", "weights=Geometric()"),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "pad(log, (0, 0, 1, -1)) if r.old else log",
        "log",
        ("chunkwise-delta", "'old'", "Geometric()"),
    ),
    Fault(
        "engines/torch/chunkwise_ridge.py",
        "last * states[-1] + new",
        "states[-1] + new",
        ("chunkwise-ridge", "Geometric()"),
    ),
    Fault(
        "engines/torch/attention.py",
        "grouped_product(scale * query, keys.mT) + bias",
        "grouped_product(scale * query, keys.mT)",
        ("attention", "Geometric"),
    ),
    Fault(
        "forms/pair_weights.py",
        "self.age[:, None] + self.window <= read",
        "self.age[:, None] + self.window < read",
        ("attention", "Window"),
    ),
    Fault(
        "engines/torch/local_polynomial.py",
        "of_query(form.query_point)",
        "of_query(form.query_point * 0.5)",
        ("local-polynomial", "Uniform"),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "system.mean - part.places",
        "system.mean",
        ("test_local_linear_few",),
    ),
    Fault(
        "engines/torch/implicit_solve.py",
        "wanted, -adjoint",
        "wanted, adjoint",
        ("chunkwise-ridge", "Uniform"),
    ),
    Fault(
        "dispatch.py",
        "state = state if x.length or not return_state else state.clone()",
        "state = state",
        ("test_a_call_never_hands_back_the_callers_state",),
    ),
    Fault(
        "packed.py",
        "pieces = x.split(lengths)",
        "pieces = [x.tokens(a, b, x.state) for a, b in zip(bounds, bounds[1:])]",
        ("test_gradients_of_packed",),
    ),
    Fault(
        "dispatch.py",
        "y, new = chosen.step(problem, x)",
        "y, new = chosen.step(problem, x)\n        y = y.detach()",
        PLAIN,
    ),
    Fault("inputs.py", "else x.repeat_interleave(", "else x.detach().repeat_interleave(", PLAIN),
    Fault("slots.py", "tensor[:, max(held - slots, 0):]", "tensor[:, :slots]", ("attention", "Uniform")),
    Fault("engines/torch/recurrent.py", "x.tokens(t, t + 1, state)", "x.tokens(t, t + 1, x.state)", PLAIN),
    Fault(
        "engines/torch/steps/pairs.py",
        "== 2 and not x.wants_grad and",
        "== 2 and",
        ("test_steps_have_the_gradients",),
    ),
    Fault("engines/torch/kernel_ridge.py", "if t.requires_grad]:", "]:", ("test_each_input_alone",)),
    Fault(
        "engines/native/recurrence.py",
        "self._scale = scale",
        "self._scale = scale, r",
        ("test_a_bound_call",),
    ),
    Fault(
        "engines/sources.py",
        "or form.undo or form.reads_first",
        "or form.undo",
        ("test_a_memory_that_reads",),
    ),
)
