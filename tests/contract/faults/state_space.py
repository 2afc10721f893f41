"""Faults in complex and factored retention, in Longhorn's diagonal step, and in the channel scan."""

from .fault import Fault

RECURRENT = ("recurrent", "Linear()", "OneStep")

FAULTS = (
    # weights
    Fault("weights/complex_geometric.py", "with_resets(log_decay)", "1.01 * log_decay", ("nothing",)),
    Fault(
        "weights/complex_geometric.py", 'return controls["phase"]', 'return -controls["phase"]', ("nothing",)
    ),
    Fault(
        "weights/_rotating.py",
        "torch.complex(log_decay, phase",
        "torch.complex(log_decay, -phase",
        ("ComplexGeometric(values", *RECURRENT),
    ),
    Fault(
        "weights/_rotating.py",
        "learned |= {name: state.real",
        "learned |= {name: state.abs()",
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault("weights/cosine.py", "math.pi / (2 * self.horizon)", "math.pi / self.horizon", ("nothing",)),
    Fault(
        "weights/cosine.py", 'rotation = "head"', 'rotation = "head"\n    complex_values = True', ("nothing",)
    ),
    Fault(
        "weights/factored_geometric.py", 'return params["rate"].exp()', 'return params["rate"]', ("nothing",)
    ),
    Fault("weights/factored_geometric.py", ".clamp(min=-1e30)", "", ("FactoredGeometric", *RECURRENT)),
    # functions
    Fault("functions/features/relu.py", "torch.relu(x)", "x.abs()", ("nothing",)),
    Fault("functions/features/relu.py", "torch.relu(x)", "torch.relu(x) + 0.01 * x", ("nothing",)),
    # solvers
    Fault("solvers/diagonal_implicit_delta_rule.py", "(1 - d * key**2)", "(1 - d * key.abs())", ("nothing",)),
    Fault(
        "solvers/diagonal_implicit_delta_rule.py",
        "others = (total - square)",
        "others = (total - 2 * square)",
        ("nothing",),
    ),
    Fault(
        "solvers/diagonal_implicit_delta_rule.py",
        "return step_size / (1 + step_size * key.square().sum(-1))",
        "return step_size",
        ("nothing",),
    ),
    # engines
    Fault(
        "forms/rotation.py",
        "return torch.cat([memory, -imaginary], dim=-2)",
        "return torch.cat([memory, imaginary], dim=-2)",
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault(
        "forms/rotation.py",
        '"imaginary_": sin * kept - cos * crossed',
        '"imaginary_": sin * kept + cos * crossed',
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault("forms/rotation.py", "return turn(y, *frame(x))", "return y", ("nothing",)),
    Fault(
        "forms/rotation.py",
        "else phase.double()",
        "else phase.detach().double()",
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault(
        "forms/lowering.py",
        "value = rotation.turn(value, cos, -sin)",
        "value = rotation.turn(value, cos, sin)",
        ("nothing",),
    ),
    Fault(
        "forms/lowering.py",
        "return channels + (log_decay",
        "return channels + 0 * (log_decay",
        ("nothing",),
    ),
    Fault(
        "engines/torch/channel_scan.py",
        "products.append(share * products[-1])",
        "products.append(share)",
        ("channel-scan", "Geometric()", "Linear()", "OneStep"),
    ),
    Fault(
        "engines/torch/channel_scan.py",
        "start = share * start + new",
        "start = share * start",
        ("channel-scan", "Geometric()", "Linear()", "OneStep"),
    ),
    Fault(
        "engines/torch/channel_scan.py",
        "((kept, 1.0), (added, 0.0))",
        "((kept, 0.0), (added, 0.0))",
        ("channel-scan", "Geometric()", "Linear()", "OneStep"),
    ),
    Fault(
        "inputs.py",
        "return self.log_retention if self.rates is None else",
        "return self.log_retention if self.rates is not None else",
        ("nothing",),
    ),
    Fault("inputs.py", "if (ends > problem.weights.horizon).any():", "if False:", ("Cosine", *RECURRENT)),
)
