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

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from smorm import files
from smorm.arrays import Floats
from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.reading import OnBad, Source, read_each
from smorm.data.records import Record, joined_item
from smorm.errors import DataError, OutputError
from smorm.rewards.ensemble import Ensemble, OpenMember, sum_known
from smorm.rewards.protocol import Reward
from smorm.scoring.scorer import Scored
from smorm.text.limits import Unscored, UnscoredReason

# Lines held in memory at a time: responses to one prompt should stand near each other.
CHUNK = 2048

Line = dict[str, Any]
_ENTRIES = itemgetter("view", "tokens", "truncated")


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did."""

    # lines, responses, errors: lines written, responses scored, lines without a score.
    lines: int
    responses: int
    errors: int
    tokens: int  # that were read, as far as that is known
    # What was shortened or not scored; of an ensemble by its members' names.
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
    # Before hours of scoring, not after them.
    files.refuse_unwritable(output)
    job = _Job(source, on_bad_record, advance)
    if isinstance(reward, Ensemble):
        return job.score_ensemble(reward, output)
    read = reward.view(view).read

    def to_line(scored: Scored) -> Line:
        return _line(read(scored.rows), scored, reward.fields(scored.rows))

    census = Census()
    with files.atomic_file(output) as stream:
        lines = job.lines(reward, to_line, census)
        return _write(lines, stream, {reward.name: census})


@dataclass(frozen=True, slots=True)
class _Job:
    """How a file is scored, whatever scores it."""

    source: Source
    on_bad_record: OnBad
    advance: Callable[[int], None] | None

    def lines(
        self, reward: Reward, to_line: Callable[[Scored], Line], census: Census
    ) -> Iterator[Line]:
        """A line for each line of the source."""
        rows = read_each(replace(self.source, keep_fields=not reward.reads_text), census)
        empty = True
        # Line by line in chunks: a file may be larger than the memory.
        while chunk := list(itertools.islice(rows, CHUNK)):
            empty = False
            for where, identity, result in _results(reward, chunk):
                if isinstance(result, Scored):
                    if result.truncated:
                        census.add(DropReason.SHORTENED, where)
                    yield {"id": identity, **to_line(result)}
                    continue
                if self.on_bad_record == "stop":
                    raise DataError(str(result))
                census.add(DropReason.UNSCORED_LINE, where)
                # In its place: the output has a line for each line of the input.
                yield {"id": identity, "error": str(result)}
            if self.advance is not None:
                self.advance(len(chunk))
        if empty:
            raise DataError(f"{self.source.path}: holds no record")

    def score_ensemble(self, ensemble: Ensemble, output: Path) -> JobReport:
        """Each member scores the whole file into a scratch file beside the output; lines of all
        members then become one. So one member is in memory at a time, and no line has to be."""
        counted: dict[str, Census] = {}
        paths: list[Path] = []
        with ExitStack() as stack:
            with files.named_errors(output):
                output.parent.mkdir(parents=True, exist_ok=True)
                scratch = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
            folder = Path(stack.enter_context(scratch))
            for member in ensemble.opened():
                counted[member.name] = Census()
                paths.append(folder / str(len(paths)))
                self._score_member(member, paths[-1], output, counted[member.name])
                del member  # not kept while the next one is loaded
            with files.atomic_file(output) as stream:
                return _write(_merged(ensemble, paths, self.source), stream, counted)

    def _score_member(self, member: OpenMember, path: Path, output: Path, census: Census) -> None:
        def to_line(scored: Scored) -> Line:
            return _line(member.values(scored), scored)

        try:
            with files.atomic_file(path) as stream:
                _write(self.lines(member.reward, to_line, census), stream, {})
        except OutputError as error:  # the user knows the output, not what lies beside it
            raise OutputError(str(error).replace(str(path), str(output))) from error
        except DataError as error:  # e.g. over the limit of this member alone
            raise DataError(f"{error} (scored by {member.name})") from error


def _line(values: Floats, scored: Scored, fields: Iterable[Line] = itertools.repeat({})) -> Line:
    """The responses of a line with their values [N], and what else stands beside each."""
    responses = []
    for line, value, tokens in zip(fields, values.tolist(), scored.tokens, strict=False):
        scores = {"view": value, "tokens": tokens, "truncated": scored.truncated}
        responses.append({**line, **scores})
    return _one_or_several(responses)


def _one_or_several(responses: list[Line]) -> Line:
    return responses[0] if len(responses) == 1 else {"responses": responses}


def _results(
    reward: Reward, chunk: Sequence[tuple[str, Any, list[Record] | BadRecord]]
) -> Iterator[tuple[str, str | None, Scored | Unscored]]:
    """Of each row of a chunk its place, its id and its scores, or a sentence that names it."""
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


def _write(lines: Iterator[Line], stream: BinaryIO, counted: dict[str, Census]) -> JobReport:
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


def _merged(ensemble: Ensemble, paths: Sequence[Path], source: Source) -> Iterator[Line]:
    """Lines of all members' files, made one. Each member reads the input anew: what it had of
    another input must not be put beside it."""
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("rb")) for path in paths]
        for number, texts in enumerate(itertools.zip_longest(*streams, fillvalue=b"null"), 1):
            lines = [orjson.loads(text) for text in texts]
            if None in lines or len({line["id"] for line in lines}) > 1:
                raise DataError(
                    f"{source.path}: changed while it was scored: record {number} is another one "
                    "for one member than for the next. Score a copy that nothing writes to."
                )
            yield _merged_line(ensemble, lines)


def _merged_line(ensemble: Ensemble, lines: Sequence[Line]) -> Line:
    identity = lines[0]["id"]
    errors = [line.get("error") for line in lines]
    if len(set(errors)) == 1 and errors[0] is not None:  # a bad line is bad for every member
        return {"id": identity, "error": errors[0]}
    for name, error in zip(ensemble.names, errors, strict=True):
        if error is not None:
            return {"id": identity, "error": f"{name}: {error}"}
    read, responses = ensemble.view().read, []
    # By members, then by responses: what all members gave for one response stands together.
    for by_member in zip(*(line.get("responses", [line]) for line in lines), strict=True):
        views, tokens, truncated = zip(*map(_ENTRIES, by_member), strict=True)
        values = np.array([views])
        response = {"view": float(read(values)[0]), **ensemble.fields(values)[0]}
        responses.append({**response, "tokens": sum_known(tokens), "truncated": any(truncated)})
    return {"id": identity, **_one_or_several(responses)}
