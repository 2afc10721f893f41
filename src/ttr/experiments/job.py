"""The runs of a comparison, each trained and measured once and stored in its own file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ttr.experiments.errors import UserError
from ttr.experiments.evaluation import bits_of_every_byte, decoding_speed, memory_bytes, unigram_bits
from ttr.experiments.memories import Memory, build, definitions, equal_widths, parameters
from ttr.experiments.progress import Bar
from ttr.experiments.results import Measured
from ttr.experiments.settings import CompareSettings
from ttr.experiments.storage import load_tensors, save_tensors, to_json
from ttr.experiments.training import train
from ttr.tasks.text import Text, evaluation_starts, recall_slice, split, training_starts, windows


class Job:
    """The split text, the models' sizes and the files of the runs, all determined by the arguments.

    Attributes:
        mask: [W,T] the recall slice of the validation windows.
        comparison: the fingerprint of settings, text and memories, which is stored with every run.
        unigram: [W,T] bits of every validation byte under the byte frequencies of the training text.
        total_steps: training steps of all runs together.

    Raises:
        ValueError: if the text is too short for the context, or its validation part contains no repeated
            n-gram.
    """

    def __init__(self, settings: CompareSettings, found: Sequence[Memory], text: Text) -> None:
        self.settings, self.text = settings, text
        self.pieces = split(len(text.content), settings.context)
        self.validation = self._windows(self.pieces.validation)
        self.tuning = self._windows(self.pieces.tuning)
        self.mask = recall_slice(self.validation, settings.ngram)
        if not self.mask.any():
            raise ValueError(
                f"No window of {settings.context} bytes repeats {settings.ngram} bytes, so "
                "there is nothing to recall. "
                "Use a larger --context or more text."
            )
        train_bytes = torch.cat([text.content[piece.start : piece.stop] for piece in self.pieces.train])
        self.unigram = unigram_bits(train_bytes, self.validation[:, 1:])
        self.widths = equal_widths(found, settings)
        self.comparison = hashlib.sha256(
            to_json([settings.to_dict(), text.sha256, definitions(found)])
        ).hexdigest()
        self.runs = [
            self._run(m, seed, rate) for m in found for seed in settings.all_seeds for rate in settings.rates
        ]
        self.total_steps = settings.steps * len(found) * (len(settings.rates) + settings.seeds - 1)

    def _windows(self, pieces: Sequence[range]) -> Tensor:
        return windows(
            self.text.content,
            evaluation_starts(pieces, self.settings.context, self.settings.evaluation_windows),
            self.settings.context,
        )

    def _run(self, memory: Memory, seed: int, rate: float) -> dict[str, Any]:
        return {"memory": memory.name, "seed": seed, "learning_rate": rate, "comparison": self.comparison}

    def _path(self, run: dict[str, Any], kind: str) -> Path:
        return (
            self.settings.out
            / "runs"
            / f"{run['memory']}.seed{run['seed']}.rate{run['learning_rate']}.{kind}.safetensors"
        )

    def check_files(self) -> None:
        """Read every file of an earlier call before any training.

        Raises:
            UserError: naming a damaged one.
        """
        for run in self.runs:
            finished = self._path(run, "result")
            for path in (finished,) if finished.exists() else (self._path(run, "checkpoint"),):
                if path.exists() and load_tensors(path)[1].get("run") != run:
                    raise UserError(
                        f"{path} belongs to another run. Delete it to train this run from the start; the "
                        "others are kept."
                    )

    def measure(self, memory: Memory, bar: Bar) -> Measured:
        """All runs of one memory: the first seed at every learning rate, the others at the best rate on the
        tuning split."""
        first, *others = self.settings.all_seeds
        tried = [self._finish(memory, first, rate, bar) for rate in self.settings.rates]
        bits, facts = min(tried, key=lambda run: run[1]["tuning_bits_per_byte"])
        rest = [self._finish(memory, seed, facts["run"]["learning_rate"], bar) for seed in others]
        runs = [(bits, facts), *rest]
        return Measured(memory.name, torch.stack([b for b, _ in runs]), [f for _, f in runs])

    def _finish(self, memory: Memory, seed: int, rate: float, bar: Bar) -> tuple[Tensor, dict[str, Any]]:
        """The bits of every validation byte and the facts of one run, read from its file or trained and
        measured now."""
        run, settings = self._run(memory, seed, rate), self.settings
        path = self._path(run, "result")
        if path.exists():
            tensors, facts = load_tensors(path)
            bar.skip(settings.steps)
            return tensors["bits"], facts
        model = build(memory, settings, self.widths[memory.name], seed)
        starts = training_starts(self.pieces.train, settings.context, settings.steps, settings.batch, seed)
        history = train(
            model,
            self.text.content,
            starts,
            rate,
            settings,
            self._path(run, "checkpoint"),
            run,
            bar.follow(memory.name, seed, rate),
        )
        bar.skip(settings.steps - len(history.loss))  # the steps that a diverged run has not done
        bar.say("measuring")
        bits = bits_of_every_byte(model, self.validation, settings.batch)
        prompt = self.validation[:1, :-1]
        facts = {
            "run": run,
            "parameters": parameters(model),
            "mlp_width": self.widths[memory.name],
            "diverged_at": history.diverged_at,
            "tuning_bits_per_byte": self._tuning_bits(model),
            "state_bytes": memory_bytes(model, prompt),
            "loss": history.loss,
            "training_tokens_per_second": settings.batch
            * settings.context
            / median(history.seconds or [math.inf]),
            "decoding_tokens_per_second": decoding_speed(model, prompt, settings.decoded),
        }
        save_tensors(path, {"bits": bits}, facts)
        bar.finished(
            f"{float(bits.double().mean()):.3f} bits per byte, "
            f"{facts['training_tokens_per_second']:,.0f} bytes trained on per second"
        )
        return bits, facts

    def _tuning_bits(self, model: nn.Module) -> float | None:
        """Bits per byte on the tuning split, computed only if there are several rates."""
        return (
            float(bits_of_every_byte(model, self.tuning, self.settings.batch).double().mean())
            if len(self.settings.rates) > 1
            else None
        )
