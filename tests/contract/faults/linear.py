"""Faults in the kernels of linear recurrences."""

from .fault import Fault

ADDITIVE = ("superblock", "weights=Geometric(),", "function=Linear(),", "OneStep")
DELTA = ("superblock", "weights=Geometric(),", "function=Linear(),", "DeltaRule()")
OLD = ("superblock", "weights=Geometric(),", "function=Linear(),", "DeltaRule(gradient_at='old'")
CHANNEL = ("superblock", "weights=Geometric(per='channel'),", "function=Linear(),", "DeltaRule(")
ERASE = ("superblock", "weights=Geometric(per='channel'),", "separate_erase")
BONUS = ("superblock", "Bonus")
TRAPEZOID = ("superblock", "Trapezoid")
NATIVE = ("native", "weights=Geometric(),", "function=Linear(),", "DeltaRule()")

FAULTS = (
    Fault(
        "engines/torch/chunkwise_additive.py",
        "chunkwise.run(r, ",
        "chunkwise.run(r._replace(step=None), ",
        ("chunkwise-additive", "Importance"),
    ),
    Fault(
        "engines/torch/chunkwise_delta.py",
        "chunkwise.run(r, ",
        "chunkwise.run(r._replace(step=None), ",
        ("chunkwise-delta", "weights=Uniform(),", "DeltaRule()"),
    ),
    Fault("solvers/delta_rule.py", 'old=self.gradient_at == "old"', "old=False", OLD),
    Fault(
        "engines/torch/linear/triangle.py",
        ".neg_()\n        _diagonal",
        "\n        _diagonal",
        ("test_inverse_of_triangles",),
    ),
    Fault("engines/torch/linear/triangle.py", "out=inverse[i, :i]).neg_()", "out=inverse[i, :i])", DELTA),
    Fault(
        "engines/torch/linear/geometry.py",
        "pair < token[:, None] + (0 if r.reads_first else 1)",
        "pair <= token[:, None] + (0 if r.reads_first else 1)",
        ADDITIVE,
    ),
    Fault(
        "engines/torch/linear/geometry.py",
        "torch.cat([pair < pair[:, None]",
        "torch.cat([pair <= pair[:, None]",
        DELTA,
    ),
    Fault(
        "engines/torch/linear/superblock.py",
        "saved_part[0][index].copy_(state)",
        "saved_part[0][index].copy_(0 * state)",
        DELTA,
    ),
    Fault(
        "engines/torch/linear/superblock.py",
        "in reversed(range(geometry.blocks))",
        "in range(geometry.blocks)",
        ("test_lengths_around",),
    ),
    Fault("engines/torch/linear/superblock.py", "offsets[i] += size", "pass", ("test_many_rows",)),
    Fault(
        "engines/native/recurrence.py",
        "(0, 0, 0, 0, pairs - 1, 0)",
        "(0, 0, 0, 0, 0, pairs - 1)",
        ("native", "-3-False"),
    ),
    Fault(
        "engines/native/recurrence.py",
        "gradients[0] = _on_tokens(gradients[0], pairs)",
        "gradients[0] = gradients[0][:, ::pairs].contiguous()",
        ("test_engine_runs",),
    ),
    Fault(
        "engines/native/step.py",
        '0 if name == "query" else pair',
        "0",
        ("native", "DeltaRule(pairs_per_token=2"),
    ),
    Fault("engines/native/recurrence.py", "gradients[1] += gradients[3]", "pass", NATIVE),
    Fault(
        "engines/linear_operator.py",
        "outputs = chunkwise.run(r._replace(read=r.key) if reads_key else r",
        "outputs = chunkwise.run(r",
        ("test_second_derivatives",),
    ),
    Fault("engines/torch/linear/block.py", "state.mul_(self.decay.chunk[chunk])", "state", DELTA),
    Fault(
        "engines/torch/linear/derivative.py",
        "self._decayed(states[i + 1].copy_(states[i]), i).baddbmm_",
        "states[i + 1].copy_(states[i]).baddbmm_",
        ADDITIVE,
    ),
    Fault(
        "engines/torch/linear/derivative.py", "grad_values[i].baddbmm_(keys[i], grad_state)", "pass", DELTA
    ),
    Fault("engines/torch/linear/derivative.py", "grad_state.baddbmm_(x[i].mT, z[i])", "pass", ADDITIVE),
    Fault(
        "engines/torch/linear/derivative.py",
        "out=self.buffers.error), out=z[i, :, :pairs])",
        "out=self.buffers.error), out=z[i, :, :pairs]).neg_()",
        DELTA,
    ),
    Fault("engines/torch/linear/derivative.py", ".add_(of_last)", "", ADDITIVE),
    Fault("engines/torch/linear/derivative.py", "log[:-1] += in_later[:, :, None]", "pass", ADDITIVE),
    Fault("engines/torch/linear/derivative.py", "of_rows.sum(2)", "self.r.reads_first * of_keys.sum(2)", OLD),
    Fault("engines/torch/linear/derivative.py", "of_states.insert(0, ", "of_states.append(", CHANNEL),
    Fault("engines/torch/linear/derivative.py", "of_queries * r.scale)", "of_queries)", ADDITIVE),
    Fault(
        "engines/torch/linear/decays.py",
        "RowPart(slice(0, g.pairs), 1, r.old)",
        "RowPart(slice(0, g.pairs), 1, False)",
        OLD,
    ),
    Fault("engines/torch/linear/decays.py", "r.pairs, r.reads_first)", "r.pairs, False)", BONUS),
    Fault(
        "engines/torch/linear/derivative.py",
        "sum(of_keys[:, :, columns] for columns in self._kinds_of_keys())",
        "of_keys[:, :, -self.g.pairs :]",
        ERASE,
    ),
    Fault(
        "engines/torch/linear/derivative.py",
        "grad_step += self._dot(correction",
        "grad_step -= self._dot(correction",
        DELTA,
    ),
    Fault("engines/torch/linear/derivative.py", "else of_pairs * steps", "else of_pairs", DELTA),
    Fault(
        "engines/torch/linear/block.py",
        "values[:, :, pairs:].flatten(0, 1)).neg_()",
        "values[:, :, pairs:].flatten(0, 1))",
        ERASE,
    ),
    Fault("engines/torch/linear/derivative.py", "+ prefix_sums(of_keys)", "- prefix_sums(of_keys)", CHANNEL),
    Fault("engines/torch/linear/decays.py", "exp(-log.to(dtype))", "exp(log.to(dtype))", ADDITIVE),
    Fault("engines/torch/linear/decays.py", "late - border, border - early", "late, -early", CHANNEL),
    Fault(
        "engines/torch/linear/decays.py",
        "level.keys(grad_log).add_(prefix_sums(of_keys))",
        "level.keys(grad_log).add_(suffix_sums(of_keys))",
        CHANNEL,
    ),
    Fault(
        "engines/torch/linear/decays.py",
        "between.clamp_(max=0.0).to(dtype).exp()",
        "(0 * between).to(dtype).exp()",
        TRAPEZOID,
    ),
    Fault("engines/native/recurrence.py", "else r.log_decay.ndim - 2", "else 0", NATIVE),
    Fault("engines/native/library.py", 'torch.float64: "double"', 'torch.float64: "float"', NATIVE),
    Fault("functions/_monomials.py", "(i + 1)", "(i + 2)", ("nothing",)),
    Fault("engines/native/step.py", "old=old, reads_first", "old=not old, reads_first", NATIVE),
    Fault("engines/sources.py", "low.item() >= 0 and high", "high", ("test_bad_numbers",)),
    Fault(
        "engines/sources.py",
        "log_decay.max().item() <= 0",
        "log_decay.min().item() <= 0",
        ("test_bad_numbers",),
    ),
    Fault(
        "engines/specialised_step.py",
        "not (in_range(given, pair.step, pair.log_decay) and sound(memory)",
        "not (sound(memory)",
        ("test_bad_numbers",),
    ),
    Fault(
        "engines/specialised_step.py",
        "repeat_heads(row, heads) for row",
        "row for row",
        ("test_batches_and",),
    ),
    Fault(
        "engines/torch/steps/matrix.py",
        "rows[::features]",
        "rows[:: features + 1]",
        ("test_a_planned_token",),
    ),
    Fault(
        "engines/torch/steps/matrix.py",
        "query if change.decay is None else query * change.decay",
        "query",
        ("recurrent", "Geometric"),
    ),
    Fault(
        "engines/torch/steps/matrix.py",
        "y - _dot(query, pair.erase)",
        "y + _dot(query, pair.erase)",
        ("recurrent", *ERASE[1:]),
    ),
    Fault("engines/native/library.py", " and not _left_out.get()", "", ("test_functorch_goes",)),
    Fault(
        "torch_internals.py",
        "torch._C._are_functorch_transforms_active() or",
        "False or",
        ("test_functorch_goes",),
    ),
    Fault(
        "engines/specialised_step.py",
        "position + 1, state.capacity",
        "position, state.capacity",
        ("test_a_planned_token",),
    ),
    Fault(
        "engines/specialised_step.py",
        "torch.autograd.graph.increment_version(tensors[-2:])",
        "pass",
        ("test_an_update_in_place",),
    ),
    Fault(
        "engines/linear_operator.py",
        "tensors, saved = kept[:TENSORS]",
        "tensors, saved = ctx.saved_tensors[:TENSORS]",
        ("test_activation_checkpointing",),
    ),
    Fault(
        "engines/linear_operator.py",
        "device.type, enabled=False)",
        "device.type)",
        ("test_a_backward_pass_inside_autocast",),
    ),
    Fault("engines/linear_operator.py", "or in_batches(grad_y)", "", ("test_batched_gradients",)),
    Fault(
        "torch_internals.py", "or torch.autograd.forward_ad._current_level >= 0", "", ("test_forward_mode",)
    ),
    Fault(
        "engines/native/library.py",
        "return tensor.resolve_neg().contiguous()",
        "return tensor.contiguous()",
        NATIVE,
    ),
    Fault(
        "engines/native/library.py",
        "return tensor.resolve_neg() if beside",
        "return tensor if beside",
        NATIVE,
    ),
    Fault(
        "engines/native/recurrence.py",
        "library.rows(tensor) if tensor.ndim == 4 else tensor.resolve_neg()",
        "tensor.resolve_neg()",
        NATIVE,
    ),
    Fault(
        "engines/specialised_step.py",
        "if any(map(Tensor.is_neg, tensors)) or not",
        "if not",
        ("native", "weights=Uniform(),", "function=Linear(),", "OneStep()"),
    ),
    Fault(
        "engines/native/convolution.py",
        "library.rows(x), library.contiguous(tail)",
        "library.rows(x), tail",
        ("test_every_layout",),
    ),
    Fault("engines/native/convolution.py", "grad = library.rows(grad)", "pass", ("test_every_layout",)),
    Fault(
        "operators/short_convolution.py",
        "tail.new_zeros(tail.shape)",
        "torch.zeros_like(tail)",
        ("test_the_operators_are_registered_well",),
    ),
    Fault(
        "operators/short_convolution.py",
        "tail.shape != (sequences, width - 1, channels) or",
        "",
        ("test_the_convolution_refuses",),
    ),
    Fault(
        "engines/sources.py",
        "if wants_grad and tensor.requires_grad:",
        "if False:",
        ("test_gradients_are_asked_for",),
    ),
    Fault(
        "engines/linear_operator.py",
        "x.view_as(x) if x.requires_grad",
        "x if x.requires_grad",
        ("test_first_derivatives",),
    ),
    Fault(
        "engines/native/convolution.py", "silu=silu, threads", "silu=not silu, threads", ("test_every_tier",)
    ),
    Fault(
        "operators/short_convolution.py",
        "tensor.view_as(tensor) for",
        "tensor for",
        ("test_the_operators_around",),
    ),
    Fault(
        "engines/linear_operator.py",
        " or in_batches(grad_memory)",
        "",
        ("test_batched_gradients_of_every_layer",),
    ),
    Fault(
        "operators/rms_norm.py",
        "grads = _backward(grad, *tensors",
        "grads = _backward(2 * grad, *tensors",
        ("test_derivatives_of",),
    ),
)
