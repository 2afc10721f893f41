"""Faults planted one at a time in a copy of the package. The suite must catch every one of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Replace ``old`` by ``new`` once in ``file``; the checks of rows that contain ``words`` must break."""

    file: str
    old: str
    new: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file.removesuffix('.py')}: {' '.join(self.old.split())[:48]} -> {' '.join(self.new.split())[:48]}"


FAULTS = (
    # weights
    Fault("weights/geometric.py", "torch.where(log_decay < RESET, -torch.inf, log_decay)", "log_decay * 1.01", ("chunkwise-additive", "Geometric()")),
    Fault("weights/geometric.py", "torch.where(log_decay < RESET, -torch.inf, log_decay)", "log_decay.clamp(min=-5.0)", ("chunkwise-additive", "Geometric()")),
    Fault("weights/multi_scale.py", "(self.first + h)", "(self.first + h + 1)"),
    Fault("weights/alibi.py", "(h + 0.5)", "(h + 1)"),
    Fault("weights/alibi.py", "return -torch.tensor", "return torch.tensor"),
    Fault("weights/window.py", "return self.size\n", "return self.size + 1\n"),
    Fault("weights/importance.py", 'return controls["log_importance"]', 'return 2 * controls["log_importance"]'),
    Fault("weights/product.py", "return min(", "return max("),
    Fault("weights/product.py", "return sum(logs[1:], logs[0]) if logs else None\n\n    def log_importance", "return logs[0] if logs else None\n\n    def log_importance"),
    # functions
    Fault("functions/linear.py", "scale_or_default(self.scale, q.shape[-1]) * self.features(q, params)", "self.features(q, params)"),
    Fault("functions/linear.py", "scale_or_default(self.scale, q.shape[-1]) * self.features(q, params)",
          "self.features(scale_or_default(self.scale, q.shape[-1]) * q, params)"),
    Fault("functions/features/elu_plus_one.py", "return elu(x) + 1", "return elu(x) + 1.01"),
    Fault("functions/features/taylor.py", "(2 * size) ** 0.5", "size ** 0.5"),
    Fault("functions/_kernel.py", "if not self.unit_norm:", "if self.unit_norm:"),
    Fault("functions/_kernel.py", 'params["scale"][..., None] if self.learned_scale', 'scale_or_default(self.scale, q.shape[-1]) if self.learned_scale'),
    Fault("functions/features/identity.py", "return x\n", "return x / x.norm(dim=-1, keepdim=True)\n"),
    Fault("functions/local_constant.py", "local_degree: ClassVar[int] = 0", "local_degree: ClassVar[int] = 1"),
    Fault("functions/local_linear.py", "local_degree: ClassVar[int] = 1", "local_degree: ClassVar[int] = 0"),
    # solvers
    Fault("solvers/delta_rule.py", "0.5 * (value - predict(memory, key)).square().sum()", "(value - predict(memory, key)).square().sum()"),
    Fault("solvers/delta_rule.py", "predict(anchor, read_key) - value", "predict(anchor, key) - value"),
    Fault("solvers/implicit_delta_rule.py", "step_size / (1 + step_size * key.square().sum(-1))", "step_size / (1 + step_size)"),
    Fault("solvers/implicit_delta_rule.py", "0.5 * (step * error).sum()", "(step * error).sum()"),
    Fault("solvers/exact_ridge.py", 'exact: ClassVar[Literal["global"]] = "global"', 'additive: ClassVar[bool] = True'),
    Fault("solvers/one_step.py", "return 0.5 * memory.square().sum()", "return memory.square().sum()", ("nothing",)),
    Fault("solvers/exact_ridge.py", "0.5 * (ridge[..., None] * memory.square()).sum()", "(ridge[..., None] * memory.square()).sum()", ("nothing",)),
    Fault("solvers/exact_local_fit.py", "memory[..., 1:, :]", "memory", ("nothing",)),
    # the definition
    Fault("memorize.py", "penalty = torch.cat([empty.to(ridge), ridge", "penalty = torch.cat([empty.to(ridge), 2 * ridge"),
    Fault("memorize.py", "anchor = memory if solver.gradient_at", "anchor = kept if solver.gradient_at"),
    Fault("memorize.py", "gram + torch.diag_embed(ridge)", "gram + torch.diag_embed(ridge.mean() + 0 * ridge)"),
    Fault("oracle.py", "x.log_decay[:, pair + 1 : t + 1]", "x.log_decay[:, max(pair, 0) : t + 1]"),
    Fault("memorize.py", "weights = weights / torch.where(empty, 1.0, total)", "weights = weights"),
    Fault("retrieve.py", "predict(ones[..., None], query) + eps", "predict(ones[..., None], query) - eps"),
    Fault("oracle.py", "+ t - window", "+ t - window + 1"),
    Fault("oracle.py", "for j in range(pairs):", "for j in reversed(range(pairs)):"),
    Fault("oracle.py", "None if x.log_decay is None or j else", "None if x.log_decay is None else", ("pairs_per_token=2", "Geometric")),
    # calls and state
    Fault("inputs.py", "x.repeat_interleave(heads // x.shape[-2], dim=-2)", "torch.cat([x] * (heads // x.shape[-2]), dim=-2)", ("recurrent", "Geometric()", "Linear()", "OneStep")),
    Fault("inputs.py", "if missing or unknown:", "if missing:", ("recurrent", "Geometric()", "Linear()", "OneStep")),
    Fault("inputs.py", "raise ValueError(f\"{name!r} holds NaN.", "print(f\"{name!r} holds NaN.", ("recurrent", "Geometric()", "EluPlusOne")),
    Fault("state.py", "return newest - (newest - slots) % window", "return newest - (newest + 1 - slots) % window", ("Window",)),
    Fault("state.py", "slots = slots if window is None else slots % window", "slots = slots if window is None else (slots + 1) % window", ("Window",)),
    Fault("state.py", 'state["log_weight"] + log_decay[:, None]', 'state["log_weight"] + 0 * log_decay[:, None]', ("Alibi", "LocalConstant")),
    Fault("state.py", "position = state.position + time", "position = state.position + 1", ("Window",)),
    Fault("dispatch.py", "single(x.state, row, problem.weights.window)", "single(x.state, 0, problem.weights.window)", ("recurrent", "Geometric()", "Linear()", "OneStep")),
    # backends
    Fault("backends/lowering.py", "y[..., -1:] + problem.function.eps", "y[..., -1:] - 0.001", ("normalized=True",)),
    Fault("backends/lowering.py", "finite = log_decay.clamp(min=RESET)", "finite = log_decay.clamp(min=-10.0)", ("recurrent", "weights=Geometric()", "OneStep")),
    Fault("backends/lowering.py", "torch.cat([finite[:, :, None], others], dim=2)", "torch.cat([others, finite[:, :, None]], dim=2)", ("Geometric", "pairs_per_token=2")),
    Fault("backends/lowering.py", "LinearForm(query, key, value", "LinearForm(query, key.detach(), value", ("recurrent", "Geometric()", "Linear()", "OneStep")),
    Fault("backends/token.py", 'kept if form.gradient_at == "decayed" else memory', "kept", ("recurrent", "'old'")),
    Fault("backends/token.py", "gram + torch.diag_embed(ridge)", "gram + 1.001 * torch.diag_embed(ridge)", ("recurrent", "ExactRidge")),
    Fault("backends/token.py", "mean_key - query)", "mean_key)", ("recurrent", "LocalLinear")),
    Fault("backends/token.py", "torch.where(total == 0, 1.0, total)", "total", ("recurrent", "LocalConstant")),
    Fault("backends/recurrent.py", "min(start + size, x.length), state)", "min(start + size, x.length), x.state)", ("recurrent", "Geometric()", "Linear()", "OneStep")),
    Fault("backends/chunks.py", "across = shrink(late, log_late - border)", "across = shrink(late, 0 * log_late)", ("chunkwise-additive", "'channel'", "OneStep")),
    Fault("backends/chunks.py", "before = running_sum(inside[..., -1], block) - inside[..., -1]", "before = 0 * inside[..., -1]", ("nothing",)),
    Fault("backends/chunkwise_additive.py", "memory = kept * memory + new", "memory = memory + new", ("chunkwise-additive", "weights=Geometric()")),
    Fault("backends/chunkwise_delta.py", "pad(log, (0, 0, 1, -1))", "log", ("chunkwise-delta", "'old'", "Geometric()")),
    Fault("backends/chunkwise_ridge.py", "last * states[-1] + new", "states[-1] + new", ("chunkwise-ridge", "Geometric()")),
    Fault("backends/attention.py", "weights = probabilities(grouped_product(query, keys.mT) + bias, pairs.importance is not None)",
          "weights = probabilities(grouped_product(query, keys.mT) + bias, False)", ("attention", "Importance")),
    Fault("backends/position_bias.py", "self.age[:, None] + self.window <= read", "self.age[:, None] + self.window < read", ("attention", "Window")),
    Fault("backends/local_polynomial.py", "mean - raw_query, known", "mean, known", ("local-polynomial", "Uniform")),
    Fault("backends/implicit_solve.py", "wanted, -adjoint", "wanted, adjoint", ("chunkwise-ridge", "Uniform")),
    Fault("dispatch.py", "state = state if x.length else state.clone()", "state = state", ("nothing",)),
    Fault("dispatch.py", "y, new = choose(problem, x, backend).step(problem, x)", "y, new = choose(problem, x, backend).step(problem, x)\n        y = y.detach()",
          ("recurrent", "Uniform", "Linear()", "OneStep")),
    Fault("inputs.py", "else x.repeat_interleave(", "else x.detach().repeat_interleave(", ("recurrent", "Uniform", "Linear()", "OneStep")),
    Fault("state.py", "tensor[:, max(held - slots, 0):]", "tensor[:, :slots]", ("attention", "Uniform")),
    Fault("backends/recurrent.py", "x.tokens(t, t + 1, state)", "x.tokens(t, t + 1, x.state)", ("recurrent", "Geometric()", "Linear()", "OneStep")),
)
