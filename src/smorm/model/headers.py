"""What the weights of a folder are, by the headers of its safetensors files: no weight is read."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from smorm.errors import ModelError, first_line
from smorm.limits import limit, refusal
from smorm.model_files import read_settings

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its dtype as safetensors names it (`BF16`), and its shape."""

    path: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def stored_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor that transformers would read of a folder, by its name; empty where it has no
    safetensors weights. `ModelError`: damaged, or an index of other files than those beside it."""
    if (folder / WEIGHTS).exists():
        return read_headers([folder / WEIGHTS])
    index = folder / INDEX
    if not index.exists():
        return {}
    placed = _placed(index)
    stored = read_headers(folder / name for name in dict.fromkeys(placed.values()))
    for tensor, name in placed.items():
        if tensor not in stored or stored[tensor].path.name != name:
            raise ModelError(f"{index}: {tensor}: is not in {name}")
    return stored


def read_headers(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of some safetensors files by its name; `ModelError`: a file is damaged, or its
    header is too large."""
    tensors: dict[str, Stored] = {}
    for path in files:
        _refuse_large_header(path)
        try:
            with safe_open(path, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                    tensor = stored.get_slice(name)
                    tensors[name] = Stored(path, tensor.get_dtype(), tuple(tensor.get_shape()))
        except SafetensorError as error:
            raise ModelError(f"{path}: damaged: {first_line(error)}") from error
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return tensors


def _placed(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index."""
    placed = read_settings(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelError(f"{index}: weight_map: expected the file of each tensor")
    for name in dict.fromkeys(map(str, placed.values())):
        # A path may lead anywhere; transformers itself writes plain names.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: {name!r}: expected the name of a file beside it")
        if not (index.parent / name).exists():
            raise ModelError(f"{index.parent / name}: no such file, but the index names it")
    return placed


def _refuse_large_header(path: Path) -> None:
    # Safetensors itself takes 100 MB, which become a gigabyte of Python objects.
    try:
        with open(path, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if limit("header_bytes") < size < path.stat().st_size:
        raise ModelError(f"{path}: header: {refusal('header_bytes', size)}")
