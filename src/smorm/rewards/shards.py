"""A scores file made by several processes: each scores its shard, and the shards are joined.

A shard is every so many-th chunk of the input (`chunks`), so which line is in which is a function
of the line's number alone, and every line has the bits that one process gives it. A shard's file
`OUTPUT.shard-2-of-4` holds its lines; the record beside it (`….json`), written last, says what made
them and what their SHA-256 is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smorm import files
from smorm.data.census import Census
from smorm.errors import ConfigError, DataError
from smorm.locks import only_writer
from smorm.rewards import chunks
from smorm.rewards.chunks import Share

# All are open at once when they are joined, and a process may open about a thousand files.
MOST_SHARDS = 512
_SPELLING = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_NAME = re.compile(r"\.shard-([0-9]+)-of-([0-9]+)(?:\.json)?")


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job did."""

    lines: int  # that were written
    responses: int  # that were scored
    errors: int  # lines without any score
    unscored: int  # responses without a score, beside others that have one
    tokens: int  # that were read, as far as that is known
    # What was shortened or not scored; of an ensemble by its members' names.
    counted: dict[str, Census]


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `number` (from 1) of a file in so many shards."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2/4`; ConfigError for anything else."""
        match = _SPELLING.fullmatch(text.strip())
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(f"--shards {text}: expected i/n, such as 1/4 to 4/4")
        if shard.count > MOST_SHARDS:
            raise ConfigError(f"--shards {text}: expected at most {MOST_SHARDS} shards")
        return shard

    @property
    def share(self) -> Share:
        """Which chunks of the input it has."""
        return Share(self.number - 1, self.count)

    def file(self, output: Path) -> Path:
        """Where its lines go. ConfigError where nothing can stand beside the output."""
        if files.is_stream(output):
            raise ConfigError(f"--shards: {output} is a device or pipe: name a file")
        return output.with_name(f"{output.name}.shard-{self.number}-of-{self.count}")


@dataclass(frozen=True, slots=True)
class _Written:
    """A shard's file and its record."""

    path: Path
    shard: Shard
    made_of: Mapping[str, str]
    sha256: str
    rows: int  # of the whole input
    report: JobReport


def write_record(
    path: Path, shard: Shard, made_of: Mapping[str, str], rows: int, report: JobReport
) -> None:
    """Say beside a shard's finished file what it is; `rows` are those of the whole input."""
    counted = {name: census.plain() for name, census in report.counted.items()}
    counts = {name: getattr(report, name) for name in _COUNTS}
    content = {
        "shard": shard.number, "of": shard.count, "rows": rows, **counts,
        "made_of": {**made_of, "chunk": str(chunks.CHUNK)}, "sha256": files.sha256(path),
        "counted": counted,
    }  # fmt: skip
    files.write_json(_record_of(path), content)


_COUNTS = ("lines", "responses", "errors", "unscored", "tokens")


def join(output: Path, paths: Sequence[Path] = ()) -> JobReport:
    """Write the lines of all shards of `output` in the input's order: the file of one process.
    `paths` are the shards' files, by default those beside the output.

    Raises `DataError` naming the shard that is missing, unfinished, damaged, or of another run than
    the first; then an older output is untouched."""
    files.refuse_unwritable(output)
    with only_writer(output):
        written = [_read_record(path) for path in paths or _beside(output)]
        written = _in_order(written)
        for each in written:
            if files.sha256(each.path) != each.sha256:
                problem = "its SHA-256 is not that of its record: it is damaged"
                raise DataError(f"{each.path}: {problem}; score it again")
        with files.atomic_file(output) as stream, ExitStack() as stack:
            sources = [stack.enter_context(each.path.open("rb")) for each in written]
            num_chunks = len(chunks.ALL.chunks(written[0].rows, chunks.CHUNK))
            for source in itertools.islice(itertools.cycle(sources), num_chunks):
                stream.writelines(itertools.islice(source, chunks.CHUNK))
    return _joined(written)


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _beside(output: Path) -> list[Path]:
    """The files of all shards of an output; `DataError` where one is missing."""
    shards: set[Shard] = set()
    for path in output.parent.glob("*"):
        match = _NAME.fullmatch(path.name.removeprefix(output.name))
        if match and path.name.startswith(output.name):
            shards.add(Shard(*map(int, match.groups())))
    counts = sorted({shard.count for shard in shards})
    if not counts:
        example = Shard(1, 4).file(output)
        raise DataError(f"{output}: no shard is beside it (such as {example.name})")
    if len(counts) > 1:
        listed = " and ".join(map(str, counts))
        raise DataError(f"{output}: beside it are shards of {listed}: name the files of one kind")
    (count,) = counts
    return [Shard(number, count).file(output) for number in range(1, min(count, MOST_SHARDS) + 1)]


def _read_record(path: Path) -> _Written:
    record = _record_of(path)
    if not record.is_file() or not path.is_file():
        problem = "missing"
        if path.is_file():
            problem = f"without its record {record.name}: unfinished, or copied without it"
        raise DataError(f"{path}: {problem}; score it with --shards")
    content = files.read_json(record)
    try:
        counts = {name: int(content[name]) for name in _COUNTS}
        counted = {name: Census.from_plain(each, {}) for name, each in content["counted"].items()}
        return _Written(
            path,
            Shard(int(content["shard"]), int(content["of"])),
            dict(content["made_of"]),
            str(content["sha256"]),
            int(content["rows"]),
            JobReport(**counts, counted=counted),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{record}: is no record of a shard: {error!r}") from error


def _in_order(written: Sequence[_Written]) -> list[_Written]:
    """The shards by their numbers; `DataError` where they are not all shards of one run."""
    first = written[0]
    by_number: dict[int, _Written] = {}
    for each in written:
        facts, expected = each.made_of, first.made_of
        changed = [name for name in expected if facts.get(name) != expected[name]]
        if each.shard.count != first.shard.count or each.rows != first.rows:
            changed.append("the number of shards or rows")
        if changed:
            differs = f"{', '.join(changed)}: not as of {first.path.name}"
            raise DataError(f"{each.path}: is of another run ({differs}); score it again")
        earlier = by_number.setdefault(each.shard.number, each)
        if earlier is not each:
            raise DataError(f"{each.path}: is shard {each.shard.number}, as is {earlier.path}")
    if str(chunks.CHUNK) != first.made_of.get("chunk"):
        raise DataError(f"{first.path}: made by another version of smorm, in other chunks")
    for number in range(1, first.shard.count + 1):
        if number not in by_number:
            raise DataError(f"shard {number} of {first.shard.count} is missing: name its file too")
    return [by_number[number] for number in sorted(by_number)]


def _joined(written: Sequence[_Written]) -> JobReport:
    counted: dict[str, Census] = {}
    for each in written:
        for name, census in each.report.counted.items():
            counted.setdefault(name, Census()).merge(census)
    totals = {name: sum(getattr(each.report, name) for each in written) for name in _COUNTS}
    return JobReport(**totals, counted=counted)
