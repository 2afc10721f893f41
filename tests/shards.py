"""What one of several processes does in tests/test_distributed.py: it computes its shard of the sequences
and the whole of them, and measures how far apart they are."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import ttr
import ttr.distributed
from ttr.distributed import SequenceShard
from ttr.laws.rows import Case, Sizes, make_case
from ttr.laws.tolerances import error
from ttr.problem import Problem
from ttr.slots import single
from ttr.state import State

Errors = dict[str, float]
Measure = Callable[[DeviceMesh], Errors]

TIME = 11
BOUNDS = {"rows": None, "across": (0, 2, 9, 11), "whole": (0, TIME), "apart": (0, 3, 6, 11)}
"""Batches whose rows are one sequence each, and documents packed in a row: one that reaches over the cut at
6, to both ends, and none that does."""


def run(processes: int, cases: Mapping[str, Measure], imported: str = __name__) -> dict[str, Errors]:
    """The largest errors that any of several processes, joined by gloo, measures in every case. They are
    forks of a process that has ``imported`` a module."""
    with tempfile.TemporaryDirectory() as folder:
        # which takes longer than most cases; without effect if another test has started the fork server
        multiprocessing.set_forkserver_preload([imported])
        torch.multiprocessing.start_processes(
            _process, (processes, cases, folder), processes, start_method="forkserver"
        )
        found = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    assert len(found) == processes
    return {
        name: {
            quantity: max(each[name].get(quantity, 0.0) for each in found)
            for quantity in set().union(*(each[name] for each in found))
        }
        for name in cases
    }


def _process(rank: int, processes: int, cases: Mapping[str, Measure], folder: str) -> None:
    torch.set_num_threads(1)
    join, patience = f"file://{folder}/join", timedelta(minutes=2)
    dist.init_process_group("gloo", init_method=join, timeout=patience, rank=rank, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("sequence",))
    found = {}
    for name, measure in cases.items():
        torch.manual_seed(0)
        found[name] = measure(mesh)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def shard_of(mesh: DeviceMesh, bounds: tuple[int, ...] | None, time: int = TIME) -> SequenceShard:
    """The shard of a mesh, of rows or of packed documents."""
    return SequenceShard.of(mesh, time, None if bounds is None else torch.tensor(bounds))


def of_regress(
    problem: Problem,
    bounds: tuple[int, ...] | None,
    mesh: DeviceMesh,
    leaves: tuple[str, ...] = (),
    **kind: Any,
) -> Errors:
    """Outputs, final state and gradients of ``regress`` on a ``kind`` of case; the gradients of some
    ``leaves`` alone if they are named."""
    case = _differentiable(
        make_case(problem, Sizes(batch=2 if bounds is None else 1, time=TIME), **kind), leaves
    )
    shard = shard_of(mesh, bounds)
    packed = None if bounds is None else torch.tensor(bounds)
    whole, end = ttr.regress(problem, return_state=True, cu_seqlens=packed, **case.arguments())
    start = shard.cuts[shard.rank]
    local = _differentiable(case.tokens(slice(start, start + shard.time)), leaves)
    call = local.arguments()
    del call["state"]
    y, state = ttr.distributed.regress(problem, shard=shard, return_state=True, **call)
    errors = {"output": error(y, shard.cut(whole))}
    if start + shard.time == TIME:
        errors |= state_errors(problem, state, end)
    wanted, got = (
        _gradients(loss.square().sum(), leaves)
        for loss, leaves in ((whole, case.leaves()), (y, local.leaves()))
    )
    for name, gradient in wanted.items():
        shared = name == "ridge" or "." in name
        errors[f"gradient of {name}"] = _error(got[name], gradient, shared, shard)
    return errors


def _differentiable(case: Case, leaves: tuple[str, ...]) -> Case:
    """The case with gradients of these leaves, or of all."""
    every = case.differentiable().leaves()
    return case.with_leaves(
        {name: x if name in leaves or not leaves else x.detach() for name, x in every.items()}
    )


def state_errors(problem: Problem, got: State, wanted: State) -> Errors:
    """Of the states of the sequences of the last process."""
    errors = {}
    first = len(wanted.position) - len(got.position)
    for row in range(len(got.position)):
        one, other = (
            single(got, row, problem.weights.window),
            single(wanted, first + row, problem.weights.window),
        )
        for name, tensor in one.state_dict().items():
            at = f"state {name}"
            errors[at] = max(errors.get(at, 0.0), error(tensor, other.state_dict()[name]))
    return errors


def of_mixer(name: str, bounds: tuple[int, ...] | None, mesh: DeviceMesh, time: int = TIME) -> Errors:
    """Outputs, final state and gradients of a layer of the catalogue."""
    layer = ttr.nn.Mixer(8, ttr.catalogue[name], heads=2).double()
    x = torch.randn(2 if bounds is None else 1, time, 8, dtype=torch.float64, requires_grad=True)
    shard = shard_of(mesh, bounds, time)
    packed = None if bounds is None else torch.tensor(bounds)
    whole, end = layer(x, return_state=True, cu_seqlens=packed)
    own = shard.cut(x).detach().clone().requires_grad_()
    with ttr.distributed.sequence_parallel(shard):
        y, state = layer(own, return_state=True)
        errors = {"output": error(y, shard.cut(whole))}
        got = _gradients(y.square().sum(), {"x": own, **dict(layer.named_parameters())})
    if shard.cuts[shard.rank + 1] == time:
        errors |= state_errors(layer.problem, state, end)
    wanted = _gradients(whole.square().sum(), {"x": x, **dict(layer.named_parameters())})
    for name, gradient in wanted.items():
        errors[f"gradient of {name}"] = _error(got[name], gradient, name != "x", shard)
    return errors


def of_model(
    layers: tuple[str, ...], bounds: tuple[int, ...] | None, mesh: DeviceMesh, checkpoints: bool = False
) -> Errors:
    """The loss and the gradients of a decoder."""
    from tests.decoders import tiny, tokens  # transformers, which other cases need not import

    model = tiny(layers).train()
    ids = tokens(2 if bounds is None else 1, TIME)
    shard = shard_of(mesh, bounds)
    packed = None if bounds is None else torch.tensor(bounds)
    whole = model(ids, labels=ids, cu_seqlens=packed)
    weights = dict(model.named_parameters())
    wanted = _gradients(whole.loss, weights)
    if checkpoints:
        model.activation_checkpointing_enable()
    with ttr.distributed.sequence_parallel(shard):
        own = model(**ttr.distributed.split(shard, ids))
        own.loss.backward()
    got = {name: weight.grad for name, weight in weights.items()}
    errors = {f"gradient of {name}": _error(got[name], wanted[name], True, shard) for name in wanted}
    errors["loss"] = _error(own.loss.detach(), whole.loss.detach(), True, shard)
    return errors | {"logits": error(own.logits, shard.cut(whole.logits))}


def of_training(layers: tuple[str, ...], data: int, wrap: str, mesh: DeviceMesh) -> Errors:
    """The gradients of a decoder under DDP or FSDP2, on a mesh of ``data`` times sequence."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    from tests.decoders import tiny, tokens

    processes = mesh.size()
    mesh = init_device_mesh("cpu", (data, processes // data), mesh_dim_names=("data", "sequence"))
    model = tiny(layers).train()
    weights = dict(model.named_parameters())
    ids = tokens(2 * data, TIME)
    wanted = _gradients(model(ids, labels=ids).loss, weights)
    if wrap == "ddp":
        wrapped = DistributedDataParallel(model)
    else:
        wrapped = model
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    shard = SequenceShard.of(mesh["sequence"], TIME)
    batch = ttr.distributed.split(shard, ids.chunk(data)[mesh["data"].get_local_rank()])
    batch["num_items_in_batch"] *= data
    with ttr.distributed.sequence_parallel(shard):
        (processes * wrapped(**batch).loss).backward()  # both average over the processes
    got = {name: weight.grad for name, weight in model.named_parameters()}
    got = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in got.items()}
    return {f"gradient of {name}": error(got[name], gradient) for name, gradient in wanted.items()}


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: x for name, x in leaves.items() if x.requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found))


def _error(got: Tensor, wanted: Tensor, shared: bool, shard: SequenceShard) -> float:
    """Of the gradient of a weight, of which this process has a share, or of a tensor of the tokens."""
    if not shared:
        return error(got, shard.cut(wanted))
    summed = got.clone()
    dist.all_reduce(summed, group=shard.group)
    return error(summed, wanted)
