"""Faults in other libraries' interfaces."""

from .fault import Fault

RESULTS = ("test_results_states",)

FAULTS = (
    Fault("compat/fla/_operator.py", "{name: end[name] for name in start}", "dict.fromkeys(start)", RESULTS),
    Fault("compat/fla/_operator.py", "start = initial_state.mT if", "start = initial_state if", RESULTS),
    Fault(
        "compat/fla/_operator.py", "value is not None and value is not False", "False", ("test_an_option",)
    ),
    Fault("compat/fla/_operator.py", "+ 1e-6", "", RESULTS),
    Fault("compat/fla/additive.py", "(2.0 ** (-5.0 - heads))", "(2.0 ** (-6.0 - heads))", RESULTS),
    Fault("compat/fla/additive.py", "(1 - layer_idx / num_layers) * heads", "heads", RESULTS),
    Fault("compat/fla/additive.py", '{"normalize": False} | options', "options", RESULTS),
    Fault("compat/fla/additive.py", 'options["gv"] = gv', "pass", ("test_decays_per_value",)),
    Fault("compat/fla/delta.py", "return 2 * beta if negative else beta", "return beta", RESULTS),
    Fault("compat/fla/delta.py", "beta = beta.sigmoid()", "pass", RESULTS),
    Fault("compat/fla/delta.py", "g if bias is None else g + bias.view(g.shape[2:])", "g", RESULTS),
    Fault("compat/fla/delta.py", "-rate * softplus(g) if bound is None else", "", RESULTS),
    Fault("compat/fla/delta.py", "g[..., None] + gk", "gk", RESULTS),
    Fault("compat/fla/delta.py", '"read_key": -a', '"read_key": a', RESULTS),
    Fault("compat/fla/exact.py", ".tiny).log()", ".tiny)", RESULTS),
    Fault(
        "compat/fla/exact.py",
        "if window_size is None else [Window(window_size)]",
        "",
        ("test_attention_with_a",),
    ),
)
