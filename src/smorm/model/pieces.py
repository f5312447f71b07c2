"""Rows of tensors in safetensors files: a part of a tensor is read without the rest.

A tensor may be cut along its first dimension into several files, as ranks that hold a part of the
weights write it. Their headers say where each piece begins, in the form of
`torch.distributed.checkpoint`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_OFFSETS, _BEGINS = "DCP_SHARDING_INFO", "saved_offsets"


@dataclass(frozen=True, slots=True)
class _Piece:
    file: Any  # a safetensors handle: nothing is in memory before it is read
    first: int  # its first row in the whole tensor
    shape: tuple[int, ...]


class Pieces:
    """The tensors of some safetensors files, by name; `shapes` are those of whole tensors."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._pieces: dict[str, list[_Piece]] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            begins = orjson.loads((file.metadata() or {}).get(_OFFSETS, "{}"))
            for name in file.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                shape = tuple(file.get_slice(name).get_shape())
                offsets = begins.get(name, {}).get(_BEGINS) or [0]
                self._pieces.setdefault(name, []).append(_Piece(file, offsets[0], shape))
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece.first)
            last = pieces[-1]
            self.shapes[name] = last.shape
            if last.shape:
                self.shapes[name] = (last.first + last.shape[0], *last.shape[1:])

    def read(self, name: str, first: int = 0, past: int | None = None) -> Tensor:
        """The rows of a tensor from `first` to before `past`; by default all of it."""
        shape = self.shapes[name]
        if not shape:
            scalar: Tensor = self._pieces[name][0].file.get_tensor(name)
            return scalar
        past = shape[0] if past is None else past
        row_blocks = []
        for piece in self._pieces[name]:
            begin, end = max(first, piece.first), min(past, piece.first + piece.shape[0])
            if begin < end:
                stored = piece.file.get_slice(name)
                row_blocks.append(stored[begin - piece.first : end - piece.first])
        if not row_blocks:  # a tensor, or a share of one, without rows
            stored = self._pieces[name][0].file.get_slice(name)
            row_blocks.append(stored[0:0])
        return row_blocks[0] if len(row_blocks) == 1 else torch.cat(row_blocks)


def save_pieces(path: Path, tensors: Mapping[str, Tensor], first_rows: Mapping[str, int]) -> None:
    """Write pieces of tensors; `first_rows` says where in the whole tensor each one begins."""
    begins = {}
    for name, tensor in tensors.items():
        offsets = [0] * tensor.ndim
        if offsets:
            offsets[0] = first_rows[name]
        begins[name] = {_BEGINS: offsets}
    metadata = {_OFFSETS: orjson.dumps(begins).decode(), "DCP_VERSION": "1.0", "format": "pt"}
    save_file(dict(tensors), path, metadata=metadata)
