"""``ttr compare`` and ``ttr recall`` on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ttr.experiments.errors import UserError
from ttr.experiments.settings import (
    OF_NEW_MODELS,
    CompareSettings,
    model_sizes,
    names_in,
    numbers_in,
    seconds,
)

DEFAULTS = CompareSettings()
LAYERS = ",".join(DEFAULTS.layers)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Files = Annotated[
    list[Path] | None, typer.Argument(help="Text files; Python's own standard library when none are named.")
]
Layers = Annotated[
    str,
    typer.Option(
        help="Names from `ttr list`, with commas between; a hybrid as gated-deltanet:3+softmax-attention."
    ),
]
MemoryFile = Annotated[
    Path | None,
    typer.Option(help="A Python file that defines `memory`, or `memories` by name; it is executed."),
]
Time = Annotated[
    str | None,
    typer.Option(help="For the whole, for example 90s, 6m or 1h; 6m when neither this nor --steps is given."),
]
Steps = Annotated[int | None, typer.Option(help="Training steps of the final stage, instead of --time.")]
Rate = Annotated[
    float | None, typer.Option(help="One learning rate for all, instead of the best of several for each.")
]
Tokenizer = Annotated[Path | None, typer.Option(help="A tokenizers JSON file; bytes when none is named.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Folder of a pretrained model of transformers (safetensors) with its tokenizer: which memory "
        "should replace its attention?",
    ),
]
Convert = Annotated[
    str | None,
    typer.Option(
        help="With --from, which layers: every-other attention layer from the first, if nothing is said, "
        "all, or numbers as 0,2."
    ),
]
Width = Annotated[int | None, typer.Option(help="Width of the models; 64, more on a GPU or many cores.")]
Depth = Annotated[int | None, typer.Option(help="Layers of the models; 2, more on a GPU.")]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens per window, bytes without --tokenizer; 256, more on a GPU or many cores."),
]
Batch = Annotated[int | None, typer.Option(help="Windows per step; 8, more on a GPU.")]
Device = Annotated[str, typer.Option(help="Where models are trained, as torch names it.")]
Seed = Annotated[int, typer.Option(help="First seed of data order and initial weights.")]
Seeds = Annotated[int, typer.Option(help="Seeds of every memory; more than one gives intervals over seeds.")]
AsPublished = Annotated[
    bool,
    typer.Option("--as-published", help="Compare the layers as they were published too, in a second table."),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        help="The plan.json of a comparison, to be repeated to the bit; only --out, --jobs, --ray and "
        "--track count."
    ),
]
Jobs = Annotated[
    int, typer.Option(help="Processes of one thread each; results do not depend on their number.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Compute on a Ray cluster instead: auto, local, HOST:PORT or ray://HOST:PORT; same results."
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        help="Give the curves of all runs to tensorboard (in --out) or trackio, if it is installed."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the results; the same arguments resume there.")]
HeadSizes = Annotated[
    str,
    typer.Option(
        help="Sizes of a head besides 32, for example 8,16,64, which make states larger or smaller: the gain "
        "against state size."
    ),
]


def compare_command(
    files: Files = None,
    layers: Layers = LAYERS,
    memory: MemoryFile = None,
    tokenizer: Tokenizer = None,
    pretrained: From = None,
    convert: Convert = None,
    time: Time = None,
    steps: Steps = None,
    lr: Rate = None,
    width: Width = None,
    depth: Depth = None,
    context: Context = None,
    batch: Batch = None,
    device: Device = DEFAULTS.device,
    seed: Seed = DEFAULTS.seed,
    seeds: Seeds = DEFAULTS.seeds,
    as_published: AsPublished = False,
    plan: PlanFile = None,
    jobs: Jobs = CORES,
    ray: RayAddress = None,
    track: Track = None,
    out: Out = DEFAULTS.out,
) -> None:
    """Which memory suits your text? Trains small models of every memory, all else equal, and reports; with
    --from, a pretrained model of yours with every memory in place of attention layers."""
    from ttr.experiments.compare import compare
    from ttr.experiments.plan import Plan

    console = Console()
    if plan is not None:
        replayed = Plan.read(plan)
        others = {"out": out, "jobs": jobs, "ray": ray, "track": track}
        compare(CompareSettings.from_dict(replayed.about["settings"], **others), console, replayed)
        return
    if time is not None and steps is not None:
        raise UserError("--time and --steps both say how long to train. Give one of them.")
    given = {"width": width, "depth": depth, "context": context, "batch": batch}
    given = {name: value for name, value in given.items() if value is not None}
    settings = CompareSettings(
        files=tuple(files or ()),
        layers=names_in(layers),
        memory=memory,
        tokenizer=tokenizer,
        pretrained=pretrained,
        convert=convert,
        out=out,
        jobs=jobs,
        ray=ray,
        track=track,
        time=DEFAULTS.time if time is None else seconds(time),
        steps=steps,
        lr=lr,
        device=device,
        seed=seed,
        seeds=seeds,
        as_published=as_published,
        **_sizes(given, device, pretrained),
    )
    compare(settings, console)


def _sizes(given: Mapping[str, int], device: str, pretrained: Path | None) -> dict[str, int]:
    """The sizes of models and batches: those that are given, else what suits the machine; a pretrained model
    has its own."""
    sizes = model_sizes(device, CORES)
    if pretrained is not None:
        if refused := [f"--{name}" for name in OF_NEW_MODELS if name in given]:
            raise UserError(f"--from brings a model with its own sizes. Leave {' and '.join(refused)} out.")
        sizes = {name: size for name, size in sizes.items() if name not in OF_NEW_MODELS}
    return sizes | given


def recall_command(
    layers: Layers = LAYERS,
    head_sizes: HeadSizes = "",
    memory: MemoryFile = None,
    seeds: Seeds = 3,
    jobs: Jobs = CORES,
    ray: RayAddress = None,
    out: Out = Path("runs/recall"),
) -> None:
    """Which memories recall? Trains each on planted records, whose repeated values an exact memory knows."""
    from ttr.experiments.records_probe import ProbeSettings, probe

    settings = ProbeSettings(
        layers=names_in(layers),
        further_head_sizes=numbers_in(head_sizes, "--head-sizes"),
        memory=memory,
        seeds=seeds,
        jobs=jobs,
        ray=ray,
        out=out,
    )
    probe(settings, Console())
