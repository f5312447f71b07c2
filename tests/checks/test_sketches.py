"""Near duplicates: exact for short texts, close for long ones, and found among many."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.checks.shingles import (
    SketchFile,
    mix,
    near_rows,
    shingles,
    similarity,
    sketch,
    words_of,
)
from tests.checks.made import text
from tests.data.sources import law


def hashes(numbers) -> np.ndarray:
    return mix(np.array(sorted(numbers), dtype=np.uint64))


def sketched(*sets) -> np.ndarray:
    values = np.concatenate([hashes(one) for one in sets])
    owners = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    return sketch(values, owners, len(sets))[0]


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


small_sets = st.sets(st.integers(0, 90), max_size=64)


@given(small_sets, small_sets)
@law
def test_short_documents_are_compared_exactly(a, b):
    one, other = sketched(a, b)
    assert similarity(one[None], other[None])[0] == pytest.approx(jaccard(a, b))


def test_long_documents_are_estimated_without_bias():
    rng = random.Random(1)
    errors = []
    for _ in range(300):
        union = rng.sample(range(10**9), 400)
        a, b = set(union[:360]), set(union[40:])
        one, other = sketched(a, b)
        errors.append(similarity(one[None], other[None])[0] - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) == pytest.approx((0.8 * 0.2 / 64) ** 0.5, rel=0.25)


def stored(folder, texts) -> tuple[SketchFile, np.ndarray]:
    file = SketchFile(folder, "test")
    for start in range(0, len(texts), 100):
        part = texts[start : start + 100]
        file.append(*sketch(*shingles(words_of(part)), len(part)))
    file.close()
    return file, np.arange(len(texts))


@pytest.mark.parametrize("words", [12, 40, 300])
def test_a_text_with_a_word_changed_at_its_end_is_found_among_many(tmp_path, words):
    rng = random.Random(words)
    texts = [text(rng, words) for _ in range(500)]
    twins = [one.rsplit(" ", 1)[0] + " changed" for one in texts[:100]]
    file, rows = stored(tmp_path, texts + twins)
    near = near_rows([file], rows, mix(rows.astype(np.uint64)), 0.7)
    assert near[:100].sum() >= 97
    assert near[500:].sum() >= 97
    assert not near[100:500].any()


def test_the_order_of_documents_does_not_change_which_are_near(tmp_path):
    rng = random.Random(3)
    base = text(rng, 30)
    # many that are much alike, so that a band holds more than a document's few neighbours
    texts = [f"{base} {text(rng, 3)}" for _ in range(60)] + [text(rng, 30) for _ in range(60)]
    content = mix(np.arange(len(texts), dtype=np.uint64))
    outcomes = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts))
        folder = tmp_path / str(seed)
        folder.mkdir()
        file, rows = stored(folder, [texts[at] for at in order])
        near = near_rows([file], rows, content[order], 0.8)
        outcomes.append(set(order[near].tolist()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0] >= set(range(60))


def test_only_related_documents_count(tmp_path):
    rng = random.Random(4)
    texts = [text(rng, 20) for _ in range(10)]
    file, rows = stored(tmp_path, texts + texts)
    content = mix(rows.astype(np.uint64))

    def same_half(one, other):
        return (one < 10) == (other < 10)

    assert near_rows([file], rows, content, 0.8).all()
    assert not near_rows([file], rows, content, 0.8, same_half).any()
