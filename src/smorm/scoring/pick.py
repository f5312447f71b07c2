"""The best or the worst answer of each line by its scores, or a pair of both: data for rejection
sampling and for DPO out of answers that `smorm score` has scored."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

import orjson

from smorm import files
from smorm.arrays import is_finite_number
from smorm.data.census import BadRecord, Census
from smorm.data.jsonlines import scan_json
from smorm.data.mapping import value_at
from smorm.data.reading import Source, read_each
from smorm.data.records import Candidates, Identity, Messages, Record, joined_item
from smorm.errors import DataError
from smorm.text.chat import ChatInputs

Choice = Literal["best", "worst", "pairs"]


class PickReason(StrEnum):
    """What is counted of the lines of a scores file."""

    NO_SCORE = "line without any score, left out"
    UNSCORED_ANSWER = "answer without a score, left out"
    ONE_ANSWER = "line with one scored answer: no pair"
    TIE = "line of equal scores: no pair"
    SHARED = "score shared by several answers: the first of them is taken"
    SMALL_MARGIN = "margin below --min-margin: no pair"


@dataclass(frozen=True, slots=True)
class PickReport:
    """What was picked, and what was counted."""

    lines: int  # of the input
    picked: int  # that were written
    counted: Census


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The answers of a line that have scores, in the line's order."""

    where: str
    id: Identity | None
    prompt: Messages
    responses: list[Messages]
    scores: list[float]
    as_text: bool  # whether the input has its prompt as text

    def best(self) -> int:
        return self.scores.index(max(self.scores))

    def worst(self) -> int:
        return self.scores.index(min(self.scores))


def pick_file(
    scores: Path, source: Source, output: Path, choice: Choice, *, min_margin: float = 0.0
) -> PickReport:
    """Write one row for each line of `source` by the scores that stand in the same line of `scores`
    (their `view`): `{id?, prompt, response, score}`, or of `pairs` `{id?, prompt, chosen, rejected,
    margin}`. Texts stay texts, messages messages. Answers without a score are left out, counted.

    Raises:
        DataError: the scores are not those of this input, or no line gives a row.
        OutputError: the output could not be written, and an older one is untouched."""
    files.refuse_unwritable(output)
    census = Census()
    lines = picked = 0
    with files.atomic_file(output) as stream:
        for answers in ScoredInput.of_file(scores, source, census).lines():
            lines += 1
            row = None
            if answers is not None:
                row = _row(answers, choice, min_margin, census)
            if row is not None:
                picked += 1
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        if not picked:
            counts = "; ".join(f"{reason} {count:,}" for reason, count in census.totals().items())
            raise DataError(f"{scores}: no line to pick from ({counts or 'it is empty'})")
    return PickReport(lines, picked, census)


@dataclass(frozen=True, slots=True)
class ScoredInput:
    """Lines of a scores file, with their places, beside the input that they should be of."""

    scored: Iterable[tuple[str, Mapping[str, Any] | BadRecord]]
    scores: Path  # what errors name
    source: Source
    census: Census

    @classmethod
    def of_file(cls, scores: Path, source: Source, census: Census) -> Self:
        """Of a scores file."""
        return cls(scan_json(scores), scores, source, census)

    def lines(self) -> Iterator[ScoredAnswers | None]:
        """The scored answers of each line; None of a line without any."""
        # What the input's own format counts was told when it was scored.
        rows = read_each(replace(self.source, every_response=True), Census())
        pairs = itertools.zip_longest(self.scored, rows)
        for number, (scored, read) in enumerate(pairs, 1):
            if scored is None or read is None:
                raise self._another(f"record {number} is in one of them only")
            where_scored, line = scored
            if isinstance(line, BadRecord):
                raise line
            yield self._matched(line, _values(line, where_scored), *read)

    def _another(self, difference: str) -> DataError:
        return DataError(
            f"{self.scores}: are not the scores of {self.source.path}: {difference}. Name under "
            "--input the file that was scored, with its --format and --columns"
        )

    def _matched(
        self,
        line: Mapping[str, Any],
        values: list[float | None],
        where: str,
        row: Mapping[str, Any],
        records: list[Record] | BadRecord,
    ) -> ScoredAnswers | None:
        """The answers of an input row beside their scores."""
        scores = {index: value for index, value in enumerate(values) if value is not None}
        if not scores:
            self.census.add(PickReason.NO_SCORE, where)
        if isinstance(records, BadRecord):
            if scores:
                raise self._another(f"there is a score where {records}")
            return None
        item = joined_item(records, where)
        if item.id != line.get("id"):
            ids = f"{where} has the id {item.id!r}, its score {line.get('id')!r}"
            raise self._another(ids)
        if not scores:
            return None
        size, positions = len(item), tuple(range(len(item)))
        if isinstance(records[0], Candidates):
            size, positions = size + len(records[0].unusable), records[0].places
        if size != len(values):
            raise self._another(f"{where} has {size} answers, {len(values)} are scored")
        if not scores.keys() <= set(positions):
            raise self._another(f"{where} has no usable answer where there is a score")
        if len(scores) < size:
            self.census.add(PickReason.UNSCORED_ANSWER, where, size - len(scores))
        responses = dict(zip(positions, item.responses, strict=True))
        # A whole text has no prompt.
        as_text = not item.prompt or isinstance(value_at(row, _prompt_column(self.source)), str)
        answers = [responses[index] for index in scores]
        return ScoredAnswers(where, item.id, item.prompt, answers, list(scores.values()), as_text)


def _values(line: Mapping[str, Any], where: str) -> list[float | None]:
    """The view of each answer of a line, None where it has no score."""
    values: list[float | None] = []
    responses = line.get("responses")
    for response in responses if isinstance(responses, list) else [line]:
        scored: Mapping[str, Any] = response if isinstance(response, Mapping) else {}
        value: Any = scored.get("view")
        if "error" in scored:
            values.append(None)
        elif is_finite_number(value):
            values.append(float(value))
        else:
            problem = f"{value!r}, expected a number as smorm score writes it, or an error"
            raise DataError(f"{where}: view: {problem}")
    return values


def _prompt_column(source: Source) -> str:
    column = source.columns.get("prompt", "prompt")
    return column if isinstance(column, str) else column[0]


def _row(
    answers: ScoredAnswers, choice: Choice, min_margin: float, census: Census
) -> dict[str, Any] | None:
    """What is written of a line; None where it gives nothing, counted."""
    best, worst = answers.best(), answers.worst()
    if choice != "pairs":
        index = best if choice == "best" else worst
        if answers.scores.count(answers.scores[index]) > 1:
            census.add(PickReason.SHARED, answers.where)
        row = texts_of(answers, {"response": index})
        return row | {"score": answers.scores[index]}
    margin = answers.scores[best] - answers.scores[worst]
    reason = None
    if len(answers.scores) < 2:
        reason = PickReason.ONE_ANSWER
    elif margin == 0:
        reason = PickReason.TIE
    elif margin < min_margin:
        reason = PickReason.SMALL_MARGIN
    if reason is not None:
        census.add(reason, answers.where)
        return None
    return texts_of(answers, {"chosen": best, "rejected": worst}) | {"margin": margin}


def texts_of(answers: ScoredAnswers, chosen: Mapping[str, int]) -> dict[str, Any]:
    """The prompt and some answers under their names, all as text or all as messages."""
    row: dict[str, Any] = {}
    if answers.id is not None:
        row["id"] = answers.id
    inputs = ChatInputs.of(answers.prompt)
    names = {name: answers.responses[index] for name, index in chosen.items()}
    sides = {name: ChatInputs.of(messages).messages for name, messages in names.items()}
    if inputs.messages:
        sides = {"prompt": inputs.messages} | sides
    plain = answers.as_text and all(map(_is_one_text, sides.values()))
    for name, messages in sides.items():
        row[name] = messages[0]["content"] if plain else messages
    tools = inputs.options.get("tools")
    if tools:
        row["tools"] = tools
    template = {name: value for name, value in inputs.options.items() if name != "tools"}
    if template:
        row["chat_template_kwargs"] = template
    return row


def _is_one_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    return len(messages) == 1 and messages[0].keys() == {"role", "content"}
