"""A short training loop that can be killed at any step and resumes with identical results.

Hugging Face's Trainer resumes from pickled optimizer and random states; here everything that a step depends
on is in one safetensors file or follows from the seed, so that a resumed run ends with the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttr.experiments.cells import Report
from ttr.experiments.errors import UserError
from ttr.experiments.settings import Recipe
from ttr.experiments.storage import from_json, load_tensors, save_tensors, to_json
from ttr.tasks.text import windows
from ttr.tasks.tokens import Tokens
from ttr.values import checks


def reporting(
    report: Report, label: str, steps: int, words: str, unit: str = "bits a byte"
) -> Callable[[History], None]:
    """What ``train`` calls after every step, to report it with the loss of the last ten."""
    seen = 0

    def on_step(history: History) -> None:
        nonlocal seen
        done, recent = len(history.loss), history.loss[-10:]
        loss = f", {fmean(recent):.2f} {unit}" if recent else ""
        report(label, done - seen, f"{words}, step {done} of {steps}{loss}")
        seen = done

    return on_step


@dataclass
class History:
    """The loss of every step so far (of language models in bits per byte, every token with the average of
    bytes), what was measured after some of them, and the step whose loss or gradient was not finite, if
    any."""

    loss: list[float] = field(default_factory=list)
    curve: dict[int, float] = field(default_factory=dict)
    diverged_at: int | None = None


def train(
    model: nn.Module,
    loss_of: Callable[[int], Float[Tensor, ""]],
    steps: int,
    rate: float,
    settings: Recipe,
    checkpoint: Path,
    run: Mapping[str, Any],
    on_step: Callable[[History], None],
) -> History:
    """Train ``model`` in place by the losses of ``steps`` steps, resuming from ``checkpoint`` if it exists.

    AdamW with a linear warm-up and a cosine decay. A loss or gradient that is not finite ends the training:
    the update that led to it is undone, and the history records the step.

    Raises:
        UserError: if the checkpoint is damaged or belongs to another run.
    """
    optimizer = optimizer_of(model, settings)
    # the parameters before the last update, the last ones whose loss is known to be finite
    before = _copied(model)
    history = load(checkpoint, run, model, optimizer, before) if checkpoint.exists() else History()
    on_step(history)
    model.train()
    for step in range(len(history.loss), steps):
        if history.diverged_at is not None:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps, settings)
        loss = loss_of(step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        if math.isfinite(loss.item()) and math.isfinite(norm.item()):
            before = _copied(model)
            optimizer.step()
            history.loss.append(loss.item())
        else:
            history.diverged_at = step + 1
            put_tensors(before, model)
        optimizer.zero_grad()
        on_step(history)
        if (
            (step + 1) % settings.checkpoint_every == 0
            or step + 1 == steps
            or history.diverged_at is not None
        ):
            save(checkpoint, run, model, optimizer, before, history)
    return history


def loss_on(
    model: nn.Module, text: Tokens, starts: Int[Tensor, "steps batch"], settings: Recipe
) -> Callable[[int], Float[Tensor, ""]]:
    """The loss of a step in bits per byte, on the windows that begin at ``starts[step]``."""

    def loss_of(step: int) -> Float[Tensor, ""]:
        tokens = windows(text.ids, starts[step], settings.context).to(settings.device)
        return next_token_loss(model, tokens).mean() / text.bytes_per_token

    return loss_of


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L-1"]:
    """Bits of each of the last L-1 tokens of every window."""
    return bits_of(logits_of(model, tokens), tokens)


@checks(values=False)  # numbers that are not finite are a result here, which the loss reports
def logits_of(model: nn.Module, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L-1 V"]:
    """What the model says about each of the last L-1 tokens of every window, from those before it."""
    return model(input_ids=tokens[:, :-1], use_cache=False).logits.float()


def bits_of(logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B T"]:
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return nats.view(len(tokens), -1) / math.log(2)


def schedule(step: int, steps: int, settings: Recipe) -> float:
    """The factor on the learning rate at a step: linear up to 1, then half a cosine down to
    ``final_rate``."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def optimizer_of(model: nn.Module, settings: Recipe) -> torch.optim.AdamW:
    """Parameter groups: weight decay for matrices, none for vectors (norms, biases, decay rates)."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=tuple(settings.betas))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


@torch.no_grad()
def put_tensors(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Give all parameters and buffers the values of the tensors with their names."""
    for name, tensor in named_tensors(model).items():
        tensor.copy_(tensors[name])


def save(
    path: Path,
    run: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, Tensor],
    history: History,
) -> None:
    """Everything the next step depends on, in one file."""
    adam = {
        f"adam.{key}.{name}": value
        for name, p in model.named_parameters()
        for key, value in optimizer.state[p].items()
    }
    tensors = {f"model.{name}": tensor for name, tensor in named_tensors(model).items()} | adam
    tensors |= {f"before.{name}": tensor for name, tensor in before.items()}
    tensors["loss"] = torch.tensor(history.loss, dtype=torch.float64)
    facts = {"run": dict(run), "curve": list(history.curve.items()), "diverged_at": history.diverged_at}
    save_tensors(path, tensors, facts)


def load(
    path: Path,
    run: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    before: dict[str, Tensor],
) -> History:
    """Put a checkpoint back into ``model``, ``optimizer`` and ``before``.

    Raises:
        UserError: naming the file, if it is damaged or belongs to another run.
    """
    tensors, facts = load_tensors(path)
    wanted = {
        f"{group}.{name}": tensor.shape for group in ("model", "before") for name, tensor in before.items()
    }
    fits = facts.get("run") == from_json(to_json(run)) and all(  # files have lists for tuples
        name in tensors and tensors[name].shape == shape for name, shape in wanted.items()
    )
    if not fits:
        raise UserError(
            f"{path} is the checkpoint of another run. Delete it to train this run from the start; the "
            "others are kept."
        )
    put_tensors({name: tensors[f"model.{name}"] for name in before}, model)
    before.update({name: tensors[f"before.{name}"] for name in before})
    for name, parameter in model.named_parameters():
        state = {
            key: tensors[f"adam.{key}.{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"adam.{key}.{name}" in tensors
        }
        if state:
            optimizer.state[parameter] = state
    return History(tensors["loss"].tolist(), dict(facts["curve"]), facts["diverged_at"])
