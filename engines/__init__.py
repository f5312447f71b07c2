"""Real engines and clients against smorm's scores: `python -m engines` (docs/engines.md)."""
