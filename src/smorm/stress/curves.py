"""Gold and proxy along best-of-n, and the numbers that sum a curve up.

Nearly all of them are weighted sums of column means, so that one bootstrap over prompts gives all
intervals, and paired differences of two rewards besides.

Shapes: `P` prompts, `N` answers of a pool, `C` sizes n, `R` resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smorm.data.records import Item
from smorm.evaluation.metrics import Floats, Metric, bootstrap_means, interval
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement
from smorm.stress.best_of_n import (
    area_weights,
    kl_of,
    law_weights,
    pick_chances,
    slope_weights,
    spread_within,
)
from smorm.stress.pools import prompt_label
from smorm.stress.symptoms import TEXT_MEASURES, standardised

QUANTITIES = ("gold", "proxy", "raw_proxy", "oracle", *TEXT_MEASURES)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A proxy and a gold on the same pools.

    Attributes:
        pools: the answers, P pools.
        proxy, gold: their scores, [N] each.
        texts: what the answers look like, by measure, [N] each; see `text_measures`.
        sizes: sizes n, ascending, with 1 [C].
    """

    pools: Sequence[Item]
    proxy: Sequence[Floats]
    gold: Sequence[Floats]
    texts: Sequence[Mapping[str, Floats]]
    sizes: tuple[int, ...]

    @property
    def prompts(self) -> list[str]:
        """A label of each pool's prompt."""
        return [prompt_label(pool) for pool in self.pools]


def columns_of(pushed: Pushed) -> dict[str, Floats]:
    """What best-of-n brings in expectation, `QUANTITY@n` to a value for each prompt [P].

    `gold` and `raw_proxy` are in their own units. `proxy` is the gain over a random answer, in
    units of the proxy's spread within pools, so that rewards can be compared. `oracle` is the gold
    of the answer that the gold itself would pick.

    Raises:
        DataError: a proxy or a gold that gives one score to all answers of every pool.
    """
    proxies = standardised("proxy", pushed.proxy)
    rows: dict[str, list[Floats]] = {name: [] for name in QUANTITIES}
    for raw, proxy, gold, texts in zip(
        pushed.proxy, proxies, pushed.gold, pushed.texts, strict=True
    ):
        chances = pick_chances(raw, pushed.sizes)
        values = {"gold": gold, "proxy": proxy, "raw_proxy": raw, **texts}
        for name, of_answers in values.items():
            rows[name].append(chances @ of_answers)
        rows["proxy"][-1] = rows["proxy"][-1].round(12)  # 0 at n = 1, whatever the proxy
        rows["oracle"].append(pick_chances(gold, pushed.sizes) @ gold)
    tables = {name: np.stack(found) for name, found in rows.items()}
    return {
        f"{name}@{size}": table[:, at]
        for name, table in tables.items()
        for at, size in enumerate(pushed.sizes)
    }


def measure(pushed: Pushed) -> tuple[Measurement, list[dict[str, Any]]]:
    """A curve's numbers, and its points.

    Numbers: `gold@n`, `proxy@n`; `gain` (gold at the largest n less that of a random answer),
    `regret` (of the oracle less that), `oracle`, `area` (mean gain over KL), `divergence` (the
    proxy's gain less the gold's, each in its own spread), `law/alpha`, `law/beta`, `law/r2` of
    d (α − β d), `peak` (the n of the largest gold), `fall` (gold at the peak less that at the
    largest n), `onset` (the first n after the peak at which gold has fallen by more than chance),
    and `slope/MEASURE` per nat of KL.

    Raises:
        DataError: a proxy or a gold without any spread.
    """
    columns = columns_of(pushed)
    keys = [pool.where for pool in pushed.pools]
    sums = _sums(pushed.sizes, spread_within("gold", pushed.gold))
    outcomes = Outcomes(columns, pushed.prompts, sums, keys, frozenset(sums))
    single = {name: {name: 1.0} for name in columns}
    points = Outcomes(columns, pushed.prompts, single, keys, frozenset(single)).metrics()
    metrics = {**outcomes.metrics(), **_shape(columns, pushed)}
    return Measurement(metrics, outcomes=outcomes), _points(points, pushed.sizes)


def _sums(sizes: tuple[int, ...], gold_spread: float) -> dict[str, dict[str, float]]:
    """Every number that is linear in the curve."""
    first, last = sizes[0], sizes[-1]
    alpha, beta = law_weights(sizes)
    area = area_weights(sizes)
    area[0] -= 1.0
    slope = slope_weights(sizes)
    sums: dict[str, dict[str, float]] = {f"gold@{size}": {f"gold@{size}": 1.0} for size in sizes}
    sums |= {f"proxy@{size}": {f"proxy@{size}": 1.0} for size in sizes}
    sums |= {
        "gain": {f"gold@{last}": 1.0, f"gold@{first}": -1.0},
        "oracle": {f"oracle@{last}": 1.0},
        "regret": {f"oracle@{last}": 1.0, f"gold@{last}": -1.0},
        "area": _along("gold", sizes, area),
        "divergence": {
            f"proxy@{last}": 1.0,
            f"gold@{last}": -1.0 / gold_spread,
            f"gold@{first}": 1.0 / gold_spread,
        },
        "law/alpha": _along("gold", sizes, alpha),
        "law/beta": _along("gold", sizes, beta),
    }
    return sums | {f"slope/{name}": _along(name, sizes, slope) for name in TEXT_MEASURES}


def _along(name: str, sizes: Sequence[int], weights: Floats) -> dict[str, float]:
    return {f"{name}@{size}": float(w) for size, w in zip(sizes, weights, strict=True)}


def _shape(columns: Mapping[str, Floats], pushed: Pushed) -> dict[str, Metric]:
    """What is not linear in the curve: peak, fall, onset, and how well the law fits."""
    sizes, count = pushed.sizes, len(pushed.pools)
    table = np.stack([columns[f"gold@{size}"] for size in sizes], axis=1)
    means, draws = table.mean(axis=0), bootstrap_means(table, pushed.prompts)
    top = int(means.argmax())
    falls = draws - draws[:, [top]]
    onset = next(
        (sizes[at] for at in range(top + 1, len(sizes)) if interval(falls[:, at])[1] < 0), math.nan
    )
    peaks = np.array(sizes, dtype=np.float64)[draws.argmax(axis=1)]
    peaks[~np.isfinite(draws).all(axis=1)] = np.nan
    return {
        "peak": Metric(float(sizes[top]), count, *interval(peaks)),
        "fall": Metric(float(means[top] - means[-1]), count, *interval(0.0 - falls[:, -1])),
        "onset": Metric(float(onset), count),
        "law/r2": Metric(_fit_of_law(means, sizes), count),
    }


def _fit_of_law(means: Floats, sizes: tuple[int, ...]) -> float:
    """The share of the curve's variance over n > 1 that the fitted law explains; NaN with two such
    n, since a law of two coefficients goes through any two points."""
    if len(sizes) < 4:
        return math.nan
    alpha, beta = law_weights(sizes) @ means
    distances = np.sqrt([kl_of(size) for size in sizes[1:]])
    gains = means[1:] - means[0]
    left = gains - distances * (alpha - beta * distances)
    total = float(np.sum((gains - gains.mean()) ** 2))
    return 1.0 - float(left @ left) / total if total > 0 else math.nan


def _points(metrics: Mapping[str, Metric], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {
            "n": size,
            "kl": kl_of(size),
            **{name: metrics[f"{name}@{size}"].as_dict() for name in QUANTITIES},
        }
        for size in sizes
    ]
