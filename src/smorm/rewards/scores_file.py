"""Score a file by any reward: one JSON object per input line, in input order.

    {"id", "preference" | null, "attributes", "view", "tokens" | null, "truncated"}

A reward without rows gives `preference` null and no attributes; an ensemble gives in their place,
after `view`, `members: {name: value}`, the values that were combined, and as `tokens` what all
members together read. A line with several responses gives them as a list under `responses`, a
pair's in the order chosen, rejected. Under `on_bad_record="skip"` a line that cannot be scored
gives `{"id", "error"}`. The output appears only when it is whole."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from smorm import files
from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.reading import OnBad, Source, read_each
from smorm.data.records import Identity, Record, joined_item
from smorm.errors import DataError
from smorm.rewards.ensemble import Ensemble
from smorm.rewards.protocol import Reward, count_changes
from smorm.scoring.scorer import Scored
from smorm.text.limits import LEFT_OUT, Unscored, UnscoredReason

# Lines held in memory at a time: responses to one prompt should stand near each other.
CHUNK = 2048

# The id of an input line, and its scores or a sentence that names the line.
_Entry = tuple[Identity | None, Scored | Unscored]
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did."""

    lines: int  # that were written
    responses: int  # that were scored
    errors: int  # lines without a score
    tokens: int  # that were read, as far as that is known
    # What was shortened or not scored; of an ensemble by its members' names.
    counted: dict[str, Census]


def score_file(
    reward: Reward,
    source: Source,
    output: Path,
    *,
    view: Any = None,
    on_bad_record: OnBad = "stop",
    advance: Callable[[int], None] | None = None,
) -> JobReport:
    """Score every line of `source` into `output`; `advance` gets numbers of lines done, of each
    member anew. ConfigError where there is no such view; DataError for a line that is not usable or
    has no score, under `stop`, or an input that changed between two members; OutputError where the
    output could not be written, and an older one is untouched."""
    # Before hours of scoring, not after them.
    files.refuse_unwritable(output)
    job = _Job(source, on_bad_record, advance)
    if isinstance(reward, Ensemble):
        return job.score_ensemble(reward, output)
    census = Census()
    with files.atomic_file(output) as stream:
        entries = job.entries(reward, census)
        return _write(entries, reward, view, stream, {reward.name: census})


@dataclass(frozen=True, slots=True)
class _Job:
    source: Source
    on_bad_record: OnBad
    advance: Callable[[int], None] | None

    def entries(self, reward: Reward, census: Census) -> Iterator[_Entry]:
        """What a reward gives for each line of the source."""
        rows = read_each(replace(self.source, keep_fields=not reward.reads_text), census)
        empty = True
        # Line by line in chunks: a file may be larger than the memory.
        while chunk := list(itertools.islice(rows, CHUNK)):
            empty = False
            for where, identity, result in _results(reward, chunk):
                if isinstance(result, Unscored):
                    if result.reason in LEFT_OUT:
                        census.add(DropReason.DROPPED, where, detail=result.reason)
                    elif self.on_bad_record == "stop":
                        raise DataError(str(result))
                    else:
                        census.add(DropReason.UNSCORED_LINE, where)
                else:
                    count_changes(result, where, census)
                yield identity, result
            if self.advance is not None:
                self.advance(len(chunk))
        if empty:
            raise DataError(f"{self.source.path}: holds no record")

    def score_ensemble(self, ensemble: Ensemble, output: Path) -> JobReport:
        """Each member scores the whole file into a scratch file; what all gave for a line is then
        combined. So one member is in memory at a time, and no line has to be."""
        counted: dict[str, Census] = {}
        streams: list[BinaryIO] = []
        # The user knows the output, not what has no name beside it.
        with files.named_errors(output), contextlib.ExitStack() as stack:
            for member in ensemble.opened():
                census = counted[member.name] = Census()
                scratch = stack.enter_context(tempfile.TemporaryFile(dir=output.parent))
                streams.append(scratch)
                try:
                    for identity, result in self.entries(member.reward, census):
                        entry = (identity, member.standardised(result))
                        scratch.write(orjson.dumps(entry, option=_OPTIONS))
                except DataError as error:  # e.g. over the limit of this member alone
                    raise DataError(f"{error} (scored by {member.name})") from error
                scratch.seek(0)
                del member  # not kept while the next one is loaded
            with files.atomic_file(output) as stream:
                entries = _merged(ensemble, streams, self.source)
                return _write(entries, ensemble, None, stream, counted)


def _results(
    reward: Reward, chunk: Sequence[tuple[str, Any, list[Record] | BadRecord]]
) -> Iterator[tuple[str, Identity | None, Scored | Unscored]]:
    items = []
    for where, _, records in chunk:
        if not isinstance(records, BadRecord):
            items.append(joined_item(records, where))
    scored = zip(items, reward.score(items), strict=True)
    # Bad rows stay in their places: a line is written for each line that was read.
    for where, _, records in chunk:
        if isinstance(records, BadRecord):
            yield where, None, Unscored(UnscoredReason.BAD_RECORD, str(records))
            continue
        item, result = next(scored)
        if isinstance(result, Unscored):
            result = Unscored(result.reason, f"{where}: {result}")
        yield where, item.id, result


def _write(
    entries: Iterator[_Entry],
    reward: Reward,
    view: Any,
    stream: BinaryIO,
    counted: dict[str, Census],
) -> JobReport:
    read = reward.view(view).read
    number = num_responses = errors = num_tokens = 0
    for identity, result in entries:
        number += 1
        line: dict[str, Any] = {"id": identity}
        if isinstance(result, Unscored):
            errors += 1
            line["error"] = str(result)
        else:
            responses, values = reward.fields(result.rows), read(result.rows).tolist()
            for response, value, tokens in zip(responses, values, result.tokens, strict=True):
                response |= {"view": value, "tokens": tokens, "truncated": result.truncated}
                num_tokens += tokens or 0
            num_responses += len(responses)
            if len(responses) > 1:
                line["responses"] = responses
            else:
                line |= responses[0]
        stream.write(orjson.dumps(line) + b"\n")
    return JobReport(number, num_responses, errors, num_tokens, counted)


def _merged(ensemble: Ensemble, streams: Sequence[BinaryIO], source: Source) -> Iterator[_Entry]:
    """What all members gave for each line, combined. Each member reads the input anew: what it had
    of another input must not be put beside it."""
    by_member = [map(_entry, stream) for stream in streams]
    for number, entries in enumerate(itertools.zip_longest(*by_member), 1):
        if None in entries or len({identity for identity, _ in entries}) > 1:
            raise DataError(
                f"{source.path}: changed while it was scored: record {number} is another one "
                "for one member than for the next. Score a copy that nothing writes to."
            )
        identity, first = entries[0]
        results = [result for _, result in entries]
        # A bad line is bad for every member, and no member is named.
        if isinstance(first, Unscored) and results.count(first) == len(results):
            yield identity, first
        else:
            yield identity, ensemble.combined(results)


def _entry(line: bytes) -> _Entry:
    identity, fields = orjson.loads(line)
    if "reason" in fields:
        return identity, Unscored(UnscoredReason(fields["reason"]), fields["detail"])
    rows = np.array(fields["rows"], dtype=np.float64)
    return identity, Scored(rows, fields["tokens"], fields["truncated"])
