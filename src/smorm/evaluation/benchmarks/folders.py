"""Data files below a folder that somebody downloaded."""

from collections.abc import Sequence
from pathlib import Path

from smorm.data.readers import SUFFIXES, is_saved_dataset, stem_of
from smorm.errors import ConfigError


def is_copy(folder: Path, names: Sequence[str]) -> bool:
    """Whether a folder is laid out as a hub's data set with these splits and subsets is."""
    if is_saved_dataset(folder):
        return True
    # A piece may be a folder, or a file whose name only begins with the split's.
    return bool(names) and all(any(folder.glob(f"**/{name}*")) for name in names)


def data_files(folder: Path) -> list[tuple[str, Path]]:
    """Every data file below a folder, labelled by its path ("Adversarial/GPTInst")."""
    files = [file for file in sorted(folder.rglob("*")) if file.name.endswith(SUFFIXES)]
    files = list(filter(Path.is_file, files))
    if not files:
        raise ConfigError(f"{folder}: no data file in it or below ({', '.join(SUFFIXES)})")
    # In published repositories RM-Bench's full set lies beside its pieces, and LLMBar's sets lie
    # beside results of models: where a file has such a name, it is the data.
    for name in ("total_dataset", "dataset"):
        files = [file for file in files if stem_of(file) == name] or files
    return [(_label(file.relative_to(folder)), file) for file in files]


def _label(path: Path) -> str:
    stem = stem_of(path)
    # Such names say what every file is; the folder says which subset.
    if stem in ("dataset", "test", "data") and path.parent.name:
        return path.parent.as_posix()
    return (path.parent / stem).as_posix()
