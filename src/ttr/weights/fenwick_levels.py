from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ttr.forms import FenwickRecurrence
from ttr.problem import Function, Pair, Solver, Weights
from ttr.weights._recurrence import _Recurrence


@dataclass(frozen=True)
class FenwickLevels(_Recurrence):
    """Decay times a weight for the age of a pair on a logarithmic scale (log-linear attention, arXiv
    2506.04761).

    With positions from 0 the prefix of token t falls into the buckets of a Fenwick tree: level 0 is t itself,
    and pair i < t lies on level bit_length(t xor i). gamma_i^(t) = a_{i+1} ... a_t level_weight_t[level]; the
    weights belong to the token that reads. The state keeps one memory per level; L levels serve 2^(L-1)
    tokens.
    """

    levels: int = 15

    form: ClassVar[type] = FenwickRecurrence
    retention: ClassVar[Literal["head"]] = "head"

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 1 <= self.levels <= 62:
            raise ValueError(
                f"FenwickLevels(levels={self.levels}) is not possible. Use 1 to 62; L levels serve 2^(L-1) "
                "tokens."
            )

    @property
    def horizon(self) -> int:
        return 2 ** (self.levels - 1)

    def sizes(self) -> dict[str, int]:
        return {"L": self.levels}

    def controls(self) -> dict[str, str]:
        return {"log_decay": "BTH", "level_weight": "BTHL"}

    def state(
        self, feature_size: int, value_size: int, memory: Mapping[str, tuple[int, ...]]
    ) -> dict[str, tuple[int, ...]]:
        return {"memory": (self.levels, feature_size, value_size)}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if function.normalized:
            return (
                f"{type(self).__name__} may give its levels weights of either sign, so no sum of them is a "
                f"safe divisor. Use {type(function).__name__} with normalized=False, or Geometric weights."
            )
        return super().refuses(weights, function, solver)

    def learn(
        self, function: Function, params: Mapping[str, Tensor], memory: Mapping[str, Tensor], pair: Pair
    ) -> dict[str, Tensor]:
        """Merge levels 0..j into level j + 1, j the trailing zeros of t > 0; decay all levels; level 0
        becomes the token's own pair."""
        rows = [self._merged(levels, t) for levels, t in zip(memory["memory"], pair.position.tolist())]
        decayed = pair.log_decay.exp()[..., None, None, None] * (
            torch.stack(rows) if rows else memory["memory"]
        )
        return {
            "memory": torch.cat(
                [(pair.key[..., None] * pair.value[..., None, :])[:, :, None], decayed[:, :, 1:]], dim=2
            )
        }

    def _merged(self, levels: Tensor, t: int) -> Tensor:
        """The levels [H,L,F,V] of one sequence before its token number t, merged so that level 0 is empty."""
        if t == 0:
            return levels
        top = (t & -t).bit_length()
        merged = levels[:, : top + 1].sum(1, keepdim=True)
        return torch.cat([torch.zeros_like(levels[:, :top]), merged, levels[:, top + 1 :]], dim=1)

    def read(
        self,
        function: Function,
        params: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        query: Tensor,
        pair: Pair,
    ) -> Tensor:
        return torch.einsum("bhl,bhlfv,bhf->bhv", pair.controls["level_weight"], after["memory"], query)

    def formulas(self) -> dict[str, str]:
        return {
            "weight": (
                "gamma_i^(t) = level_weight_t[l] prod_{i<j<=t} a_j, a_t = exp(log_decay_t), l = "
                "bit_length(t xor i) with positions from 0"
            ),
            "decay": "D_t = a_t",
            "update": (
                f"S_t = sum_{{l<{self.levels}}} level_weight_t[l] R_t^l, R_t^l the decayed sum of "
                "phi(k_i) v_i^T over the pairs on level l"
            ),
            "order": (
                "merge full levels of the Fenwick tree into the next, then decay, then write to "
                "level 0, then read"
            ),
            "approximation": (
                "Level weights may have any sign, and a negative weight makes a squared "
                "error without a minimum."
            ),
        }

    @classmethod
    def examples(cls) -> tuple[FenwickLevels, ...]:
        return (cls(9),)
