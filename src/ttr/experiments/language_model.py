"""The cells of a comparison: a small language model trained and judged, and n-grams counted, on one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ttr.experiments.cells import Report, Result
from ttr.experiments.evaluation import bits_and_hits, bits_per_byte, memory_bytes, per_byte
from ttr.experiments.memories import Memory, parameters
from ttr.experiments.references import count, with_replaced_past
from ttr.experiments.settings import Recipe
from ttr.experiments.starting_point import StartingPoint, distillation_steps, starting_point_of
from ttr.experiments.training import History, loss_on, named_tensors, reporting, train
from ttr.integrations.transformers.distillation import default_rate
from ttr.tasks.ngrams import read_places
from ttr.tasks.text import evaluation_starts, places, read_text, split, training_starts, windows
from ttr.tasks.tokens import Tokens, TokenWindows, byte_tokens
from ttr.values import checks

LONGER = 16
"""How many times the training length the windows have on which bits by position are measured."""
LONG_WINDOWS = 8
CURVE_POINTS, CURVE_WINDOWS = 10, 16
"""How often a kept run is judged while it trains, and on how many windows."""
PROMPT, WRITTEN = 64, 192
"""Tokens of the sample of every memory: those it is given and those it writes."""


def train_and_judge(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Train one memory from one seed at one rate.

    Returns:
        "bits" and "hits" [W,T] of every validation token. The parameters, the loss of every step in bits per
        byte and that of a distillation before, the bits per byte on the tuning windows, the bytes of state,
        and the step at which it diverged, if it did. With "replaced", also the bits with the first half of
        every window replaced. With "kept", also "long" [V,M], the bits of every token of longer windows,
        "curve", the bits per byte after some of the steps, and of a memory "model.*", the parameters, and
        "sample", tokens that it was given and wrote.
    """
    settings = Recipe.of(arguments["recipe"])
    text = Windows(tokens_of(arguments, folder), settings)
    memory, seed, rate = Memory(**arguments["memory"]), arguments["seed"], arguments["rate"]
    steps, kept = arguments["steps"], arguments["kept"]
    start = starting_point_of(arguments, folder, settings, text.tokens.vocabulary)
    model = start.build(memory, seed).to(settings.device)
    judged = text.tokens.at(text.tuning.places[:CURVE_WINDOWS])
    say = reporting(report, memory.name, steps, f"seed {seed}, rate {rate:g}")

    def on_step(history: History) -> None:
        say(history)
        done = len(history.loss)
        if kept and done and done % max(1, steps // CURVE_POINTS) == 0 and done not in history.curve:
            history.curve[done] = bits_per_byte(model, judged, settings.batch)
            model.train()

    starts = text.training_starts(seed, steps)

    distilled = _distilled(model, start, text, arguments, checkpoint, report)
    loss_of = loss_on(model, text.tokens, starts, settings)
    history = train(model, loss_of, steps, rate, settings, checkpoint, dict(arguments), on_step)
    undone = steps - len(history.loss)  # by a run that diverged
    report(memory.name, undone, "measuring")
    prompt = text.first(start.after(settings.context))
    bits, hits = bits_and_hits(model, text.validation.ids, settings.batch)
    tensors = {"bits": bits, "hits": hits}
    if arguments["replaced"]:
        tensors["replaced"], _ = bits_and_hits(model, text.replaced.ids, settings.batch)
    spent = per_byte(bits, text.validation.sizes)
    facts = {
        "parameters": parameters(model),
        "diverged_at": history.diverged_at,
        "loss": history.loss,
        "distillation": distilled,
        "tuning_bits_per_byte": bits_per_byte(model, text.tuning, settings.batch),
        "state_bytes": memory_bytes(model, prompt) if start.decodes(memory) else None,
    }
    if kept:
        tensors["long"], _ = bits_and_hits(model, text.long.ids, 1)
        facts["curve"] = list(history.curve.items())
    if kept and memory.layers:
        tensors |= {f"model.{name}": tensor for name, tensor in named_tensors(model).items()}
        tensors["sample"] = sample(model, text.validation.ids[:1, :PROMPT], seed)
    report(memory.name, 0, f"{spent:.3f} bits per byte (seed {seed}, rate {rate:g}, {steps} steps)", kept)
    return tensors, facts


def _distilled(
    model: nn.Module,
    start: StartingPoint,
    text: Windows,
    arguments: dict[str, Any],
    checkpoint: Path,
    report: Report,
) -> list[float]:
    """Train what is new in a model, if its starting point asks for it, on the windows that the training on
    text will read. The loss of every step; resumes from a checkpoint of its own."""
    memory, seed = Memory(**arguments["memory"]), arguments["seed"]
    steps = distillation_steps(start, memory, arguments["steps"])
    if not steps:
        return []
    settings, starts = text.settings, text.training_starts(seed, arguments["steps"])

    def batch(step: int) -> Int[Tensor, "B T"]:
        return windows(text.tokens.ids, starts[step], settings.context)[:, :-1].to(settings.device)

    loss_of, learner = start.distillation(model, batch)
    say = reporting(report, memory.name, steps, f"distillation, seed {seed}", "of the outputs")
    path = checkpoint.with_name(checkpoint.name.replace(".checkpoint.", ".distillation.checkpoint."))
    return train(learner, loss_of, steps, default_rate(model), settings, path, arguments, say).loss


@torch.no_grad()
@checks(values=False)
def sample(model: nn.Module, prompt: Int[Tensor, "1 P"], seed: int) -> Int[Tensor, " N"]:
    """The prompt and ``WRITTEN`` tokens after it, drawn from the model's own distribution."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    out, written = model(input_ids=prompt.to(model.device), use_cache=True), [*prompt[0]]
    for _ in range(WRITTEN):
        chances = out.logits[0, -1].float().softmax(-1).nan_to_num().cpu() + 1e-12
        written.append(torch.multinomial(chances, 1, generator=generator)[0])
        token = written[-1].reshape(1, 1).to(model.device)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return torch.stack(written)


def count_ngrams(arguments: dict[str, Any], folder: Path, checkpoint: Path, report: Report) -> Result:
    """Count n-grams on the bytes that the models of one seed read in so many steps.

    Returns:
        "bits.N" and "replaced.N" of the N-th reference, as of a model; their "names".
    """
    settings = Recipe.of(arguments["recipe"])
    tokens, content = tokens_of(arguments, folder), read_text([folder / "inputs" / arguments["text"]]).content
    text = Windows(tokens, settings)
    report("n-grams", 0, "counting")
    starts = text.training_starts(arguments["seed"], arguments["steps"]).flatten()
    read = tokens.bytes_of(read_places(len(tokens.ids), starts, settings.context))
    judged = (tokens.bytes_at(each.places, content) for each in (text.tuning, text.validation, text.replaced))
    found = count(content, read, *judged, arguments["cache"])
    tensors = {f"bits.{i}": each.bits for i, each in enumerate(found)}
    tensors |= {f"replaced.{i}": each.replaced for i, each in enumerate(found)}
    return tensors, {"names": [each.name for each in found]}


def tokens_of(arguments: dict[str, Any], folder: Path) -> Tokens:
    """The text of a cell as tokens: those of a file that travels with it, or else its bytes."""
    inputs = folder / "inputs"
    if "tokens" in arguments:
        return Tokens.from_file((inputs / arguments["tokens"]).read_bytes())
    return byte_tokens(read_text([inputs / arguments["text"]]).content)


class Windows:
    """The text of a comparison, cut into the windows that its models are trained and judged on.

    Attributes:
        tokens: the whole text.
        tuning, validation: the windows to choose settings on, and to judge on.
        replaced: the validation windows with their first half taken from another window.
        long: validation windows up to ``LONGER`` times as long.
    """

    def __init__(self, tokens: Tokens, settings: Recipe, unit: str = "bytes") -> None:
        self.tokens, self.settings = tokens, settings
        self.pieces = split(len(tokens.ids), settings.context, unit)
        context, longest = settings.context, min(map(len, self.pieces.validation)) - 1
        self.tuning = self._consecutive(self.pieces.tuning, context, settings.tuning_windows)
        self.validation = self._consecutive(self.pieces.validation, context, settings.evaluation_windows)
        self.replaced = tokens.at(with_replaced_past(self.validation.places))
        longer = context * min(LONGER, longest // context)
        self.long = self._consecutive(self.pieces.validation, longer, LONG_WINDOWS)

    def first(self, tokens: int) -> Int[Tensor, "1 T"]:
        """The first so many tokens of a window of validation, or as many as a long one has."""
        return self.long.ids[:1, :-1][:, :tokens]

    def _consecutive(self, pieces: Sequence[range], context: int, limit: int) -> TokenWindows:
        return self.tokens.at(places(evaluation_starts(pieces, context, limit), context))

    def training_starts(self, seed: int, steps: int) -> Int[Tensor, "steps batch"]:
        """Where the windows of every training step begin."""
        s = self.settings
        return training_starts(self.pieces.train, s.context, steps, s.batch, seed)
