"""The compiled selective scan: how csrc/scan.c is called."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttr.engines import linear_operator
from ttr.engines.native import library
from ttr.engines.native.engine import CompiledStep
from ttr.engines.native.recurrence import NativeKernel, _Arguments, _Tensor
from ttr.engines.torch.channel_scan import ChannelScan
from ttr.forms.linear_recurrence import LinearRecurrence
from ttr.inputs import Inputs
from ttr.problem import Problem, Weights


class _ScanArguments(_Arguments):
    """``arguments`` of ``csrc/scan.c``."""

    _fields_ = (("rates", _Tensor), ("grad_rates", _Tensor))


class ScanKernel(NativeKernel):
    """Additive recurrences token by token, elementwise in the state; for few value channels per head."""

    names: ClassVar[tuple[str, str]] = ("scan_forward", "scan_backward")
    arguments: ClassVar[type[_Arguments]] = _ScanArguments

    def saved_sizes(self, r: LinearRecurrence, chunk: int) -> tuple[int | torch.SymInt, ...]:
        """Sizes of the states that enter every ``chunk`` tokens, and of two empty tensors."""
        return -(-r.key.shape[1] // chunk) * r.memory.numel(), 0, 0


@dataclass(frozen=True)
class NativeScan(CompiledStep, ChannelScan):
    """As ``ChannelScan``, in C (``csrc/scan.c``).

    Between two states that the forward pass saves lie ``run_length`` tokens."""

    run_length: int = 64

    name: ClassVar[str] = "native-scan"
    composite: ClassVar[bool] = False

    def missing(self) -> str | None:
        return library.reason()

    def refuses(self, problem: Problem, x: Inputs | None = None) -> str | None:
        if x is not None and x.q.device.type != "cpu":
            return "It runs on CPUs only: its blocks are sized for the caches of a CPU."
        return super().refuses(problem, x)

    def lower(self, problem: Problem, x: Inputs) -> LinearRecurrence:
        """Where the log decay is a factor times rates, and no part of the problem changes it, the kernel
        multiplies them: the product of all tokens and channels is the largest tensor of a call."""
        if x.rates is not None and type(problem.weights).lower is Weights.lower:
            form = problem.lower(dataclasses.replace(x, log_retention=None, rates=None))
            alone = form.log_decay is None and form.pairs == 1
            if alone and form.query.shape[-1] == x.rates.shape[-1]:
                return form._replace(log_decay=x.log_retention, rates=x.rates)
        return super().lower(problem, x)

    def scan(self, form: LinearRecurrence, wants_grad: bool) -> tuple[Tensor, Tensor]:
        if form.memory.numel() == 0 or form.key.shape[1] == 0:
            return super().scan(form.multiplied(), wants_grad)
        return linear_operator.run(self.name, form, self.run_length, wants_grad)


linear_operator.KERNELS[NativeScan.name] = ScanKernel()
