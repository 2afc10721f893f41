from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ttr.weights._rotating import _Rotating


@dataclass(frozen=True)
class ComplexGeometric(_Rotating):
    """Input-dependent decay and rotation: gamma_i^(t) = prod_{i<j<=t} exp(log_decay_j + i phase_j).

    With real ``values`` the read-out is Re(S)^T q, so that a pair counts |gamma| cos(angle) (GateLoop, arXiv
    2311.01927). With ``values="complex"`` neighbouring value channels are real and imaginary parts and the
    read-out is complex as well, as in a linear recurrent unit (LRU, arXiv 2303.06349). A log decay below
    ``RESET`` erases the past.
    """

    per: Literal["head", "channel"] = "head"
    values: Literal["real", "complex"] = "real"

    def __post_init__(self) -> None:
        if self.per not in ("head", "channel"):
            raise ValueError(
                f"ComplexGeometric(per={self.per!r}) is unknown. Use per='head' or per='channel'."
            )
        if self.values not in ("real", "complex"):
            raise ValueError(
                f"ComplexGeometric(values={self.values!r}) is unknown. Use values='real' or values='complex'."
            )
        if self.values == "complex" and self.per == "channel":
            raise ValueError(
                "Complex values rotate as a whole, with one phase per head. Use per='head', and one head "
                "per channel."
            )

    @property
    def retention(self) -> Literal["head", "channel"]:
        return self.per

    @property
    def complex_values(self) -> bool:
        return self.values == "complex"

    def controls(self) -> dict[str, str]:
        axes = "BTH" if self.per == "head" else "BTHK"
        return {"log_decay": axes, "phase": axes}

    def log_retention(
        self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], heads: int, like: Tensor
    ) -> Tensor:
        return controls["log_decay"]

    def phase(self, controls: Mapping[str, Tensor], params: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return controls["phase"]

    def formulas(self) -> dict[str, str]:
        channels = ", one for every key channel" if self.per == "channel" else ""
        formulas = {
            "decay": "D_t = diag(a_t)" if channels else "D_t = a_t",
            "approximation": "The weight of a pair may be negative, so the memory minimises no convex "
            "squared error. The read-out is still one gradient step on the linearised loss."
            + (" Besides, a weight per key channel is not a weight of a pair." if channels else ""),
        }
        if self.complex_values:
            return formulas | {
                "weight": "gamma_i^(t) = prod_{i<j<=t} a_j, a_t = exp(log_decay_t + sqrt(-1) "
                "phase_t), v_t and y_t complex: "
                "neighbouring channels are the real and imaginary parts",
                "approximation": "A complex weight cannot weight a squared error. The read-out is still "
                "one gradient step on the linearised loss.",
            }
        return (
            formulas
            | super().formulas()
            | {
                "weight": "gamma_i^(t) = cos(sum_{i<j<=t} phase_j) prod_{i<j<=t} exp(log_decay_j) = "
                "Re(prod_{i<j<=t} a_j), "
                f"a_t = exp(log_decay_t + sqrt(-1) phase_t){channels}"
            }
        )

    @classmethod
    def examples(cls) -> tuple[ComplexGeometric, ...]:
        return (cls("head"), cls("channel"), cls("head", "complex"))
