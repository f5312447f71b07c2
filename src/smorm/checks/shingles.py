"""Words and runs of words as 64-bit hashes, many texts at a time.

A word is a run of letters and digits of the lower-cased text; a character of a script that is
written without spaces (Chinese, Japanese, Korean syllables) is a word of its own. Everything else
separates. Two different words, or runs of words, share a hash with a probability of about 2⁻⁶⁴:
among ten million distinct runs there is such a pair with a probability of 3e-6.

Shapes: B bytes, W words, T texts, G runs of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Bools, Ints

Hashes = NDArray[np.uint64]

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
    return Words(mix(hashes + sizes.astype(np.uint64)), owners, _lengths(content, ends))


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


def _lengths(content: NDArray[np.uint8], ends: Ints) -> Ints:
    space = _SPACE[content]
    begins = np.flatnonzero(space[:-1] & ~space[1:]) + 1
    return np.bincount(np.searchsorted(ends, begins, side="left"), minlength=len(ends))


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
