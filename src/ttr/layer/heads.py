"""A layer whose heads several processes share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ttr.distributed.heads import HeadShard, LocalTensors, shared_out
from ttr.layer.architecture import Architecture
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import Tensors

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ttr.layer.mixer import Mixer

_Named = tuple[nn.Module, str, Tensor, tuple[int, ...]]
"""A module, the name of one of its tensors, the tensor, and its shape before axes were flattened."""


def divide_heads(mixer: Mixer, mesh: DeviceMesh) -> str | None:
    """Leave each process of a mesh its share of the heads of a layer: of projections, gates, convolutions,
    memory and state.

    All processes call the layer with the same inputs, and get the outputs and gradients of the whole layer.
    Its parameters become DTensors: split where they belong to heads, whole where the heads share them.

    Args:
        mixer: a layer with the same weights in every process, or none yet (on the meta device).
        mesh: a mesh of one dimension.

    Returns:
        why the layer stays whole in every process, as a sentence; None if it is divided.

    Raises:
        ValueError: if the mesh has several dimensions, or the layer is already divided.
    """
    if mesh.ndim != 1:
        raise ValueError(
            f"Heads are shared along one dimension of a mesh, and this has {mesh.ndim}. "
            'Use mesh["tp"], or the name of another dimension.'
        )
    if mixer.head_shard is not None:
        raise ValueError("The heads of this layer are already divided. Call divide_heads once per layer.")
    reason = undivided(mixer.architecture, mixer.sizes, mesh.size())
    if reason is None:
        _divide(mixer, _share_of(mixer, mesh.size()), HeadShard(mesh))
    return reason


def undivided(architecture: Architecture, sizes: Sizes, processes: int) -> str | None:
    """Why so many processes cannot share the heads of a layer, as a sentence; None if they can."""
    numbers = {"queries": sizes.query_heads, "keys": sizes.key_heads, "values": sizes.value_heads}
    for name, heads in (numbers | {"the memory": sizes.heads}).items():
        single = heads == 1 < sizes.heads  # which every process computes
        if heads % processes and not single:
            return f"{processes} processes cannot share {heads} heads of {name} evenly."
    for part in (*architecture.before_memory(), *architecture.output):
        if part.head_groups(sizes) % processes:
            return f"{part!r} reads more heads together than a process would have."
    return None


def _share_of(mixer: Mixer, processes: int) -> Mixer:
    """A layer of one share of the heads, without numbers."""
    s = mixer.sizes
    query, key, value = (max(n // processes, 1) for n in (s.query_heads, s.key_heads, s.value_heads))
    with torch.device("meta"):
        return type(mixer)(
            s.d_model,
            mixer.architecture,
            heads=query,
            key_size=s.key_size,
            value_size=s.value_size,
            key_heads=key,
            value_heads=value,
            layer=s.layer,
            layers=s.layers,
            engine=mixer.engine,
        )


def _divide(mixer: Mixer, share: Mixer, shard: HeadShard) -> None:
    """Cut the tensors of a layer where those of a share are smaller, and give it the sizes of the share."""
    cuts = [_Cut.between(*pair) for pair in zip(_tensors(mixer), _tensors(share), strict=True)]
    buffers: dict[nn.Module, dict[str, int]] = {cut.module: {} for cut in cuts}
    for cut in cuts:
        if cut.name in cut.module._parameters:
            whole = cut.module.get_parameter(cut.name)
            setattr(cut.module, cut.name, shared_out(whole, shard.mesh, cut.axis, cut.groups))
        elif cut.axis is not None:
            buffers[cut.module][cut.name] = cut.axis
    for module, axes in buffers.items():
        LocalTensors.of(module, shard, axes)
    for module, smaller in zip(mixer.modules(), share.modules(), strict=True):
        if isinstance(module, Tensors) and isinstance(smaller, Tensors):
            module.matrices = smaller.matrices
    first = shard.mesh.get_local_rank() * share.sizes.heads
    mixer.problem = mixer.problem.at_heads(first, mixer.sizes.heads)
    mixer.sizes, mixer.head_shard = share.sizes, shard


class _Cut(NamedTuple):
    """A tensor of a module that is cut along an axis, or along each of ``groups`` of it; whole if the axis is
    None."""

    module: nn.Module
    name: str
    axis: int | None
    groups: int = 1

    @staticmethod
    def between(whole: _Named, share: _Named) -> _Cut:
        """How a tensor is cut of which a share of the heads has another."""
        module, name, x, sizes = whole
        split = [axis for axis, (size, part) in enumerate(zip(sizes, share[-1])) if size != part]
        if len(split) > 1:
            raise ValueError(
                f"A tensor of shape {list(sizes)}, {name}, has several axes that count heads. The part that "
                "declares it reads heads together: let its head_groups say so."
            )
        if not split:
            return _Cut(module, name, None)
        if len(sizes) > x.ndim:  # of the axes that are the rows of a matrix
            return _Cut(module, name, 0, math.prod(sizes[: split[0]]))
        return _Cut(module, name, split[0])


def _tensors(mixer: Mixer) -> Iterator[_Named]:
    """Every tensor of a layer."""
    rows: dict[nn.Module, tuple[int, ...]] = {
        mixer.get_submodule(f"{name}_proj"): mixer.sizes.stream(name) for name in mixer.projected
    }
    for module in mixer.modules():
        if isinstance(module, Tensors):
            rows |= {module.get_submodule(child): shape for child, shape in module.matrices.values()}
        own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, x in own:
            shape = rows.get(module, tuple(x.shape[:1]))
            yield module, name, x, (*shape, *x.shape[1:])
