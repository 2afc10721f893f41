"""Trains one language model by transformers' Trainer: what it gets, what people see of it, and what is left
in the folder."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ttr.experiments.errors import UserError, for_the_user
from ttr.experiments.progress import Bar, quiet
from ttr.experiments.settings import Recipe
from ttr.experiments.storage import to_json, write
from ttr.experiments.train import folder
from ttr.experiments.train.curve import draw
from ttr.experiments.train.data import Data, data_of, predicted
from ttr.experiments.train.model import model_of, reads_across
from ttr.experiments.train.settings import TrainSettings, first_process

PARTS = 20
"""How often a run is judged and saved, unless it is told."""
POINTS = 200
"""Points of the curve of the training loss."""
NATS = math.log(2)


def train(settings: TrainSettings, console: Console) -> dict[str, Any]:
    """Train, or continue what an earlier call with the same settings began, and write the model and its
    curves to ``settings.out``.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: for errors that the user can correct, in one sentence; checkpoints are kept.
    """
    console = console if first_process() else Console(quiet=True)
    with for_the_user():
        data = data_of(settings)
    with folder.claimed(settings, data.facts, keep_out=first_process()) as checkpoint:
        metrics = folder.finished(settings.out)
        if metrics is None:
            with for_the_user():
                model = model_of(settings, data.encoding)
            try:
                metrics = _trained(settings, data, model, checkpoint, console)
            except KeyboardInterrupt:
                raise UserError(
                    f"Stopped. The same command continues from the last checkpoint: {settings.command()}"
                ) from None
    console.print(
        f"Trained {metrics['steps']:,} steps on {metrics['bytes_read'] / 1e6:,.1f} MB: "
        f"{metrics['held_out']['bits_per_byte']:.3f} bits per byte of held-out text "
        f"({metrics['held_out']['nats_per_token']:.3f} nats per token). Written: {settings.out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return metrics


def _trained(
    settings: TrainSettings, data: Data, model: PreTrainedModel, checkpoint: Path | None, console: Console
) -> dict[str, Any]:
    """Train to the end from a checkpoint or the start, and write what a finished run leaves."""
    use_cache, unit = getattr(model.config, "use_cache", True), NATS * data.bytes_per_token
    with quiet(), Bar(console) as bar:
        for sentence in (*data.cautions, *_cautions(model, settings)):
            bar.say(sentence)
        with for_the_user():
            arguments = _arguments(settings, data)
        trainer = TextTrainer(
            model=model,
            args=arguments,
            train_dataset=data.training,
            eval_dataset=data.held_out,
            callbacks=[*_trackers(settings.track), Shown(bar, unit), Watched()],
        )
        trainer.remove_callback(PrinterCallback)
        bar.say(_beginning(model, settings, data, checkpoint))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        model.config.use_cache = use_cache  # which Trainer switches off
        _save(trainer, settings, data)
    history = trainer.state.log_history
    training = folder.points(history, "loss", unit)
    held_out = folder.points(history, "eval_loss", unit)
    metrics = {
        "steps": trainer.state.global_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes_read": round(data.steps * settings.batch * settings.context * data.bytes_per_token),
        "bytes_per_token": data.bytes_per_token,
        "held_out": {"bits_per_byte": held_out[-1][1], "nats_per_token": held_out[-1][1] * unit},
        "curves": {"training": training, "held_out": held_out},
    }
    if trainer.is_world_process_zero():
        title = str(settings.start or settings.layers)
        write(settings.out / folder.PICTURE, draw(title, training, held_out))
        write(settings.out / folder.METRICS, to_json(metrics))  # last: it says that the run is finished
    return metrics


def _cautions(model: PreTrainedModel, settings: TrainSettings) -> Iterator[str]:
    if settings.start is not None and first_process() and reads_across(model, settings.context):
        yield (
            f"{type(model).__name__} reads the documents that are packed in a row across their boundaries: "
            "it takes no position_ids, or some of its layers ignore where they begin again."
        )


def _arguments(settings: TrainSettings, data: Data) -> TrainingArguments:
    recipe, part = Recipe(), max(1, data.steps // PARTS)
    cpu = not torch.accelerator.is_available()
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in names)
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints(settings)),
        max_steps=data.steps,
        per_device_train_batch_size=settings.windows_at_once,
        per_device_eval_batch_size=settings.windows_at_once,
        gradient_accumulation_steps=settings.accumulate,
        train_sampling_strategy="sequential",
        learning_rate=settings.lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": recipe.final_rate},
        warmup_steps=max(1, round(recipe.warmup * data.steps)),
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        max_grad_norm=recipe.clip,
        bf16=settings.bf16,
        logging_steps=max(1, data.steps // POINTS),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=settings.evaluate_every or part,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=settings.save_every or part,
        save_total_limit=2,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        **{checkpointing: settings.gradient_checkpointing},
    )
    if arguments.n_gpu > 1:  # Trainer would give each of them a batch
        raise UserError(
            f"One process sees {arguments.n_gpu} GPUs. Use them by accelerate launch -m "
            f"{settings.command()}, or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    return arguments


def _trackers(names: tuple[str, ...]) -> list[TrainerCallback]:
    """The callbacks of transformers for these libraries.

    Raises:
        UserError: if transformers has none for a name, or the library is not installed.
    """
    try:
        return [callback() for callback in get_reporting_integration_callbacks(list(names))]
    except (ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"--track {','.join(names)}: {reason}. Install it, or name another.") from None


def _beginning(model: PreTrainedModel, settings: TrainSettings, data: Data, checkpoint: Path | None) -> str:
    size = sum(p.numel() for p in model.parameters())
    words = (
        f"{settings.start or settings.layers}: {size:,} parameters, {data.steps:,} steps of "
        f"{settings.batch * settings.context:,} {data.encoding.unit}"
    )
    return words if checkpoint is None else f"{words}, continued from {checkpoint}"


def _save(trainer: Trainer, settings: TrainSettings, data: Data) -> None:
    """The model, its tokenizer and the Trainer's state, in the folder itself."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(settings.out))
    if trainer.is_world_process_zero():
        (settings.out / "training_args.bin").unlink(missing_ok=True)  # loading it would run code
        data.encoding.save(settings.out)
        trainer.state.save_to_json(str(settings.out / folder.STATE))


class TextTrainer(Trainer):
    """A Trainer whose weight decay is for matrices alone, not for norms, biases and decay rates, and whose
    held-out loss is the mean over tokens, of which batches of short documents predict fewer, or none."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch. In evaluation Trainer takes the mean of these over the rows, so that each is
        weighted by the predicted tokens of a row of its batch, relative to those of any row."""
        if model.training:
            if num_items_in_batch is not None:
                num_items_in_batch = max(num_items_in_batch, 1)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        tokens = predicted(inputs["labels"])
        weight = tokens / len(inputs["labels"]) / self._predicted_by_a_row
        loss = torch.where(tokens > 0, loss * weight, 0.0)  # the mean over no tokens is 0/0
        return (loss, outputs) if return_outputs else loss

    @functools.cached_property
    def _predicted_by_a_row(self) -> float:
        """How many tokens a held-out row predicts, on average."""
        return sum(int(predicted(row["labels"])) for row in self.eval_dataset) / len(self.eval_dataset)


class Watched(TrainerCallback):
    """Ends a run whose loss or gradient is not finite before it is saved, and marks checkpoints that are
    written to their end."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        if control.should_save:
            control.should_log = True  # which comes first

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **others: Any,
    ) -> None:
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
            raise UserError(
                f"The loss is not finite at step {state.global_step}. Choose a lower --lr and another --out."
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write(
                Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / folder.COMPLETE, b""
            )


class Shown(TrainerCallback):
    """Shows a run on a progress bar; losses divided by ``unit`` are bits per byte."""

    def __init__(self, bar: Bar, unit: float) -> None:
        self.bar, self.unit, self.loss = bar, unit, ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self.bar.begin("training", state.max_steps)
        self._report(state, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        self._report(state, 1)

    def _report(self, state: TrainerState, steps: int) -> None:
        self.bar.report(f"step {state.global_step:,} of {state.max_steps:,}", steps, self.loss)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **others: Any,
    ) -> None:
        if "loss" in logs:
            self.loss = f"{logs['loss'] / self.unit:.3f} bits per byte"
        if "eval_loss" in logs:
            held_out = f"{logs['eval_loss'] / self.unit:.3f} held out"
            self.bar.say(f"step {state.global_step:,}: {self.loss}, {held_out}")
