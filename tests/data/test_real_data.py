"""Real files, where the shared data folder is there."""

import os
from pathlib import Path

import numpy as np
import pytest

from smorm.data.census import UNREAD_KINDS, Census
from smorm.data.reading import Source, read_preferences, read_rated, read_records
from smorm.data.scaling import apply_scales, attribute_names, fit_scales, rating_matrix

DATA = Path(os.environ.get("SMORM_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA} (set SMORM_DATA)"),
]


@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [("truthfulqa_pairs", 7137, 636), ("ukp_convarg1", 7550, 1418), ("piqa_valid", 1461, 169)],
)
def test_preference_sets_are_read_whole(name, train, dev):
    census = Census()
    for split, size in (("train", train), ("dev", dev)):
        pairs = list(read_preferences(Source(DATA / name, split=split), census=census))
        assert len(pairs) == size
    # Nothing is dropped; what the sets say beside their texts is named.
    assert {reason.kind for reason in census.totals()} <= set(UNREAD_KINDS)


def test_multi_turn_prompts_come_from_prompt_messages():
    source = Source(DATA / "hh_harmless_test")
    pairs = list(read_preferences(source, census=Census()))
    assert len(pairs) == 1829
    assert max(len(pair.prompt) for pair in pairs) > 3
    assert not any("Human:" in pair.prompt[0].content[:6] for pair in pairs)


def test_rated_sets_with_different_attributes_join_into_one_masked_matrix():
    sets = [
        list(read_rated(Source(DATA / name, limit=200), census=Census()))
        for name in ("truthfulqa_attributes", "hanna_human", "summeval_human")
    ]
    names = attribute_names(*sets)
    assert names[:2] == ["truthful", "informative"]
    assert len(names) == 2 + 6 + 4 - 2  # coherence and relevance are in both of the last two
    ratings = rating_matrix([record for records in sets for record in records], names)
    assert np.isnan(ratings[:200, 2:]).all()
    scaled = apply_scales(fit_scales(names, ratings, "standardize", Census()), ratings)
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1)


def test_best_of_n_responses_are_candidates():
    found = list(
        read_records(Source(DATA / "alpaca_eval_bon", split="dev"), "candidates", Census())
    )
    assert len(found) == 51
    assert min(len(one.responses) for one in found) > 40
