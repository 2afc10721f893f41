"""Functions of cells that the tests of the runner compute."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from ttr.experiments.storage import load_tensors, save_tensors


def draw(arguments, folder: Path, checkpoint: Path, report):
    """Sums of random numbers, and the threads that add them; every call leaves a mark in the folder."""
    (folder / f"called-{arguments['seed']}-{os.getpid()}-{time.monotonic_ns()}").touch()
    generator = torch.Generator().manual_seed(arguments["seed"])
    x = torch.randn(300, 300, generator=generator)
    report("draw", 1, f"seed {arguments['seed']}")
    return {"sum": x.sum(), "product": x @ x}, {"seed": arguments["seed"], "threads": torch.get_num_threads()}


def walk(arguments, folder: Path, checkpoint: Path, report):
    """Steps that are kept one by one; each leaves a mark in the folder."""
    done = int(load_tensors(checkpoint)[0]["done"]) if checkpoint.exists() else 0
    for step in range(done, arguments["steps"]):
        (folder / f"step-{arguments['name']}-{step}-{os.getpid()}").touch(exist_ok=False)
        save_tensors(checkpoint, {"done": torch.tensor(step + 1)}, {})
        report("walk", 1, f"step {step}")
        time.sleep(arguments.get("pause", 0.0))
    return {"done": torch.tensor(arguments["steps"])}, {}


def fail(arguments, folder: Path, checkpoint: Path, report):
    """Fail, if it has a folder of marks as soon as a cell lingers there."""
    while "marks" in arguments and not any(Path(arguments["marks"]).glob("*.started-*")):
        time.sleep(0.02)
    raise ValueError("This cell cannot be computed.")


def end(arguments, folder: Path, checkpoint: Path, report):
    os._exit(1)


def sizes(arguments, folder: Path, checkpoint: Path, report):
    """The bytes of an input."""
    content = (folder / "inputs" / arguments["input"]).read_bytes()
    return {"bytes": torch.tensor(list(content))}, {"files": len(list((folder / "inputs").iterdir()))}


def linger(arguments, folder: Path, checkpoint: Path, report):
    """Wait on a Ray cluster for the file "go" in a folder of the machine; every call leaves a mark there
    when it starts, and when it ends in whatever way."""
    import ray

    marks, node = Path(arguments["marks"]), ray.get_runtime_context().get_node_id()
    (marks / f"{arguments['name']}.{node}.started-{os.getpid()}").touch()
    report("linger", 1, arguments["name"])
    try:
        while not (marks / "go").exists():
            time.sleep(0.02)
    finally:
        (marks / f"{arguments['name']}.ended").touch()
    return {}, {"name": arguments["name"]}
