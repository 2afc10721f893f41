"""The text of a training run as rows of packed tokens: windows of a text in memory, or of a stream of
documents.

A row has as many tokens as the context. Documents follow each other in it: ``position_ids`` begin again at
each, so that the model reads none of them across their boundary, and its first token has no label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import AutoTokenizer

from ttr.experiments.errors import UserError
from ttr.experiments.train.settings import TrainSettings
from ttr.tasks.text import (
    cautions,
    evaluation_starts,
    read_text,
    split,
    standard_library,
    training_starts,
)
from ttr.tasks.tokens import Bytes, Encoding, TokenizerFile, byte_tokenizer

if TYPE_CHECKING:
    import datasets

HELD_OUT_ROWS = 128
HELD_OUT = 20
"""Of a stream every so many-th document is held out."""
SHUFFLED = 1000
"""Documents of a stream among which the next one is drawn."""
KINDS = {"jsonl": "json", "json": "json", "parquet": "parquet", "csv": "csv", "arrow": "arrow"}
"""The readers of ``datasets`` by the ending of a file; all others are text, a document each."""

Row = dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Attributes:
        training: rows in the order of training, ``batch`` after ``batch``.
        held_out: rows for the loss on unseen text.
        encoding: what made the tokens.
        bytes_per_token: the average, by which nats per token become bits per byte.
        steps: how many are trained.
        facts: what identifies the text, JSON-ready.
        cautions: what makes it unfit, a sentence each.
    """

    training: Dataset
    held_out: list[Row]
    encoding: Encoding
    bytes_per_token: float
    steps: int
    facts: Mapping[str, Any]
    cautions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(predicted(row["labels"]) for row in self.held_out):
            raise UserError(
                "No token of the held-out text is predicted: its documents have one token each. "
                "Give longer ones."
            )


def predicted(labels: Int[Tensor, "*rows T"]) -> Int[Tensor, ""]:
    """How many tokens have a loss; the first of a row has none."""
    return (labels[..., 1:] != -100).sum()


class Pretrained(TokenizerFile):
    """The tokenizer that transformers saved in a folder. Its end-of-text token ends every document."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "tokenizer.json")
        self.pretrained = AutoTokenizer.from_pretrained(folder)
        self.end = self.pretrained.eos_token_id

    def save(self, folder: Path) -> None:
        self.pretrained.save_pretrained(folder)


def encoding_of(tokenizer: Path | None, start: Path | None) -> Encoding:
    """The tokens of a run: those of the tokenizer, or else of the model to start from, or else bytes.

    Raises:
        ValueError: if the tokenizer is missing or damaged.
    """
    if tokenizer is None and start is not None and (start / "tokenizer.json").exists():
        tokenizer = start
    if tokenizer is None:
        return Bytes()
    found = Pretrained(tokenizer) if tokenizer.is_dir() else TokenizerFile(tokenizer)
    return Bytes() if found.tokenizer.to_str() == byte_tokenizer().to_str() else found


def data_of(settings: TrainSettings) -> Data:
    """The data of a run, read from its files.

    Raises:
        ValueError: if a file cannot be used, or there is too little text.
    """
    encoding = encoding_of(settings.tokenizer, settings.start)
    return _stream(settings, encoding) if settings.stream else _text(settings, encoding)


def row_of(ids: Int[Tensor, " T"], begins: Bool[Tensor, " T"]) -> Row:
    """The row of these tokens, of which some begin a document; the first begins one in any case."""
    place = torch.arange(len(ids))
    begins = begins | (place == 0)
    start = torch.where(begins, place, 0).cummax(0).values
    ids = ids.long()
    return {"input_ids": ids, "labels": ids.masked_fill(begins, -100), "position_ids": place - start}


# ------------------------------------------------------------------------------------ a text in memory
class Windows(Dataset):
    """Windows of ``context`` tokens of a text, which begin at these places."""

    def __init__(
        self, ids: Int[Tensor, " N"], begins: Bool[Tensor, " N"], starts: Int[Tensor, " W"], context: int
    ) -> None:
        self.ids, self.begins, self.starts, self.context = ids, begins, starts, context

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Row:
        start = int(self.starts[number])
        there = slice(start, start + self.context)
        return row_of(self.ids[there], self.begins[there])


def _text(settings: TrainSettings, encoding: Encoding) -> Data:
    text = read_text(settings.files or standard_library())
    contents = zip(text.content.split(text.sizes), text.names)
    documents = [_document(encoding, content, name) for content, name in contents]
    ids = torch.cat(documents)
    begins = torch.zeros(len(ids), dtype=torch.bool)
    begins[torch.tensor([0, *map(len, documents[:-1])]).cumsum(0)] = True
    parts = split(len(ids), settings.context, encoding.unit)
    pieces = sorted(parts.train + parts.tuning, key=lambda piece: piece.start)
    tokens, predicted = settings.batch * settings.context, settings.context - 1
    steps = settings.steps or -(-sum(map(len, pieces)) // tokens)
    starts = training_starts(pieces, predicted, steps, settings.batch, settings.seed)
    held_out = evaluation_starts(parts.validation, predicted, HELD_OUT_ROWS)
    return Data(
        training=Windows(ids, begins, starts.flatten(), settings.context),
        held_out=list(Windows(ids, begins, held_out, settings.context)),
        encoding=encoding,
        bytes_per_token=len(text.content) / len(ids),
        steps=steps,
        facts={"bytes": len(text.content), "sha256": text.sha256, "tokens": len(ids)} | encoding.facts,
        cautions=cautions(text, split(len(text.content), settings.context)),
    )


def _document(encoding: Encoding, content: UInt8[Tensor, " bytes"], name: str) -> Int[Tensor, " N"]:
    ids = encoding.document(content, name)
    return ids if encoding.end is None else torch.cat([ids, ids.new_tensor([encoding.end])])


# ------------------------------------------------------------------------------- a stream of documents
class Stream(IterableDataset):
    """The rows of documents that ``datasets`` reads again and again, each time in another order."""

    def __init__(
        self, documents: datasets.IterableDataset, encoding: Encoding, settings: TrainSettings
    ) -> None:
        self.documents, self.encoding = documents, encoding
        self.column, self.context = settings.column, settings.context

    def __iter__(self) -> Iterator[Row]:
        return packed(self._documents(), self.context)

    def _documents(self) -> Iterator[Int[Tensor, " N"]]:
        for epoch in itertools.count():
            self.documents.set_epoch(epoch)
            found = False
            for ids, _ in tokens_of(self.documents, self.encoding, self.column):
                found = True
                yield ids
            if not found:
                raise UserError("The stream has no text but what is held out. Give more documents.")


def packed(documents: Iterable[Int[Tensor, " N"]], context: int) -> Iterator[Row]:
    """Rows of ``context`` tokens of the documents in their order; what is left at the end is dropped."""
    ids, begins = torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.bool)
    for document in documents:
        ids = torch.cat([ids, document])
        begins = torch.cat([begins, torch.arange(len(document)) == 0])
        while len(ids) >= context:
            yield row_of(ids[:context], begins[:context])
            ids, begins = ids[context:], begins[context:]


def tokens_of(
    documents: Iterable[Mapping[str, Any]], encoding: Encoding, column: str
) -> Iterator[tuple[Int[Tensor, " N"], int]]:
    """The tokens and the bytes of every document; those without text are left out.

    Raises:
        UserError: if there is no such column, or it holds something else than text.
    """
    for document in documents:
        if column not in document:
            there = ", ".join(document)
            raise UserError(f"The data have no column {column!r}, but {there}. Name one with --column.")
        if not isinstance(text := document[column] or "", str):
            raise UserError(
                f"The column {column!r} holds no text, but {text!r:.40}. Name another with --column."
            )
        content = bytearray(text.encode(errors="replace"))  # JSON may hold half a character
        if content:
            ids = _document(encoding, torch.frombuffer(content, dtype=torch.uint8), "a document")
            yield ids, len(content)


def _stream(settings: TrainSettings, encoding: Encoding) -> Data:
    documents = _opened(settings.files)
    held_out = documents.filter(lambda _, number: number % HELD_OUT == HELD_OUT - 1, with_indices=True)
    training = documents.filter(lambda _, number: number % HELD_OUT != HELD_OUT - 1, with_indices=True)
    sizes: list[tuple[int, int]] = []

    def counted() -> Iterator[Int[Tensor, " N"]]:
        for ids, size in tokens_of(held_out, encoding, settings.column):
            sizes.append((len(ids), size))
            yield ids

    rows = list(itertools.islice(packed(counted(), settings.context), HELD_OUT_ROWS))
    if not rows:
        raise UserError(
            f"Every {HELD_OUT}th document of a stream is held out, and these are shorter than the context of "
            f"{settings.context}. Use a shorter --context, or give more documents."
        )
    tokens, size = map(sum, zip(*sizes))
    return Data(
        training=Stream(training.shuffle(settings.seed, buffer_size=SHUFFLED), encoding, settings),
        held_out=rows,
        encoding=encoding,
        bytes_per_token=size / tokens,
        steps=settings.steps,
        facts={"files": {str(path): path.stat().st_size for path in settings.files}} | encoding.facts,
    )


def _opened(files: tuple[Path, ...]) -> datasets.IterableDataset:
    """The files as one stream of documents.

    Raises:
        UserError: if one is missing, or they are of different kinds.
    """
    from datasets import load_dataset

    for path in files:
        if not path.is_file():
            raise UserError(f"There is no file {path}. Check the name.")
    endings = [[suffix[1:] for suffix in path.suffixes if suffix[1:] in KINDS] for path in files]
    kinds = {KINDS[ending[-1]] if ending else "text" for ending in endings}
    if len(kinds) > 1:
        raise UserError(
            f"The files are of different kinds: {', '.join(sorted(kinds))}. Give those of one kind."
        )
    kind = kinds.pop()
    how = {"sample_by": "document"} if kind == "text" else {}
    names = [str(path) for path in files]
    return load_dataset(kind, data_files=names, split="train", streaming=True, **how)
