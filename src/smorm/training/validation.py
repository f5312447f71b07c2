"""Held-out pairs and ratings, measured while training: one number each, without intervals.

The intervals, baselines and per-item scores are `smorm eval`'s.
"""

from __future__ import annotations

import numpy as np

from smorm.data.scaling import restore_scales
from smorm.model.inference import score_units
from smorm.model.network import RewardNetwork
from smorm.model.store import ModelCard
from smorm.training.sources import TokenSet


def validate(
    network: RewardNetwork, card: ModelCard, dev: TokenSet, budget: int
) -> dict[str, float]:
    """Pair accuracy (ties count half) and log loss of row 0; squared error of each attribute on the
    scale of its ratings. Only what there is held-out data for."""
    values = {}
    if dev.pairs and card.preference_trained:
        scores = score_units(network, [[pair.chosen, pair.rejected] for pair in dev.pairs], budget)
        # The training loss has margins and label smoothing; this one is the same for all methods.
        gaps = np.array([rows[0, 0] - rows[1, 0] for rows in scores])
        values["dev/accuracy"] = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
        values["dev/preference_loss"] = float(np.logaddexp(0.0, -gaps).mean())
    if dev.rated:
        scores = score_units(network, [[response.tokens] for response in dev.rated], budget)
        predicted = restore_scales(card.scales, np.array([rows[0, 1:] for rows in scores]))
        errors = (predicted - restore_scales(card.scales, dev.targets)) ** 2
        for scale, column in zip(card.scales, errors.T, strict=True):
            if not np.isnan(column).all():
                values[f"dev/mse/{scale.name}"] = float(np.nanmean(column))
    return values
