"""``ttr train`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ttr.experiments.errors import UserError
from ttr.experiments.settings import names_in
from ttr.experiments.train.settings import TrainSettings

DEFAULTS = TrainSettings()

Files = Annotated[
    list[Path] | None,
    typer.Argument(help="Text files (Python's own standard library if none), or data sets with --stream."),
]
Layers = Annotated[
    str | None,
    typer.Option(help=f"A name from `ttr list`, or a hybrid; {DEFAULTS.layers} by default."),
]
Start = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Continue the causal language model of this folder: of ttr, of transformers, or converted.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="A tokenizers JSON file, or a folder of a pretrained one; that of --from, or bytes, by default."
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Stream the files through datasets: JSON lines, parquet, CSV, or text; needs --steps.",
    ),
]
Column = Annotated[str, typer.Option(help="The column of a stream that holds the text.")]
Out = Annotated[Path, typer.Option(help="Folder of the model; the same arguments resume there.")]
Steps = Annotated[int | None, typer.Option(help="Steps; by default as many as read the text once.")]
Width = Annotated[int | None, typer.Option(help=f"Width of a new model; {DEFAULTS.width} by default.")]
Depth = Annotated[int | None, typer.Option(help=f"Layers of a new model; {DEFAULTS.depth} by default.")]
HeadSize = Annotated[int | None, typer.Option(help=f"Channels of a head; {DEFAULTS.head_size} by default.")]
Context = Annotated[int, typer.Option(help="Tokens of a window, in which documents are packed.")]
Batch = Annotated[int, typer.Option(help="Windows of a step, over all processes and passes.")]
Accumulate = Annotated[int, typer.Option(help="Passes of a step, for less memory.")]
Rate = Annotated[float, typer.Option(help="The highest learning rate.")]
Seed = Annotated[int, typer.Option(help="Seed of the first weights and of the order of the text.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16, with weights in float32.")]
GradientCheckpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Compute activations again in the backward pass."),
]
Track = Annotated[
    str, typer.Option(help="Libraries that get the curves, as transformers names them: tensorboard,trackio.")
]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints; a twentieth of all.")]
EvaluateEvery = Annotated[int | None, typer.Option(help="Steps between held-out losses; a twentieth of all.")]


def train_command(
    files: Files = None,
    layers: Layers = None,
    start: Start = None,
    tokenizer: Tokenizer = None,
    stream: Stream = False,
    column: Column = DEFAULTS.column,
    out: Out = DEFAULTS.out,
    steps: Steps = None,
    width: Width = None,
    depth: Depth = None,
    head_size: HeadSize = None,
    context: Context = DEFAULTS.context,
    batch: Batch = DEFAULTS.batch,
    accumulate: Accumulate = DEFAULTS.accumulate,
    lr: Rate = DEFAULTS.lr,
    seed: Seed = DEFAULTS.seed,
    bf16: Bf16 = False,
    gradient_checkpointing: GradientCheckpointing = False,
    track: Track = "",
    save_every: SaveEvery = None,
    evaluate_every: EvaluateEvery = None,
) -> None:
    """Train a language model of any memories; `accelerate launch -m ttr train ...` for several processes."""
    of_new_model = {"layers": layers, "width": width, "depth": depth, "head_size": head_size}
    given = {name: value for name, value in of_new_model.items() if value is not None}
    if start is not None and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"{options} describe a new model, and --from names one that exists. Give one of both."
        )
    settings = TrainSettings(
        files=tuple(files or ()),
        start=start,
        tokenizer=tokenizer,
        stream=stream,
        column=column,
        out=out,
        steps=steps,
        context=context,
        batch=batch,
        accumulate=accumulate,
        lr=lr,
        seed=seed,
        bf16=bf16,
        gradient_checkpointing=gradient_checkpointing,
        track=names_in(track),
        save_every=save_every,
        evaluate_every=evaluate_every,
        **given,
    )
    from ttr.experiments.train.train import train

    train(settings, Console())
