"""The cells of a comparison: a byte-level language model trained and judged, and n-grams counted, on one
text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ttr.experiments.cells import Report, Result
from ttr.experiments.evaluation import bits_of_every_byte, memory_bytes
from ttr.experiments.memories import Memory, build, parameters
from ttr.experiments.references import count, with_replaced_past
from ttr.experiments.settings import Recipe
from ttr.experiments.training import History, train
from ttr.tasks.ngrams import read_bytes
from ttr.tasks.text import Text, evaluation_starts, read_text, split, training_starts, windows


def train_and_judge(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one memory from one seed at one rate.

    Returns:
        "bits" [W,T] of every validation byte and "replaced", the same with the first half of every window
        replaced; the parameters, the loss of every step in bits per byte, the bits per byte on the tuning
        windows, the bytes of state, and the step at which it diverged, if it did.
    """
    settings = Recipe(**arguments["recipe"])
    text = Windows(folder / "inputs" / arguments["text"], settings)
    memory, seed, rate = Memory(**arguments["memory"]), arguments["seed"], arguments["rate"]
    model = build(memory, settings, arguments["mlp_width"], seed)
    seen = 0

    def on_step(history: History) -> None:
        nonlocal seen
        done, recent = len(history.loss), history.loss[-10:]
        words = f"seed {seed}, rate {rate:g}, step {done}"
        report(
            memory.name,
            done - seen,
            words + (f", {sum(recent) / len(recent):.2f} bits a byte" if recent else ""),
        )
        seen = done

    history = train(
        model, text.content, text.training_starts(seed), rate, settings, checkpoint, dict(arguments), on_step
    )
    report(memory.name, settings.steps - seen, "measuring")  # steps that a diverged run leaves undone
    tensors = {
        name: bits_of_every_byte(model, rows, settings.batch)
        for name, rows in (("bits", text.validation), ("replaced", text.replaced))
    }
    spent = tensors["bits"].double().mean().item()
    report(memory.name, 0, f"{spent:.3f} bits per byte (seed {seed}, rate {rate:g})", True)
    tuning = bits_of_every_byte(model, text.tuning, settings.batch).double().mean().item()
    facts = {
        "learning_rate": rate,
        "seed": seed,
        "parameters": parameters(model),
        "mlp_width": arguments["mlp_width"],
        "diverged_at": history.diverged_at,
        "tuning_bits_per_byte": tuning,
        "state_bytes": memory_bytes(model, text.validation[:1, :-1]),
        "loss": history.loss,
    }
    return tensors, facts


def count_ngrams(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Count n-grams on the bytes that the models of one seed read.

    Returns:
        "bits.N" and "replaced.N" of the N-th reference, as of a model; their "names".
    """
    settings = Recipe(**arguments["recipe"])
    text = Windows(folder / "inputs" / arguments["text"], settings)
    report("n-grams", 0, "counting")
    starts = text.training_starts(arguments["seed"]).flatten()
    read = read_bytes(len(text.content), starts, settings.context)
    found = count(text.content, read, text.tuning, text.validation, text.replaced)
    tensors = {f"bits.{i}": each.bits for i, each in enumerate(found)}
    tensors |= {f"replaced.{i}": each.replaced for i, each in enumerate(found)}
    return tensors, {"names": [each.name for each in found]}


class Windows:
    """The text of a comparison, cut into the windows that its models are trained and judged on.

    Attributes:
        content: [N] all bytes.
        tuning, validation: [W,L] the windows to choose settings on, and to judge on.
        replaced: [W,L] the validation windows with their first half taken from another window.
    """

    def __init__(self, text: Text | Path, settings: Recipe) -> None:
        self.settings = settings
        self.content = (text if isinstance(text, Text) else read_text([text])).content
        self.pieces = split(len(self.content), settings.context)
        self.tuning, self.validation = (
            self._windows(pieces) for pieces in (self.pieces.tuning, self.pieces.validation)
        )
        self.replaced = with_replaced_past(self.validation)

    def training_starts(self, seed: int) -> Tensor:
        """[steps,batch] where the windows of every training step begin."""
        s = self.settings
        return training_starts(self.pieces.train, s.context, s.steps, s.batch, seed)

    def _windows(self, pieces: tuple[range, ...]) -> Tensor:
        context = self.settings.context
        starts = evaluation_starts(pieces, context, self.settings.evaluation_windows)
        return windows(self.content, starts, context)
