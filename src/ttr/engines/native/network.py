"""The compiled dual form of networks with GELU between their matrices: how csrc/network.c is called."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn.functional import pad

from ttr.engines.native import library
from ttr.engines.torch.dual_form.chunks import Chunks, Named, Tensors, Weights, under

MOST_LAYERS, MOST_BLOCK = 8, 16
"""As in csrc/network.h."""

MOST_POWER = 8
"""The largest power of a loss or a norm: they are repeated products."""

UNIT = 16
"""Sizes in the kernels' memory are padded to this (csrc/matrix.h)."""

CACHED = 2**18
"""The number of weights in a block of chunks, chosen so that they fit a second-level cache beside the other
tensors in use."""

INPUTS = (
    "key",
    "value",
    "query",
    "pairs",
    "kept",
    "moved",
    "momentum_kept",
    "momentum_pairs",
    "gain",
    "shift",
    "weights",
    "momentum",
    "threshold",
    "decay",
)


class _Network(ctypes.Structure):
    """``network`` of csrc/network.h, field by field."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "chunks",
                "memories",
                "tokens",
                "layers",
                "residual",
                "bias",
                "block",
                "threads",
                "state",
                "loss_power",
                "mirror",
                "mirror_power",
            )
        ),
        ("width", ctypes.c_int64 * (MOST_LAYERS + 1)),
        *((name, ctypes.c_double) for name in ("eps", "mirror_eps", "total")),
        *((name, ctypes.c_void_p) for name in INPUTS),
        *((name, ctypes.c_void_p) for name in ("y", "end_weights", "end_momentum", "states")),
        *((f"grad_{name}", ctypes.c_void_p) for name in ("y", "end_weights", "end_momentum")),
        *((f"grad_{name}", ctypes.c_void_p) for name in INPUTS),
    ]


def serves(plan: Chunks, x: Tensors) -> bool:
    """Whether the library is available and can run this network: GELU between its matrices, a whole power of
    the error as the loss, clipped or not, a mirror that it knows, plain tensors on the CPU."""
    real = all(tensor.is_cpu and type(tensor) in library.PLAIN for tensor in x.values())
    return (
        real
        and plan.function.perceptron() is not None
        and plan.loss.power in range(2, MOST_POWER + 1)
        and _maps(plan, x)
        and len(plan.matrices) <= MOST_LAYERS
        and library.available()
    )


def _maps(plan: Chunks, x: Tensors) -> bool:
    """Whether there is no mirror, or one that the kernels know: of matrices without biases, with a decay and
    a step between tokens."""
    if plan.mirror is None:
        return True
    found = plan.mirror.mirror()
    known = found is not None and found.power in (None, *range(2, MOST_POWER + 1, 2))
    return known and "decay" in x and not any(name.endswith("_bias") for name in x)


def forward(plan: Chunks, x: Tensors, save: bool) -> tuple[Tensor, Weights, tuple[Tensor, ...]]:
    """The read-outs of all chunks, the weights after the last and, with ``save``, the weights that enter
    every block, which ``backward`` needs."""
    given, block = _packed(plan, x)
    momentum = "momentum" in given
    blocks, state = -(-x["key"].shape[0] // block), given["weights"].shape[-1]
    made = {"y": torch.empty_like(x["value"]), "end_weights": torch.empty_like(given["weights"])}
    if save:
        made["states"] = given["weights"].new_empty(blocks, x["key"].shape[1], 1 + momentum, state)
    if momentum:
        made["end_momentum"] = torch.empty_like(given["weights"])
    _call("network_forward", plan, x, given, block, made)
    end = Weights(
        *(
            _unpacked(made[f"end_{name}"], under("weight", x)) if f"end_{name}" in made else {}
            for name in ("weights", "momentum")
        )
    )
    return made["y"], end, (made["states"],) if save else ()


def backward(
    plan: Chunks, x: Tensors, entered: tuple[Tensor, ...], grad_y: Tensor, grad_end: Weights
) -> Named:
    """The gradients of all tensors of the call, by name."""
    given, block = _packed(plan, x)
    made = {f"grad_{name}": torch.zeros_like(tensor) for name, tensor in given.items()}
    made |= {
        "states": entered[0],
        "grad_y": library.contiguous(grad_y),
        "grad_end_weights": _pack(plan, x, grad_end.now),
    }
    if grad_end.momentum:
        made["grad_end_momentum"] = _pack(plan, x, grad_end.momentum)
    _call("network_backward", plan, x, given, block, made)
    found = {name: made[f"grad_{name}"] for name in given if name in x}
    if plan.loss.clipped:
        found["control.threshold"] = made["grad_threshold"]
    found |= {f"param.{name}": made[f"grad_{name}"][:, None] for name in plan.function.inner()}
    for kind, name in (("weight", "weights"), ("momentum", "momentum")):
        if name in given:
            found |= {
                f"{kind}.{own}": tensor
                for own, tensor in _unpacked(made[f"grad_{name}"], under(kind, x)).items()
            }
    return found


def _packed(plan: Chunks, x: Tensors) -> tuple[Named, int]:
    """The tensors in the layout of the kernel, and the number of chunks in a block."""
    given = {name: library.contiguous(tensor) for name, tensor in x.items() if name in INPUTS}
    given |= {name: library.contiguous(x[f"param.{name}"]).flatten(1) for name in plan.function.inner()}
    if plan.loss.clipped:
        given["threshold"] = library.contiguous(x["control.threshold"])
    given["weights"] = _pack(plan, x, under("weight", x))
    if momentum := under("momentum", x):
        given["momentum"] = _pack(plan, x, momentum)
    return given, max(1, min(MOST_BLOCK, CACHED // given["weights"].shape[-1]))


def _pack(plan: Chunks, x: Tensors, weights: Tensors) -> Tensor:
    """The weights of every memory side by side: each matrix with its sizes padded, followed by its bias, 0
    where there is none."""
    parts = []
    for name in plan.matrices:
        matrix = weights[name]
        inputs, outputs = (-size % UNIT for size in matrix.shape[1:])
        bias = weights.get(f"{name}_bias", matrix.new_zeros(len(matrix), matrix.shape[2]))
        parts += [pad(matrix, (0, outputs, 0, inputs)).flatten(1), pad(bias, (0, outputs))]
    return torch.cat(parts, dim=1)


def _unpacked(flat: Tensor, like: Tensors) -> Named:
    """The inverse of ``_pack``: tensors with the names and shapes of ``like``."""
    found, at = {}, 0
    for name in (name for name in like if not name.endswith("_bias")):
        inputs, outputs = like[name].shape[1:]
        rows, columns = (size + -size % UNIT for size in (inputs, outputs))
        found[name] = (
            flat[:, at : at + rows * columns].unflatten(1, (rows, columns))[:, :inputs, :outputs].contiguous()
        )
        at += rows * columns
        if f"{name}_bias" in like:
            found[f"{name}_bias"] = flat[:, at : at + outputs].contiguous()
        at += columns
    return {name: found[name] for name in like}


def _call(kernel: str, plan: Chunks, x: Tensors, given: Named, block: int, made: Named) -> None:
    matrices = [x[f"weight.{name}"] for name in plan.matrices]
    widths = [matrices[0].shape[1], *(matrix.shape[2] for matrix in matrices)]
    chunks, memories, tokens, _ = x["key"].shape
    perceptron = plan.function.perceptron()
    call = _Network(
        chunks=chunks,
        memories=memories,
        tokens=tokens,
        layers=len(matrices),
        residual=perceptron.residual,
        block=block,
        bias=f"weight.{plan.matrices[0]}_bias" in x,
        threads=torch.get_num_threads(),
        state=given["weights"].shape[-1],
        width=(ctypes.c_int64 * (MOST_LAYERS + 1))(*widths),
        loss_power=int(plan.loss.power),
        eps=perceptron.eps,
        **_mirror(plan),
        **{name: tensor.data_ptr() for name, tensor in (given | made).items()},
    )
    library.run(kernel, x["key"].dtype, call)


def _mirror(plan: Chunks) -> dict[str, int | float]:
    """The fields of the mirror: ``enum mirror`` of csrc/network.h and its numbers."""
    if plan.mirror is None:
        return {}
    power, eps, total = plan.mirror.mirror()
    return {
        "mirror": 1 if power is None else 2,
        "mirror_power": int(power or 0),
        "mirror_eps": eps,
        "total": total,
    }
