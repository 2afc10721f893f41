"""A layer: projections, transforms of q, k, v, gates, the memory and the parts applied to its read-out. Its
classes are attributes of this package."""

from ttr.registry import exports

__getattr__, __dir__ = exports(__name__, "qkv", "gates", "output")
