"""Artifacts: files and folders that are made once, and found again by what decides them.

An artifact's *recipe* is a plain value that holds all that decides its content: a configuration,
the SHA-256 of its data, the recipe of what it was made from. Its name ends with the recipe's
fingerprint. Beside it is a record of the recipe and of the versions that made it, which decide
nothing unless the recipe holds them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smorm import files
from smorm.errors import OutputError
from smorm.model.store import versions

# The record of a folder, in it; that of a file is beside it, under the file's name and this.
RECORD = "done.json"
# Characters of a label: at 4 bytes each it still fits a file name of 255 bytes with the rest.
MAX_LABEL = 48


@dataclass(frozen=True)
class ArtifactStore:
    """Finds or makes artifacts under `root`, whole or not at all. With `path` from `store.path`,
    `store.folder(path, recipe, train_into)` calls `train_into(scratch)` the first time, and returns
    `path`; after that it only returns it."""

    root: Path
    # Every artifact that was returned so far, in order of first use.
    used: dict[Path, None] = field(default_factory=dict, init=False, compare=False)

    def path(self, room: str, recipe: Any, *, label: str = "", ending: str = "") -> Path:
        """Where an artifact is, made or not: `ROOT/ROOM/[LABEL-]FINGERPRINT[ENDING]`. A label is
        for people: it is cut, and characters that could leave the folder become `-`."""
        name = files.fingerprint(recipe) + ending
        if label:
            name = re.sub(r"[^\w.+= -]", "-", label)[:MAX_LABEL] + "-" + name
        return self.root / room / name

    def folder(self, path: Path, recipe: Any, make: Callable[[Path], object]) -> Path:
        """A folder; `make` gets a scratch folder to write into, which then becomes `path`."""
        # No lock: two processes that make one artifact both finish, and the contents are the same.
        if not files.is_sealed(path):
            try:
                with files.atomic_folder(path) as scratch:
                    make(scratch)
                    _write_record(scratch / RECORD, recipe)
            except OutputError:
                # Another process may have published it in the very same moment.
                if not files.is_sealed(path):
                    raise
        self.used[path] = None
        return path

    def file(self, path: Path, recipe: Any, make: Callable[[Path], object]) -> Path:
        """A file; `make` gets a scratch path to write, which then becomes `path`."""
        if not path.exists():
            with files.atomic_path(path) as scratch:
                make(scratch)
                # The record first: a process killed between the two leaves no file without one.
                _write_record(_record_of(path), recipe)
        self.used[path] = None
        return path

    def other_versions(self) -> list[dict[str, Any]]:
        """`{"versions": ..., "count": n}` for each set of versions, other than the present ones,
        that made artifacts in `used`; the versions are None where none were recorded."""
        groups: dict[str, dict[str, Any]] = {}
        for recorded in map(recorded_versions, self.used):
            if recorded != versions():
                key = files.fingerprint(recorded)
                group = groups.setdefault(key, {"versions": recorded, "count": 0})
                group["count"] += 1
        return list(groups.values())


def recorded_versions(path: Path) -> dict[str, str] | None:
    """The versions that made an artifact; None where none were recorded."""
    record = _record_of(path)
    if not record.is_file():
        return None
    recorded: dict[str, str] | None = files.read_json(record).get("versions")
    return recorded


def describe_other_versions(root: Path, groups: Iterable[dict[str, Any]]) -> str:
    """One line for people about what `ArtifactStore.other_versions` returned; "" for nothing."""
    counts: Counter[str] = Counter()
    for group in groups:
        made = "before versions were recorded"
        if group["versions"] is not None:
            made = "by " + ", ".join(f"{name} {v}" for name, v in group["versions"].items())
        counts[made] += group["count"]
    if not counts:
        return ""
    made_by = "; ".join(f"{count} {made}" for made, count in counts.items())
    return (
        f"{root}: used artifacts that other versions made ({made_by}); name another work folder to "
        "make all anew"
    )


def _write_record(path: Path, recipe: Any) -> None:
    files.write_json(path, {"recipe": recipe, "versions": versions()})


def _record_of(path: Path) -> Path:
    return path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")
