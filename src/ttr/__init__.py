"""Test-time regression: sequence layers as weighted regressions that are solved in the forward pass."""

from ttr.diagnostics import diagnostics
from ttr.dispatch import init_params, initial_state, plan, regress, step
from ttr.inputs import checks
from ttr.oracle import oracle
from ttr.problem import Problem
from ttr.state import State

from ttr._version import __version__
