"""From a path or a dataset id to rows, each with where it stands, and to the bytes behind them."""

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smorm.data.census import BadRecord
from smorm.data.csvfiles import scan_csv
from smorm.data.jsonlines import Row, Scanned, scan_json
from smorm.data.tables import scan_dataset, scan_parquet, scan_stream
from smorm.errors import DataError, first_line
from smorm.files import fingerprint, nearest_name, sha256

_TEXTS, _PACKINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv"), ("", ".gz", ".zst")
SUFFIXES = (*(kind + packing for kind in _TEXTS for packing in _PACKINGS), ".parquet")
_CSV = tuple(kind + packing for kind in (".csv", ".tsv") for packing in _PACKINGS)
_LARGE = 1 << 40
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def read_rows(
    path_or_id: str | Path, split: str = "train", subset: str | None = None
) -> Iterator[tuple[str, Row]]:
    """Stream the rows of a file, a folder or a Hugging Face dataset id as `(where, row)`.

    `where` is `file:line`, in a JSON array or a Parquet file `file:row`, in a data set
    `dataset[split]:row`; all numbers start at 1. `split` and `subset` choose within a folder or a
    dataset id, `split` in a JSON object of splits too. `DataError` for the first bad row, or about
    the file or folder."""
    for where, row in scan_rows(path_or_id, split, subset):
        if isinstance(row, BadRecord):
            raise row
        yield where, row


def scan_rows(
    path_or_id: str | Path,
    split: str = "train",
    subset: str | None = None,
    *,
    streaming: bool = False,
) -> Iterator[Scanned]:
    """As `read_rows`, but a row that cannot be parsed comes as a `BadRecord`. With `streaming` a
    dataset id is read from the hub row by row, and nothing of it is kept on the disk."""
    files, dataset = _opened(Path(path_or_id), split, subset, streaming)
    name = f"{Path(path_or_id)}[{split}]"
    if isinstance(dataset, HubStream):
        yield from scan_stream(name, dataset.rows())
    elif dataset is not None:
        yield from scan_dataset(name, dataset)
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise DataError(f"{file}: unknown kind of file; accepted are {', '.join(SUFFIXES)}")
        if file.name.endswith(".parquet"):
            yield from scan_parquet(file)
        elif is_csv(file):
            yield from scan_csv(file)
        else:
            yield from scan_json(file, split)


def _opened(
    path: Path, split: str, subset: str | None, streaming: bool = False
) -> tuple[list[Path], Any]:
    if _is_pattern(path):
        if subset is not None:
            raise DataError(f"{path}: subset {subset!r} is for a folder or a dataset id: leave it")
        return _matching(path), None
    if subset is not None and (path.is_file() or is_saved_dataset(path)):
        raise DataError(f"{path}: subset {subset!r} is for a folder or a dataset id: leave it out")
    if is_saved_dataset(path):
        return [], _load_saved(path, split)
    if path.is_dir():
        return _split_files(path, split, subset), None
    if path.is_file():
        return [path], None
    if path.exists():
        raise DataError(f"{path}: neither a file nor a folder")
    # what is there on the disk wins over the hub: a folder may be called as a data set is
    if may_be_hub_id(str(path)):
        if streaming:
            return [], HubStream.open(str(path), split, subset)
        return [], load_hub(str(path), split, subset)
    raise DataError(f"{path}: no such file or folder{_hint(path)}")


def _is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of files; a file may be called like one."""
    return glob.has_magic(str(path)) and not path.exists()


def _matching(pattern: Path) -> list[Path]:
    """The files of a pattern, in the order of their names, whatever the system's is."""
    paths = map(Path, sorted(glob.glob(str(pattern), recursive=True)))
    files = [path for path in paths if path.is_file()]
    if not files:
        raise DataError(f"{pattern}: no file matches")
    return files


def may_be_hub_id(name: str) -> bool:
    """Whether a path that is not there can be the id of a Hugging Face dataset."""
    # `folder/file` where the folder is here is a path that was misspelt, not an id
    owner = name.partition("/")[0]
    if name.endswith(SUFFIXES) or Path(owner).exists():
        return False
    return _HUB_ID.fullmatch(name) is not None


def _hint(path: Path) -> str:
    near = nearest_name(path)
    return f"; did you mean {near}?" if near else ""


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `datasets`' `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _load_saved(folder: Path, split: str) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a library's many errors for a damaged folder, as one line
        raise DataError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{folder}: no split {split!r}; it has: {', '.join(sorted(loaded))}")
        return loaded[split]
    if split not in ("train", str(loaded.split)):
        only = f"it is one saved split ({loaded.split or 'unnamed'})"
        raise DataError(f"{folder}: no split {split!r}; {only}")
    return loaded


def load_hub(name: str, split: str, subset: str | None) -> Any:
    """A Hugging Face dataset by its id, from `datasets`' own cache. Remote code is never run."""
    import datasets

    try:
        try:
            return datasets.load_dataset(name, subset, split=split)
        except RuntimeError as error:
            # `datasets` has no class of its own for a data set that is published as a program
            if "script" not in str(error):
                raise
        return load_converted(name, split, subset)
    except Exception as error:  # offline, missing, gated: each has its own class
        raise DataError(
            f"{name}: no such local path, and as a Hugging Face dataset it could not be loaded "
            f"(offline, or not there): {first_line(error)}"
        ) from error


@dataclass(frozen=True, slots=True)
class HubStream:
    """A Hugging Face dataset that is read while it is downloaded, in the order of its files.

    `identity` is a hash of its files' names and versions: on the hub their commit."""

    name: str
    split: str
    builder: Any
    identity: str

    @classmethod
    def open(cls, name: str, split: str, subset: str | None) -> Self:
        """Find the files of a dataset id (or of a folder of the same shape); `DataError` where
        there is no such data set or split. Remote code is never run."""
        import datasets

        try:
            builder = datasets.load_dataset_builder(name, subset)
        except Exception as error:  # offline, missing, gated: each has its own class
            problem = f"cannot be streamed as a Hugging Face dataset: {first_line(error)}"
            raise DataError(f"{name}: {problem}") from error
        splits = builder.config.data_files or {}
        if split not in splits:
            raise DataError(f"{name}: no split {split!r}; it has: {', '.join(map(str, splits))}")
        files = splits[split]
        facts = [[str(file), *map(str, version)] for file, version in
                 zip(files, files.origin_metadata, strict=True)]  # fmt: skip
        return cls(name, split, builder, fingerprint(facts))

    def rows(self) -> Any:
        """The data set from its first row, for one reader."""
        return self.builder.as_streaming_dataset(split=self.split)


def load_converted(name: str, split: str, subset: str | None) -> Any:
    """A data set from the branch on which the hub has each as Parquet files."""
    import datasets

    files = {split: f"{subset or 'default'}/{split}/*.parquet"}
    revision = "refs/convert/parquet"
    return datasets.load_dataset(name, data_files=files, revision=revision, split=split)


def _split_files(folder: Path, split: str, subset: str | None) -> list[Path]:
    if subset is not None:
        folder = folder / subset
        if not folder.is_dir():
            raise DataError(f"{folder}: no such subset folder{_hint(folder)}")
    shard = re.compile(rf"{re.escape(split)}-\d+.*")
    # by the usual layouts: beside each other, as on the hub (`data/`), or in a folder per split
    for candidate in (folder, folder / "data", folder / split):
        files = _data_files(candidate)
        named = [file for file in files if stem_of(file) == split]
        if len(named) > 1:
            names = ", ".join(file.name for file in named)
            raise DataError(f"{candidate}: several files for split {split!r}: {names}; name one")
        if named:
            return named
        if shards := [file for file in files if shard.fullmatch(stem_of(file))]:
            # shards that are named `…-of-N` must be N
            matches = [re.search(r"-of-(\d+)$", stem_of(file)) for file in shards]
            counts = {int(match[1]) for match in matches if match}
            if counts and counts != {len(shards)}:
                problem = f"{len(shards)} shards of {' or '.join(map(str, sorted(counts)))}"
                raise DataError(f"{candidate}: {problem}: some are missing or mixed")
            return shards
    if files:  # a folder that is called after the split holds nothing but that split
        return files
    files = _data_files(folder)
    # a single file is the training data, unless its name says another thing
    if split == "train" and len(files) == 1 and not stem_of(files[0]).startswith(("test", "val")):
        return files
    names = ", ".join(file.name for file in files[:10]) or "no data files"
    problem = f"no file for split {split!r} (such as {split}.jsonl); it has {names}"
    raise DataError(f"{folder}: {problem}")


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return data_files_of(sorted(folder.iterdir()))


def data_files_of(paths: Iterable[Path]) -> list[Path]:
    """The files that hold rows. A CSV file beside others is most often a table about them."""
    files = [path for path in paths if path.name.endswith(SUFFIXES) and path.is_file()]
    return [file for file in files if not is_csv(file)] or files


def is_csv(file: Path) -> bool:
    """Whether a file's rows are all text."""
    return file.name.endswith(_CSV)


def stem_of(file: Path) -> str:
    """The name without the suffix of its kind, `.jsonl.gz` included."""
    return file.name.removesuffix(_suffix_of(file))


def _suffix_of(file: Path) -> str:
    # a name has at most one of them: none of the suffixes is the end of another
    return next(filter(file.name.endswith, SUFFIXES), file.suffix)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a source holds, known by its bytes and not by its path.

    `names` are what the `where` of its records begins with, `files` those whose bytes decide its
    rows (none of a data set in memory); `detail` is what else decides them, a data set's features
    and number of rows, or what is known of files on the hub (`streamed`). `stamps`: size and
    modification time of each file when it was looked at."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    detail: str
    stamps: tuple[tuple[int, int], ...]
    streamed: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files; of streamed ones more than any work for small sources."""
        return _LARGE if self.streamed else sum(size for size, _ in self.stamps)

    @property
    def is_known(self) -> bool:
        """Whether `digest` is of all that decides the rows; a data set in memory has no bytes."""
        return self.streamed or bool(self.files)

    def digest(self) -> str:
        """Hash of every file's size and bytes; the same wherever they lie."""
        sums: list[list[str | int]] = []
        for path, (size, _) in zip(self.files, self.stamps, strict=True):
            try:
                # the suffix decides how the bytes are read
                sums.append([_suffix_of(path), size, sha256(path)])
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        return hashlib.sha256(f"{self.detail} {fingerprint(sums)}".encode()).hexdigest()

    def changed(self) -> Path | None:
        """The first file that has another size or time than when it was looked at."""
        for path, stamp in zip(self.files, self.stamps, strict=True):
            if _stamp(path) != stamp:
                return path
        return None

    def refuse_change(self) -> None:
        """Whatever is stored under the digest of the files must have been made of them."""
        path = self.changed()
        if path is not None:
            raise DataError(f"{path}: was changed while it was read: start again")


def contents_of(
    path_or_id: str | Path,
    split: str = "train",
    subset: str | None = None,
    *,
    streaming: bool = False,
) -> Contents:
    """Find the files behind a source."""
    files, dataset = _opened(Path(path_or_id), split, subset, streaming)
    names, detail = list(map(str, files)), ""
    if isinstance(dataset, HubStream):
        names = [f"{Path(path_or_id)}[{split}]"]
        return Contents(tuple(names), (), f"{split} {dataset.identity}", (), streamed=True)
    if dataset is not None:
        # its Arrow files may hold more splits than one: the number of rows says which
        detail = f"{split} {len(dataset)} {dataset.features}"
        names = [f"{Path(path_or_id)}[{split}]"]
        files = [Path(file["filename"]) for file in dataset.cache_files]
    return Contents(tuple(names), tuple(files), detail, tuple(map(_stamp, files)))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns
