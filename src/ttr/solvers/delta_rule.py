from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Function, Solver, Weights


@dataclass(frozen=True)
class DeltaRule(Solver):
    """One gradient step per pair on 1/2 ||v - m(k)||^2: S <- D S + step (k (w * v)^T - e (S_x^T p)^T).

    D is the decay, S_x the memory at which the error is measured: D S with ``gradient_at="decayed"`` (Gated
    DeltaNet, arXiv 2412.06464), S with "old" (Comba, 2506.02475). p and e are the key k itself or, with
    ``separate_read`` and ``separate_erase``, the controls ``read_key`` and ``erase_key`` (RWKV-7,
    2503.14456); w is 1 or, with ``gated_write``, the control ``write`` (Gated DeltaNet-2, 2605.22791).
    ``unit_step`` fixes the step at 1. With ``pairs_per_token`` > 1 the pairs of a token are learned one after
    the other, with one decay before the first (DeltaProduct, 2502.10297).
    """

    gradient_at: Literal["decayed", "old"] = "decayed"
    separate_read: bool = False
    pairs_per_token: int = 1
    separate_erase: bool = False
    gated_write: bool = False
    unit_step: bool = False

    weights_act_on: ClassVar[Literal["memory"]] = "memory"

    def __post_init__(self) -> None:
        if self.gradient_at not in ("decayed", "old"):
            raise ValueError(f"gradient_at={self.gradient_at!r} is unknown. Use 'decayed' or 'old'.")
        if self.pairs_per_token < 1:
            raise ValueError(f"pairs_per_token={self.pairs_per_token} learns nothing. Use 1 or more.")

    def controls(self) -> dict[str, str]:
        taken = (
            (not self.unit_step, "step_size", "BTH"),
            (self.separate_read, "read_key", "BTHK"),
            (self.separate_erase, "erase_key", "BTHK"),
            (self.gated_write, "write", "BTHV"),
        )
        return {name: axes for takes, name, axes in taken if takes}

    def lower(self, form: LinearRecurrence, function: Function, x: Inputs) -> LinearRecurrence:
        params = x.axis_params("function")

        def mapped(name: str) -> Tensor:
            return form.of_pairs(function.key(x.controls[name], params))

        value = form.value * form.of_pairs(x.controls["write"]) if self.gated_write else form.value
        return form._replace(
            value=value,
            read=mapped("read_key") if self.separate_read else form.key,
            erase=mapped("erase_key") if self.separate_erase else None,
            step=form.step if self.unit_step else form.times_step(x.controls["step_size"]),
            old=self.gradient_at == "old",
        )

    def refuses(self, weights: Weights, function: Function, solver: Solver) -> str | None:
        if (self.separate_erase or self.gated_write or self.unit_step) and not function.linear:
            return (
                f"Erase keys, write gates and unit steps change a matrix, and {type(function).__name__} "
                "keeps other parameters. "
                "Use Linear, or a plain DeltaRule()."
            )
        return None

    def objective(
        self, predict: Callable[..., Tensor], memory: Tensor | Mapping[str, Tensor], *data: object
    ) -> Tensor:
        """``data`` = anchor memory, key, read key, value and, where there is one, erase key of one pair. Its
        gradient in ``memory``, taken at the anchor, is the update. With a read key of its own the error is
        measured there and written at the key, which is the gradient of no single loss: the objective is
        linearised about the anchor."""
        anchor, key, read_key, value, *erase_key = data
        if not (self.separate_read or self.separate_erase):
            return 0.5 * (value - predict(memory, key)).square().sum()
        if not self.separate_erase:
            return (predict(memory, key) * (predict(anchor, read_key) - value)).sum()
        return (predict(memory, *erase_key) * predict(anchor, read_key) - predict(memory, key) * value).sum()

    def formulas(self) -> dict[str, str]:
        at, when = ("(D_t S_{t-1})^T", "after") if self.gradient_at == "decayed" else ("S_{t-1}^T", "before")
        read, erase, value = (
            "p" if self.separate_read else "k",
            "e" if self.separate_erase else "k",
            ("(g_t * v_t)") if self.gated_write else "v_t",
        )
        step, count = "w_t" if self.unit_step else "b_t", self.pairs_per_token
        where = [
            ("b_t = w_t step_size_t", not self.unit_step),
            ("p = read_key", self.separate_read),
            ("e = erase_key", self.separate_erase),
            ("g = write", self.gated_write),
            (f"{count} pairs of a token one after the other, D_t = 1 after the first", count > 1),
        ]
        meaning = "".join(f", {text}" for text, applies in where if applies)
        written = f"phi(k_t) ({value} - {at} phi({read}_t))^T"
        if self.separate_erase:
            written = f"(phi(k_t) {value}^T - phi(e_t) ({at} phi({read}_t))^T)"
        start, values, scores = (
            f"phi({read.upper()}) S_0",
            "(G * V)" if self.gated_write else "V",
            (f"{step[0]}_j phi({read}_i)^T"),
        )
        solved = f"(I + A) W = {values} - {start}, A_ij = {scores} phi(k_j)"
        if self.separate_erase:  # R holds the read-outs at the read keys
            solved = f"(I + A) R = {start} + C {values}, A_ij = {scores} phi(e_j), C_ij = {scores} phi(k_j)"
        formulas = {
            "objective": f"||{value} - S^T phi(k_t)||^2 / 2",
            "update": f"S_t = D_t S_{{t-1}} + {step} {written}{meaning}",
            "order": f"decay, then write, then read; the error is measured {when} the decay",
            "parallel form": (
                f"{solved} for i > j in chunks, by substitution; S_0 and the earlier keys "
                "decayed up to where token i reads"
            ),
        }
        if not (self.separate_read or self.separate_erase):
            return formulas
        return formulas | {
            "objective": f"phi({erase}_t)^T S ({at} phi({read}_t)) - phi(k_t)^T S {value}, linear in S",
            "approximation": (
                "It reads, erases or writes at different keys, which is the gradient of no single loss in S."
            ),
        }

    @classmethod
    def examples(cls) -> tuple[DeltaRule, ...]:
        return (
            cls(),
            cls(gradient_at="old", separate_read=True),
            cls(pairs_per_token=2),
            cls("old", pairs_per_token=3),
            cls(separate_read=True, gated_write=True, unit_step=True),
            cls("old", separate_read=True, separate_erase=True, pairs_per_token=2),
        )
