"""What a synthetic task is: sequences that follow from settings and a seed, and what can be known of them."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

UNLABELLED = -100
"""The label of tokens at which nothing is asked, which torch's cross-entropy leaves out; vectors have NaN."""

SHARE, ERROR = "share of right answers", "squared error / squared values"
"""What scores are."""


class LabelledSequences(NamedTuple):
    """What is read, tokens or vectors, and what is to be said at each place, again a token or a vector;
    ``UNLABELLED`` or NaN where nothing is asked."""

    inputs: Int[Tensor, "N L"] | Float[Tensor, "N L C"]
    labels: Int[Tensor, "N L"] | Float[Tensor, "N L V"]

    @property
    def asked(self) -> Bool[Tensor, "N L"]:
        """Where something is asked."""
        if self.labels.is_floating_point():
            return ~self.labels[..., 0].isnan()
        return self.labels != UNLABELLED

    @property
    def sha256(self) -> str:
        """The hash of the content: the same data has the same, on every machine."""
        digest = hashlib.sha256()
        for part in self:
            digest.update(f"{part.dtype} {list(part.shape)} ".encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Task(ABC):
    """Settings, of which each makes the task harder or easier; ``draw`` makes sequences of them.

    Attributes:
        name: in ``TASKS``.
        reads_vectors: whether the inputs are vectors and not tokens.
        says: what the score is, ``SHARE`` or ``ERROR``.
    """

    name: ClassVar[str]
    reads_vectors: ClassVar[bool] = False
    says: ClassVar[str] = SHARE

    @property
    @abstractmethod
    def channels(self) -> int:
        """Numbers of different tokens that are read, or channels of the vectors."""

    @property
    def outputs(self) -> int:
        """Numbers of different tokens among which an answer is, or channels of an answer."""
        return self.channels

    @property
    def decoded(self) -> int:
        """How many places the last token's output alone has to answer for; 0 if every place has its own."""
        return 0

    @abstractmethod
    def draw(self, count: int, seed: int) -> LabelledSequences:
        """``count`` sequences, determined by the settings and ``seed``."""

    @abstractmethod
    def exact(self, inputs: Tensor) -> Tensor:
        """What an exact memory says at every place, shaped like the labels, from what it has read so far (or
        from all, if the answers are ``decoded`` from the end). Where it cannot know anything it says
        ``UNLABELLED`` or NaN."""

    def ceiling(self, count: int, seed: int) -> float:
        """The score of an exact memory on ``count`` sequences."""
        sequences = self.draw(count, seed)
        asked, labels = sequences.asked, sequences.labels
        said = self.exact(sequences.inputs)[asked]
        if labels.is_floating_point():
            return relative_error(said.nan_to_num(), labels[asked])
        return (said == labels[asked]).double().mean().item()

    def loss(self, said: Float[Tensor, "asked V"], sequences: LabelledSequences) -> Float[Tensor, ""]:
        """What training lowers, from what a model says where it is asked: nats, or the squared error relative
        to the values."""
        labels = sequences.labels[sequences.asked]
        if labels.is_floating_point():
            return F.mse_loss(said, labels) / labels.square().mean()
        return F.cross_entropy(said, labels)

    def score(self, said: Float[Tensor, "asked V"], sequences: LabelledSequences) -> float:
        """The share of right answers, or the squared error relative to the values."""
        labels = sequences.labels[sequences.asked]
        if labels.is_floating_point():
            return relative_error(said, labels)
        return (said.argmax(-1) == labels).double().mean().item()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``ttr.tasks.registry.task_of`` inverts it."""
        return {"task": self.name, **dataclasses.asdict(self)}


def relative_error(said: Float[Tensor, "asked V"], values: Float[Tensor, "asked V"]) -> float:
    """Squared error over squared values, both in sum."""
    return ((said - values).double().square().sum() / values.double().square().sum()).item()


def without_replacement(chances: Tensor, generator: torch.Generator) -> Int[Tensor, "N items"]:
    """All items of every row in a random order, each place drawn from those that are left by their chances
    (the order of exponential waiting times)."""
    waits = -torch.rand(chances.shape, generator=generator, dtype=torch.float64).log() / chances
    return waits.argsort(-1)
