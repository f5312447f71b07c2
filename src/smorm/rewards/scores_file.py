"""Score a file by any reward: one JSON object per input line, in input order.

    {"id", "preference" | null, "attributes", "view", "tokens" | null, "truncated"}

A reward without rows gives `preference` null and no attributes. An ensemble gives

    {"id", "view", "members": {name: value}, "tokens" | null, "truncated"}

where `members` are the values that were combined and `tokens` what all members together read; one
member is in memory at a time. A line with several responses (a pair, best-of-N) gives them as a
list under `responses`, a pair's in the order chosen, rejected. A line that cannot be scored gives
`{"id", "error"}` under `on_bad_record="skip"`, and stops the job under `stop`. The output appears
only when it is whole.

Shapes: M members, N responses.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from smorm import files
from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.reading import OnBad, Source, read_each
from smorm.data.records import Record, joined_item
from smorm.errors import DataError, OutputError
from smorm.rewards.ensemble import Ensemble, OpenMember, sum_known
from smorm.rewards.protocol import Reward, RewardView
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored, UnscoredReason

CHUNK = 2048
"""Lines held in memory at a time: responses to one prompt should stand near each other."""

Line = dict[str, Any]
_LineOf = Callable[[Scored], list[Line]]


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did.

    Attributes:
        lines, responses, errors: lines written, responses scored, lines without a score.
        tokens: that were read, as far as that is known.
        counted: what was shortened or not scored; of an ensemble by its members' names.
    """

    lines: int
    responses: int
    errors: int
    tokens: int
    counted: dict[str, Census]

    @property
    def census(self) -> Census:
        """What was counted, of all members together."""
        total = Census()
        for census in self.counted.values():
            total.merge(census)
        return total


def score_file(
    reward: Reward,
    source: Source,
    output: Path,
    *,
    view: Any = None,
    on_bad_record: OnBad = "stop",
    advance: Callable[[int], None] | None = None,
) -> JobReport:
    """Score every line of `source` into `output`.

    Args:
        view: of the reward; None is its own.
        advance: called with the number of lines done, of each member anew.

    Raises:
        ConfigError: no such view.
        DataError: a line that is not usable or has no score, under `stop`; or the input changed
            between two members.
        OutputError: the output could not be written; an older one is untouched.
    """
    files.refuse_unwritable(output)
    if isinstance(reward, Ensemble):
        return _score_by_members(reward, source, output, on_bad_record, advance)
    counted = Census()
    line_of = _lines_of(reward, reward.view(view))
    with files.atomic_file(output) as stream:
        lines = _score(reward, line_of, source, on_bad_record, counted, advance)
        return _written(lines, stream, {reward.name: counted})


def _lines_of(reward: Reward, view: RewardView) -> _LineOf:
    def lines(scored: Scored) -> list[Line]:
        values = view.read(scored.rows)
        responses = []
        for fields, value, tokens in zip(
            reward.fields(scored.rows), values, scored.tokens, strict=True
        ):
            line = {"view": float(value), "tokens": tokens, "truncated": scored.truncated}
            responses.append({**fields, **line})
        return responses

    return lines


def _score(
    reward: Reward,
    line_of: _LineOf,
    source: Source,
    on_bad_record: OnBad,
    counted: Census,
    advance: Callable[[int], None] | None,
) -> Iterator[Line]:
    source = replace(source, keep_fields=not reward.reads_text)
    rows = read_each(source, counted)
    empty = True
    while chunk := list(itertools.islice(rows, CHUNK)):
        empty = False
        for where, identity, result in _results(reward, chunk):
            if isinstance(result, Scored):
                if result.truncated:
                    counted.add(DropReason.SHORTENED, where)
                responses = line_of(result)
                content = responses[0] if len(responses) == 1 else {"responses": responses}
                yield {"id": identity, **content}
                continue
            if on_bad_record == "stop":
                raise DataError(str(result))
            counted.add(DropReason.UNSCORED_LINE, where)
            yield {"id": identity, "error": str(result)}
        if advance is not None:
            advance(len(chunk))
    if empty:
        raise DataError(f"{source.path}: holds no record")


def _results(
    reward: Reward, chunk: Sequence[tuple[str, Any, list[Record] | BadRecord]]
) -> Iterator[tuple[str, str | None, Scored | Unscored]]:
    """Of each row of a chunk its place, its id and its scores, or a sentence that names it."""
    items = [
        joined_item(records, where) for where, _, records in chunk
        if not isinstance(records, BadRecord)
    ]  # fmt: skip
    scored = zip(items, reward.score(items), strict=True)
    for where, _, records in chunk:
        if isinstance(records, BadRecord):
            yield where, None, Unscored(UnscoredReason.BAD_RECORD, str(records))
            continue
        item, result = next(scored)
        if isinstance(result, Unscored):
            result = Unscored(result.reason, f"{where}: {result}")
        yield where, item.id, result


def _written(lines: Iterator[Line], stream: BinaryIO, counted: dict[str, Census]) -> JobReport:
    """Write lines, and count what they hold."""
    number = responses = errors = tokens = 0
    for line in lines:
        stream.write(orjson.dumps(line) + b"\n")
        number += 1
        if "error" in line:
            errors += 1
            continue
        scored = line.get("responses", [line])
        responses += len(scored)
        tokens += sum(response["tokens"] or 0 for response in scored)
    return JobReport(number, responses, errors, tokens, counted)


def _score_by_members(
    ensemble: Ensemble,
    source: Source,
    output: Path,
    on_bad_record: OnBad,
    advance: Callable[[int], None] | None,
) -> JobReport:
    """Each member scores the whole file into a scratch file beside the output; lines of all
    members then become one. So one member is in memory at a time, and no line has to be."""
    counted: dict[str, Census] = {}
    with ExitStack() as stack:
        with files.named_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
        folder = Path(stack.enter_context(scratch))
        paths: list[Path] = []
        for member in ensemble.opened():
            counted[member.name] = Census()
            paths.append(folder / str(len(paths)))
            lines = _score(
                member.reward, _values_of(member), source, on_bad_record, counted[member.name],
                advance,
            )  # fmt: skip
            _write_member(member.name, lines, paths[-1], output)
            # Not kept while the next one is loaded.
            del member, lines
        with files.atomic_file(output) as stream:
            return _written(_merged(ensemble, paths, str(source.path)), stream, counted)


def _values_of(member: OpenMember) -> _LineOf:
    def lines(scored: Scored) -> list[Line]:
        values = member.values(scored).tolist()
        return [
            {"view": value, "tokens": tokens, "truncated": scored.truncated}
            for value, tokens in zip(values, scored.tokens, strict=True)
        ]

    return lines


def _write_member(name: str, lines: Iterator[Line], path: Path, output: Path) -> None:
    try:
        with files.atomic_file(path) as stream:
            for line in lines:
                stream.write(orjson.dumps(line) + b"\n")
    except OutputError as error:  # the user knows the output, not what lies beside it
        raise OutputError(str(error).replace(str(path), str(output))) from error
    except DataError as error:  # e.g. over the limit of this member alone
        raise DataError(f"{error} (scored by {name})") from error


def _merged(ensemble: Ensemble, paths: Sequence[Path], source: str) -> Iterator[Line]:
    """Lines of all members' files, made one. Each member reads the input anew: what it had of
    another input must not be put beside it."""
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("rb")) for path in paths]
        for number, texts in enumerate(itertools.zip_longest(*streams, fillvalue=b"null"), 1):
            lines = [orjson.loads(text) for text in texts]
            if None in lines or len({line["id"] for line in lines}) > 1:
                raise DataError(
                    f"{source}: changed while it was scored: record {number} is another one for "
                    "one member than for the next. Score a copy that nothing writes to."
                )
            yield _merged_line(ensemble, lines)


def _merged_line(ensemble: Ensemble, lines: Sequence[Line]) -> Line:
    identity = lines[0]["id"]
    names = [member.name for member in ensemble.members]
    errors = [line.get("error") for line in lines]
    for name, error in zip(names, errors, strict=True):
        if error is not None:
            # A bad line is bad for every member alike; only else it matters whose error it is.
            same = len(set(errors)) == 1
            return {"id": identity, "error": error if same else f"{name}: {error}"}
    responses = []
    for parts in zip(*(line.get("responses", [line]) for line in lines), strict=True):
        values = np.array([[part["view"] for part in parts]])
        responses.append({
            "view": float(ensemble.view().read(values)[0]),
            **ensemble.fields(values)[0],
            "tokens": sum_known([part["tokens"] for part in parts]),
            "truncated": any(part["truncated"] for part in parts),
        })  # fmt: skip
    content = {"responses": responses} if "responses" in lines[0] else responses[0]
    return {"id": identity, **content}
