"""The same conversations on every path to a score, and how far the scores differ."""
