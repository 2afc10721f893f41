"""The runner of cells: each is computed once, the same for any number of processes, and survives a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ttr.experiments.cells import Cell, run
from ttr.experiments.errors import UserError
from ttr.experiments.workers import workers

DRAWN = [Cell("tests.celled:draw", {"seed": seed}, f"draw-{seed}", 1) for seed in range(4)]


def silent(*_):
    pass


def computed(folder, cells, jobs, report=silent):
    folder.mkdir(exist_ok=True)
    with workers(jobs) as compute:
        return run(cells, folder, compute, report)


def calls(folder: Path) -> int:
    return len(list(folder.glob("called-*")))


def test_results_do_not_depend_on_the_number_of_processes(tmp_path):
    reports = []
    alone = computed(tmp_path / "one", DRAWN, 1)
    several = computed(tmp_path / "two", DRAWN, 2, lambda *report: reports.append(report))
    for cell, (a, facts), (b, others) in zip(DRAWN, alone, several, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("sum", "product")) and facts == others
        one, two = (cell.file(tmp_path / folder).read_bytes() for folder in ("one", "two"))
        assert one == two
    assert sorted(words for _, _, words in reports) == [f"seed {seed}" for seed in range(4)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_cell_has_one_thread_whatever_its_caller_has(jobs, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert [facts["threads"] for _, facts in computed(tmp_path, DRAWN[:2], jobs)] == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_cell_is_computed_once(tmp_path):
    computed(tmp_path, DRAWN[:2], 1)
    again = computed(tmp_path, DRAWN, 1)
    assert calls(tmp_path) == 4 and [facts["seed"] for _, facts in again] == [0, 1, 2, 3]


def test_what_decides_the_result_is_in_the_key(monkeypatch):
    cell = DRAWN[0]
    other = [
        Cell("tests.celled:walk", cell.arguments, cell.label, 1),
        Cell(cell.function, {"seed": 5}, cell.label, 1),
    ]
    assert len({cell.key, *(each.key for each in other)}) == 3
    key = cell.key
    assert Cell(cell.function, cell.arguments, "another", 7, ("input",), 2, 1, 10**9).key == key
    monkeypatch.setattr("ttr.experiments.cells.__version__", "0")
    assert cell.key != key


def test_a_file_of_another_cell_is_named(tmp_path):
    computed(tmp_path, DRAWN[:1], 1)
    DRAWN[0].file(tmp_path).rename(DRAWN[1].file(tmp_path))
    with pytest.raises(UserError, match="draw-1.*belongs to another run"):
        computed(tmp_path, DRAWN, 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_cell_is_passed_on_and_the_others_are_kept(jobs, tmp_path):
    computed(tmp_path, DRAWN[:1], 1)
    cells = [DRAWN[0], Cell("tests.celled:fail", {}, "fail", 1), DRAWN[1]]
    with pytest.raises(ValueError, match="cannot be computed"):
        computed(tmp_path, cells, jobs)
    computed(tmp_path, DRAWN[:1], 1)
    assert calls(tmp_path) - len(list(tmp_path.glob("called-1-*"))) == 1


def test_a_process_that_ends_early_is_a_sentence(tmp_path):
    cells = [Cell("tests.celled:end", {"seed": seed}, f"end-{seed}", 1) for seed in range(2)]
    with pytest.raises(UserError, match="ended before its cell was computed.*--jobs"):
        computed(tmp_path, cells, 2)


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ttr.experiments.ray_cluster", raising=False)
    with pytest.raises(UserError, match="Ray is not installed.*pip install"), workers(1, "auto"):
        pass


PROGRAM = """
import sys
from pathlib import Path
from ttr.experiments.cells import Cell, run
from ttr.experiments.workers import workers

if __name__ == "__main__":
    steps, pause, jobs = int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    cells = [
        Cell("tests.celled:walk", {"name": name, "steps": steps, "pause": pause}, name, steps)
        for name in "ab"
    ]
    with workers(jobs) as compute:
        run(cells, Path(sys.argv[1]), compute, lambda *_: None)
"""


def started(tmp_path, folder, jobs, **options):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder), "40", "0.02", str(jobs)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, **options)


@pytest.mark.full
def test_killed_processes_leave_no_other_behind_and_lose_no_step(tmp_path):
    """The second run waits for the first one's processes, and repeats at most the step they were at."""
    process = started(tmp_path, tmp_path, 2)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("step-b-3-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert started(tmp_path, tmp_path, 1).wait(60) == 0
    steps = [path.name.rsplit("-", 1)[0] for path in tmp_path.glob("step-*")]
    assert set(steps) == {f"step-{name}-{i}" for name in "ab" for i in range(40)} and len(steps) <= 82


@pytest.mark.full
def test_interrupted_processes_end_without_a_word(tmp_path):
    """The interrupt of a terminal goes to the whole group of processes; one of them reports it."""
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # shells make jobs ignore it
    process = started(
        tmp_path, tmp_path, 2, start_new_session=True, stderr=subprocess.PIPE, text=True, **heed
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("step-b-3-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1


@pytest.mark.full
def test_two_runs_in_one_folder_share_the_work(tmp_path):
    runs = [started(tmp_path, tmp_path, 1) for _ in range(2)]
    assert [process.wait(60) for process in runs] == [0, 0]
    assert len(list(tmp_path.glob("step-*"))) == 80
