"""The commands end to end: output, exit codes, and errors of one sentence."""

import json
import re
import sys

import pytest
import torch

import ttr
from ttr import cli, combinations
from ttr.laws import LAWS
from ttr.laws.law import Law, Measurement
from ttr.laws.rows import refused_triples, triples
from ttr.laws.verify import Finding, Report


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command as a shell would: exit code, standard output, standard error."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["ttr", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return command


@pytest.fixture
def laws(monkeypatch):
    """Replace the laws by others."""

    def replace(*others):
        monkeypatch.setattr("ttr.laws.verify.LAWS", others)

    return replace


ROUTE = (
    *("dispatch", "prepare", "problem", "function", "solver", "weights"),
    *("form", "engine", "finish", "a single token"),
)
"""The steps of a call in order."""

PASSED = Law(1, "passes", lambda problem, setting: [("a quantity", 0.25, 0.5), ("another", 0.0, 0.0)])
FAILED = Law(2, "fails", lambda problem, setting: [("a number", 3.0, 2.0)])


def test_version(run):
    code, out, _ = run("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    assert (code, out) == (0, f"ttr {ttr.__version__}, torch {torch.__version__}, Python {python}\n")


def test_a_shell_completes_commands(run, monkeypatch):
    shell = {"_TTR_COMPLETE": "complete_bash", "COMP_WORDS": "ttr exp", "COMP_CWORD": "1"}
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    code, out, _ = run()
    assert (code, out) == (0, "explain\n")


def test_list_groups_every_name_by_family(run):
    code, out, _ = run("list")
    lines = [line for line in out.splitlines() if line]
    assert code == 0
    for family, names in ttr.catalogue.FAMILIES.items():
        start = lines.index(family)
        block = lines[start + 1 : start + 1 + len(names)]
        assert [line.split()[0] for line in block] == list(names)
        assert all(
            str(ttr.catalogue[name].year) in line
            and combinations.composition(ttr.catalogue[name].problem) in line
            for name, line in zip(names, block)
        )
    assert sum(map(len, ttr.catalogue.FAMILIES.values())) == len(ttr.catalogue)


def test_list_for_machines(run):
    code, out, _ = run("list", "--json")
    assert code == 0 and list(json.loads(out)) == list(ttr.catalogue)


def test_combinations_for_machines_are_complete(run):
    code, out, _ = run("list", "--combinations", "--json")
    found = json.loads(out)
    assert code == 0 and set(found["catalogue"]) == set(ttr.catalogue)
    runs = {(c["weights"], c["function"], c["solver"]) for c in found["combinations"] if c["refusal"] is None}
    assert runs == {(repr(p.weights), repr(p.function), repr(p.solver)) for p in triples()}
    assert len(found["combinations"]) - len(runs) == len(refused_triples()) == found["counts"]["refused"]
    assert all(c["refusal"] is None for c in found["combinations"] if c["names"])
    gated = next(
        c
        for c in found["combinations"]
        if (c["weights"], c["function"], c["solver"]) == ("Geometric()", "Linear()", "DeltaRule()")
    )
    assert (
        "gated-deltanet" in gated["names"]
        and "deltanet" not in gated["names"]
        and "gated-deltaproduct" not in gated["names"]
    )


def test_combinations_for_people(run):
    code, out, _ = run("list", "--combinations")
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    named = {name for c in combinations.combinations() for name in c.names}
    assert named | set(combinations.other_names()) == set(ttr.catalogue) and not named & set(
        combinations.other_names()
    )
    words = {word.rstrip(",") for word in out.split()}
    assert set(ttr.catalogue) <= words
    counts = combinations.counts()
    for mark, count in ((combinations.NAMED, counts["named"]), (combinations.UNNAMED, counts["unnamed"])):
        assert count == sum(c.mark == mark for c in combinations.combinations()) and str(count) in out
    assert sum(count for _, count in combinations.refusals()) == counts["refused"]


def test_tables_hold_every_combination_that_runs():
    seen = {}
    for table in combinations.tables():
        for weights, row in zip(table.weights, table.rows, strict=True):
            for solver, mark in zip(table.solvers, row, strict=True):
                for function in table.functions:
                    seen[weights, function, solver] = mark
    for c in combinations.combinations():
        mark = seen.get((c.weights, c.function, c.solver), combinations.REFUSED)
        assert (mark == combinations.REFUSED) == (c.refusal is not None)
        assert mark == combinations.NAMED or not c.names


def test_reasons_speak_of_axes_and_keep_their_remedies():
    reasons = [reason for reason, _ in combinations.refusals()]
    assert (
        "The function is fitted around every query, which the solver cannot do. Use ExactLocalFit, or a "
        "global function such as Linear."
    ) in reasons
    assert all(" Use " in reason for reason in reasons)


def test_explain(run):
    code, out, _ = run("explain", "gated-deltanet", "--heads", 2, "--key-size", 8, "--value-size", 4)
    assert code == 0 and out.startswith("gated-deltanet\n")
    assert "256 bytes of state" in out and "chunkwise-delta" in out and "a_t S_{t-1}" in out


@pytest.mark.parametrize("name", ["gated-deltanet", "softmax-attention", "titans"])
def test_explain_the_route(run, name):
    code, out, _ = run("explain", name, "--route")
    lines = [tuple(re.split(r"  +", line.strip())) for line in out.splitlines()[1:] if line]
    assert code == 0 and out.startswith(f"{name}\n")
    assert tuple(lines) == ttr.explain(ttr.catalogue[name]).route
    order = [step.partition(":")[0] for step, _ in lines]
    assert list(dict.fromkeys(order)) == list(ROUTE)


def test_explain_as_latex(run):
    code, out, _ = run("explain", "softmax-attention", "--latex")
    assert code == 0 and out.startswith(r"\paragraph{softmax-attention}") and r"\end{description}" in out


def test_explain_a_file_of_ones_own(run, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import ttr\nmemory = ttr.Problem.from_dict(ttr.catalogue['kda'].problem.to_dict())\n")
    code, out, _ = run("explain", path)
    assert code == 0 and out.startswith("mine\n") and "diag(a_t)" in out and "Around the memory" not in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("explain", "gated-delta-net"), "Did you mean gated-deltanet"),
        (("explain", "deltanet", "--heads", 3), "Give all three, or none."),
        (("explain", "nowhere.py"), "no Python file"),
        (("verify",), "Name memories"),
        (("verify", "deltanet", "--all"), "Name memories"),
        (("verify", "deltanet", "--dtype", "float16"), "Use float64 or float32."),
        (("verify", "deltanet", "--device", "abacus"), "no device 'abacus'"),
        (("verify", "deltanet", "--json", "/no/such/folder/x.json"), "no folder /no/such/folder"),
        (("verify", "deltanett"), "Did you mean deltanet"),
        (("verify", "deltanet", "--law", "33"), "no law '33'"),
        (("verify", "deltanet", "--engine", "abacus"), "no engine 'abacus'"),
    ],
)
def test_errors_are_a_sentence_and_exit_code_1(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 1 and out == "" and err.startswith("ttr: ") and words in err and err.count("\n") == 1


def test_verify_one_memory_shows_every_engine(run, laws):
    laws(PASSED)
    code, out, _ = run("verify", "softmax-attention")
    assert code == 0 and "All laws passed for softmax-attention." in out
    rows = [line.split() for line in out.splitlines() if " passed " in line and "<=" in line]
    assert [row[-1] for row in rows] == ["attention", "recurrent"] and all(
        "2.5e-01 <= 5e-01, a quantity" in " ".join(row) for row in rows
    )


def test_verify_tries_one_law_on_one_engine(run):
    code, out, _ = run("verify", "deltanet", "--law", "3", "--engine", "recurrent")
    rows = [line.split() for line in out.splitlines() if " causal " in line]
    assert code == 0 and [(row[0], row[-1]) for row in rows] == [("3", "recurrent")]


def test_verify_says_when_no_law_ran(run):
    code, _, err = run("verify", "titans", "--engine", "chunkwise-additive")
    assert code == 1 and "No law ran for titans. It runs memories that are a sum of pairs" in err
    code, _, err = run("verify", "gla", "--engine", "recurrent", "native")
    assert code == 1 and "It is an engine: repeat the option" in err


def test_verify_writes_every_measurement(run, laws, tmp_path):
    laws(*(law for law in LAWS if law.number in (1, 10)))
    code, out, _ = run(
        "verify", "deltanet", "intention", "--quick", "--dtype", "float32", "--json", tmp_path / "found.json"
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert code == 0, out
    assert set(found["memories"]) == {"deltanet", "intention"} and found["ttr"] == ttr.__version__
    for report in found["memories"].values():
        ran = [finding for finding in report["findings"] if finding["refusal"] is None]
        assert (
            report["passed"]
            and report["dtype"] == "float32"
            and len({finding["engine"] for finding in ran}) >= 2
        )
        measured = [finding for finding in ran if "error" in finding]
        assert measured and all(finding["error"] <= finding["bound"] for finding in measured)
        assert any(finding["error"] > 0 for finding in measured)
    laws_shown = {finding["law"] for finding in ran}
    assert sum(line[:5].strip().isdigit() for line in out.splitlines()) == 2 * len(laws_shown)


def test_verify_all_goes_through_every_name_and_fails_for_one(run, laws, tmp_path):
    def broken_for_windows(problem, setting):
        return [("a number", 3.0 if problem.weights.window else 1.0, 2.0)]

    laws(PASSED, Law(2, "no window", broken_for_windows))
    code, out, _ = run("verify", "--all", "--json", tmp_path / "all.json")
    found = json.loads((tmp_path / "all.json").read_text())["memories"]
    windowed = [name for name, entry in ttr.catalogue.items() if entry.problem.weights.window]
    assert (
        code == 1
        and list(found) == list(ttr.catalogue)
        and [name for name, report in found.items() if not report["passed"]] == windowed
    )
    assert f"Laws failed for {', '.join(windowed)}." in out and out.count(
        "FAILED 3.0e+00 > 2e+00, a number"
    ) == len(windowed)


def test_verify_survives_an_exception_and_an_infinite_error(run, laws, tmp_path):
    def raising(problem, setting):
        raise RuntimeError("a fault")

    laws(
        Law(1, "raising", raising),
        Law(2, "infinite", lambda problem, setting: [("a number", float("inf"), 1.0)]),
    )
    code, out, _ = run("verify", "deltanet", "--json", tmp_path / "x.json")
    findings = json.loads((tmp_path / "x.json").read_text())["memories"]["deltanet"]["findings"]
    assert code == 1 and "FAILED raised RuntimeError: a fault" in out and "FAILED inf > 1e+00" in out
    assert {finding.get("error") for finding in findings} >= {"inf"} and "RuntimeError: a fault" in {
        finding["exception"] for finding in findings
    }


def test_quick_leaves_the_slow_laws_out(run, laws):
    laws(PASSED, Law(2, "slow", lambda problem, setting: [("a number", 0.0, 1.0)], slow=True))
    assert "slow" not in run("verify", "deltanet", "--quick")[1] and "slow" in run("verify", "deltanet")[1]


def test_the_worst_engine_stands_for_a_law():
    def finding(engine, error, bound, failed=False):
        measured = Measurement("a law", "a number", error, bound)
        return Finding(engine, "a law", 1, measured, (measured,) if failed else ())

    def worst(*findings):
        return [
            found.engine
            for found in Report(ttr.catalogue["deltanet"].problem, "cpu", torch.float64, findings).by_law()
        ]

    assert (
        worst(finding("near", 0.9, 1.0), finding("far", 2.0, 8.0))
        == worst(finding("far", 2.0, 8.0), finding("near", 0.9, 1.0))
        == ["near"]
    )
    assert worst(finding("passed", 7.0, 8.0), finding("failed", 0.2, 0.1, failed=True)) == ["failed"]
    assert worst(Finding("silent", "a law", 1, None), finding("measured", 0.0, 1.0)) == ["measured"]
