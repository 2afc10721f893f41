"""A new weight, a new function and a new solver of existing kinds are one file each, with their hand-worked
cases in another, and then pass the suite."""

from pathlib import Path

import pytest

from tests.contract.test_faults import copy_with, run_checks

HALF_LIFE = '''
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ttr.problem import Weights


@dataclass(frozen=True)
class HalfLife(Weights):
    """Fixed forgetting: a pair counts half after ``tokens`` tokens."""

    tokens: float = 8.0

    retention = "head"

    def log_retention(self, controls, params, heads, like):
        return torch.full((heads,), -math.log(2) / self.tokens, dtype=like.dtype, device=like.device)

    @classmethod
    def examples(cls):
        return (cls(2.0),)
'''

HALF_LIFE_CASES = """
import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.half_life import HalfLife


def cases():
    # Half after 2 tokens keeps r = 2^-1/2 per token; keys 2, 3, 5, values 7, 11, 13 and their doubles,
    # queries 4, 1.5, 2.5, scale 0.3.
    r = 2 ** -0.5
    sums = [2 * 7, r * 2 * 7 + 3 * 11, r * r * 2 * 7 + r * 3 * 11 + 5 * 13]
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[None, :, None, None]
    v = torch.cat([column(7, 11, 13), 2 * column(7, 11, 13)], dim=-1)
    q = column(4, 1.5, 2.5)
    y = torch.cat([column(*sums), 2 * column(*sums)], dim=-1) * 0.3 * q
    return (HandWorked(Problem(HalfLife(2.0), Linear(scale=0.3), OneStep()), q, column(2, 3, 5), v, y),)
"""

FLOORED = '''
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ttr.problem import Weights


@dataclass(frozen=True)
class Floored(Weights):
    """Input-dependent forgetting that keeps at least a share of the past."""

    least: float = 0.5

    retention = "head"

    def controls(self):
        return {"log_decay": "BTH"}

    def log_retention(self, controls, params, heads, like):
        return controls["log_decay"].clamp(min=math.log(self.least))

    @classmethod
    def examples(cls):
        return (cls(0.6),)
'''

FLOORED_CASES = """
import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.floored import Floored


def cases():
    # Decays 0.5, 0.2, 0.8, the second held at 0.6: S = 2 * 7 = 14, 0.6 * 14 + 3 * 11 = 41.4, 0.8 * 41.4
    # + 5 * 13 = 98.12.
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[None, :, None, None]
    v = torch.cat([column(7, 11, 13), 2 * column(7, 11, 13)], dim=-1)
    q, memory = column(4, 1.5, 2.5), column(14, 41.4, 98.12)
    y = torch.cat([memory, 2 * memory], dim=-1) * 0.3 * q
    controls = {"log_decay": column(0.5, 0.2, 0.8)[..., 0].log()}
    problem = Problem(Floored(0.6), Linear(scale=0.3), OneStep())
    return (HandWorked(problem, q, column(2, 3, 5), v, y, controls),)
"""

GUARDED = '''
from __future__ import annotations

from dataclasses import dataclass

import torch

from ttr.controls import Control, declare
from ttr.problem import Weights

declare("log_gate", Control(("BTH",), "natural log of what a token would keep", at_most=0.0, logarithm=True))
declare("guard", Control(("BTH",), "the least it keeps", above=0.0))


@dataclass(frozen=True)
class Guarded(Weights):
    """Forgetting by a gate that a second one holds up, both controls of its own: it keeps the larger of the
    two."""

    retention = "head"

    def controls(self):
        return {"log_gate": "BTH", "guard": "BTH"}

    def log_retention(self, controls, params, heads, like):
        return torch.maximum(controls["log_gate"], controls["guard"].clamp(max=1.0).log())

    def formulas(self):
        weight = "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = max(exp(log_gate_t), guard_t)"
        return {"weight": weight, "decay": "D_t = a_t"}

    @classmethod
    def examples(cls):
        return (cls(),)
'''

GUARDED_CASES = """
import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.guarded import Guarded


def cases():
    # Gates 0.5, 0.2, 0.8 and guards 0.3, 0.6, 0.7: decays (any), 0.6, 0.8, so S = 14, 0.6 * 14 + 33 =
    # 41.4, 0.8 * 41.4 + 65 = 98.12.
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[None, :, None, None]
    v = torch.cat([column(7, 11, 13), 2 * column(7, 11, 13)], dim=-1)
    q, memory = column(4, 1.5, 2.5), column(14, 41.4, 98.12)
    y = torch.cat([memory, 2 * memory], dim=-1) * 0.3 * q
    controls = {"log_gate": column(0.5, 0.2, 0.8)[..., 0].log(), "guard": column(0.3, 0.6, 0.7)[..., 0]}
    return (HandWorked(Problem(Guarded(), Linear(scale=0.3), OneStep()), q, column(2, 3, 5), v, y, controls),)
"""

SQUARES = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ttr.problem import FeatureMap


@dataclass(frozen=True)
class Squares(FeatureMap):
    """phi(x) = x^2, entry by entry."""

    keeps_channels: ClassVar[bool] = True

    def __call__(self, x, params):
        return x * x

    @classmethod
    def examples(cls):
        return (cls(),)
'''

SQUARES_CASES = """
import torch

from tests.worked import HandWorked
from ttr.functions.features.squares import Squares
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.one_step import OneStep
from ttr.weights.uniform import Uniform


def cases():
    # Scale 0.5, queries 2, 3, 4, keys 2, -3, 5: sums of k^2 v are 28, 127, 452 and 12, 57, 282, times
    # 0.5 q^2 = 2, 4.5, 8.
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[None, :, None, None]
    v = torch.cat([column(7, 11, 13), column(3, 5, 9)], dim=-1)
    y = torch.cat([column(56, 571.5, 3616), column(24, 256.5, 2256)], dim=-1)
    problem = Problem(Uniform(), Linear(Squares(), scale=0.5), OneStep())
    return (HandWorked(problem, column(2, 3, 4), column(2, -3, 5), v, y),)
"""

HALF_STEP = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ttr.problem import Solver


@dataclass(frozen=True)
class CautiousDeltaRule(Solver):
    """The delta rule with every step multiplied by ``share``."""

    share: float = 0.5

    weights_act_on: ClassVar[Literal["memory"]] = "memory"

    def controls(self):
        return {"step_size": "BTH"}

    def lower(self, form, function, x):
        step = self.share * form.times_step(x.controls["step_size"])
        return form._replace(read=form.key, step=step)

    def objective(self, predict, memory, *data):
        anchor, key, read_key, value = data
        return 0.5 * self.share * (value - predict(memory, key)).square().sum()

    @classmethod
    def examples(cls):
        return (cls(0.3),)
'''

HALF_STEP_CASES = """
import torch

from tests.worked import HandWorked
from ttr.functions.linear import Linear
from ttr.problem import Problem
from ttr.solvers.cautious_delta_rule import CautiousDeltaRule
from ttr.weights.uniform import Uniform


def cases():
    # Half of the steps 0.4, 0.6, 0.3, keys 2, 3, 1.5, values 3, 5, 7: S1 = 0.2 * 2 * 3 = 1.2, S2 = 1.2
    # + 0.3 * 3 * (5 - 3.6) = 2.46, S3 = 2.46 + 0.15 * 1.5 * (7 - 3.69) = 3.20475.
    column = lambda *x: torch.tensor(x, dtype=torch.float64)[None, :, None, None]
    v = torch.cat([column(3, 5, 7), 2 * column(3, 5, 7)], dim=-1)
    q, memory = column(2, 4, 3), column(1.2, 2.46, 3.20475)
    y = torch.cat([memory, 2 * memory], dim=-1) * 0.7 * q
    problem = Problem(Uniform(), Linear(scale=0.7), CautiousDeltaRule(0.5))
    return (HandWorked(problem, q, column(2, 3, 1.5), v, y, {"step_size": column(0.4, 0.6, 0.3)[..., 0]}),)
"""

NEW = {
    "weights/half_life.py": (HALF_LIFE, HALF_LIFE_CASES, ("HalfLife",)),
    "weights/floored.py": (FLOORED, FLOORED_CASES, ("Floored",)),
    "weights/guarded.py": (GUARDED, GUARDED_CASES, ("Guarded",)),
    "functions/features/squares.py": (SQUARES, SQUARES_CASES, ("Squares",)),
    "solvers/cautious_delta_rule.py": (HALF_STEP, HALF_STEP_CASES, ("CautiousDeltaRule",)),
}


def run_suite(folder: Path, file: str, text: str, cases: str, words: tuple[str, ...]) -> tuple[int, str]:
    """The checks on a copy of the package with one more file and its hand-worked cases, in problems that
    combine it with every class of the other axes."""
    copy_with(None, folder)
    (folder / "ttr" / file).write_text(text)
    (folder / "worked" / file).parent.mkdir(parents=True)
    (folder / "worked" / file).write_text(cases)
    return run_checks(folder, words, one_per_class=True)


@pytest.mark.full
@pytest.mark.parametrize("file", NEW)
def test_one_file_is_enough(file, tmp_path):
    code, printed = run_suite(tmp_path, file, *NEW[file])
    assert code == 0, printed
    assert "nothing broken" in printed


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("weights/half_life.py", "-math.log(2) / self.tokens", "-math.log(3) / self.tokens"),
        ("weights/floored.py", "min=math.log(self.least)", "min=math.log(self.least) - 1"),
        ("weights/guarded.py", "torch.maximum(", "torch.minimum("),
        ("functions/features/squares.py", "return x * x", "return x * x.abs()"),
        ("solvers/cautious_delta_rule.py", "self.share * form.times_step(", "form.times_step("),
    ],
)
def test_a_wrong_file_is_caught(file, old, new, tmp_path):
    text, cases, words = NEW[file]
    assert text.count(old) == 1
    code, printed = run_suite(tmp_path, file, text.replace(old, new), cases, words)
    assert code == 1, printed
