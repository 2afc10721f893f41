"""Skeletons of new components, in a checkout of the project or in another folder: ``ttr new``."""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ttr import registry


@dataclass(frozen=True)
class Kind:
    """A kind of component: its name in the registry, and its folder in the package and in the tests."""

    registered: str
    folder: str


KINDS = {
    "weight": Kind("weights", "weights"),
    "function": Kind("function", "functions"),
    "solver": Kind("solver", "solvers"),
    "feature": Kind("feature", "functions/features"),
    "gate": Kind("gate", "layer/gates"),
}

COLUMN = '''def column(*numbers):
    """One head with one channel: [1,T,1,1]."""
    return torch.tensor(numbers, dtype=torch.float64)[None, :, None, None]


'''

CASES = """from __future__ import annotations

import torch

from tests.worked import $Worked
$imports


${column}def cases() -> tuple[$Worked, ...]:
$case    return ($Worked($fields),)
"""

TEST = '''"""$Name: its hand-worked case and the laws. Run it with ``pytest test_$module.py``."""

import torch
from $module import $Name, memory

import ttr
$imports


${column}def test_the_hand_worked_case():
$case$check


def test_the_laws_pass():
    report = ttr.verify(memory, slow=False)
    assert report, report
'''

CHECK = {
    True: """    for run in (ttr.oracle, ttr.regress):
        assert error(run(problem, q, k, v, **controls), y) <= FLOAT64""",
    False: """    made = part(params, streams)
    assert {name: error(made[name], y) <= FLOAT64 for name, y in expected.items()} == {"log_decay": True}""",
}
FIELDS = {True: "problem, q, k, v, y, controls", False: "part, streams, expected, params"}


def new(kind: str, name: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Write the skeleton of a component and its hand-worked case, and return the two files.

    Args:
        kind: "weight", "function", "solver", "feature" or "gate".
        name: the class, in CamelCase.
        folder: where to write an importable file and a test of it; None for src/ttr and tests/worked of the
            checkout that contains the working directory.

    Raises:
        ValueError: if the kind is unknown, there is no checkout, the name is invalid or taken, or a file
            exists already. Nothing is written then.
    """
    module = check_name(kind, name)
    if folder is None:
        root, place = checkout(), KINDS[kind].folder
        files = (root / "src/ttr" / place / f"{module}.py", root / "tests/worked" / place / f"{module}.py")
        texts = skeleton(kind, name)
    else:
        files = (folder / f"{module}.py", folder / f"test_{module}.py")
        texts = skeleton_apart(kind, name)
    for file in files:
        if file.exists():
            raise ValueError(f"{file} exists already. Use another name, or remove it first.")
    if folder is not None and importlib.util.find_spec(module) is not None:
        raise ValueError(f"A file {module}.py would hide the module {module!r}. Use another name.")
    for file, text in zip(files, texts, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return files


def check_name(kind: str, name: str) -> str:
    """The module of a new component, whose name is its class in snake case.

    Raises:
        ValueError: if the kind is unknown, or the name is invalid or taken.
    """
    if kind not in KINDS:
        raise ValueError(
            f"There is no skeleton called {kind!r}. Use one of {', '.join(KINDS)}; see CONTRIBUTING.md for "
            "the rest."
        )
    if not re.fullmatch(r"[A-Z][a-z0-9]*([A-Z][a-z0-9]*)*", name, re.ASCII) or name.isupper():
        raise ValueError(f"{name!r} cannot name a class. Use CamelCase, such as HalfLife.")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(module) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} would be in {module}.py, which Python cannot import. Use another name.")
    if registry.find(KINDS[kind].registered, name) is not None:
        raise ValueError(f"A {kind} {name} exists already. Use another name.")
    return module


def checkout() -> Path:
    """The checkout of the project that contains the working directory.

    Raises:
        ValueError: if there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "src/ttr/problem.py").is_file() and (folder / "tests/worked").is_dir():
            return folder
    raise ValueError(
        f"{here} is not in a checkout of the project. Use --folder to write to a folder of your own."
    )


def skeleton(kind: str, name: str) -> tuple[str, str]:
    """The source of a component of the package, and that of its hand-worked cases."""
    folder, module = KINDS[kind].folder.replace("/", "."), check_name(kind, name)
    worked = {True: "HandWorked", False: "HandWorkedPart"}[_is_memory(kind)]
    own = f"from ttr.{folder}.{module} import {name}\n"
    return _filled(kind, name, _template(kind).COMPONENT, ttr=""), _filled(
        kind, name, CASES, Worked=worked, imports=_sorted(own + _template(kind).IMPORTS)
    )


def skeleton_apart(kind: str, name: str) -> tuple[str, str]:
    """The text of a file outside the package, with a component and a memory that uses it, and that of its
    test."""
    template = _template(kind)
    component = _filled(kind, name, template.COMPONENT, ttr="import ttr\n")
    tolerances = "from ttr.laws.tolerances import FLOAT64, error\n"
    memory = _filled(kind, name, f"\n\nmemory = {template.MEMORY}\n")
    test = _filled(
        kind, name, TEST, imports=_sorted(template.IMPORTS + tolerances), check=CHECK[_is_memory(kind)]
    )
    return component + memory, test


def _template(kind: str) -> object:
    return importlib.import_module(f"ttr.templates.{kind}")


def _is_memory(kind: str) -> bool:
    """Whether the component belongs to a memory, so that its case is a whole call, and not to a layer."""
    return not KINDS[kind].folder.startswith("layer")


def _sorted(imports: str) -> str:
    return "\n".join(sorted(imports.splitlines()))


def _filled(kind: str, name: str, text: str, **words: str) -> str:
    module, is_memory = check_name(kind, name), _is_memory(kind)
    column = COLUMN if is_memory else ""
    words = {"fields": FIELDS[is_memory], "column": column} | words
    names = {"Name": name, "module": module}
    case = Template(_template(kind).CASE).substitute(names)
    return Template(text).substitute(names, case=case, **words)
