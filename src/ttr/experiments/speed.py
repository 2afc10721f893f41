"""How fast the models of a comparison train and decode: in CPU time, or by the clock on a GPU, all of them in
turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ttr.experiments.cells import one_thread
from ttr.experiments.memories import Memory, build
from ttr.experiments.settings import CompareSettings
from ttr.experiments.training import next_token_loss, optimizer_of
from ttr.tasks.tokens import BYTES
from ttr.values import checks

DISTURBED = 1.2
"""Wall time over CPU time from which on something else had the processor."""
DECODED = 16
"""Tokens that are decoded in every round."""


def speeds(
    found: Sequence[Memory],
    settings: CompareSettings,
    widths: Mapping[str, int],
    windows: Int[Tensor, "W L"],
    vocabulary: int = BYTES,
) -> dict[str, dict[str, Any]]:
    """Tokens per second of CPU time, one thread, by name: "training_tokens_per_second" (with the batch of the
    recipe) and "decoding_tokens_per_second" (one sequence, greedy, its cache filled with a window), the
    medians of ``rounds`` in which every memory had its turn; "disturbed" if the median round took much longer
    than its CPU time."""
    models = {
        m.name: build(m, settings, widths[m.name], settings.seed, vocabulary).to(settings.device)
        for m in found
    }
    batch = windows[: settings.batch].to(settings.device)
    actions = {
        name: (_Training(model, settings, batch), _Decoding(model, batch[:1, :-1]))
        for name, model in models.items()
    }
    taken: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in models}
    with one_thread():
        for round_ in range(settings.rounds + 1):
            for name, both in actions.items():
                for kind, action in enumerate(both):
                    action.prepare()
                    cpu, wall = _now(settings.device)
                    action.run()
                    cpu_then, wall_then = _now(settings.device)
                    if round_:  # the first one warms up
                        taken[name][kind].append((cpu_then - cpu, wall_then - wall))
    done = (batch.shape[0] * settings.context, DECODED)
    return {name: _figures(each, done) for name, each in taken.items()}


def seconds_per_step(
    found: Sequence[Memory],
    settings: CompareSettings,
    widths: Mapping[str, int],
    windows: Int[Tensor, "W L"],
    vocabulary: int = BYTES,
) -> dict[str, float]:
    """What one training step takes in one thread, by name: the shorter of two, after one that warms up."""
    taken = {}
    with one_thread():
        for memory in found:
            model = build(memory, settings, widths[memory.name], settings.seed, vocabulary)
            model = model.to(settings.device)
            training, each = _Training(model, settings, windows[: settings.batch].to(settings.device)), []
            for _ in range(3):
                training.prepare()
                _, before = _now(settings.device)
                training.run()
                each.append(_now(settings.device)[1] - before)
            taken[memory.name] = min(each[1:])
    return taken


def _now(device: str) -> tuple[float, float]:
    """The seconds of the processor, and those of the clock; on a GPU the latter twice, once all that was
    asked of it is done."""
    if torch.device(device).type == "cpu":
        return time.process_time(), time.perf_counter()
    torch.accelerator.synchronize(device)
    return time.perf_counter(), time.perf_counter()


def _figures(taken: Sequence[Sequence[tuple[float, float]]], done: tuple[int, int]) -> dict[str, Any]:
    training, decoding = (
        count / median(cpu for cpu, _ in rounds) for rounds, count in zip(taken, done, strict=True)
    )
    disturbed = any(median(wall / cpu for cpu, wall in rounds) > DISTURBED for rounds in taken)
    return {
        "training_tokens_per_second": training,
        "decoding_tokens_per_second": decoding,
        "disturbed": disturbed,
    }


class _Training:
    """One step."""

    def __init__(self, model: nn.Module, settings: CompareSettings, batch: Tensor) -> None:
        self.model, self.batch, self.clip = model, batch, settings.clip
        self.optimizer = optimizer_of(model, settings)

    def prepare(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()

    def run(self) -> None:
        next_token_loss(self.model, self.batch).mean().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


class _Decoding:
    """``DECODED`` tokens behind a window."""

    def __init__(self, model: nn.Module, window: Tensor) -> None:
        self.model, self.window = model, window

    @torch.no_grad()
    @checks(values=False)
    def prepare(self) -> None:
        self.model.eval()
        self.out = self.model(input_ids=self.window, use_cache=True)

    @torch.no_grad()
    @checks(values=False)
    def run(self) -> None:
        for _ in range(DECODED):
            token = self.out.logits[:, -1:].argmax(-1)
            self.out = self.model(input_ids=token, past_key_values=self.out.past_key_values, use_cache=True)
