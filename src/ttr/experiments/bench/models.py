"""Whole models, ours and those of transformers with the same layout: what a user waits for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ttr.experiments.bench.cases import Direction, Family, Shape
from ttr.experiments.bench.contestants import Call, Contestant, Tensors
from ttr.experiments.bench.peers import needs_transformers
from ttr.experiments.bench.report import duration
from ttr.experiments.bench.results import Figures

SHAPE = Shape(1, 512, 4, 64, 64)

LAYERS, VOCABULARY = 4, 256
"""Layers of every model, and its tokens: bytes."""

TOKENS = 16
"""Tokens of one decoding call, each with the cache of those before it."""

GENERATED = 64
"""New tokens of one call of ``generate``."""

MLP = 688
"""Hidden channels of the gated MLPs, 8/3 of a width of 256."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Models(Family):
    """Decoders of ``LAYERS`` layers whose width is that of all heads, untrained; ``own`` are ours."""

    own: Mapping[Direction, Contestant]

    def ours(
        self, direction: Direction, engines: tuple[str, ...], x: Tensors | None = None
    ) -> tuple[Contestant, ...]:
        return (self.own[direction],)


def _contestant(
    name: str, side: Literal["ours", "peer"], build: Callable[[Shape], nn.Module], direction: Direction
) -> Contestant:
    """A model as a contestant; its numbers are its own, so that there is nothing to compare."""

    def prepared(x: Tensors) -> Call:
        torch.manual_seed(0)
        return CALLS[direction](build(SHAPE).eval(), x["ids"])

    return Contestant(name, side, prepared, needs_transformers, compared=False)


CACHES = ("past_key_values", "cache_params", "state")
"""transformers' names of a cache, of attention and of state-space models."""


def _prefill(model: nn.Module, ids: Tensor) -> Call:
    last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    return Call(lambda: model(ids, use_cache=True, **last).logits[:, -1:])


def _training(model: nn.Module, ids: Tensor) -> Call:
    model.train()
    return Call(lambda: model(ids, labels=ids, use_cache=False).loss, dict(model.named_parameters()))


def _decode(model: nn.Module, ids: Tensor) -> Call:
    with torch.no_grad():
        made = model(ids, use_cache=True)
    name = next(name for name in CACHES if getattr(made, name, None) is not None)

    def run() -> Tensor:
        cache, token = {name: copy.deepcopy(made[name])}, ids[:, :1]
        for _ in range(TOKENS):
            logits = model(token, use_cache=True, **cache).logits
        return logits

    return Call(run)


def _generate(model: nn.Module, ids: Tensor) -> Call:
    settings: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return Call(
        lambda: model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=GENERATED,
            max_new_tokens=GENERATED,
            **settings,
        ).float()
    )


CALLS: dict[Direction, Callable[[nn.Module, Tensor], Call]] = {
    "decode": _decode,
    "generate": _generate,
    "forward": _prefill,
    "training": _training,
}


def _ours(*layers: str) -> Callable[[Shape], nn.Module]:
    def build(shape: Shape) -> nn.Module:
        from ttr.models import TTRConfig, TTRForCausalLM

        names = [layers[i % len(layers)] for i in range(LAYERS)]
        return TTRForCausalLM(
            TTRConfig(
                vocab_size=VOCABULARY,
                hidden_size=shape.heads * shape.key,
                num_hidden_layers=LAYERS,
                num_heads=shape.heads,
                layers=names,
            )
        )

    return build


def _sizes(shape: Shape) -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.heads * shape.key,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": MLP,
    }


def _llama(shape: Shape) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(shape)))


def _qwen3_next(shape: Shape) -> nn.Module:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    linear = {
        f"linear_{what}": size
        for kind in ("key", "value")
        for what, size in ((f"num_{kind}_heads", shape.heads), (f"{kind}_head_dim", shape.key))
    }
    dense = {"num_experts": 0, "mlp_only_layers": list(range(LAYERS))}
    return Qwen3NextForCausalLM(Qwen3NextConfig(**_sizes(shape), head_dim=shape.key, **linear, **dense))


def _mamba2(shape: Shape) -> nn.Module:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    width = shape.heads * shape.key
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=2 * LAYERS,  # it has no MLPs
            num_heads=2 * shape.heads,
            head_dim=shape.key,
            state_size=shape.key,
            expand=2,
            n_groups=1,
        )
    )


def _ids(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    return {"ids": torch.randint(VOCABULARY, (shape.batch, shape.time), generator=generator)}


def _family(
    name: str, words: str, ours: tuple[str, ...], peer: str, build: Callable[[Shape], nn.Module]
) -> Models:
    return Models(
        name=f"model.{name}",
        words=f"{words}; {LAYERS} layers of width 256, decoding {TOKENS} tokens or generating {GENERATED}",
        draw=_ids,
        own={way: _contestant("ttr", "ours", _ours(*ours), way) for way in CALLS},
        peers={way: (_contestant(f"transformers, {peer}", "peer", build, way),) for way in CALLS},
        shapes={
            "decode": (SHAPE, replace(SHAPE, batch=8)),
            "generate": (replace(SHAPE, time=64),),
            "forward": (replace(SHAPE, time=2048),),
            "training": (replace(SHAPE, batch=8, time=256),),
        },
    )


MODELS = (
    _family(
        "gated-deltanet-hybrid",
        "three layers of gated DeltaNet, one of softmax attention",
        (*("gated-deltanet",) * 3, "softmax-attention"),
        "qwen3-next",
        _qwen3_next,
    ),
    _family("softmax-attention", "softmax attention", ("softmax-attention",), "llama", _llama),
    _family("mamba2", "Mamba-2", ("mamba2",), "mamba2", _mamba2),
)

WORK: dict[Direction, str] = {
    "decode": f"{TOKENS} tokens after {{time}}, batch {{batch}}",
    "generate": f"generate {GENERATED} tokens after {{time}}",
    "forward": "prefill of {time} tokens",
    "training": "loss and gradients, {batch} x {time} tokens",
}


def page(cases: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str | None:
    """The cases of models as a page of markdown; None without any."""
    lines = []
    for case in cases:
        figures = Figures(case)
        sides = {row["side"]: row["name"] for row in figures.timed}
        if not case["family"].startswith("model.") or len(sides) < 2:
            continue
        ours, peer = sides["ours"], sides["peer"]
        times = (duration(figures.cpu(name)["median"]) for name in (ours, peer))
        ratio = figures.passes[0].ratio(ours, peer, "cpu")
        work = WORK[case["direction"]].format(**case["shape"])
        wall = [figures.wall(name) for name in (ours, peer)]
        elapsed = " / ".join(duration(found["median"]) for found in wall) if all(wall) else "-"
        speed = f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"
        model = case["family"].removeprefix("model.")
        lines.append(f"| {model} | {peer} | {work} | {' | '.join(times)} | {speed} | {elapsed} |")
    if not lines:
        return None
    head = [
        "# Whole models against transformers",
        "",
        f"{LAYERS} layers of width 256 with gated MLPs (transformers' Mamba-2: {2 * LAYERS} without), "
        f"float32, untrained, {VOCABULARY} tokens. CPU time of one thread, medians of interleaved rounds, "
        "and how many times ttr is as fast, with the range over the rounds; then elapsed time with several "
        f"threads, ttr / peer. Written by `ttr bench model` on {machine['processor']}, torch "
        f"{machine['torch']}, transformers {machine['transformers']}.",
        "",
        "| ttr | peer | work | ttr | peer | ttr is faster by | elapsed, several threads |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"
