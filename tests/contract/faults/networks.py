"""Faults in memories that are networks."""

from .fault import Fault

TITANS = ("weights=Geometric(),", "function=Mlp(hidden=2, residual=False)", "chunk=4")
TTT = ("weights=Uniform(),", "function=Mlp(depth=1", "GradientDescent(chunk=4")
WINDOW = ("recurrent", "weights=Uniform(),", "function=Linear(),", "window=3")
MONETA = ("recurrent", "weights=Uniform(),", "function=Mlp(depth=1", "mirror=PowerNorm(eps=0.5)")
LACT = ("weights=Uniform(),", "function=GatedMlp(),", "ChunkDescent(chunk=4")
NOTHING = ("nothing",)

FAULTS = (
    # functions
    Fault("functions/mlp.py", "x = affine(name, _gelu(x))", "x = affine(name, x * x.sigmoid())", NOTHING),
    Fault("functions/mlp.py", "x * x, x, value=CUBIC)", "x * x, x, value=0.4 * RATE)", NOTHING),
    Fault("functions/mlp.py", 'normed * params["gain"]', 'normed / params["gain"]', NOTHING),
    Fault(
        "functions/mlp.py", "- normed * (slope * normed).mean(-1, keepdim=True))", ")", ("recurrent", *TTT)
    ),
    Fault(
        "functions/mlp.py", "gate - gate * gate, rate)", "gate - gate * gate, -rate)", ("recurrent", *TITANS)
    ),
    Fault(
        "functions/gated_mlp.py",
        'silu(affine("w0", key)) * affine("w2", key)',
        'silu(affine("w2", key)) * affine("w0", key)',
        NOTHING,
    ),
    Fault(
        "functions/gated_mlp.py",
        '"w2": hidden * outputs["w0"] * gate',
        '"w2": hidden * gate',
        ("recurrent", *LACT),
    ),
    # losses and maps
    Fault(
        "solvers/losses/squared_error.py",
        "0.5 * (prediction",
        "(prediction",
        ("recurrent", "weights=Uniform(),", "function=Linear(),", "chunk=3"),
    ),
    Fault(
        "solvers/losses/squared_error.py", "return prediction - value", "return value - prediction", NOTHING
    ),
    Fault(
        "solvers/losses/inner_product.py",
        "return -(prediction * value).sum(-1)",
        "return (prediction * value).sum(-1)",
        NOTHING,
    ),
    Fault("solvers/losses/inner_product.py", "return -value", "return prediction - value", NOTHING),
    Fault("solvers/losses/power_error.py", ".sum(-1) / self.power", ".sum(-1)", NOTHING),
    Fault(
        "solvers/losses/power_error.py",
        "pow(self.power - 2)",
        "pow(self.power - 1)",
        ("dual-form", "PowerError", "GatedMlp"),
    ),
    Fault(
        "solvers/losses/huber.py",
        "threshold * (length - 0.5 * threshold)",
        "threshold * threshold * (length - 0.5 * threshold)",
        NOTHING,
    ),
    Fault(
        "solvers/losses/huber.py",
        "excess.clamp(min=1.0).rsqrt()",
        "excess.clamp(min=1.0).reciprocal()",
        NOTHING,
    ),
    Fault("solvers/maps/newton_schulz.py", "x = a * x + (b * gram", "x = a * x + (a * gram", NOTHING),
    Fault(
        "solvers/maps/newton_schulz.py",
        "dim=(-2, -1), keepdim=True) + self.eps",
        "dim=(-2, -1), keepdim=True)",
        NOTHING,
    ),
    Fault(
        "solvers/maps/power_norm.py",
        "(2 - self.power) / self.power",
        "(1 - self.power) / self.power",
        NOTHING,
    ),
    Fault("solvers/maps/power_norm.py", "sum((-2, -1), keepdim=True)", "sum(-2, keepdim=True)", NOTHING),
    Fault("solvers/maps/simplex.py", "matrix.softmax(-2)", "matrix.softmax(-1)", NOTHING),
    Fault("solvers/maps/simplex.py", "self.total * matrix", "matrix", NOTHING),
    # the definitions
    Fault(
        "solvers/gradient_descent.py",
        "ends = (pair.position + 1) % self.chunk == 0",
        "ends = pair.position % self.chunk == 0",
        NOTHING,
    ),
    Fault(
        "solvers/gradient_descent.py",
        "start + expand(scale, start) * change, start)",
        "start + change, start)",
        NOTHING,
    ),
    Fault("solvers/gradient_descent.py", "{name: x[:, :, 1:] for", "{name: x[:, :, :-1] for", NOTHING),
    Fault(
        "solvers/chunk_descent.py",
        "expand(momentum_sum / self.chunk, weight)",
        "expand(momentum_sum, weight)",
        NOTHING,
    ),
    Fault(
        "solvers/chunk_descent.py",
        "weights = {name: before[name] for",
        "weights = {name: after[name] for",
        NOTHING,
    ),
    Fault("solvers/_training.py", "step * loss(", "loss(", NOTHING),
    # engines
    Fault(
        "engines/torch/networks.py",
        "scaled.sum(1)",
        "scaled.mean(1)",
        ("recurrent", "weights=Uniform(),", "function=Mlp(depth=1", "window=3"),
    ),
    Fault(
        "engines/torch/networks.py", "scaled = -steps[name][..., None] * slopes", "scaled = -slopes", WINDOW
    ),
    Fault("forms/network.py", 'if not name.endswith("_bias")', "if name", ("recurrent", *TTT)),
    Fault(
        "engines/torch/steps/network.py",
        "(x.state.position + 1) % solver.chunk",
        "x.state.position % solver.chunk",
        ("recurrent", *TTT),
    ),
    Fault(
        "engines/torch/steps/network.py",
        "torch.expm1(log_decay) * start",
        "0 * start",
        ("recurrent", *TITANS),
    ),
    Fault(
        "engines/torch/steps/network.py",
        "{name: new[:, 1:].transpose(1, 2)",
        "{name: new[:, :-1].transpose(1, 2)",
        WINDOW,
    ),
    Fault(
        "engines/torch/steps/network.py",
        "y = predict(problem.function, mapped(solver.mirror, now, names)",
        "y = predict(problem.function, now",
        MONETA,
    ),
    Fault(
        "engines/torch/steps/chunked_network.py",
        "_lengths(start[name])",
        "_lengths(weight)",
        ("recurrent", *LACT),
    ),
    Fault(
        "engines/torch/steps/chunked_network.py",
        'state["momentum_sum"] / solver.chunk',
        'state["momentum_sum"]',
        ("recurrent", *LACT),
    ),
    Fault("engines/torch/mini_batch.py", "scores = scores + 1", "scores = scores", ("mini-batch", *TTT)),
    Fault(
        "engines/torch/mini_batch.py",
        "unit[1].expand_as(weights)",
        "unit[0].expand_as(weights)",
        ("mini-batch", *TITANS),
    ),
    Fault(
        "engines/torch/mini_batch.py",
        "return start + here.read_step[..., None] * change",
        "return start + change",
        ("mini-batch", *TTT),
    ),
    Fault(
        "engines/torch/mini_batch.py", "there[:, :, i, :, None] * moving", "moving", ("mini-batch", *TITANS)
    ),
    Fault("engines/torch/networks.py", "amax(-1)) != 0", "amax(-1)) >= 0", ("test_every_step_reports",)),
    Fault(
        "engines/torch/dual_form/engine.py",
        "pairs = ours(table.pairs) * step[:, :, None]",
        "pairs = ours(table.pairs)",
        ("dual-form", *TTT),
    ),
    Fault(
        "engines/torch/dual_form/engine.py",
        "any(x.requires_grad or bool(x.any())",
        "any(bool(x.any())",
        ("dual-form", "weights=Importance(),", "function=GatedMlp(),", "mirror=PowerNorm(eps=0.5)"),
    ),
    Fault(
        "engines/torch/dual_form/engine.py",
        "any(x.requires_grad or bool(x.any())",
        "any(x.requires_grad",
        ("test_a_change_at_a_boundary",),
    ),
    Fault(
        "engines/torch/dual_form/engine.py",
        "if torch.is_grad_enabled() or any(",
        "if any(",
        ("test_second_derivatives_where",),
    ),
    Fault(
        "engines/torch/dual_form/engine.py",
        "1 + read[..., 0] * (kept - 1)",
        "read[..., 0] * kept",
        ("test_the_dual_form",),
    ),
    Fault(
        "engines/torch/dual_form/chunks.py", "scores = scores + 1", "scores = scores", ("test_the_dual_form",)
    ),
    Fault(
        "engines/torch/dual_form/chunks.py",
        'torch.addcmul(start, x["moved"]',
        'torch.addcmul(start, -x["moved"]',
        ("test_networks_without",),
    ),
    Fault(
        "engines/torch/dual_form/derivative.py",
        "d_slopes[name], d_inputs[name] = last * d_last,",
        "d_slopes[name], d_inputs[name] = d_last,",
        ("test_networks_without",),
    ),
    Fault(
        "engines/torch/mini_batch.py",
        "- _sum(own, *inner[name], here.pairs[:, :, i])",
        "- _sum(own, *inner[name], here.pairs[:, :, 0])",
        ("test_maps_of_a_chunk",),
    ),
    Fault(
        "engines/torch/networks.py",
        "change(x) if change is not None and name in names else x for",
        "x for",
        ("test_maps_of_a_chunk",),
    ),
    Fault(
        "engines/torch/dual_form/chunks.py",
        'spread(x["kept"][..., i], start) * start',
        'spread(x["kept"][..., 0], start) * start',
        ("test_networks_that_read_with_a_map",),
    ),
    Fault(
        "engines/torch/dual_form/engine.py",
        "if x.log_decay is None else x.log_decay.exp()",
        "if x.log_decay is None else -x.log_decay.exp()",
        ("test_networks_that_read_with_a_map",),
    ),
    Fault(
        "engines/native/network.py",
        '"mirror_eps": eps',
        '"mirror_eps": 0 * eps',
        ("test_networks_that_read_with_a_map",),
    ),
    Fault(
        "solvers/maps/simplex.py",
        "return Mirror(total=self.total)",
        "return Mirror()",
        ("test_networks_that_read_with_a_map",),
    ),
    Fault(
        "engines/native/network.py",
        "pad(bias, (0, outputs))",
        "pad(0 * bias, (0, outputs))",
        ("dual-form", *TTT),
    ),
    Fault(
        "engines/torch/large_chunk.py",
        "state = move(problem, form, state, grid.full(m",
        "state = move(problem, form, state, grid.full(m + 1",
        ("large-chunk", *LACT),
    ),
    Fault(
        "engines/torch/large_chunk.py",
        'fill=0.0 if name == "momentum" else 1.0',
        "fill=1.0",
        ("large-chunk", *LACT),
    ),
    Fault(
        "engines/torch/grid.py",
        "return self.position % self.size",
        "return 0 * self.position",
        ("large-chunk", *LACT),
    ),
    Fault(
        "engines/torch/grid.py",
        "there = (place >= 0) & (place < self.length)",
        "there = place < self.length",
        ("mini-batch", *TTT),
    ),
    # combinations of the parts
    Fault("axes.py", 'return y + memory[f"{name}_bias"] if', 'return y - memory[f"{name}_bias"] if', NOTHING),
    Fault(
        "oracle.py",
        "step * (importance if step",
        "step * (1 if step",
        ("recurrent", "weights=Importance(),", "function=GatedMlp(),", "ChunkDescent(chunk=3"),
    ),
    Fault(
        "state.py",
        "start.to(tensors[name]).expand_as(tensors[name]).clone()",
        "0 * start.to(tensors[name]).expand_as(tensors[name])",
        NOTHING,
    ),
)
