"""Conversations → packed windows of tokens with block-diagonal attention and one loss weight per token."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.tokenizer import END, START

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Document:
    """One encoded conversation: token ids and, per token, the weight of the loss of predicting it.

    `weights` are those of the answers; `read_weights` those of what the model only reads: system prompts and questions.
    """

    ids: list[int]
    weights: list[float]
    read_weights: list[float]


@dataclass(frozen=True)
class Batch:
    """ids, positions, documents: [rows, window] int64; the weights: [rows, window] float (0 where nothing is learned)."""

    ids: Tensor
    positions: Tensor
    documents: Tensor
    weights: Tensor
    read_weights: Tensor

    def attention_mask(self) -> Tensor:
        """[rows, 1, window, window] bool: true where a token may look at an earlier one of its own document."""
        window = self.ids.shape[1]
        same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
        return same & torch.ones(window, window, dtype=torch.bool).tril()


class Encoder:
    """Encodes conversations in the chat template's layout, remembering the pieces of text seen before."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer.backend_tokenizer
        self.newline = self.text("\n")
        self.end = tokenizer.convert_tokens_to_ids(END)
        self.roles = {
            role: [tokenizer.convert_tokens_to_ids(START), *self.text(f"{role}\n")]
            for role in ("system", "user", "assistant")
        }

    def text(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def document(self, turns: Turns) -> Document:
        """Each turn weighs 1/sqrt(its tokens) per token: a two-token sum counts for more than a token of a story."""
        ids: list[int] = []
        weights: list[float] = []
        read_weights: list[float] = []
        for role, content in turns:
            head, body = self.roles[role], [*self.text(content), self.end]
            ids += [*head, *body, *self.newline]
            learned, read = (weights, read_weights) if role == "assistant" else (read_weights, weights)
            learned.extend([*[0.0] * len(head), *[1 / math.sqrt(len(body))] * len(body), *[0.0] * len(self.newline)])
            read.extend([0.0] * (len(head) + len(body) + len(self.newline)))
        return Document(ids, weights, read_weights)


def packed_rows(documents: Iterator[Document], window: int, buffer: int = 64) -> Iterator[list[Document]]:
    """Fill windows of `window` tokens from a buffer of documents, the longest that fits first."""
    waiting: list[Document] = []
    while True:
        waiting += itertools.islice((d for d in documents if len(d.ids) <= window), buffer - len(waiting))
        row, room = [waiting.pop(0)], window
        room -= len(row[0].ids)
        while fitting := [d for d in waiting if len(d.ids) <= room]:
            chosen = max(fitting, key=lambda d: len(d.ids))
            waiting.remove(chosen)
            row.append(chosen)
            room -= len(chosen.ids)
        yield row


def batches(documents: Iterator[Document], rows: int, window: int) -> Iterator[Batch]:
    filled = packed_rows(documents, window)
    while True:
        yield collate(list(itertools.islice(filled, rows)), window)


def collate(rows: list[list[Document]], window: int) -> Batch:
    shape = (len(rows), window)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    documents, weights, read_weights = torch.full(shape, -1), torch.zeros(shape), torch.zeros(shape)
    for r, row in enumerate(rows):
        start = 0
        for d, document in enumerate(row):
            end = start + len(document.ids)
            ids[r, start:end] = torch.tensor(document.ids)
            positions[r, start:end] = torch.arange(end - start)
            documents[r, start:end] = d
            weights[r, start:end] = torch.tensor(document.weights)
            read_weights[r, start:end] = torch.tensor(document.read_weights)
            start = end
    return Batch(ids, positions, documents, weights, read_weights)
