"""Distillation: the memories in a converted decoder learn the outputs of the attention that they replace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.optimization import get_cosine_schedule_with_warmup

from ttr.integrations.transformers.conversion import MemoryAttention, attention_of, decoder_layers
from ttr.operators import wide


def distill(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Iterable[Int[Tensor, "B T"]],
    *,
    steps: int,
    lr: float | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the converted layers of ``model`` to give the outputs of the attention layers of ``teacher``.

    Every layer learns at once, each from the teacher's inputs of that layer, so that none has to wait for the
    ones before it (the attention transfer of Zhang et al., LoLCATs, arXiv 2410.10254). It begins with
    ``match_scales`` on the first batch. Afterwards train the whole model on text for a while, as usual.

    Args:
        teacher: the model before ``convert``, for example a ``copy.deepcopy`` of it, in evaluation mode.
        batches: token ids; at least one, repeated as often as needed.
        lr: the learning rate of AdamW at its highest, reached linearly in a tenth of the steps; it falls to
            0 as half a cosine. By default that of ``default_rate``.
        on_step: called with the number of the step, from 1, and its loss.

    Returns:
        The loss of every step: squared error over the squared outputs of the teacher, the mean over layers.

    Raises:
        ValueError: if ``model`` has no converted layers, or there is nothing to learn from.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    learned = [p for layer in converted_layers(model) for p in layer.parameters() if p.requires_grad]
    if not learned:
        raise ValueError(
            "This model has no converted layers that can learn. Call convert on a copy of the teacher first."
        )
    lr = default_rate(model) if lr is None else lr
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    optimizer.zero_grad()
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    losses: list[float] = []
    for ids in _cycle(batches, steps):
        if not losses:
            match_scales(model, teacher, ids)
        loss = distillation_loss(model, teacher, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(len(losses), losses[-1])
    return losses


def converted_layers(model: nn.Module) -> list[MemoryAttention]:
    """The memories in place of attention layers."""
    return [layer for layer in model.modules() if isinstance(layer, MemoryAttention)]


def default_rate(model: PreTrainedModel) -> float:
    """The learning rate of a distillation at its highest: 0.1 d_model^-1/2, a tenth of the usual size
    of a projection's weights (0.009 for 128 channels, 0.0016 for 4,096)."""
    return 0.1 / math.sqrt(converted_layers(model)[0].mixer.sizes.d_model)


@torch.no_grad()
def match_scales(model: PreTrainedModel, teacher: PreTrainedModel, ids: Int[Tensor, "B T"]) -> None:
    """Multiply the output projection of every converted layer by the number with which its squared error on
    these tokens is least.

    The projection was trained for what attention reads, and a norm makes that of a new memory several times
    as large. Projections that are not trained are left alone, and so are those of layers whose outputs are
    all 0, or not finite.
    """
    for layer, y, wanted in _outputs(model, teacher, ids):
        scale, projection = (y * wanted).sum() / y.square().sum(), layer.mixer.o_proj
        if projection.weight.requires_grad and scale.isfinite():
            for tensor in projection.parameters():
                tensor *= scale


def distillation_loss(
    model: PreTrainedModel, teacher: PreTrainedModel, ids: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """The squared error of the converted layers of ``model`` over the squared outputs of those of ``teacher``
    at the same inputs, the mean over layers."""
    errors = [
        (y - wanted).square().mean() / wanted.square().mean()
        for _, y, wanted in _outputs(model, teacher, ids)
    ]
    return torch.stack(errors).mean()


def _outputs(
    model: PreTrainedModel, teacher: PreTrainedModel, ids: Int[Tensor, "B T"]
) -> Iterator[tuple[MemoryAttention, Float[Tensor, "B T D"], Float[Tensor, "B T D"]]]:
    """The converted layers with their outputs and those of the teacher at the teacher's inputs, in float32 or
    wider."""
    students = {layer.layer_idx: layer for layer in converted_layers(model)}
    with torch.no_grad(), _recorded(teacher, students) as calls:
        teacher(input_ids=ids.to(teacher.device), use_cache=False)
    for number, inputs, outputs in calls:
        yield students[number], wide(students[number](**inputs)[0]), wide(outputs)


def _cycle(batches: Iterable[Tensor], steps: int) -> Iterator[Tensor]:
    """So many batches, from the first again after the last."""
    kept = []
    for batch in islice(batches, steps):
        kept.append(batch)
        yield batch
    if not kept:
        raise ValueError("batches is empty. Give at least one batch of token ids.")
    yield from islice(cycle(kept), steps - len(kept))


@contextmanager
def _recorded(
    teacher: nn.Module, numbers: Iterable[int]
) -> Iterator[list[tuple[int, dict[str, Any], Tensor]]]:
    """The inputs and outputs of attention layers, by the calls inside the block."""
    blocks, calls = decoder_layers(teacher), []
    hooks = []
    for number in numbers:
        _, attention = attention_of(blocks[number], number)

        def hook(
            _: nn.Module, args: tuple, inputs: dict[str, Any], outputs: Any, number: int = number
        ) -> None:
            named = dict(zip(("hidden_states",), args)) | inputs
            wanted = {name: named.get(name) for name in ("hidden_states", "attention_mask")}
            calls.append((number, wanted, outputs[0]))

        hooks.append(attention.register_forward_hook(hook, with_kwargs=True))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
