"""Which documents are nearly the same: MinHash sketches, and bands that bring candidates together.

Two things of fixed width are stored of each document:

* the 64 smallest hashes of its shingles ("bottom-k": Broder, 1997). Two documents of at most 64
  shingles each are compared exactly; of longer ones the Jaccard similarity J is estimated without
  bias, with a standard deviation of sqrt(J (1 - J) / 64), at most 0.063.
* 16 bands of 4 values of a one-permutation MinHash (Li, Owen and Zhang, 2012), whose empty bins
  borrow from the next full one (Shrivastava and Li, 2014). Documents that share a band are
  candidates, with a probability of 1 - (1 - J⁴)¹⁶: 0.9998 for J = 0.8 and 0.34 for J = 0.4.

So a pair with J = 0.6 passes for 0.8 with a probability of about 5e-4, and one with J = 0.9 is
missed with about 5e-3; short documents that are compared have neither error. A candidate is
compared with its next four neighbours in each band only, so that thousands of documents in one band
stay thousands of comparisons: of a very large group some members may be missed.

Libraries (datasketch, rensa) hold the whole index in memory; here it lies in temporary files.

Shapes: D documents, G shingles, N rows, P pairs.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Bools, Floats, Ints
from smorm.checks.shingles import Hashes, mix

Values = NDArray[np.uint32]

WIDTH = 64
BANDS, ROWS = 16, 4
NEIGHBOURS = 4
_ROW_BYTES = 4 * WIDTH
_EMPTY = np.uint32(0xFFFFFFFF)
_BORROWED = np.uint32(0x9E3779B1)
_CHUNK = 1024


def sketch(hashes: Hashes, documents: Ints, count: int) -> tuple[Values, Values]:
    """Bottom-64 sketches [D, 64], ascending and filled up with 2³² - 1, and band keys [D, 16], from
    hashes of shingles [G] and the document of each [G]; `count` is D, at most 65,536."""
    # One sort brings each document's shingles together, smallest first, and each of them once.
    high = documents.astype(np.uint64) << np.uint64(48)
    codes = np.unique(high | (hashes >> np.uint64(16)))
    owner = (codes >> np.uint64(48)).astype(np.int64)
    value = ((codes >> np.uint64(16)) & np.uint64(_EMPTY)).astype(np.uint32)
    # The largest value marks an empty place, so no hash may have it.
    value = np.minimum(value, _EMPTY - np.uint32(1))
    rank = np.arange(len(codes)) - np.searchsorted(owner, owner)
    smallest = np.full((count, WIDTH), _EMPTY, dtype=np.uint32)
    fits = rank < WIDTH
    smallest[owner[fits], rank[fits]] = value[fits]
    bins = np.full((count, BANDS * ROWS), _EMPTY, dtype=np.uint32)
    bin_index = (codes & np.uint64(BANDS * ROWS - 1)).astype(np.int64)
    # Backwards: of several values for one bin the last that is written counts, the smallest.
    bins[owner[::-1], bin_index[::-1]] = value[::-1]
    values = _filled(bins).astype(np.uint64).reshape(count, BANDS, ROWS)
    key = np.zeros((count, BANDS), dtype=np.uint64)
    for row in range(ROWS):
        key = mix(key + values[:, :, row] + np.uint64(row + 1))
    return smallest, (key >> np.uint64(32)).astype(np.uint32)


def _filled(bins: Values) -> Values:
    """Empty bins take the next full one's value, moved by how far away that is."""
    width = bins.shape[1]
    index = np.arange(width)
    full = np.where(bins != _EMPTY, index, 2 * width)
    twice = np.concatenate([full, np.minimum(full + width, 2 * width)], axis=1)
    # The next full bin to the right, cyclically: the row stands there twice.
    following = np.minimum.accumulate(twice[:, ::-1], axis=1)[:, ::-1][:, :width]
    distance = (following - index).astype(np.uint32)
    return np.take_along_axis(bins, following % width, axis=1) + distance * _BORROWED


def similarity(a: Values, b: Values) -> Floats:
    """Jaccard similarity [P] of sketches [P, 64]: exact where neither is full, else estimated. Two
    empty documents count as the same one."""
    merged = np.sort(np.concatenate([a, b], axis=1), axis=1)
    real = merged != _EMPTY
    fresh = real.copy()
    fresh[:, 1:] &= merged[:, 1:] != merged[:, :-1]
    shared = real[:, 1:] & ~fresh[:, 1:]
    rank = np.cumsum(fresh, axis=1, dtype=np.uint8)  # at most 128; twenty times as fast
    # Of full sketches only the 64 smallest hashes of the union are an unbiased sample of it.
    full = (a[:, -1] != _EMPTY) | (b[:, -1] != _EMPTY)
    within = rank <= np.where(full, WIDTH, 2 * WIDTH).astype(np.uint8)[:, None]
    union = (fresh & within).sum(axis=1)
    common = (shared & within[:, 1:]).sum(axis=1)
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


class SketchFile:
    """Sketches and bands of N rows in temporary files of one folder: 320 bytes a row."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = [folder / f"{name}.{end}" for end in ("sketch", *range(BANDS))]
        self._streams = [path.open("wb", 1 << 18) for path in self._paths]
        self._mapped: mmap.mmap | None = None

    def append(self, smallest: Values, bands: Values) -> None:
        """Add rows."""
        self._streams[0].write(smallest.tobytes())
        # A file a band: a search reads one band of all rows at a time.
        for stream, column in zip(self._streams[1:], bands.T, strict=True):
            stream.write(column.tobytes())

    def close(self) -> None:
        """End writing; afterwards the file can be read."""
        for stream in self._streams:
            stream.close()

    def band(self, index: int, rows: Ints) -> Values:
        """One band's keys of some rows."""
        return np.fromfile(self._paths[1 + index % BANDS], dtype=np.uint32)[rows]

    def __len__(self) -> int:
        return self._paths[0].stat().st_size // _ROW_BYTES

    def sketches(self, rows: Ints) -> Values:
        """Sketches of some rows [P, 64]."""
        if self._mapped is None:
            with self._paths[0].open("rb") as stream:
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        table = np.frombuffer(self._mapped, dtype=np.uint32).reshape(-1, WIDTH)
        sketches: Values = table[rows]
        # Candidates lie scattered over the file, and each brings its neighbourhood into memory.
        if hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
        return sketches


def candidates(
    files: Sequence[SketchFile], rows: Ints, keys: Hashes
) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows that share a band of the first file, [P] and [P], band after band.

    Neighbours in a band are those alike in the next two bands of each file, then by `keys`, a hash
    of each row's content [D]: the order of `rows` has no influence on which pairs come.
    """
    for band in range(BANDS):
        key = files[0].band(band, rows)
        # Most rows share a band with none: only crowded rows pay for the sort by several keys.
        order = np.argsort(key, kind="stable")
        equal = key[order][1:] == key[order][:-1]
        crowded = np.zeros(len(rows), dtype=bool)
        crowded[1:] |= equal
        crowded[:-1] |= equal
        members = order[crowded]
        if not len(members):
            continue
        order_by: list[NDArray[Any]] = [keys[members]]
        for file in files:
            order_by += [file.band(band + 2, rows[members]), file.band(band + 1, rows[members])]
        members = members[np.lexsort([*order_by, key[members]])]
        for step in range(1, NEIGHBOURS + 1):
            same = key[members][step:] == key[members][:-step]
            yield rows[members[:-step][same]], rows[members[step:][same]]


def near_rows(
    files: Sequence[SketchFile], rows: Ints, keys: Hashes, threshold: float,
    related: Callable[[Ints, Ints], Bools] | None = None,
) -> Bools:  # fmt: skip
    """Which of all N rows have a near twin among `rows` to which they are `related`: similar in
    each of the files."""
    near = np.zeros(len(files[0]), dtype=bool)
    for first, second in candidates(files, rows, keys):
        # Pairs of which both are known to be near add nothing.
        useful = ~(near[first] & near[second])
        if related is not None:
            useful &= related(first, second)
        first, second = first[useful], second[useful]
        # In chunks: sketches of all candidates at once would not fit in bounded memory.
        for start in range(0, len(first), _CHUNK):
            a, b = first[start : start + _CHUNK], second[start : start + _CHUNK]
            alike = np.ones(len(a), dtype=bool)
            for file in files:
                alike &= similarity(file.sketches(a), file.sketches(b)) >= threshold
            near[a[alike]] = near[b[alike]] = True
    return near
