"""What an interrupted scoring job leaves beside its output: a line for each input line that one
reward has scored, under a first line that says of what input, by what reward and how.

Lines come in whole chunks, so that a job that goes on batches, and scores, as one that was never
interrupted."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from smorm.data.records import Identity
from smorm.errors import ConfigError
from smorm.scoring.scorer import Scored
from smorm.text.changes import Change
from smorm.text.limits import Unscored, UnscoredReason

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an input line.

    Attributes:
        count: responses of the line; 0 where it could not be read.
        scored: those that have scores, in their order; None where none has.
        errors: why others have none, by their place; of a line that could not be read under 0.
        passed_on: input fields that the output has too.
    """

    where: str
    id: Identity | None
    count: int
    scored: Scored | None = None
    errors: Mapping[int, Unscored] = field(default_factory=dict)
    passed_on: Mapping[str, Any] = field(default_factory=dict)

    def as_line(self) -> bytes:
        """One line of JSON, from which `of_line` makes an equal entry."""
        # What no JSON type holds (bytes of a Parquet file, decimals) is kept as its text.
        return orjson.dumps(self, option=_OPTIONS, default=str)

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        values = orjson.loads(line)
        if values["scored"] is not None:
            scored = values["scored"]
            scored["rows"] = np.array(scored["rows"], dtype=np.float64)
            scored["changes"] = tuple(map(Change, scored["changes"]))
            values["scored"] = Scored(**scored)
        errors: dict[int, Unscored] = {}
        for position, error in values["errors"].items():
            errors[int(position)] = Unscored(UnscoredReason(error["reason"]), error["detail"])
        return cls(**(values | {"errors": errors}))


def leftovers(output: Path) -> list[Path]:
    """Partial files beside an output."""
    return sorted(output.parent.glob(f"{glob.escape(output.name)}.part*"))


class Partial:
    """The partial file of one reward, `OUTPUT.part` (of an ensemble's members with a number).

    Args:
        made_of: what decides its lines, as `{what: fingerprint}`; a file that was made of something
            else is refused (ConfigError)."""

    def __init__(self, path: Path, made_of: Mapping[str, str], chunk: int) -> None:
        self.path, self.done, self._end = path, 0, 0
        self._made_of = orjson.dumps({**made_of, "chunk": str(chunk)}) + b"\n"
        if path.exists():
            self._go_on(chunk)

    def _go_on(self, chunk: int) -> None:
        """Find the end of the last whole chunk."""
        with self.path.open("rb") as stream:
            first = stream.readline()
            if not first.endswith(b"\n"):
                return  # it was stopped before it held anything
            self._refuse_another(first)
            end, count = stream.tell(), 0
            self._end = end
            for line in stream:
                if not _is_whole(line):
                    break
                end, count = end + len(line), count + 1
                if count % chunk == 0:
                    self._end, self.done = end, count

    def _refuse_another(self, first: bytes) -> None:
        before: Any = None
        with contextlib.suppress(orjson.JSONDecodeError):
            before = orjson.loads(first)
        if not isinstance(before, dict):
            raise ConfigError(f"{self.path}: is no unfinished run of smorm score: move it away")
        now = orjson.loads(self._made_of)
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"{self.path}: is of another run ({', '.join(changed)} changed): delete it to "
                "start anew, or give what it was started with"
            )

    def append(self, content: bytes, count: int) -> None:
        """Write the lines of a chunk's entries and flush them: a run that is killed keeps them."""
        if self._end == 0:
            content = self._made_of + content
        with self.path.open("r+b" if self._end else "wb") as stream:
            stream.seek(self._end)
            stream.truncate()
            stream.write(content)
            stream.flush()
            self._end = stream.tell()
        self.done += count

    def entries(self) -> Iterator[Entry]:
        """All of them, in order."""
        if not self._end:  # of no line there is no file
            return
        with self.path.open("rb") as stream:
            stream.readline()
            yield from map(Entry.of_line, stream)

    def discard(self) -> None:
        """Leave no file."""
        self.path.unlink(missing_ok=True)


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and bool(orjson.loads(line))
    except orjson.JSONDecodeError:
        return False
