"""What torch asks of a registered operator."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree


def assert_as_promised(operator, arguments):
    """The results have the shapes, dtypes and strides that compiled code was promised by fake tensors.

    ``torch.library.opcheck`` does not compare strides, and a view that was compiled for others fails."""
    with FakeTensorMode() as mode:
        fake = pytree.tree_map_only(torch.Tensor, mode.from_tensor, tuple(arguments))
        promised = pytree.tree_leaves(operator(*fake))
    found = pytree.tree_leaves(operator(*arguments))
    for real, expected in zip(found, promised, strict=True):
        assert (real.shape, real.dtype) == (expected.shape, expected.dtype)
        assert real.numel() < 2 or real.stride() == expected.stride()


def transposed(x):
    """The same numbers, in the memory order of the transposed tensor."""
    axes = tuple(reversed(range(x.ndim)))
    return x.permute(axes).contiguous().permute(axes)
