"""Words and runs of words as 64-bit hashes, many texts at a time, and which texts are nearly alike.

A word is a run of letters and digits of the lower-cased text; a character of a script that is
written without spaces (Chinese, Japanese, Korean syllables) is a word of its own. Two different
runs share a hash with a probability of about 2⁻⁶⁴: any two of ten million with one of 3e-6.

Two things of fixed width are stored of each document (libraries hold the whole index in memory):

* the 64 smallest hashes of its shingles ("bottom-k": Broder, 1997). Two documents of at most 64
  shingles each are compared exactly; of longer ones the Jaccard similarity J is estimated without
  bias, with a standard deviation of sqrt(J (1 - J) / 64), at most 0.063.
* 16 bands of 4 values of a one-permutation MinHash (Li, Owen and Zhang, 2012), whose empty bins
  borrow from the next full one (Shrivastava and Li, 2014). Documents that share a band are
  candidates, with a probability of 1 - (1 - J⁴)¹⁶: 0.9998 for J = 0.8 and 0.34 for J = 0.4.

So a pair with J = 0.6 passes for 0.8 with a probability of about 5e-4, and one with J = 0.9 is
missed with about 5e-3; short documents that are compared have neither error.

Shapes: B bytes, W words, T texts or D documents, G runs of words, N rows, P pairs."""

import contextlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Bools, Floats, Ints
from smorm.files import named_errors

Hashes = NDArray[np.uint64]
Values = NDArray[np.uint32]

SHINGLE = 5  # words of a shingle, of which near duplicates are found
GRAM = 13  # words of a run that two texts do not share by accident (Brown et al., 2020, appendix C)
SHORTEST_WHOLE = 5  # texts of fewer words than GRAM are compared whole, from so many words on

# Fixed random tables: hashes are equal from run to run and from machine to machine.
_RANDOM = np.random.Generator(np.random.PCG64(20240131))
_BYTE = _RANDOM.integers(0, 2**64, 256, dtype=np.uint64)
_POWERS = np.cumprod(np.full(256, 0x9E3779B97F4A7C15, dtype=np.uint64))
_BLOCKS = np.cumprod(np.full(1 << 16, _POWERS[-1], dtype=np.uint64))
_STEP = np.uint64(0xD6E8FEB86659FD93)

_SEPARATOR, _LETTER, _IDEOGRAPH = 0, 1, 2
_KINDS = np.full(256, _SEPARATOR, dtype=np.uint8)
_KINDS[[*range(48, 58), *range(65, 91), *range(97, 123)]] = _LETTER
# Any byte of a multi-byte character counts as a letter, unless it is excluded later.
_KINDS[0x80:] = _LETTER
_KINDS[0xE3:0xEE] = _IDEOGRAPH  # first bytes of U+3000 to U+DFFF
# As `str.split`; NUL is one more, since it separates the texts of a batch.
_SPACE = np.zeros(256, dtype=bool)
_SPACE[[0, *range(9, 14), *range(28, 33)]] = True

# Sketches: smallest hashes of a document, and bands of rows of its MinHash.
WIDTH = 64
BANDS, ROWS = 16, 4
# A candidate is compared with so many neighbours in each band, so that thousands of documents in
# one band stay thousands of comparisons: of a very large group some members may be missed.
NEIGHBOURS = 4
_ROW_BYTES = 4 * WIDTH
_EMPTY = np.uint32(0xFFFFFFFF)
_BORROWED = np.uint32(0x9E3779B1)
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Words:
    """The words of some texts, one after the other."""

    hashes: Hashes  # of each word [W]
    texts: Ints  # which text it stands in [W], ascending
    lengths: Ints  # of each text, in words between spaces as `str.split` counts them [T]


def mix(values: Hashes) -> Hashes:
    """Mix the bits of hashes (the last step of splitmix64; Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def words_of(texts: Sequence[str]) -> Words:
    """Hash the words of texts [T]."""
    encoded = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    content = np.frombuffer(b"\0".join([b"", *encoded, b""]), dtype=np.uint8)
    ends = np.cumsum([len(text) + 1 for text in encoded])
    letters, starts = _letters_and_starts(content)
    # Only bytes of words are hashed; `first` is where each word begins among them.
    inside = np.flatnonzero(letters)
    first = np.flatnonzero(starts[inside])
    sizes = np.diff(np.append(first, len(inside)))
    offset = np.arange(len(inside)) - np.repeat(first, sizes)
    values = _BYTE[content[inside]] * _POWERS[offset & 255]
    if len(sizes) and sizes.max() > 256:
        # Beyond 256 bytes the table of powers repeats: a second factor says which block it is.
        values *= _BLOCKS[(offset >> 8) & 0xFFFF]
    hashes = np.zeros(0, dtype=np.uint64)
    if len(first):
        hashes = np.add.reduceat(values, first)
    # A word belongs to the first text that ends behind it.
    owners = np.searchsorted(ends, inside[first], side="left")
    space = _SPACE[content]
    begins = np.flatnonzero(space[:-1] & ~space[1:]) + 1
    lengths = np.bincount(np.searchsorted(ends, begins, side="left"), minlength=len(ends))
    return Words(mix(hashes + sizes.astype(np.uint64)), owners, lengths)


def _letters_and_starts(content: NDArray[np.uint8]) -> tuple[Bools, Bools]:
    """Which bytes belong to words, and which of them begin one, [B] each."""
    kinds = _KINDS[content]
    letters = kinds != _SEPARATOR
    # U+2000 to U+2FFF, three bytes after 0xE2: dashes, quotes, bullets, arrows
    symbols = np.flatnonzero(content[:-2] == 0xE2)
    for step in range(3):
        letters[symbols + step] = False
    before = np.zeros_like(letters)
    before[1:] = letters[:-1]
    starts = letters & (~before | (kinds == _IDEOGRAPH))
    # After the three bytes of an ideograph a word begins, unless they are continued.
    after = np.zeros_like(letters)
    after[3:] = kinds[:-3] == _IDEOGRAPH
    starts |= letters & after & (content & 0xC0 != 0x80)
    return letters, starts


def shingles(words: Words) -> tuple[Hashes, Ints]:
    """Runs of 5 words and their texts, [G] each; a shorter text is one run."""
    return _runs(words, SHINGLE, 1)


def grams(words: Words) -> tuple[Hashes, Ints]:
    """Runs of 13 words and their texts, [G] each; a text of 5 to 12 words is one run."""
    return _runs(words, GRAM, SHORTEST_WHOLE)


def _runs(words: Words, size: int, shortest: int) -> tuple[Hashes, Ints]:
    hashes, texts = words.hashes, words.texts
    count = max(0, len(hashes) - size + 1)
    value = np.zeros(count, dtype=np.uint64)
    # A polynomial in the words' hashes: order matters, and all runs are made at once.
    for step in range(size):
        value = value * _STEP + hashes[step : step + count]
    # A run that crosses from one text into the next is none.
    within = texts[:count] == texts[size - 1 : size - 1 + count]
    short_hashes, short_texts = _short_texts(words, size, shortest)
    return (
        np.concatenate([mix(value[within]), short_hashes]),
        np.concatenate([texts[:count][within], short_texts]),
    )


def _short_texts(words: Words, below: int, shortest: int) -> tuple[Hashes, Ints]:
    """One hash for each text that has at least `shortest` words but fewer than `below`."""
    counts = np.bincount(words.texts, minlength=len(words.lengths))
    short = (counts >= shortest) & (counts < below)
    members = np.flatnonzero(short[words.texts])
    if not len(members):
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    owners = np.flatnonzero(short)
    sizes = counts[owners]
    first = np.cumsum(sizes) - sizes
    offset = np.arange(len(members)) - np.repeat(first, sizes)
    values = mix(words.hashes[members] + offset.astype(np.uint64) * _STEP)
    sums = np.add.reduceat(values, first)
    return mix(sums ^ (sizes.astype(np.uint64) * _STEP)), owners


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
        with named_errors(self._paths[0]):
            self._streams[0].write(smallest.tobytes())
            # A file a band: a search reads one band of all rows at a time.
            for stream, column in zip(self._streams[1:], bands.T, strict=True):
                stream.write(column.tobytes())

    def close(self) -> None:
        """End writing; afterwards the file can be read."""
        # All of them, also where the first one finds no room.
        with named_errors(self._paths[0]), contextlib.ExitStack() as closing:
            for stream in self._streams:
                closing.callback(stream.close)

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
    of each row's content [D]: the order of `rows` has no influence on which pairs come."""
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
    files: Sequence[SketchFile],
    rows: Ints,
    keys: Hashes,
    threshold: float,
    related: Callable[[Ints, Ints], Bools] | None = None,
) -> Bools:
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
