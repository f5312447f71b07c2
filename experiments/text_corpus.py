"""The text that the small backbone is pretrained on: documents, without any that tests hold.

A document that shares a run of 13 words (or a whole short text) with a test item is left out; the
rule is that of `smorm check --against`. What is left is rendered by the one renderer, so that the
reward models meet their chat template again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.checks.overlap import Benchmarks, overlap_table, read_benchmarks
from smorm.checks.shingles import grams, words_of
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import text_of
from smorm.errors import DataError
from smorm.text.chat import RAW, Message, Messages, Renderer

HELD_OUT = 50
"""One document of so many is held out."""
_USER, _ASSISTANT = "Human: ", "\n\nAssistant: "
_TOGETHER = 512

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and held out, and what was left out.

    Attributes:
        overlap: of each test file its items, and those with text in common with the documents as
            they came.
        left_out: documents that held such text.
    """

    training: list[Messages]
    held_out: list[Messages]
    overlap: dict[str, dict[str, int]]
    left_out: int


def read_corpus(path: Path, tests: Sequence[tuple[str, Path]]) -> Corpus:
    """The documents of a file of `{"text"}` lines that are in none of the named test files.

    Raises:
        DataError: a file is missing, or no document is left.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --data names the folder of the real data")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        documents = [conversation(json.loads(line)["text"]) for line in stream]
    benchmarks = read_benchmarks([(name, read_records(Source(file), None, Census(), "stop"))
                                  for name, file in tests])  # fmt: skip
    bad = overlapping(documents, benchmarks)
    kept = [one for at, one in enumerate(documents) if at not in bad]
    if not kept:
        raise DataError(f"{path}: every document shares text with a test file")
    sides: tuple[list[Messages], list[Messages]] = ([], [])
    for one in kept:
        sides[_place(one) == 0].append(one)
    return Corpus(*sides, overlap_table(benchmarks), len(bad))


def conversation(text: str) -> Messages:
    """A document as turns where it is marked so (`Human: ...`, `Assistant: ...`), else as raw text;
    what else stands in an answer stays in it."""
    prompt, mark, answer = text.partition(_ASSISTANT)
    if text.startswith(_USER) and mark:
        return (Message("user", prompt.removeprefix(_USER)), Message("assistant", answer))
    return (Message(RAW, text),)


def overlapping(documents: Sequence[Messages], benchmarks: Benchmarks) -> set[int]:
    """Places of the documents that share text with a test item; `benchmarks` remembers which."""
    found: set[int] = set()
    for first in range(0, len(documents), _TOGETHER):
        # Each part by itself and both together: a short text counts only where it stands alone.
        texts = [
            (at, text)
            for at, one in enumerate(documents[first : first + _TOGETHER], start=first)
            for text in {text_of(one), *(message.content for message in one)}
        ]
        hashes, at = grams(words_of([text for _, text in texts]))
        rows = np.array([place for place, _ in texts], dtype=np.int64)[at]
        benchmarks.meet(hashes, rows)
        found.update(rows[np.isin(hashes, benchmarks.hashes)].tolist())
    return found


def _place(one: Messages) -> int:
    return int(hashlib.sha256(text_of(one).encode()).hexdigest()[:8], 16) % HELD_OUT


def texts_of(documents: Sequence[Messages]) -> Iterator[str]:
    """Every text, for a tokenizer to be trained on."""
    for one in documents:
        yield from (message.content for message in one)


def windows(
    documents: Sequence[Messages], renderer: Renderer, width: int, count: int, seed: int
) -> Ids:
    """Token ids [count or fewer, width]: documents in a random order, end to end, cut into windows.

    Fewer windows than asked for where the documents end before; no document is taken twice.

    Raises:
        DataError: the documents do not fill one window.
    """
    order = np.random.default_rng(seed).permutation(len(documents))
    ids: list[int] = []
    for at in order:
        if len(ids) >= width * count:
            break
        ids += renderer.render(documents[at])
    whole = min(count, len(ids) // width)
    if whole == 0:
        raise DataError(f"{len(documents)} documents do not fill a window of {width} tokens")
    return np.array(ids[: whole * width], dtype=np.int64).reshape(whole, width)


def facts(corpus: Corpus) -> dict[str, Any]:
    """What a reader is told of the text."""
    return {
        "documents": len(corpus.training),
        "documents_held_out": len(corpus.held_out),
        "documents_left_out": corpus.left_out,
        "overlap": corpus.overlap,
    }
