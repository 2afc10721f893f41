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
from ttr.experiments.memories import Memory
from ttr.experiments.settings import CompareSettings
from ttr.experiments.starting_point import StartingPoint
from ttr.experiments.training import next_token_loss, optimizer_of
from ttr.values import checks

DISTURBED = 1.2
"""Wall time over CPU time from which on something else had the processor."""
DECODED = 16
"""Tokens that are decoded in every round."""


def speeds(
    start: StartingPoint,
    found: Sequence[Memory],
    settings: CompareSettings,
    windows: Int[Tensor, "W L"],
    prompt: Int[Tensor, "1 T"],
) -> dict[str, dict[str, Any]]:
    """Tokens per second of CPU time, one thread, by name: "training_tokens_per_second" (with the batch of the
    recipe) and "decoding_tokens_per_second" (one sequence, greedy, its cache filled with the prompt), of
    pretrained models also "prefill_tokens_per_second" (the prompt) and, where memories were put in,
    "distillation_tokens_per_second"; the medians of ``rounds`` in which every memory had its turn.
    "disturbed" if the median round took much longer than its CPU time."""
    batch = windows[: settings.batch].to(settings.device)
    actions = {}
    for memory in found:
        model = start.build(memory, settings.seed).to(settings.device)
        actions[memory.name] = {
            "training": _Training(model, settings, batch),
            "decoding": _Decoding(model, prompt.to(settings.device)),
        }
        if start.facts["pretrained"]:
            actions[memory.name]["prefill"] = _Prefill(model, prompt.to(settings.device))
        if start.distilled(memory):
            actions[memory.name]["distillation"] = _Distillation(start, model, settings, batch)
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {kind: [] for kind in each} for name, each in actions.items()
    }
    with one_thread():
        for round_ in range(settings.rounds + 1):
            for name, each in actions.items():
                for kind, action in each.items():
                    seconds = _timed(action, settings.device)
                    if round_:  # the first one warms up
                        taken[name][kind].append(seconds)
    read = batch.shape[0] * settings.context
    done = {"training": read, "distillation": read, "decoding": DECODED, "prefill": prompt.shape[1]}
    return {name: _figures(each, done) for name, each in taken.items()}


def seconds_per_step(
    start: StartingPoint, found: Sequence[Memory], settings: CompareSettings, windows: Int[Tensor, "W L"]
) -> dict[str, float]:
    """What one training step takes in one thread, by name, with its share of a distillation before: the
    shorter of two, after one that warms up."""
    taken, batch = {}, windows[: settings.batch].to(settings.device)

    def shortest(action: Any) -> float:
        return min([_timed(action, settings.device)[1] for _ in range(3)][1:])

    with one_thread():
        for memory in found:
            model = start.build(memory, settings.seed).to(settings.device)
            taken[memory.name] = shortest(_Training(model, settings, batch))
            if share := start.distilled(memory):
                taken[memory.name] += share * shortest(_Distillation(start, model, settings, batch))
    return taken


def _timed(action: Any, device: str) -> tuple[float, float]:
    """The seconds of a run, of the processor and of the clock, after what is to be prepared for it."""
    action.prepare()
    cpu, wall = _now(device)
    action.run()
    cpu_then, wall_then = _now(device)
    return cpu_then - cpu, wall_then - wall


def _now(device: str) -> tuple[float, float]:
    """The seconds of the processor, and those of the clock; on a GPU the latter twice, once all that was
    asked of it is done."""
    if torch.device(device).type == "cpu":
        return time.process_time(), time.perf_counter()
    torch.accelerator.synchronize(device)
    return time.perf_counter(), time.perf_counter()


def _figures(taken: Mapping[str, Sequence[tuple[float, float]]], done: Mapping[str, int]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        f"{kind}_tokens_per_second": done[kind] / median(cpu for cpu, _ in rounds)
        for kind, rounds in taken.items()
    }
    disturbed = any(median(wall / cpu for cpu, wall in rounds) > DISTURBED for rounds in taken.values())
    return figures | {"disturbed": disturbed}


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


class _Distillation:
    """One step of the memories in a pretrained model."""

    def __init__(
        self, start: StartingPoint, model: nn.Module, settings: CompareSettings, batch: Tensor
    ) -> None:
        self.loss_of, self.learner = start.distillation(model, lambda step: batch[:, :-1])
        self.optimizer = optimizer_of(self.learner, settings)

    def prepare(self) -> None:
        self.optimizer.zero_grad()

    def run(self) -> None:
        self.loss_of(0).backward()
        self.optimizer.step()


class _Prefill:
    """A prompt, read into a cache."""

    def __init__(self, model: nn.Module, prompt: Tensor) -> None:
        self.model, self.prompt = model, prompt

    def prepare(self) -> None:
        self.model.eval()

    @torch.no_grad()
    @checks(values=False)
    def run(self) -> None:
        self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1)


class _Decoding:
    """``DECODED`` tokens behind a prompt."""

    def __init__(self, model: nn.Module, prompt: Tensor) -> None:
        self.model, self.prompt = model, prompt

    @torch.no_grad()
    @checks(values=False)
    def prepare(self) -> None:
        self.model.eval()
        self.out = self.model(input_ids=self.prompt, use_cache=True)

    @torch.no_grad()
    @checks(values=False)
    def run(self) -> None:
        for _ in range(DECODED):
            token = self.out.logits[:, -1:].argmax(-1)
            self.out = self.model(input_ids=token, past_key_values=self.out.past_key_values, use_cache=True)
