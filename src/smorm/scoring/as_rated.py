"""Scores of answers as ratings of one more attribute: what distillation trains on
(docs/distillation.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from smorm import files
from smorm.data.census import Census
from smorm.data.fields import is_blank
from smorm.data.reading import Source
from smorm.data.records import Messages
from smorm.errors import ConfigError, DataError
from smorm.names import name_problem
from smorm.scoring.pick import ScoredAnswers, ScoredInput, texts_of
from smorm.text.limits import UnscoredReason


class RatedReason(StrEnum):
    """What is counted of scores as ratings."""

    EMPTY_ANSWER = "empty answer, not rated"
    WHOLE_TEXT = "whole text without a prompt, not rated"
    WITHOUT_SCORE = "answer without a score, not rated: {}"


@dataclass(slots=True)
class AsRated:
    """Writes the scores of an input as rated rows `{id?, prompt, response, scores: {name: score}}`,
    one for each answer; `rated` counts them and `census` what is left out.

    Raises ConfigError for what may not be the name of an attribute."""

    name: str
    rated: int = 0
    census: Census = field(default_factory=Census)

    def __post_init__(self) -> None:
        if problem := name_problem(self.name):
            raise ConfigError(f"--as-rated: {problem}")

    def add_unscored(self, reason: UnscoredReason, where: str) -> None:
        """Count an answer, or a line that cannot be read, that has no score."""
        self.census.add(RatedReason.WITHOUT_SCORE, where, detail=reason)

    def write(self, scored: ScoredInput, stream: BinaryIO) -> None:
        """Write the rows. DataError where none is left, or the scores are of another input."""
        for answers in scored.lines():
            for row in self._rows(answers) if answers is not None else ():
                self.rated += 1
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        if not self.rated:
            counts = "; ".join(f"{reason} {n:,}" for reason, n in self.census.totals().items())
            raise DataError(f"{scored.source.path}: no answer to rate ({counts or 'no score'})")

    def _rows(self, answers: ScoredAnswers) -> Iterator[Mapping[str, Any]]:
        for index, (response, score) in enumerate(
            zip(answers.responses, answers.scores, strict=True)
        ):
            if not answers.prompt:
                self.census.add(RatedReason.WHOLE_TEXT, answers.where)
            elif _is_empty(response):
                # Training refuses it, and a reward's score of it says nothing of an answer.
                self.census.add(RatedReason.EMPTY_ANSWER, answers.where)
            else:
                yield texts_of(answers, {"response": index}) | {"scores": {self.name: score}}


def rated_file(scores: Path, source: Source, output: Path, name: str) -> AsRated:
    """Write rated rows of `source` by the scores that stand in the same line of `scores`.

    Raises:
        ConfigError: what may not be the name of an attribute.
        DataError: the scores are not those of this input, or no answer has one.
        OutputError: the output could not be written, and an older one is untouched."""
    as_rated = AsRated(name)
    files.refuse_unwritable(output)
    with files.atomic_file(output) as stream:
        as_rated.write(ScoredInput.of_file(scores, source, as_rated.census), stream)
    return as_rated


def _is_empty(response: Messages) -> bool:
    # A call of a tool is an answer without text, as in training.
    return not response or (is_blank(response[-1].content) and not response[-1].fields)
