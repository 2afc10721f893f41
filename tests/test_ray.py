"""Cells on a Ray cluster of two nodes, which share this machine but no folder."""

import contextlib
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

pytest.importorskip("ray", reason="needs Ray: pip install 'test-time-regression[ray]'")

from ray.cluster_utils import Cluster

from tests.test_cells import DRAWN, silent
from ttr.experiments import ray_cluster
from ttr.experiments.cells import Cell, run
from ttr.experiments.compare import compare
from ttr.experiments.errors import UserError
from ttr.experiments.settings import CompareSettings
from ttr.experiments.storage import locked, save_tensors
from ttr.experiments.workers import workers

pytestmark = pytest.mark.full
PATH = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
AWAKE = {"RAY_worker_niceness": "0"}  # by default other processes of a busy machine go before Ray's
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one processor each; this process is connected to them as long as they are there."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ttr-") as folder:
        patch.setenv("PYTHONPATH", PATH)
        patch.setenv("OMP_NUM_THREADS", "2")  # cells use one all the same
        options = {"TMPDIR": folder, "RAY_TMPDIR": folder}
        options |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        for name, value in (AWAKE | options).items():
            patch.setenv(name, value)
        nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        nodes.add_node(**NODE)
        with workers(1, nodes.address):
            yield nodes
        nodes.shutdown()


def computed(cluster, folder, cells, report=silent):
    folder.mkdir(exist_ok=True)
    with workers(1, cluster.address) as compute:
        return run(cells, folder, compute, report)


def lingering(marks, *names):
    return [Cell("tests.celled:linger", {"name": name, "marks": str(marks)}, name, 1) for name in names]


@contextlib.contextmanager
def meanwhile(function):
    """Call a function in another thread."""
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=function)
        thread.start()
        stack.callback(thread.join)
        yield


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ the results
def test_files_and_reports_are_those_of_one_process(cluster, tmp_path):
    reports = {}
    for name, ray in (("here", None), ("there", cluster.address)):
        (tmp_path / name).mkdir()
        reports[name] = []
        with workers(1, ray) as compute:
            run(DRAWN, tmp_path / name, compute, lambda *report: reports[name].append(report))
    here, there = ([cell.file(tmp_path / name).read_bytes() for cell in DRAWN] for name in ("here", "there"))
    assert here == there
    assert sorted(reports["here"]) == sorted(reports["there"])
    assert not list((tmp_path / "there").glob("called-*"))  # the functions ran in folders of the nodes


def test_a_comparison_with_a_users_memory_equals_that_of_one_process(cluster, tmp_path):
    text, memory = tmp_path / "text.txt", tmp_path / "my_memory.py"
    text.write_text(" ".join(f"word{n * n % 11} {n}" for n in range(4000)))
    memory.write_text(
        "import dataclasses\nimport ttr\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Mine(ttr.weights.Geometric):\n"
        "    pass\n\n"
        "memory = ttr.Problem(Mine(), ttr.functions.Linear(), ttr.solvers.OneStep())\n"
    )
    settings = CompareSettings(
        files=(text,),
        layers=("linear-attention",),
        memory=memory,
        steps=3,
        width=16,
        context=32,
        batch=2,
        head_size=8,
        depth=1,
        evaluation_windows=24,
        rounds=1,
        resamples=100,
    )
    for name, ray in (("here", None), ("there", cluster.address)):
        with open(os.devnull, "w") as nowhere:
            compare(dataclasses.replace(settings, ray=ray, out=tmp_path / name), Console(file=nowhere))
    assert dataclasses.replace(settings, ray=cluster.address).to_dict() == settings.to_dict()
    here, there = (sorted((tmp_path / name / "cells").glob("*.safetensors")) for name in ("here", "there"))
    assert len(here) > 5 and [path.name for path in here] == [path.name for path in there]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(here, there))


def test_a_cell_has_the_inputs_that_it_names(cluster, tmp_path):
    (tmp_path / "inputs").mkdir()
    contents = {hashlib.sha256(content).hexdigest(): content for content in (b"one", b"two", b"three")}
    for sha256, content in contents.items():
        (tmp_path / "inputs" / sha256).write_bytes(content)
    cells = [Cell("tests.celled:sizes", {"input": name}, name[:4], 1, (name,)) for name in contents]
    for content, (tensors, facts) in zip(contents.values(), computed(cluster, tmp_path, cells)):
        assert bytes(tensors["bytes"].tolist()) == content and facts["files"] == 1


# ----------------------------------------------------------------------------------- what goes wrong on nodes
def test_a_lost_node_loses_only_the_cell_that_it_was_at(cluster, tmp_path):
    third, reports = cluster.add_node(**NODE), []

    def started(name="*", node="*"):
        return list(tmp_path.glob(f"{name}.{node}.started-*"))

    def lose_it():
        wait_for(lambda: len(started()) == 3)
        process = psutil.Process(int(started(node=third.node_id)[0].name.split("-")[-1]))
        cluster.remove_node(third, allow_graceful=False)
        process.wait(60)
        (tmp_path / "go").touch()

    with meanwhile(lose_it):
        cells = lingering(tmp_path, "a", "b", "c")
        results = computed(cluster, tmp_path, cells, lambda *report: reports.append(report))
    assert [facts["name"] for _, facts in results] == ["a", "b", "c"]
    assert sorted(len(started(name)) for name in "abc") == [1, 1, 2]
    assert sum(steps for _, steps, *_ in reports) == 3 and sum("lost" in words for *_, words in reports) == 1


def test_a_process_that_always_ends_is_a_sentence(cluster, tmp_path):
    cells, reports = [Cell("tests.celled:end", {}, "end", 1), *DRAWN[:1]], []
    with pytest.raises(UserError, match=f"end was started {ray_cluster.ATTEMPTS} times.*memory"):
        computed(cluster, tmp_path, cells, lambda *report: reports.append(report))
    assert sum("starts again" in words for *_, words in reports) == ray_cluster.ATTEMPTS - 1
    assert DRAWN[0].load(tmp_path) is not None


def test_an_error_in_a_cell_is_passed_on_the_finished_are_kept_and_the_others_stopped(cluster, tmp_path):
    computed(cluster, tmp_path, DRAWN[:1])
    fail = Cell("tests.celled:fail", {"marks": str(tmp_path)}, "fail", 1)
    cells = [*DRAWN[:1], fail, *lingering(tmp_path, "a")]
    with pytest.raises(ValueError, match="^This cell cannot be computed.$"):
        computed(cluster, tmp_path, cells)
    assert DRAWN[0].load(tmp_path) is not None
    wait_for((tmp_path / "a.ended").exists)


def test_nodes_with_other_versions_are_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("ttr.experiments.cells.__version__", "0.0.7")
    with pytest.raises(
        UserError, match=r"The node \S+ has ttr 0.*this process has ttr 0\.0\.7.*same versions"
    ):
        computed(cluster, tmp_path, DRAWN)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_damaged_input_is_named(cluster, tmp_path):
    (tmp_path / "inputs").mkdir()
    sha256 = hashlib.sha256(b"content").hexdigest()
    (tmp_path / "inputs" / sha256).write_bytes(b"another content")
    with pytest.raises(UserError, match=f"inputs/{sha256}.*damaged"):
        computed(cluster, tmp_path, [Cell("tests.celled:sizes", {"input": sha256}, "size", 1, (sha256,))])


def test_needs_that_no_node_meets_are_reported(cluster, tmp_path):
    reports = []

    def report(*report):
        reports.append(report)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed(cluster, tmp_path, [dataclasses.replace(DRAWN[0], cpus=3, gpus=1)], report)
    assert reports == [("draw-0", 0, "waits for a node that has CPU 3, GPU 1", True)]


# ------------------------------------------------------------------------------------- runs beside each other
def test_a_cell_of_another_run_is_waited_for(cluster, tmp_path):
    with contextlib.ExitStack() as other:
        other.enter_context(locked(DRAWN[0].file(tmp_path), block=False))

        def finish():
            wait_for(lambda: all(cell.file(tmp_path).exists() for cell in DRAWN[1:]))
            save_tensors(DRAWN[0].file(tmp_path), {"sum": torch.ones(())}, {"key": DRAWN[0].key, "facts": {}})
            other.close()

        with meanwhile(finish):
            (tensors, _), *_ = computed(cluster, tmp_path, DRAWN)
    assert tensors["sum"] == 1


PROGRAM = """
import sys
from pathlib import Path
from tests.test_cells import DRAWN
from tests.test_ray import lingering
from ttr.experiments.cells import run
from ttr.experiments.workers import workers

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with workers(1, "local") as compute:
        run([*DRAWN[:1], *lingering(folder, "a")], folder, compute, lambda *_: None)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_keeps_its_cells_and_leaves_nothing_behind(sent, tmp_path):
    """The interrupt of a terminal goes to the whole group of processes. A Ray of this machine writes into a
    folder that ends with it, unless it is killed."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with tempfile.TemporaryDirectory(prefix="ttr-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= AWAKE | {"PYTHONPATH": PATH, "TMPDIR": folder, "RAY_TMPDIR": folder, "HOME": folder}
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path)],
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells make jobs ignore it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for(lambda: any(tmp_path.glob("a.*.started-*")) and DRAWN[0].file(tmp_path).exists())
        finally:
            os.killpg(process.pid, sent)
            said = process.communicate(timeout=60)[0]
        if sent == signal.SIGINT:
            assert said.startswith("Traceback") and said.rstrip().endswith("KeyboardInterrupt"), said
            assert said.count("Traceback") == 1
            assert not {name for name in os.listdir(folder) if name.startswith(("ttr-", "ray", ".ray"))}
        else:
            assert said == ""
        assert DRAWN[0].load(tmp_path) is not None
        wait_for(lambda: not any(folder in " ".join(command) for command in commands()))


def commands():
    """The command lines of all processes."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield process.cmdline()


@pytest.mark.parametrize(
    "address, sentence",
    [("127.0.0.1:9", "no Ray cluster.*127.0.0.1:9.*ray start"), ("here", "Invalid address")],
)
def test_an_address_without_a_cluster_is_refused(address, sentence, monkeypatch):
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    with pytest.raises(UserError, match=sentence), workers(1, address):
        pass
