"""A run of tokens looked for in a longer one."""

from __future__ import annotations

import numpy as np

from smorm.trees.forest import Tokens


def end_of_last(tokens: Tokens, run: Tokens) -> int | None:
    """Where the last occurrence of `run` in `tokens` ends (past its last token); None without one,
    and for an empty run."""
    if not len(run) or len(tokens) < len(run):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), len(run))
    found = np.flatnonzero((windows == run).all(axis=1))
    return int(found[-1]) + len(run) if len(found) else None
