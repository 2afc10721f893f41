"""The checklists of CONTRIBUTING.md are complete: a component made by following one passes the tests. The
engine is tested in every run, the others in copies of the project by `make check`."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import ttr
from tests.test_new_components import GUARDED, GUARDED_CASES
from ttr import cli
from ttr.engines import ENGINES
from ttr.engines.linear import LinearEngine
from ttr.forms.linear_recurrence import LinearRecurrence

PACKAGE = Path(ttr.__file__).parent
ROOT = Path(__file__).parents[1]


class Checkout:
    """A copy of the project in which commands run as for a contributor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("tests", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copytree(PACKAGE, folder / "src" / "ttr", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if (ROOT / ".parity").exists():
            (folder / ".parity").symlink_to((ROOT / ".parity").resolve())
        self.before = self.files()

    def files(self) -> dict[str, str]:
        paths = (p for p in self.folder.rglob("*") if p.suffix in (".py", ".md") and ".parity" not in p.parts)
        return {str(path.relative_to(self.folder)): path.read_text() for path in paths}

    def touched(self) -> set[str]:
        """The files that were written or changed."""
        return {name for name, text in self.files().items() if self.before.get(name) != text}

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        (self.folder / file).write_text(text.replace(old, new))

    def run(self, *arguments: object) -> tuple[int, str]:
        """A command of python, ``-m pytest ...`` or ``-m ttr.documentation docs``."""
        path = os.pathsep.join((str(self.folder / "src"), str(self.folder)))
        environment = {**os.environ, "PYTHONPATH": path, "TTR_TEST_TYPES": "0"}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def ttr(self, *arguments: object) -> str:
        code, printed = self.run("-c", "from ttr.cli import main; main()", *arguments)
        assert code == 0, printed
        return printed

    def tests(self, *arguments: object) -> str:
        code, printed = self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        assert code == 0, printed
        assert re.search(r"^\.+( |$)", printed, flags=re.MULTILINE), f"nothing was tried: {printed}"
        return printed

    def finish(self, name: str, module: str, fault: tuple[str, str, str]) -> None:
        """The last steps for every component: a planted fault that is caught, and regenerated docs."""
        file, old, new = fault
        words = f"({name!r},)"
        self.edit(
            "tests/contract/faults/foundation.py",
            "\nFAULTS = (\n",
            f"\nFAULTS = (\n    Fault({file!r}, {old!r}, {new!r}, {words}),\n",
        )
        assert self.run("-m", "ttr.documentation", "docs")[0] == 0
        self.tests("tests/contract/test_faults.py", "-k", f"{module} or enough")
        self.tests("tests/test_worked.py", "tests/test_components.py", "-k", f"{name} or {module}")
        self.tests("tests/test_documentation.py", "tests/test_architecture.py", "-k", f"current or {module}")


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "project")


GENERATED = {"docs/combinations.md"}
"""What `make docs` changes when a component is added."""


@pytest.mark.full
@pytest.mark.parametrize(
    "kind, name, file, old, new",
    [
        ("weight", "SoftDecay", "weights/soft_decay.py", "return self.share *", "return 2 * self.share *"),
        ("solver", "CalmRule", "solvers/calm_rule.py", "step = self.share *", "step = 2 * self.share *"),
        ("function", "Shifted", "functions/shifted.py", "return k + self.shift", "return k - self.shift"),
    ],
)
def test_a_weight_a_solver_a_function(checkout, kind, name, file, old, new):
    assert f"wrote {checkout.folder / 'src/ttr' / file}" in checkout.ttr("new", kind, name)
    checkout.finish(name, Path(file).stem, (file, old, new))
    written = {f"src/ttr/{file}", f"tests/worked/{file}", "tests/contract/faults/foundation.py"}
    assert checkout.touched() == written | GENERATED


@pytest.mark.full
def test_a_gate(checkout):
    checkout.ttr("new", "gate", "HalfDecay")
    checkout.tests("tests/test_layer.py", "tests/test_components.py", "-k", "HalfDecay")
    written = {"src/ttr/layer/gates/half_decay.py", "tests/worked/layer/gates/half_decay.py"}
    assert checkout.touched() == written


CONTROLS = """CONTROLS: dict[str, Control] = {
    "log_gate": Control(
        ("BTH",), "natural log of what a token would keep", at_most=0.0, logarithm=True
    ),
    "guard": Control(("BTH",), "the least it keeps", above=0.0),
"""
DEFAULTS = """DEFAULTS: Mapping[tuple[str, str], Gate] = {
    ("log_gate", "BTH"): LogSigmoidGate("log_gate"),
    ("guard", "BTH"): SigmoidGate("guard"),
"""
ENTRY = """ENTRIES: dict[str, Architecture] = {
    "guarded-attention": Architecture(
        Problem(Guarded(), Linear(), OneStep()),
        gates=(LogSigmoidGate("log_gate"), SigmoidGate("guard")),
        output=(RMSNorm(),),
        source="An example",
        year=2026,
        verified="memory: a loop over the tokens",
    ),
"""
PARITY = """

@parity("guarded-attention", "a loop over the tokens")
def guarded_attention(draw: Draw):
    tensors = draw.qkv() | {"log_gate": draw.log_decay(B, T, H), "guard": draw.between(0.2, 0.9, B, T, H)}

    def ours(q, k, v, log_gate, guard, state):
        return fold(problem("guarded-attention"), q, k, v, dict(log_gate=log_gate, guard=guard), memory=state)

    def theirs(q, k, v, log_gate, guard, state):
        outputs, kept = [], torch.maximum(log_gate.exp(), guard)
        for t in range(T):
            state = kept[:, t, :, None, None] * state + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state) / K**0.5)
        return torch.stack(outputs, dim=1), state

    return tensors | {"state": draw.normal(B, H, K, V)}, ours, theirs
"""
DECLARED = re.compile(r"^from ttr\.controls.*\n|^declare\(.*\n", flags=re.MULTILINE)


@pytest.mark.full
def test_an_architecture_with_a_new_control(checkout):
    file, entries, parts = (
        "weights/guarded.py",
        "src/ttr/catalogue/additive.py",
        "src/ttr/layer/architecture.py",
    )
    checkout.edit("src/ttr/controls.py", "CONTROLS: dict[str, Control] = {\n", CONTROLS)
    checkout.ttr("new", "weight", "Guarded")
    (checkout.folder / "src/ttr" / file).write_text(DECLARED.sub("", GUARDED))
    (checkout.folder / "tests/worked" / file).write_text(GUARDED_CASES)
    checkout.edit(parts, "DEFAULTS: Mapping[tuple[str, str], Gate] = {\n", DEFAULTS)
    checkout.edit(entries, "ENTRIES: dict[str, Architecture] = {\n", ENTRY)
    checkout.edit(
        entries,
        "from ttr.weights.geometric import Geometric\n",
        "from ttr.weights.geometric import Geometric\nfrom ttr.weights.guarded import Guarded\n",
    )
    checkout.edit(entries, "import LogSigmoidGate\n", "import LogSigmoidGate, SigmoidGate\n")
    cases = checkout.folder / "tests/parity/cases_additive.py"
    cases.write_text(cases.read_text() + PARITY)
    checkout.finish("Guarded", "guarded", (file, "torch.maximum(", "torch.minimum("))
    checkout.tests("tests/contract/test_laws.py", "--layer", "guarded-attention", "--law", 1)
    checkout.tests("tests/parity", "tests/test_layer.py", "-k", "guarded")
    assert "All laws passed" in checkout.ttr(
        "verify", "guarded-attention", "--law", 1, "--engine", "recurrent"
    )
    assert checkout.touched() == SEVEN | GENERATED | {"docs/layers.md", "docs/coverage.md"}


SEVEN = {
    *("src/ttr/controls.py", "src/ttr/weights/guarded.py", "src/ttr/layer/architecture.py"),
    *("src/ttr/catalogue/additive.py", "tests/worked/weights/guarded.py"),
    *("tests/parity/cases_additive.py", "tests/contract/faults/foundation.py"),
}


class Loop(LinearEngine):
    """Every linear recurrence, one pair after the other, as its docstring says."""

    name: ClassVar[str] = "loop"

    def refuses(self, problem, x=None):
        return None if problem.form is LinearRecurrence else "It runs memories that are a matrix."

    def recur(self, r: LinearRecurrence, wants_grad: bool):
        memory, outputs = r.memory, [r.value[:, :0]]
        for j in range(r.key.shape[1]):
            if r.reads_first:
                outputs.append(self.read(r, memory, j))
            old = memory
            if r.log_decay is not None:
                kept = r.log_decay[:, j].exp()
                memory = kept.reshape(*kept.shape[:2], -1, 1) * memory
            memory = memory + self.update(r, old if r.old else memory, j)
            if not r.reads_first and (j + 1) % r.pairs == 0:
                outputs.append(self.read(r, memory, j // r.pairs))
        return torch.cat(outputs, dim=1), memory

    def read(self, r, memory, token):
        return torch.einsum("bhf,bhfv->bhv", r.scaled_query[:, token], memory)[:, None]

    def update(self, r, at, j):
        change = r.key[:, j, :, :, None] * r.value[:, j, :, None]
        if r.read is not None:
            erase = r.key if r.erase is None else r.erase
            change = change - erase[:, j, :, :, None] * (at * r.read[:, j, :, :, None]).sum(-2, keepdim=True)
        return change if r.step is None else r.step[:, j, :, None, None] * change


class Faulty(Loop):
    """The same, with a planted fault: the error is never measured at the old memory."""

    def update(self, r, at, j):
        return super().update(r, r.memory if r.old else at, j)


@pytest.fixture
def registered(monkeypatch):
    """Register an engine before the others, as a line in engines/__init__.py would."""

    def register(engine):
        for module in ("ttr.dispatch", "ttr.laws.verify", "ttr.explain"):
            monkeypatch.setattr(importlib.import_module(module), "ENGINES", (engine, *ENGINES))

    return register


@pytest.mark.parametrize("name", ["gated-deltanet", "comba", "rwkv6", "gated-deltaproduct"])
def test_an_engine(name, registered):
    registered(Loop())
    report = ttr.verify(ttr.catalogue[name], engines=["loop"], slow=False)
    assert report and report.ran, report
    assert ttr.explain(ttr.catalogue[name]).engine == "loop"
    assert "loop" in dict(ttr.explain(ttr.catalogue["titans"]).refusals)


def test_the_laws_catch_a_fault_in_an_engine(registered):
    registered(Faulty())
    report = ttr.verify(ttr.catalogue["comba"], engines=["loop"], laws=[1])
    assert not report and "FAILED" in str(report)


EXAMPLES = ("half_life", "half_decay")
"""Fictitious components in the checklists."""


def test_the_checklists_name_what_there_is():
    """Every file that CONTRIBUTING.md names exists, and every command is one of ``ttr`` or make."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:src|tests|docs)/[\w./]+\.(?:py|md))`", text):
        assert (ROOT / path).is_file() or Path(path).stem in EXAMPLES, path
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", text)) <= targets
    known = {command.name for command in cli.app.registered_commands}
    assert set(re.findall(r"\bttr ([a-z]+) ", text)) <= known
