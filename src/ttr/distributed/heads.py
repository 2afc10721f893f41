"""The heads of a layer that one of several processes computes, and what it exchanges with the others: tensor
parallelism (Megatron-LM, arXiv 1909.08053)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttr.torch_internals import strided_shard

if TYPE_CHECKING:  # its import takes half a second
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class HeadShard:
    """One share of the heads of a layer for every process of a mesh of one dimension."""

    mesh: DeviceMesh

    def enter(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """What all processes have, the input of the layer above all; its gradient is the sum of theirs."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return x
        from torch.distributed.tensor import DTensor, Partial, Replicate

        return DTensor.from_local(x, self.mesh, [Replicate()], run_check=False).to_local(
            grad_placements=[Partial()]
        )

    def leave(self, y: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead d"]:
        """The output of the layer: the sum of what every process makes of its heads."""
        from torch.distributed.tensor import DTensor, Partial, Replicate

        shares = DTensor.from_local(y, self.mesh, [Partial()], run_check=False)
        return shares.redistribute(placements=[Replicate()]).to_local()

    def local(self, x: Tensor) -> Tensor:
        """The share of this process of a parameter, or all of one that the heads share."""
        from torch.distributed.tensor import DTensor, Replicate

        if not isinstance(x, DTensor):
            return x
        return self.enter(x.to_local()) if x.placements == (Replicate(),) else x.to_local()


@dataclass
class LocalTensors:
    """While a module is called, its tensors are those of this process.

    Attributes:
        buffers: the axis that counts heads of the buffers that have one; a process holds all of them.
    """

    shard: HeadShard
    buffers: dict[str, int]
    whole: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    @staticmethod
    def of(module: nn.Module, shard: HeadShard, buffers: dict[str, int]) -> None:
        """Make it so for the tensors of a module, without those of modules in it."""
        local = LocalTensors(shard, buffers)
        module.register_forward_pre_hook(local.before)
        module.register_forward_hook(local.after, always_call=True)

    def before(self, module: nn.Module, inputs: object) -> None:
        """Put the local tensors in place."""
        mesh = self.shard.mesh
        self.whole = [(group, dict(group)) for group in (module._parameters, module._buffers)]
        for name, x in module._parameters.items():
            module._parameters[name] = None if x is None else self.shard.local(x)
        for name, axis in self.buffers.items():
            module._buffers[name] = module._buffers[name].chunk(mesh.size(), axis)[mesh.get_local_rank()]

    def after(self, module: nn.Module, inputs: object, output: object) -> None:
        """Put the tensors of all heads back."""
        for group, tensors in self.whole:
            group.update(tensors)
        self.whole = []


def shared_out(x: Tensor, mesh: DeviceMesh, axis: int | None, groups: int) -> nn.Parameter:
    """A parameter that all processes have, or that is still to be loaded, as one of which each holds its
    share: of an axis, or of each of its ``groups``; all of it if the axis is None."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placement = Replicate() if axis is None else Shard(axis) if groups == 1 else strided_shard(axis, groups)
    share = distribute_tensor(x.detach(), mesh, [placement], src_data_rank=None)
    return nn.Parameter(share, requires_grad=x.requires_grad)


def shared_like(x: Tensor, like: Tensor) -> Tensor:
    """The numbers of the first process, of which each takes the share that it holds of another tensor; x
    itself if that is not shared."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x
