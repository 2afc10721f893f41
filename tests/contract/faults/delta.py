"""Faults in the delta rule's successors: erase keys, write gates, preconditioner, momentum and the Oja
rule."""

from .fault import Fault

ERASE = ("separate_erase", "weights=Geometric()", "Linear()")
GATED = ("gated_write", "weights=Geometric()", "Linear()")
PRECONDITIONED = ("PreconditionedDeltaRule", "weights=Geometric()", "Linear()")
MOMENTUM = ("MomentumDeltaRule", "weights=Geometric()", "Linear()")
OJA = ("OjaRule", "weights=Geometric()", "Linear()")

FAULTS = (
    # the delta rule's own fields
    Fault(
        "solvers/delta_rule.py",
        "predict(memory, *erase_key) * predict(anchor, read_key)",
        "predict(memory, key) * predict(anchor, read_key)",
        ERASE,
    ),
    Fault(
        "solvers/delta_rule.py",
        "- predict(memory, key) * value",
        "- predict(memory, *erase_key) * value",
        ERASE,
    ),
    Fault(
        "memorize.py",
        'pair.value * controls["write"] if "write" in controls',
        'pair.value if "write" in controls',
        GATED,
    ),
    Fault(
        "solvers/delta_rule.py", 'form.value * form.of_pairs(x.controls["write"]) if', "form.value if", GATED
    ),
    Fault(
        "engines/torch/steps/matrix.py",
        "_outer_sum(memory, -pair.erase",
        "_outer_sum(memory, -pair.key",
        ("recurrent", *ERASE),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "target = -(scores(read, key",
        "target = -(scores(read, eraser",
        ("chunkwise-delta", *ERASE),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "outputs = scores(query, key, log_query, log, visible, tokens) @ value",
        "outputs = 0",
        ("chunkwise-delta", *ERASE),
    ),
    Fault(
        "engines/torch/linear/chunkwise.py",
        "known = shrink(key, whole - log).mT @ value",
        "known = key.mT @ value",
        ("chunkwise-delta", *ERASE),
    ),
    # preconditioner
    Fault("solvers/preconditioned_delta_rule.py", "-r / (1 + r.abs())", "-r / (1 + r)", PRECONDITIONED),
    Fault(
        "solvers/preconditioned_delta_rule.py",
        'control["precond_step"] * key**2',
        'control["precond_step"] * key.abs()',
        PRECONDITIONED,
    ),
    Fault(
        "solvers/preconditioned_delta_rule.py",
        '"bhfv,bhf->bhv", decayed, key)',
        '"bhfv,bhf->bhv", decayed, written)',
        PRECONDITIONED,
    ),
    Fault(
        "forms/preconditioner.py",
        "ends[..., :-1, :]], dim=-2)",
        "ends[..., :-1, :]], dim=-2).detach()",
        PRECONDITIONED,
    ),
    Fault(
        "forms/preconditioner.py",
        "log(sums[:, 1:] + eps",
        "log(sums[:, :-1] + eps",
        PRECONDITIONED,
    ),
    Fault(
        "forms/preconditioner.py",
        '{"preconditioner": sums[:, -1]}',
        '{"preconditioner": x.state["preconditioner"]}',
        PRECONDITIONED,
    ),
    Fault(
        "oracle.py",
        'controls["precond_step"] = controls["precond_step"] * importance',
        "pass",
        ("PreconditionedDeltaRule", "factors=(Geometric(), Importance", "Linear()"),
    ),
    # momentum
    Fault(
        "solvers/momentum_delta_rule.py",
        'mu * memory["momentum"] - eta',
        'mu * memory["momentum"] + eta',
        MOMENTUM,
    ),
    Fault(
        "solvers/momentum_delta_rule.py",
        "decayed - beta * momentum",
        "decayed - beta * mu * momentum",
        MOMENTUM,
    ),
    Fault(
        "engines/torch/steps/momentum.py",
        "source = linear.memory if linear.old else decayed",
        "source = linear.memory",
        ("recurrent", *MOMENTUM, "'decayed'"),
    ),
    Fault(
        "engines/torch/steps/momentum.py", "share * form.momentum", "form.momentum", ("recurrent", *MOMENTUM)
    ),
    Fault(
        "engines/torch/chunkwise_momentum.py",
        "share[..., :1] * weights[..., 0]",
        "weights[..., 0]",
        ("chunkwise-momentum", *MOMENTUM),
    ),
    Fault(
        "engines/torch/chunkwise_momentum.py",
        "border[..., None, None] * late",
        "late",
        ("chunkwise-momentum", *MOMENTUM),
    ),
    Fault(
        "engines/torch/chunkwise_momentum.py",
        "+ absent for tensor",
        "for tensor",
        ("chunkwise-momentum", *MOMENTUM),
    ),
    # the Oja rule
    Fault("solvers/oja_rule.py", "decayed, pair.value)", 'memory["memory"], pair.value)', OJA),
    Fault(
        "solvers/oja_rule.py",
        '["value_log_decay"].exp()[..., None, :]',
        '["value_log_decay"].exp().detach()[..., None, :]',
        OJA,
    ),
    Fault("engines/torch/steps/oja.py", ".clamp(min=RESET)", ".clamp(min=-5.0)", ("recurrent", *OJA)),
    Fault(
        "engines/torch/steps/oja.py", "missing = linear.key[:, 0] - ", "missing = linear.key[:, 0] + ", OJA
    ),
    Fault(
        "forms/momentum.py",
        'x.controls["momentum"], x.controls["momentum_step"]',
        'x.controls["momentum_step"], x.controls["momentum"]',
        ("recurrent", *MOMENTUM),
    ),
    Fault(
        "engines/torch/chunkwise_oja.py",
        "[..., 1, :, :, 0, :]",
        "[..., 0, :, :, 0, :]",
        ("chunkwise-oja", *OJA),
    ),
    Fault(
        "engines/torch/chunkwise_oja.py",
        "shrink(early, border - log_early), log_late - border",
        "early, log_late - border",
        ("chunkwise-oja", *OJA),
    ),
    Fault("forms/oja.py", 'x.controls["value_log_decay"]', '0.5 * x.controls["value_log_decay"]', OJA),
)
