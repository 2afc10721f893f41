"""Projections from a layer's input to q, k, v and the controls of its memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttr.layer.architecture import Architecture
from ttr.layer.part import Part
from ttr.layer.sequences import Sequences
from ttr.layer.sizes import Sizes
from ttr.layer.tensors import Tensors


class Project(nn.Module):
    """The first half of a layer: x -> q, k, v by linear maps, then the parts before the memory.

    ``q_proj``, ``k_proj`` and ``v_proj`` are the maps, except for streams that a transform replaces; ``qkv``
    and ``gates`` hold the tensors of the parts by name.
    """

    def __init__(self, architecture: Architecture, sizes: Sizes) -> None:
        super().__init__()
        self.architecture, self.sizes = architecture, sizes
        self.before = [(*name.split("."), part) for name, part in architecture.named_before_memory()]
        replaced = {name for *_, part in self.before for name in part.replaces}
        self.projected = tuple(name for name in ("q", "k", "v") if name not in replaced)
        for name in self.projected:
            self.add_module(f"{name}_proj", projection(sizes.d_model, torch.Size(sizes.stream(name)).numel()))
        self.qkv, self.gates = nn.ModuleDict(), nn.ModuleDict()
        for field, name, part in self.before:
            getattr(self, field)[name] = Tensors(part.parameters(sizes))

    def tails(self) -> dict[str, tuple[int, ...]]:
        """The tensors carried from call to call (convolution states, running sums): name -> shape without the
        batch."""
        past = {
            f"conv.{name}": (part.past, *self.sizes.stream(name))
            for *_, part in self.before
            if part.past
            for name in part.streams
        }
        return past | {
            f"sum.{name}": shape for *_, part in self.before for name, shape in part.sums(self.sizes).items()
        }

    def project(
        self, x: Float[Tensor, "B T d"], sequences: Sequences, tails: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All streams of ``ttr.layer.part`` except y, and the new tails.

        Args:
            sequences: the assignment of tokens to sequences.
            tails: the tensors declared by ``tails()``, with one row per sequence.
        """
        streams, new_tails = {"x": x, "position": sequences.positions()}, dict(tails)
        modules = {"qkv": self.qkv, "gates": self.gates}
        steps = [(part, modules[field][name]) for field, name, part in self.before]
        for step, learned in (pair for pair in steps if pair[0].of_input):
            streams |= self._made(step, learned, streams, sequences, new_tails)
        for name in ("q", "k", "v"):
            shape, source = self.sizes.stream(name), streams.get(f"x_{name}", x)
            streams[name] = (
                getattr(self, f"{name}_proj")(source).unflatten(-1, shape)
                if name in self.projected
                else x.new_zeros(*x.shape[:2], *shape)
            )
        for step, learned in (pair for pair in steps if not pair[0].of_input):
            streams |= self._made(step, learned, streams, sequences, new_tails)
        return streams, new_tails

    def _made(
        self,
        step: Part,
        learned: Tensors,
        streams: Mapping[str, Tensor],
        sequences: Sequences,
        tails: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The streams that a part changes or adds; ``tails`` is updated."""
        made = (
            self._with_past(step, learned, streams, sequences, tails)
            if step.past
            else step(learned(), streams)
        )
        for name in step.sums(self.sizes):
            made[name], total = sequences.running_sum(made[name], tails[f"sum.{name}"].to(made[name].dtype))
            tails[f"sum.{name}"] = total.to(tails[f"sum.{name}"].dtype)
        return made

    def _with_past(
        self,
        step: Part,
        learned: Tensors,
        streams: Mapping[str, Tensor],
        sequences: Sequences,
        tails: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """The streams that a part computes from its streams and the tokens before them; ``tails`` is
        updated."""
        known = {name: tails[f"conv.{name}"].to(streams[name].dtype) for name in step.streams}
        before = sequences.before({name: streams[name] for name in step.streams}, known)
        for name, tail in before.items():
            tails[f"conv.{name}"] = sequences.tail(streams[name], tail).to(tails[f"conv.{name}"].dtype)
        return step.continued(learned(), streams, before, sequences)


def projection(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without a bias, initialised as by Glorot and Bengio (2010)."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear
