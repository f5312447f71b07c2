"""The last occurrence of a run of tokens, against a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smorm.trees.forest import end_of_last

FEW = st.lists(st.integers(0, 2), max_size=12)


@given(FEW, st.lists(st.integers(0, 2), max_size=3))
def test_the_end_of_the_last_occurrence_is_that_of_a_loop(tokens, run):
    ends = [at + len(run) for at in range(len(tokens)) if run and tokens[at : at + len(run)] == run]
    found = end_of_last(np.array(tokens, np.int32), np.array(run, np.int32))
    assert found == (ends[-1] if ends else None)
