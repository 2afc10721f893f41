"""Faults in exact regression, truncated solves, kernel ridge regression and local polynomials."""

from .fault import Fault

FAULTS = (
    # calls without digits
    Fault(
        "engines/torch/direct_solve.py",
        "if x.q.dtype == torch.float64 or",
        "if True or",
        ("test_memories_of_pairs",),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "if lines.slope is None and rho.numel():",
        "if False:",
        ("test_what_is_answered",),
    ),
    Fault(
        "engines/torch/centred_fit.py",
        "if centred.shape[-2] and not needs_composite():",
        "if False:",
        ("test_what_is_answered",),
    ),
    Fault("engines/torch/direct_solve.py", "POOR = 1e-3", "POOR = 0.05", ("test_what_has_few",)),
    Fault(
        "engines/torch/steps/pairs.py",
        "query, keys, values, log_weight = (t.to(wide_dtype(t)) for",
        "query, keys, values, log_weight = (t for",
        ("test_what_is_answered",),
    ),
    Fault(
        "engines/torch/kernel_ridge.py",
        "if gram.shape[-1] and not needs_composite():",
        "if False:",
        ("test_what_is_answered",),
    ),
    Fault(
        "functions/local_quadratic.py",
        "local_degree: ClassVar[int] = 2",
        "local_degree: ClassVar[int] = 1",
        ("nothing",),
    ),
    Fault("functions/_kernel.py", "self.local_degree) - 1", "self.local_degree)", ("nothing",)),
    Fault(
        "functions/kernel_regression.py", "torch.exp(scale * dot)", "torch.exp(scale * dot - 1)", ("nothing",)
    ),
    Fault("functions/kernel_regression.py", "squares - 2 * dot", "squares - dot", ("nothing",)),
    Fault("retrieve.py", "math.factorial(degree) / repeats", "math.factorial(degree)", ("nothing",)),
    Fault(
        "retrieve.py", "return mean_value - torch.einsum", "return mean_value + torch.einsum", ("nothing",)
    ),
    Fault(
        "solvers/chebyshev.py",
        "omega = 1 / (1 - quarter * omega)",
        "omega = 1 / (1 - quarter * min(1.0, omega))",
        ("nothing",),
    ),
    Fault(
        "solvers/chebyshev.py",
        "torch.zeros_like(query), step * query, 2.0",
        "torch.zeros_like(query), step * query, 1.0",
        ("nothing",),
    ),
    Fault(
        "solvers/chebyshev.py",
        "torch.where(squared > 0, squared, 1.0)",
        "squared",
        ("recurrent", "weights=Importance()", "Chebyshev"),
    ),
    Fault(
        "solvers/conjugate_gradient.py",
        "(energy + self.damping) * direction",
        "energy * direction",
        ("nothing",),
    ),
    Fault(
        "solvers/conjugate_gradient.py",
        'torch.diag_embed(pair.controls["ridge"])',
        'torch.diag_embed(2 * pair.controls["ridge"])',
        ("nothing",),
    ),
    Fault(
        "solvers/learned_slope.py",
        'return ("ridge",)',
        "return ()",
        ("nothing",),
    ),
    Fault(
        "solvers/learned_slope.py",
        "if function.local_degree != 1:",
        "if function.local_degree == 0:",
        ("LearnedSlope", "LocalQuadratic", "Uniform"),
    ),
    Fault(
        "solvers/_moments.py", "torch.exp(pair.log_decay)", "torch.exp(0.5 * pair.log_decay)", ("nothing",)
    ),
    Fault(
        "forms/second_moments.py",
        "form.memory,",
        "0 * form.memory,",
        ("recurrent", "weights=Geometric(),", "Linear()", "ExactRidge"),
    ),
    Fault(
        "solvers/_moments.py",
        "if weights.window is not None:",
        "if False:",
        ("recurrent", "Window", "Chebyshev"),
    ),
    Fault(
        "solvers/chebyshev.py",
        "for _ in range(self.iterations):\n            x = x + direction",
        "for _ in range(self.iterations - 1):\n            x = x + direction",
        ("nothing",),
    ),
    Fault(
        "solvers/conjugate_gradient.py",
        "energy / (before + self.damping)",
        "energy / before",
        ("nothing",),
    ),
    Fault(
        "solvers/chebyshev.py",
        "torch.where(squared_norm > 0, squared_norm, 1.0)",
        "squared_norm",
        ("recurrent", "weights=Importance()", "Chebyshev"),
    ),
    # ridge at every token
    Fault(
        "engines/torch/ridge/system.py",
        "torch.mul(x, self.kept, out",
        "torch.mul(x, 1.0, out",
        ("chunkwise-ridge", "weights=Geometric()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/system.py",
        "(2 * diagonal + self.ridge)",
        "(self.ridge - 2 * diagonal)",
        ("test_the_norm_of_a_system",),
    ),
    Fault(
        "engines/torch/ridge/system.py",
        "keys[group].to(wide), self.weights[group, row]",
        "keys[group].to(wide), (self.weights[group, row] ** 2)",
        ("test_rows_that_do_not_converge",),
    ),
    Fault(
        "engines/torch/ridge/preconditioner.py",
        "(1 - relative) * system.ridge",
        "(relative - 1) * system.ridge",
        ("test_few_iterations",),
    ),
    Fault(
        "engines/torch/ridge/preconditioner.py",
        "seen = -torch.ones(",
        "seen = -0.9 * torch.ones(",
        ("test_preconditioned_eigenvalues",),
    ),
    Fault(
        "engines/torch/ridge/preconditioner.py",
        "first.baddbmm_(corner, carried.mT, alpha=-1)",
        "first.baddbmm_(corner, carried.mT, alpha=-0.99)",
        ("test_inverse_by_halves",),
    ),
    Fault(
        "engines/torch/ridge/preconditioner.py",
        "log_kept[:, -1] < 2",
        "log_kept[:, -1] < 3",
        ("test_the_preconditioner_is_for",),
    ),
    Fault(
        "engines/torch/ridge/solve.py",
        "wrong &= ~(found <= ACCEPTED",
        "wrong &= ~(found <= 1e9",
        ("test_rows_that_do_not_converge",),
    ),
    Fault(
        "engines/torch/direct_solve.py",
        "return lost > HOPELESS",
        "return lost < -HOPELESS",
        ("test_a_tiny_ridge",),
    ),
    Fault(
        "engines/torch/ridge/solve.py",
        "TARGET, REFINED, ROUNDING, ACCEPTED = 4, 8, 1, 8",
        "TARGET, REFINED, ROUNDING, ACCEPTED = 4000, 8000, 1, 8000",
        ("test_error_in_float32",),
    ),
    Fault(
        "engines/torch/ridge/solve.py",
        "return solution.mul_(size), factors",
        "return solution, factors",
        ("test_smaller_queries",),
    ),
    Fault(
        "engines/torch/ridge/block.py",
        "own[i], self.last[i], grad_state)",
        "own[i], self.last[i] * 0, grad_state)",
        ("chunkwise-ridge", "weights=Geometric()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/block.py",
        "+ log_kept - written",
        "- written",
        ("chunkwise-ridge", "weights=Geometric()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/block.py",
        "addcmul_(self.to_end, both @ ends.mT)",
        "addcmul_(self.to_end, s.keys @ ends[..., : self.features].mT)",
        ("chunkwise-ridge", "weights=Uniform()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/block.py",
        "fading[:, -1] += log_to_end",
        "fading[:, -1] -= log_to_end",
        ("chunkwise-ridge", "weights=Geometric()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/regression.py",
        "grads.ridge.add_(",
        "grads.ridge.copy_(",
        ("test_blocks_of_chunks",),
    ),
    Fault(
        "engines/torch/ridge/regression.py",
        "with torch.autocast(grad_y.device.type, enabled=False)",
        "if True",
        ("test_no_autocast",),
    ),
    Fault(
        "engines/torch/ridge/regression.py",
        "if torch.is_grad_enabled() or any(",
        "if any(",
        ("chunkwise-ridge", "weights=Uniform()", "ExactRidge"),
    ),
    Fault(
        "engines/torch/ridge/regression.py",
        "or any(map(in_batches",
        "or all(map(in_batches",
        ("test_batched_gradients_of_every_layer",),
    ),
    Fault(
        "engines/torch/implicit_solve.py",
        "= solve_rows(right, *tensors)",
        "= solve_rows._init_fn(right, *tensors)",
        ("test_batched_gradients_of_every_layer",),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "or in_batches(grad) else",
        "else",
        ("test_batched_gradients_of_every_layer",),
    ),
    Fault(
        "engines/torch/ridge/system.py",
        "2 * share * (weights @ across",
        "share * (weights @ across",
        ("chunkwise-ridge", "weights=Uniform()", "Chebyshev"),
    ),
    Fault(
        "engines/torch/chunkwise_ridge.py",
        "checkpoint(system.product, y,",
        "checkpoint(system.product, y.detach(),",
        ("chunkwise-ridge", "weights=Uniform()", "ConjugateGradient"),
    ),
    Fault(
        "engines/torch/centred_fit.py",
        "centred = features - mean[..., None, :]",
        "centred = features",
        ("nothing",),
    ),
    Fault("engines/torch/centred_fit.py", "math.sqrt(orders)", "float(orders)", ("nothing",)),
    Fault(
        "engines/torch/kernel_ridge.py",
        "place > keys.shape[-2] - x.length + torch",
        "place > torch",
        ("kernel-ridge", "weights=Uniform()"),
    ),
    Fault("engines/torch/kernel_ridge.py", "* root.mT +", "+", ("kernel-ridge", "weights=Importance()")),
    Fault(
        "functions/local_linear.py",
        "return key_size if self.rank is None else min(self.rank, key_size)",
        "return key_size",
        ("nothing",),
    ),
    Fault(
        "functions/local_linear.py",
        '"...hk,hrk->...hr", x, params["projection"]',
        '"...hk,hrk->...hr", x, 2 * params["projection"]',
        ("nothing",),
    ),
    Fault(
        "solvers/learned_slope.py",
        "if function.rank is not None:",
        "if False:",
        ("LearnedSlope", "rank", "Uniform"),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "part.put(sums.slope, -along)",
        "part.put(sums.slope, along)",
        ("test_lines_of_few",),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "tilted = scratch.sub_(other)",
        "tilted = scratch",
        ("test_lines_of_few",),
    ),
    Fault(
        "engines/torch/local_linear.py", "(slope * part.ridge * eta)", "(slope * eta)", ("test_lines_of_few",)
    ),
    Fault(
        "engines/torch/local_linear.py",
        "if not bias.requires_grad:",
        "if False:",
        ("local-polynomial", "Window", "LocalLinear"),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "rho = lines.slope[:, :, rows].flatten(1, 2)",
        "rho = lines.slope[:, :, rows].flatten(1, 2).detach()",
        ("local-polynomial", "weights=Uniform()", "LearnedSlope"),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        "mean[:, :, None], mean[:, None], value=-1)",
        "mean[:, :, None], mean[:, None], value=-0.5)",
        ("test_lines_of_few",),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        "residual.addcmul_(step, image, value=-1)",
        "residual.addcmul_(step, image, value=-0.9)",
        ("test_lines_of_many",),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        "energy > enough",
        "energy > 1e4 * enough",
        ("test_lines_of_many_channels_tell",),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        ".sub_(mean[:, :, None] * mean[:, None])",
        "",
        ("test_lines_of_many",),
    ),
    Fault(
        "engines/torch/covariance_solve.py",
        "out=part)",
        "out=part).mul_(2)",
        ("local-polynomial", "weights=Uniform()", "ExactLocalFit"),
    ),
    Fault(
        "engines/native/local_linear.py",
        'lines["places"] - origin[:, None]',
        'lines["places"]',
        ("test_lines_of_few",),
    ),
    Fault(
        "engines/native/local_linear.py",
        "self._call.slots + stop - first",
        "self._call.slots + stop",
        ("test_lines_of_few",),
    ),
    Fault(
        "engines/native/local_linear.py",
        "library.contiguous(grad)",
        "grad",
        ("local-polynomial", "weights=Uniform(), function=LocalLinear"),
    ),
    Fault(
        "engines/native/local_linear.py", "if bool(singular.any()):", "if False:", ("test_singular_lines",)
    ),
    Fault("engines/native/local_linear.py", "accepted=ACCEPTED", "accepted=1e9", ("test_iteration_without",)),
    Fault(
        "engines/native/local_linear.py",
        "least_pivot=LEAST_PIVOT",
        "least_pivot=0.0",
        ("test_elimination_without",),
    ),
    Fault("engines/native/local_linear.py", "int(direct.sum())", "0", ("test_lines_of_many_channels_tell",)),
    Fault("engines/native/local_linear.py", "and library.available()", "", ("test_the_kernels_serve",)),
    Fault(
        "engines/torch/local_linear.py",
        "KERNEL_SCORES //",
        "0 * KERNEL_SCORES //",
        ("test_lines_of_many_channels_tell",),
    ),
    Fault(
        "engines/torch/local_linear.py",
        "+ 1 < 2 * size",
        "+ 1 < 0 * size",
        ("test_lines_of_many_channels_tell",),
    ),
    Fault(
        "engines/torch/steps/pairs.py",
        "root * problem.function.kernel_matrix(keys, query",
        "problem.function.kernel_matrix(keys, query",
        ("recurrent", "weights=Importance()", "KernelRegression"),
    ),
)
