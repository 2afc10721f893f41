"""Faults in complex and factored decay, in Longhorn's diagonal step, and in the channel scan."""

from .fault import Fault

RECURRENT = ("recurrent", "Linear()", "OneStep")

FAULTS = (
    # weights
    Fault(
        "weights/complex_geometric.py",
        'return controls["log_decay"]',
        'return 1.01 * controls["log_decay"]',
        ("nothing",),
    ),
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
    Fault("weights/cosine.py", "def phase(", "complex_values = True\n\n    def phase(", ("nothing",)),
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
        "step=step / (1 + step * total[..., 0])",
        "step=step",
        ("nothing",),
    ),
    # engines
    Fault(
        "weights/_rotating.py",
        "-rotation.imaginary(x)",
        "rotation.imaginary(x)",
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault(
        "weights/_rotating.py",
        '"imaginary_memory": sin * real - cos * crossed',
        '"imaginary_memory": sin * real + cos * crossed',
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault(
        "weights/_rotating.py",
        'return rotation.rotate(y, cos, sin), {"memory": memory}',
        'return y, {"memory": memory}',
        ("nothing",),
    ),
    Fault(
        "forms/rotation.py",
        "else phase.double()",
        "else phase.detach().double()",
        ("ComplexGeometric()", *RECURRENT),
    ),
    Fault(
        "weights/_rotating.py",
        "value=rotation.rotate(form.value, cos, -sin)",
        "value=rotation.rotate(form.value, cos, sin)",
        ("nothing",),
    ),
    Fault(
        "forms/linear_recurrence.py",
        "return channels + (log_decay",
        "return channels + 0 * (log_decay",
        ("nothing",),
    ),
    Fault(
        "engines/native/scan.py",
        "self.run_length, wants_grad)",
        "self.run_length, False)",
        ("native-scan", "Geometric()", "Linear()", "OneStep"),
    ),
    Fault(
        "engines/native/scan.py",
        "gradients[:2] = (x.sum(2, keepdim=True) for x in gradients[:2])",
        "gradients[:2] = (x[:, :, :1] for x in gradients[:2])",
        ("test_a_scan_is_the_chunkwise_form",),
    ),
    Fault(
        "engines/native/scan.py",
        "(_is_head(x.q, form.query) and _is_head(x.k, form.key))",
        "True",
        ("native-scan", "Elu"),
    ),
    Fault(
        "engines/specialised_sequence.py",
        "linear_operator.run(name, form, chunk, True)",
        "linear_operator.run(name, form, chunk, False)",
        ("test_a_bound_call_of_any_length",),
    ),
    Fault(
        "engines/linear_operator.py",
        "ctx.save_for_backward(*arguments[:TENSORS], *saved)",
        "ctx.save_for_backward(*arguments[:TENSORS], *map(torch.zeros_like, saved))",
        ("test_the_kernel_without_an_operator",),
    ),
    Fault(
        "forms/linear_recurrence.py",
        "log_decay=log_decay.clamp(min=RESET), rates=None",
        "log_decay=log_decay, rates=None",
        ("test_a_bound_call_of_any_length",),
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
        "((decay, 1.0), (added, 0.0))",
        "((decay, 0.0), (added, 0.0))",
        ("channel-scan", "Geometric()", "Linear()", "OneStep"),
    ),
    Fault(
        "inputs.py",
        "return self.log_retention if self.rates is None else",
        "return self.log_retention if self.rates is not None else",
        ("nothing",),
    ),
    Fault("prepare.py", "if reached > weights.horizon:", "if False:", ("Cosine", *RECURRENT)),
)
