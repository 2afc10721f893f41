"""Random faults: where they can occur, and that caught ones are told apart from surviving ones."""

import ast
import json

import pytest

from tests.mutate.__main__ import main
from tests.mutate.checks import _laws, checks, judge
from tests.mutate.mutants import PACKAGE, mutants

RECURRENT = ("recurrent", "weights=Geometric(),", "Linear()", "OneStep")


def test_faults_are_operators_signs_comparisons_and_numbers_of_code_alone():
    found = list(mutants("prepare.py"))
    assert {"not", "and", "or", "-", "<", "!=", "0"} <= {mutant.old for mutant in found} and len(found) > 50
    for mutant in found[::9]:
        assert ast.dump(ast.parse(mutant.text())) != ast.dump(ast.parse((PACKAGE / mutant.file).read_text()))
        changed = [line for line in mutant.diff().splitlines()[2:] if line[0] in "+-"]
        assert len(changed) == 2 and changed[0] != changed[1]
    kernel = list(mutants("engines/native/csrc/step.c"))
    assert {"+", "*", "/", "<", "+="} <= {mutant.old for mutant in kernel}
    lines = (PACKAGE / "engines/native/csrc/step.c").read_text().splitlines()
    changed = [lines[mutant.text().count("\n", 0, mutant.start)] for mutant in kernel]
    assert not any(line.lstrip().startswith(("#", "//", "/*")) for line in changed)


def test_text_without_effect_is_left_out():
    text = (PACKAGE / "solvers/delta_rule.py").read_text()
    lines = {text.count("\n", 0, mutant.start) + 1 for mutant in mutants("solvers/delta_rule.py")}
    words = next(node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "") == "formulas")
    assert lines and not lines & set(range(words.lineno, words.end_lineno + 1))


@pytest.mark.parametrize(
    "file",
    ["dispatch.py", "state.py", "models/packing.py", "weights/geometric.py", "engines/native/csrc/step.c"],
)
def test_every_file_has_checks(file):
    found = checks(file)
    assert any("pytest" in check for check in found) and found[-1][1].startswith(
        "from tests.contract.faulty import main; main("
    )


def mutant(file, line):
    """The mutant that produces this line."""
    return next(found for found in mutants(file) if f"+{line}" in found.diff().splitlines())


@pytest.mark.full
def test_a_fault_is_caught_and_another_survives(tmp_path, monkeypatch, capsys):
    caught = mutant("dispatch.py", "    lengths = [stop + start for start, stop in zip(bounds, bounds[1:])]")
    survives = mutant("dispatch.py", "    most = (64 + 1)")
    narrow = [_laws(RECURRENT, one_per_class=False)]
    found = {planted.old: judge(planted, narrow) for planted in (caught, survives)}
    assert [found[old]["outcome"] for old in ("-", "64")] == ["caught", "survived"] and "recurrent" in found[
        "-"
    ]["by"]

    monkeypatch.setattr("tests.mutate.__main__.mutants", lambda file: iter((caught, survives)))
    monkeypatch.setattr("tests.mutate.__main__.judge", lambda planted: found[planted.old])
    out = tmp_path / "found.json"
    assert main(["dispatch.py", "--out", str(out), "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 caught" in printed and "+    most = (64 + 1)" in printed and "+    lengths" not in printed
    assert {result["outcome"] for result in json.loads(out.read_text())} == {"caught", "survived"}

    monkeypatch.setattr("tests.mutate.__main__.judge", None)  # not called again
    assert main(["dispatch.py", "--out", str(out), "--count", "1", "--processes", "1"]) in (0, 1)


def test_what_is_broken_anyway_catches_nothing():
    survives = mutant("dispatch.py", "    most = (64 + 1)")
    assert judge(survives, [("-c", "raise SystemExit(1)")])["outcome"] == "survived"
