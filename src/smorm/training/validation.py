"""Held-out pairs and ratings, measured while training: one number each, without intervals.

The intervals, baselines and per-item scores are `smorm eval`'s.
"""

from __future__ import annotations

import numpy as np

from smorm.data.scaling import restore_scales
from smorm.model.inference import score_units
from smorm.training.setup import Prepared


def validate(prepared: Prepared) -> dict[str, float]:
    """Pair accuracy (ties count half) and log loss of row 0; squared error of each attribute on its
    own scale. Only what there is held-out data for."""
    budget = prepared.batch_tokens
    dev, values = prepared.dev, {}
    if dev.pairs and prepared.card.preference_trained:
        scores = score_units(prepared.network, [[p.chosen, p.rejected] for p in dev.pairs], budget)
        gaps = np.array([rows[0, 0] - rows[1, 0] for rows in scores])
        values["dev/accuracy"] = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
        values["dev/preference_loss"] = float(np.logaddexp(0.0, -gaps).mean())
    if dev.rated:
        scores = score_units(prepared.network, [[r.tokens] for r in dev.rated], budget)
        scales = prepared.card.scales
        predicted = restore_scales(scales, np.array([rows[0, 1:] for rows in scores]))
        errors = (predicted - restore_scales(scales, dev.targets)) ** 2
        for scale, column in zip(scales, errors.T, strict=True):
            seen = column[~np.isnan(column)]
            if len(seen):
                values[f"dev/mse/{scale.name}"] = float(seen.mean())
    return values
