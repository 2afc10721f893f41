"""The cells of a comparison: a byte-level language model trained and judged, and n-grams counted, on one
text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ttr.experiments.cells import Report, Result
from ttr.experiments.evaluation import bits_and_hits, bits_per_byte, memory_bytes
from ttr.experiments.memories import Memory, build, parameters
from ttr.experiments.references import count, with_replaced_past
from ttr.experiments.settings import Recipe
from ttr.experiments.training import History, reporting, train
from ttr.tasks.ngrams import read_bytes
from ttr.tasks.text import Text, evaluation_starts, read_text, split, training_starts, windows
from ttr.values import checks

LONGER = 16
"""How many times the training length the windows have on which bits by position are measured."""
LONG_WINDOWS = 8
CURVE_POINTS, CURVE_WINDOWS = 10, 16
"""How often a kept run is judged while it trains, and on how many windows."""
PROMPT, WRITTEN = 64, 192
"""Bytes of the sample of every memory: those it is given and those it writes."""


def train_and_judge(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one memory from one seed at one rate.

    Returns:
        "bits" and "hits" [W,T] of every validation byte. The parameters, the loss of every step in bits per
        byte, the bits per byte on the tuning windows, the bytes of state, and the step at which it diverged,
        if it did. With "replaced", also the bits with the first half of every window replaced. With "kept",
        also "long" [V,M], the bits of every byte of longer windows, "curve", the bits per byte after some of
        the steps, and of a memory "model.*", the parameters, and "sample", bytes that it was given and wrote.
    """
    settings = Recipe(**arguments["recipe"])
    text = Windows(folder / "inputs" / arguments["text"], settings)
    memory, seed, rate = Memory(**arguments["memory"]), arguments["seed"], arguments["rate"]
    steps, kept = arguments["steps"], arguments["kept"]
    model = build(memory, settings, arguments["mlp_width"], seed).to(settings.device)
    judged = text.tuning[:CURVE_WINDOWS]
    say = reporting(report, memory.name, steps, f"seed {seed}, rate {rate:g}")

    def on_step(history: History) -> None:
        say(history)
        done = len(history.loss)
        if kept and done and done % max(1, steps // CURVE_POINTS) == 0 and done not in history.curve:
            history.curve[done] = bits_per_byte(model, judged, settings.batch)
            model.train()

    starts = text.training_starts(seed, steps)
    history = train(model, text.content, starts, rate, settings, checkpoint, dict(arguments), on_step)
    undone = steps - len(history.loss)  # by a run that diverged
    report(memory.name, undone, "measuring")
    bits, hits = bits_and_hits(model, text.validation, settings.batch)
    tensors = {"bits": bits, "hits": hits}
    if arguments["replaced"]:
        tensors["replaced"], _ = bits_and_hits(model, text.replaced, settings.batch)
    spent = bits.double().mean().item()
    facts = {
        "parameters": parameters(model),
        "diverged_at": history.diverged_at,
        "loss": history.loss,
        "tuning_bits_per_byte": bits_per_byte(model, text.tuning, settings.batch),
        "state_bytes": memory_bytes(model, text.validation[:1, :-1]) if memory.layers else None,
    }
    if kept:
        tensors["long"], _ = bits_and_hits(model, text.long, 1)
        facts["curve"] = list(history.curve.items())
    if kept and memory.layers:
        tensors |= {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors["sample"] = sample(model, text.validation[:1, :PROMPT], seed)
    report(memory.name, 0, f"{spent:.3f} bits per byte (seed {seed}, rate {rate:g}, {steps} steps)", kept)
    return tensors, facts


@torch.no_grad()
@checks(values=False)
def sample(model: nn.Module, prompt: Int[Tensor, "1 P"], seed: int) -> Int[Tensor, " N"]:
    """The prompt and ``WRITTEN`` bytes after it, drawn from the model's own distribution."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    out, written = model(input_ids=prompt.to(model.device), use_cache=True), [*prompt[0]]
    for _ in range(WRITTEN):
        chances = out.logits[0, -1].float().softmax(-1).nan_to_num().cpu() + 1e-12
        written.append(torch.multinomial(chances, 1, generator=generator)[0])
        byte = written[-1].reshape(1, 1).to(model.device)
        out = model(input_ids=byte, past_key_values=out.past_key_values, use_cache=True)
    return torch.stack(written)


def count_ngrams(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Count n-grams on the bytes that the models of one seed read in so many steps.

    Returns:
        "bits.N" and "replaced.N" of the N-th reference, as of a model; their "names".
    """
    settings = Recipe(**arguments["recipe"])
    text = Windows(folder / "inputs" / arguments["text"], settings)
    report("n-grams", 0, "counting")
    starts = text.training_starts(arguments["seed"], arguments["steps"]).flatten()
    read = read_bytes(len(text.content), starts, settings.context)
    found = count(text.content, read, text.tuning, text.validation, text.replaced, arguments["cache"])
    tensors = {f"bits.{i}": each.bits for i, each in enumerate(found)}
    tensors |= {f"replaced.{i}": each.replaced for i, each in enumerate(found)}
    return tensors, {"names": [each.name for each in found]}


class Windows:
    """The text of a comparison, cut into the windows that its models are trained and judged on.

    Attributes:
        content: [N] all bytes.
        tuning, validation: [W,L] the windows to choose settings on, and to judge on.
        starts: [W] where the validation windows begin.
        replaced: [W,L] the validation windows with their first half taken from another window.
        long: [V,M] validation windows up to ``LONGER`` times as long.
    """

    def __init__(self, text: Text | Path, settings: Recipe) -> None:
        self.settings = settings
        self.content = (text if isinstance(text, Text) else read_text([text])).content
        self.pieces = split(len(self.content), settings.context)
        context, longest = settings.context, min(map(len, self.pieces.validation)) - 1
        tuning = evaluation_starts(self.pieces.tuning, context, settings.tuning_windows)
        self.starts = evaluation_starts(self.pieces.validation, context, settings.evaluation_windows)
        self.tuning, self.validation = (
            windows(self.content, each, context) for each in (tuning, self.starts)
        )
        self.replaced = with_replaced_past(self.validation)
        longer = context * min(LONGER, longest // context)
        self.long = windows(
            self.content, evaluation_starts(self.pieces.validation, longer, LONG_WINDOWS), longer
        )

    def training_starts(self, seed: int, steps: int) -> Int[Tensor, "steps batch"]:
        """Where the windows of every training step begin."""
        s = self.settings
        return training_starts(self.pieces.train, s.context, steps, s.batch, seed)
