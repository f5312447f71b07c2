"""Score a file by any reward: one JSON object per input line, in input order.

    {"id", "preference" | null, "attributes", "view", "tokens" | null, "truncated"}

A reward without rows gives `preference` null and no attributes; an ensemble gives in their place,
after `view`, `members: {name: value}`, the values that were combined, and as `tokens` what all
members together read. A line with several responses gives them as a list under `responses`, in the
order of the line, a pair's as chosen, rejected. Under `on_bad_record="skip"` a line that cannot be
scored gives `{"id", "error"}`, and a response that cannot be, beside others, `{"error"}` in its
place. Input fields that are to be kept stand after the id.

The output appears only when it is whole. Until then what is scored stands beside it in a partial
file (`partial`), from which a job that was interrupted goes on. A job may be one shard of several
(`shards`), and its chunks may be scored by actors of Ray (`ray_actors`): the lines are the same."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import orjson

from smorm import files
from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.mapping import has_column
from smorm.data.reading import OnBad, Source
from smorm.errors import ConfigError, DataError, Interrupted
from smorm.locks import only_writer
from smorm.printing import get_logger
from smorm.rewards import chunks, shards
from smorm.rewards.chunks import ChunkReader, ChunkScorer, ScoredChunk
from smorm.rewards.ensemble import Ensemble, OpenMember
from smorm.rewards.partial import Entry, Partial, leftovers
from smorm.rewards.protocol import Reward, RewardView, count_changes
from smorm.rewards.shards import JobReport as JobReport
from smorm.rewards.shards import Shard
from smorm.scoring.as_rated import AsRated
from smorm.scoring.pick import ScoredInput
from smorm.scoring.scorer import Scored
from smorm.stopping import handled
from smorm.text.limits import LEFT_OUT, Unscored
from smorm.version import __version__

log = get_logger(__name__)

# Names that a line gives to what was computed.
COMPUTED = (
    "id", "preference", "attributes", "view", "tokens", "truncated", "responses", "members", "error"
)  # fmt: skip
_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS

Progress = Callable[[int, int], None]


class Actors(Protocol):
    """Who scores chunks in a reward's place."""

    def scored(
        self, source: Source, keep: Sequence[str], numbers: range, census: Census
    ) -> Iterator[ScoredChunk]:
        """The chunks of those numbers, in their order; `census` gets what reading dropped."""
        ...


def score_file(
    reward: Reward,
    source: Source,
    output: Path,
    *,
    view: Any = None,
    on_bad_record: OnBad = "stop",
    keep: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
    shard: Shard | None = None,
    actors: Actors | None = None,
    as_rated: AsRated | None = None,
) -> JobReport:
    """Score every line of `source` into `output`, with the input fields (or paths) of `keep`.

    `progress` gets the number of lines that are done and of all, an ensemble's once for each
    member. `resume` goes on from what an interrupted job left; without it such a file is refused.
    Of a `shard` its lines alone are scored, into its file beside `output`, with a record of what it
    is (`shards.join` makes the output of all). `actors` score in the reward's place, on other
    processes or machines; not an ensemble. With `as_rated` the output holds rated rows in place of
    scores, and a partial file is what it is without.

    Raises:
        ConfigError: no such view, or a partial file that is not to be gone on from; a shard of an
            output that is a device or pipe.
        DataError: a line that is not usable or has no score, under `stop`; a field of `keep` that
            no line has; or an input that changed between two members.
        OutputError: the output could not be written, and an older one is untouched.
        Interrupted: a stop signal; what was scored until then is kept."""
    if as_rated is not None and (keep or shard is not None):
        # A shard has one line for each of the input, by which shards are joined.
        raise ConfigError("--as-rated: rated rows have no kept fields and no shards")
    # Before hours of scoring, not after them.
    files.refuse_unwritable(output)
    if not isinstance(reward, Ensemble):
        reward.view(view)
    source = replace(source, every_response=True)
    if shard is not None:
        output = shard.file(output)
    # Two jobs would write one partial file.
    with handled(), only_writer(output), _beside(output, resume=resume) as stem:
        rows = _survey(source, keep)
        share = chunks.ALL if shard is None else shard.share
        num_lines = share.rows(rows, chunks.CHUNK)
        job = _Job(
            source, output, stem, on_bad_record, tuple(keep), progress, num_lines,
            share.chunks(rows, chunks.CHUNK), actors, as_rated,
        )  # fmt: skip
        report = _finished(job, reward, view)
        if shard is not None:
            shards.write_record(output, shard, job.made_of, rows, report)
        job.discard()
        return report


@contextlib.contextmanager
def _beside(output: Path, *, resume: bool) -> Iterator[Path]:
    """The path that partial files are named after: the output's, or that of a temporary file where
    the output is a device or pipe."""
    if files.is_stream(output):
        if resume:
            raise ConfigError(f"--resume: {output} is a device or pipe: nothing is kept beside it")
        with files.scratch_folder("smorm-score") as folder:
            yield folder / "scores"
        return
    left_over = leftovers(output)
    if left_over and not resume:
        raise ConfigError(
            f"{left_over[0]}: an unfinished run left it: go on with it (--resume), or delete it"
        )
    yield output


def _finished(job: _Job, reward: Reward, view: Any) -> JobReport:
    """Run a job; where it stops, keep what another can go on from, and say so."""
    output = job.output
    try:
        # The user knows the output, not what stands beside it.
        with files.named_errors(output):
            return job.run(reward, view)
    except BaseException as error:
        scored = sum(partial.done for partial in job.partials)
        if isinstance(error, _ChangedInputError) or job.partial_stem != output:
            scored = 0
        for partial in job.partials:
            if not scored or not partial.done:
                partial.discard()
        done = "nothing is kept"
        if scored:
            done = f"{scored:,} of {job.total:,} lines are scored; --resume goes on from them"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"{output}: stopped: {done}") from None
        if scored:
            log.warning("%s: %s", output, done)
        raise


def _survey(source: Source, keep: Sequence[str]) -> int:
    """The number of rows, once it is sure that the fields to be kept are there."""
    computed = [name for name in keep if name in COMPUTED]
    if computed:
        raise ConfigError(f"--keep {computed[0]}: a scores file has a field of that name itself")
    count, missing = 0, set(keep)
    for _, row in source.scanned():
        count += 1
        if missing and not isinstance(row, BadRecord):
            missing = {name for name in missing if not has_column(row, name)}
    if not count:
        raise DataError(f"{source.path}: holds no record")
    if missing:
        names = ", ".join(sorted(missing))
        raise DataError(f"{source.path}: --keep {names}: no row has it; check the spelling")
    return count


@dataclass(slots=True)
class _Job:
    source: Source
    output: Path
    partial_stem: Path  # what partial files are named after
    on_bad_record: OnBad
    keep: tuple[str, ...]
    progress: Progress | None
    num_lines: int
    chunks: range
    actors: Actors | None
    as_rated: AsRated | None
    num_members: int = 1
    partials: list[Partial] = field(default_factory=list)
    counted: dict[str, Census] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Lines to score, by each member anew."""
        return self.num_lines * self.num_members

    def run(self, reward: Reward, view: Any) -> JobReport:
        """Score by the reward, or by each member in turn, and write what came of it."""
        contents = self.source.contents()
        input_digest = contents.digest()
        made_of = {"smorm": __version__, "input": input_digest, "options": self._options()}
        if isinstance(reward, Ensemble):
            self.num_members = len(reward.members)
            members: list[str] = []
            # So one member is in memory at a time, and no line has to be.
            for index, member in enumerate(reward.opened()):
                facts = [reward.facts[member.name], reward.standardise is not None]
                path = Path(f"{self.partial_stem}.part{index + 1}")
                members.append(_made_by(member.reward, member.view, facts))
                self._fill(path, {**made_of, "reward": members[-1]}, member.reward, member)
                del member  # not kept while the next one is loaded
            made_of["reward"] = files.fingerprint([members, reward.provenance["rule"]])
        else:
            made_of["reward"] = _made_by(reward, reward.view(view), reward.provenance)
            self._fill(Path(f"{self.partial_stem}.part"), made_of, reward, None)
        if contents.changed() and _digest(self.source) != input_digest:
            raise _ChangedInputError(self.source)
        self.made_of = made_of
        with files.atomic_file(self.output) as stream:
            return self._write(reward, view, stream)

    def discard(self) -> None:
        """Leave no partial file."""
        for partial in self.partials:
            partial.discard()

    def _options(self) -> str:
        options = asdict(replace(self.source, path="")) | {"keep": self.keep}
        return files.fingerprint(options)

    def _fill(
        self, path: Path, made_of: dict[str, str], reward: Reward, member: OpenMember | None
    ) -> None:
        """Score what is missing in a partial file, chunk by chunk."""
        before = len(self.partials) * self.num_lines
        partial = Partial(path, made_of, chunks.CHUNK)
        self.partials.append(partial)
        name = member.name if member else reward.name
        census = self.counted[name] = Census()
        finish = functools.partial(_standardised, member) if member else None
        scorer = ChunkScorer.of(reward, self.source, chunks.CHUNK, self.keep, finish)
        num_done = -(-partial.done // chunks.CHUNK)
        self._pass_done(partial, scorer.reader, self.chunks[:num_done], census)
        missing = self.chunks[num_done:]
        scored = self._scored_here(scorer, missing, census, before + partial.done)
        if self.actors is not None:
            scored = self.actors.scored(scorer.reader.source, self.keep, missing, census)
        try:
            # Line by line in chunks: a file may be larger than the memory.
            for chunk in scored:
                if chunk.error is not None and self.on_bad_record == "stop":
                    raise DataError(chunk.error)
                partial.append(chunk.lines, chunk.count)
                self._tell(before + partial.done)
        except DataError as error:  # e.g. over the limit of one member alone
            raise DataError(f"{error} (scored by {name})" if member else error) from error
        if partial.done != self.num_lines:
            raise _ChangedInputError(self.source)

    def _scored_here(
        self, scorer: ChunkScorer, numbers: range, census: Census, done: int
    ) -> Iterator[ScoredChunk]:
        """The chunks of those numbers, scored by this process."""
        for number in numbers:
            size = min(chunks.CHUNK, self.num_lines - done)
            scorer.reward.advance = self._within(done, size)
            chunk = scorer.score(number, census)
            yield chunk
            done += chunk.count

    def _pass_done(
        self, partial: Partial, reader: ChunkReader, numbers: range, census: Census
    ) -> None:
        """Pass over rows that are scored, making sure that they are the same ones."""
        if not partial.done:
            return
        done = partial.entries()
        for number in numbers:
            for where, _, _ in reader.read(number, census):
                if _line(where) != _line(next(done).where):
                    raise _ChangedInputError(self.source)
        self._tell((len(self.partials) - 1) * self.num_lines + partial.done)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.total)

    def _within(self, start: int, size: int) -> Callable[[int], None]:
        """What tells the progress inside of a chunk."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            # Responses that are tried again are counted again, and bad lines not at all.
            done = min(done + count, size - 1)
            self._tell(start + done)

        return advance

    def _write(self, reward: Reward, view: Any, stream: BinaryIO) -> JobReport:
        entries = self._counted(self.partials[0], next(iter(self.counted.values())))
        if isinstance(reward, Ensemble):
            entries = self._merged(reward)
            view = None
        read = reward.view(view).read
        counts = dict.fromkeys(("lines", "responses", "errors", "unscored", "tokens"), 0)
        lines = self._lines(entries, reward, read, counts)
        if self.as_rated is not None:
            # What has no score is counted by its reason, of which a line has the words alone.
            uncounted = Census()
            self.as_rated.write(ScoredInput(lines, self.output, self.source, uncounted), stream)
        else:
            for _, line in lines:
                stream.write(orjson.dumps(line, option=_LINE))
        return JobReport(**counts, counted=self.counted)

    def _lines(
        self,
        entries: Iterator[Entry],
        reward: Reward,
        read: Callable[[Any], Any],
        counts: dict[str, int],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines of the output with their places in the input, counted as `JobReport` does."""
        for entry in entries:
            counts["lines"] += 1
            if self.as_rated is not None:
                for error in entry.errors.values():
                    self.as_rated.add_unscored(error.reason, entry.where)
            if entry.scored is None:
                counts["errors"] += 1
            else:
                counts["responses"] += len(entry.scored.tokens)
                counts["tokens"] += sum(filter(None, entry.scored.tokens))
                counts["unscored"] += len(entry.errors)
            yield entry.where, _line_of(entry, reward, read)

    def _counted(self, partial: Partial, census: Census) -> Iterator[Entry]:
        """The entries of a reward, counted."""
        for entry in partial.entries():
            kind, errors = DropReason.UNSCORED_RESPONSE, list(entry.errors.values())
            if entry.scored is None:
                # All of a line's responses are counted as the one line.
                kind, errors = DropReason.UNSCORED_LINE, errors[:1]
            else:
                count_changes(entry.scored, entry.where, census)
            for error in errors:
                if error.reason in LEFT_OUT:
                    census.add(DropReason.DROPPED, entry.where, detail=error.reason)
                else:
                    census.add(kind, entry.where)
            yield entry

    def _merged(self, ensemble: Ensemble) -> Iterator[Entry]:
        """What all members gave for each line, combined. Each member reads the input anew: what it
        had of another input must not be put beside it."""
        pairs = zip(self.partials, self.counted.values(), strict=True)
        by_member = [self._counted(partial, census) for partial, census in pairs]
        for entries in zip(*by_member, strict=True):
            if len({(entry.id, entry.count) for entry in entries}) > 1:
                raise _ChangedInputError(self.source)
            yield _combined(ensemble, entries)


def _digest(source: Source) -> str:
    return source.contents().digest()


def _made_by(reward: Reward, view: RewardView, facts: Any) -> str:
    return files.fingerprint([facts, view.name, view.definition, reward.shares_prompt])


class _ChangedInputError(DataError):
    """Another input than the one that the job began with: what it has scored is of no use."""

    def __init__(self, source: Source) -> None:
        super().__init__(
            f"{source.path}: changed while it was scored: its records are others than they were. "
            "Score a copy that nothing writes to."
        )


def _line(where: str) -> str:
    return where.rpartition(":")[2]


def _standardised(member: OpenMember, entry: Entry) -> Entry:
    """An entry with the member's rewards on the common scale as the only column."""
    if entry.scored is None:
        return entry
    return replace(entry, scored=replace(entry.scored, rows=member.values(entry.scored)[:, None]))


def _combined(ensemble: Ensemble, entries: Sequence[Entry]) -> Entry:
    """What the members gave for one line as one; a response that one of them could not score has
    no score, and names the member."""
    first = entries[0]
    errors: dict[int, Unscored] = {}
    for position in range(max(first.count, 1)):
        reasons = [entry.errors.get(position) for entry in entries]
        # A bad line is bad for every member, and no member is named.
        if first.errors.get(position) is not None and reasons.count(reasons[0]) == len(reasons):
            errors[position] = first.errors[position]
            continue
        for name, reason in zip(ensemble.names, reasons, strict=True):
            if reason is not None and position not in errors:
                errors[position] = Unscored(reason.reason, f"{name}: {reason}")
    good = [position for position in range(first.count) if position not in errors]
    if not good:
        return replace(first, scored=None, errors=errors)
    combined = ensemble.combined([_only(entry, good) for entry in entries])
    assert isinstance(combined, Scored)
    return replace(first, scored=combined, errors=errors)


def _only(entry: Entry, positions: Sequence[int]) -> Scored:
    """The scores of responses in some places of the line."""
    scored = entry.scored
    assert scored is not None
    with_scores = [position for position in range(entry.count) if position not in entry.errors]
    indices = np.flatnonzero(np.isin(with_scores, positions))
    tokens = [scored.tokens[index] for index in indices]
    return replace(scored, rows=scored.rows[indices], tokens=tokens)


def _line_of(entry: Entry, reward: Reward, read: Callable[[Any], Any]) -> dict[str, Any]:
    """An entry as a line of the output."""
    responses: list[dict[str, Any]] = []
    scored = entry.scored
    if scored is not None:
        responses, values = reward.fields(scored.rows), read(scored.rows).tolist()
        for response, value, tokens in zip(responses, values, scored.tokens, strict=True):
            response |= {"view": value, "tokens": tokens, "truncated": scored.truncated}
    in_order = iter(responses)
    complete: list[dict[str, Any]] = []
    for position in range(max(entry.count, 1)):
        if position in entry.errors:
            complete.append({"error": str(entry.errors[position])})
        else:
            complete.append(next(in_order))
    line: dict[str, Any] = {"id": entry.id, **entry.passed_on}
    if len(complete) == 1:
        return line | complete[0]
    return line | {"responses": complete}
