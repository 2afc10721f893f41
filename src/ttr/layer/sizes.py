"""The sizes of one layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer: those of the model and of the memory, and the index of the layer among
    ``layers``.

    ``query_heads``, ``key_heads`` and ``value_heads`` divide ``heads``, the heads of the memory;
    ``feature_size`` is that of the memory's function, ``pairs`` the number of pairs per token, ``levels``
    that of the levels of its weights, ``groups`` that of the groups of its parameters with their own step
    sizes.
    """

    d_model: int
    query_heads: int
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    feature_size: int
    pairs: int = 1
    layer: int = 0
    layers: int = 1
    levels: int = 0
    groups: int = 1

    @property
    def heads(self) -> int:
        """Heads of the memory."""
        return max(self.query_heads, self.key_heads, self.value_heads)

    @property
    def per_pair(self) -> tuple[int, ...]:
        """The axis of the pairs of a token: (n,), or none if there is one."""
        return () if self.pairs == 1 else (self.pairs,)

    def control(self, axes: str) -> tuple[int, ...]:
        """The shape, without batch and time, of a control with the axes "BT..."."""
        sizes = {
            "H": self.heads,
            "K": self.key_size,
            "V": self.value_size,
            "L": self.levels,
            "P": self.groups,
        }
        return tuple(sizes[axis] for axis in axes[2:])

    def stream(self, name: str) -> tuple[int, ...]:
        """The shape, without batch and time, of q, k, v, x or a control that is a key."""
        return {
            "x": (self.d_model,),
            "q": (self.query_heads, self.key_size),
            "k": (*self.per_pair, self.key_heads, self.key_size),
            "v": (*self.per_pair, self.value_heads, self.value_size),
            "transport_key": (self.heads, self.key_size),
        }[name]
