"""Words and runs of words are hashed as a plain loop over characters would split them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smorm.checks.shingles import GRAM, SHINGLE, grams, shingles, words_of
from tests.data.sources import law

some_text = st.text(
    st.one_of(
        st.sampled_from("abAB09 \n\t.,-_'\"’—…é你好、한がß🙂\u00a0\x00"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


def split(text: str) -> list[str]:
    """The rule, character by character."""
    words, current = [], ""
    for letter in text.lower():
        code = ord(letter)
        ideograph = 0x3000 <= code <= 0xDFFF
        separates = 0x2000 <= code <= 0x2FFF or (code < 0x80 and not letter.isalnum())
        if (ideograph or separates) and current:
            words.append(current)
            current = ""
        if ideograph:
            words.append(letter)
        elif not separates:
            current += letter
    return [*words, current] if current else words


@given(st.lists(some_text, max_size=6))
@law
def test_words_are_those_of_the_rule_and_equal_words_have_equal_hashes(texts):
    found = words_of(texts)
    expected = [(at, word) for at, text in enumerate(texts) for word in split(text)]
    assert found.texts.tolist() == [at for at, _ in expected]
    names = {}
    for value, (_, word) in zip(found.hashes.tolist(), expected, strict=True):
        assert names.setdefault(value, word) == word
    assert len(names) == len({word for _, word in expected})


@given(st.lists(st.text("ab \n\t", max_size=30), max_size=6))
@law
def test_lengths_are_those_of_split(texts):
    assert words_of(texts).lengths.tolist() == [len(text.split()) for text in texts]


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=30), min_size=1, max_size=5))
@law
def test_runs_are_all_the_runs_of_their_text_and_no_others(lists):
    words = words_of([" ".join(one) for one in lists])
    for runs, size, shortest in ((shingles, SHINGLE, 1), (grams, GRAM, 5)):
        hashes, texts = runs(words)
        expected = []
        for at, one in enumerate(lists):
            if len(one) >= size:
                expected += [(at, tuple(one[i : i + size])) for i in range(len(one) - size + 1)]
            elif len(one) >= shortest:
                expected.append((at, tuple(one)))
        assert len(hashes) == len(expected)
        got = list(zip(texts.tolist(), hashes.tolist(), strict=True))
        for at in range(len(lists)):
            mine = {value for owner, value in got if owner == at}
            assert len(mine) == len({run for owner, run in expected if owner == at})
        assert len({value for _, value in got}) == len({run for _, run in expected})


def test_case_and_punctuation_make_no_other_word():
    one, other = words_of(["“Hello,” she said — twice."]), words_of(["hello she SAID twice"])
    assert np.array_equal(one.hashes, other.hashes)


def test_a_long_word_differs_from_the_same_word_with_its_letters_moved():
    head, tail = "a" * 256, "b" * 256  # powers are kept for so many letters
    values = words_of([head + tail, tail + head, head + head]).hashes
    assert len(set(values.tolist())) == 3
