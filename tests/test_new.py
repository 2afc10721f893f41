"""``ttr new``: skeletons of all kinds run unchanged, in a folder of your own and in the package; invalid
requests are refused in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ttr
from tests.test_cli import run  # noqa: F401  a fixture
from tests.test_new_components import run_suite
from ttr import registry
from ttr.new import KINDS, check_name, new, skeleton

PACKAGE = Path(ttr.__file__).parent
ROOT = Path(__file__).parents[1]
NAMES = {"weight": "SoftDecay", "function": "Shifted", "solver": "Calm", "feature": "Bent", "gate": "Half"}


def pytest_in(folder, *arguments, path=PACKAGE.parent):
    """Run pytest in a process of its own, which keeps the classes out of this process's registry."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("picked", ["hand_worked", pytest.param("laws_pass", marks=pytest.mark.full)])
def test_skeletons_in_a_folder_of_ones_own_run(picked, tmp_path):
    for kind, name in NAMES.items():
        new(kind, name, tmp_path)
    code, printed = pytest_in(tmp_path, "-k", picked)
    assert code == 0 and f"{len(KINDS)} passed" in printed, printed


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "solver" else pytest.mark.full)
        for kind in ("weight", "function", "solver", "feature")
    ],
)
def test_skeletons_of_the_package_pass_the_suite(kind, tmp_path):
    file = f"{KINDS[kind].folder}/{check_name(kind, NAMES[kind])}.py"
    code, printed = run_suite(tmp_path, file, *skeleton(kind, NAMES[kind]), (NAMES[kind],))
    assert code == 0 and "nothing broken" in printed, printed


def test_the_command_says_what_it_wrote_and_what_is_next(run, tmp_path, monkeypatch):  # noqa: F811
    checkout = tmp_path / "project"
    (checkout / "tests" / "worked").mkdir(parents=True)
    (checkout / "src" / "ttr").mkdir(parents=True)
    (checkout / "src" / "ttr" / "problem.py").touch()
    monkeypatch.chdir(checkout / "src")
    code, out, _ = run("new", "gate", "HalfDecay")
    written = [
        checkout / "src/ttr/layer/gates/half_decay.py",
        checkout / "tests/worked/layer/gates/half_decay.py",
    ]
    assert code == 0 and all(str(file) in out and file.is_file() for file in written)
    assert "Next: pytest" in out
    code, _, err = run("new", "gate", "HalfDecay")
    assert code == 1 and "exists already. Use another name" in err
    code, out, _ = run("new", "weight", "HalfLife", "--folder", tmp_path / "mine")
    assert code == 0 and {"half_life.py", "test_half_life.py"} == {
        p.name for p in (tmp_path / "mine").iterdir()
    }
    monkeypatch.setattr(
        registry, "CLASSES", dict(registry.CLASSES)
    )  # remove it from the registry for other tests
    code, out, _ = run("explain", tmp_path / "mine" / "half_life.py")
    assert code == 0 and "a_t = exp(0.5 log_decay_t)" in out


@pytest.mark.parametrize(
    "kind, name, words",
    [
        ("weight", "half_life", "cannot name a class. Use CamelCase"),
        ("weight", "Half Life", "cannot name a class. Use CamelCase"),
        ("weight", "../Half", "cannot name a class. Use CamelCase"),
        ("weight", "2Half", "cannot name a class. Use CamelCase"),
        ("weight", "", "cannot name a class. Use CamelCase"),
        ("gate", "Class", "which Python cannot import. Use another name"),
        ("solver", "DeltaRule", "A solver DeltaRule exists already. Use another name"),
        ("kernel", "Good", "There is no skeleton called 'kernel'. Use one of weight, function"),
        ("weight", "Torch", "would hide the module 'torch'. Use another name"),
    ],
)
def test_names_that_cannot_be_are_refused_in_a_sentence(kind, name, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        new(kind, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_outside_of_a_checkout_a_folder_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is not in a checkout of the project. Use --folder"):
        new("weight", "HalfLife")
