"""Test-time regression: sequence layers as weighted regressions solved in the forward pass.

``regress`` runs a problem (weights x function x solver), ``oracle`` defines it in float64, ``verify`` checks
one against the other, ``catalogue`` holds the named layers, and ``nn.Mixer`` builds a module from any of
them.
"""

import importlib
from typing import TYPE_CHECKING

from ttr._version import __version__
from ttr.diagnostics import diagnostics
from ttr.dispatch import plan, regress, step
from ttr.explain import explain
from ttr.initial import init_params, initial_state
from ttr.matmul import onednn
from ttr.oracle import oracle
from ttr.problem import Problem
from ttr.state import State
from ttr.values import checks

if TYPE_CHECKING:
    from ttr import catalogue, distributed, functions, layer, models, nn, solvers, weights
    from ttr.integrations.transformers.conversion import convert
    from ttr.laws.verify import verify

__all__ = [
    "Problem",
    "State",
    "__version__",
    "catalogue",
    "checks",
    "convert",
    "diagnostics",
    "distributed",
    "explain",
    "functions",
    "init_params",
    "initial_state",
    "layer",
    "models",
    "nn",
    "onednn",
    "oracle",
    "plan",
    "regress",
    "solvers",
    "step",
    "verify",
    "weights",
]


def __getattr__(name: str) -> object:
    """Load the submodules that ``import ttr`` leaves out on first access."""
    if name in ("catalogue", "distributed", "functions", "layer", "models", "nn", "solvers", "weights"):
        return importlib.import_module(f"ttr.{name}")
    if name == "verify":
        from ttr.laws.verify import verify

        return verify
    if name == "convert":
        from ttr.integrations.transformers.conversion import convert

        return convert
    raise AttributeError(f"module 'ttr' has no attribute {name!r}")
