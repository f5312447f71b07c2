"""Gold and proxy along best-of-n, and the numbers that sum a curve up: nearly all are weighted sums
of column means, so that one bootstrap over prompts gives all intervals and paired differences.

Shapes: `P` prompts, `N` answers of a pool, `C` sizes n, `R` resamples."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.evaluation.metrics import Metric, bootstrap_means, interval
from smorm.evaluation.outcomes import Outcomes, single
from smorm.evaluation.picks import pick_probabilities
from smorm.evaluation.result import Measurement
from smorm.stress import best_of_n
from smorm.stress.best_of_n import kl_of
from smorm.stress.pools import prompt_label
from smorm.stress.symptoms import TEXT_MEASURES, detection, measure_probes, standardised

QUANTITIES = ("gold", "proxy", "raw_proxy", "oracle", *TEXT_MEASURES)


@dataclass(frozen=True, slots=True)
class ScoredPools:
    """A proxy and a gold on the same P pools."""

    pools: Sequence[Item]
    proxy: Sequence[Floats]  # scores [N] of each pool, as of the gold
    gold: Sequence[Floats]
    texts: Sequence[Mapping[str, Floats]]  # what they look like, by measure: `text_measures`
    sizes: tuple[int, ...]  # sizes n, ascending, with 1 [C]
    # What can be measured beside the curve: the proxy's scores of attacked answers, by pool, and
    # how far a model's two heads disagree [N].
    attacks: Sequence[Floats | None] = ()
    disagreement: Sequence[Floats] | None = None


def columns_of(scored: ScoredPools) -> dict[str, Floats]:
    """What best-of-n brings in expectation, `QUANTITY@n` to a value for each prompt [P]. `gold` and
    `raw_proxy` are in their own units. `proxy` is the gain over a random answer, in standard
    deviations of the proxy within pools, so that rewards can be compared. `oracle` is the gold of
    the answer that the gold itself would pick."""
    proxies = standardised("proxy", scored.proxy)
    tables: dict[str, list[Floats]] = defaultdict(list)
    pools = zip(scored.proxy, proxies, scored.gold, scored.texts, strict=True)
    for raw, proxy, gold, texts in pools:
        # One matrix of picks serves every quantity: [C, N] times [N].
        picks = pick_probabilities(raw, scored.sizes)
        values = {"gold": gold, "proxy": proxy, "raw_proxy": raw, **texts}
        for name, of_answers in values.items():
            tables[name].append(picks @ of_answers)
        tables["proxy"][-1] = tables["proxy"][-1].round(12)  # 0 at n = 1, whatever the proxy
        tables["oracle"].append(pick_probabilities(gold, scored.sizes) @ gold)
    columns: dict[str, Floats] = {}
    for name, rows in tables.items():
        columns |= dict(zip(_names(name, scored.sizes), np.stack(rows, axis=1), strict=True))
    return columns


def measure(scored: ScoredPools) -> tuple[Measurement, list[dict[str, Any]]]:
    """A curve's numbers, as docs/stress.md explains them, and its points."""
    columns, sizes, gold = columns_of(scored), scored.sizes, scored.gold
    keys, prompts = [pool.where for pool in scored.pools], list(map(prompt_label, scored.pools))
    sums = _sums(sizes, best_of_n.spread_within("gold", gold))
    # The same bootstrap draws for the points as for the sums: a curve and its gain agree.
    weights = {**single(columns), **sums}
    measured = Outcomes(columns, prompts, weights, keys, frozenset(weights)).metrics()
    table = table_of(columns, "gold", sizes)
    metrics = {name: measured[name] for name in sums} | shape_of(table, sizes, prompts)
    metrics["law/r2"] = Metric(_r2_of_law(table.mean(axis=0), sizes), len(table))
    if scored.attacks:
        metrics |= measure_probes(prompts, scored.proxy, scored.attacks)
    if scored.disagreement is not None:
        metrics |= detection(scored.disagreement, scored.proxy, gold, sizes, prompts)
    known = {size: {"n": size, "kl": kl_of(size)} for size in sizes}
    points = points_of(measured, QUANTITIES, known)
    outcomes = Outcomes(columns, prompts, sums, keys, frozenset(sums))
    return Measurement(metrics, outcomes=outcomes), points


def points_of(
    measured: Mapping[str, Metric], quantities: Sequence[str], known: Mapping[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The points of a curve: what is known of each position, and every quantity there."""
    points = []
    for position, of_position in known.items():
        metrics = {name: measured[f"{name}@{position}"].as_dict() for name in quantities}
        points.append({**of_position, **metrics})
    return points


def _sums(sizes: tuple[int, ...], gold_std: float) -> dict[str, dict[str, float]]:
    first, last = f"gold@{sizes[0]}", f"gold@{sizes[-1]}"
    alpha, beta = best_of_n.law_weights(sizes)
    area = best_of_n.area_weights(sizes)
    area[0] -= 1.0  # of gains: less the gold of a random answer
    sums: dict[str, dict[str, float]] = {}
    for name, size in product(("gold", "proxy"), sizes):
        sums[f"{name}@{size}"] = {f"{name}@{size}": 1.0}
    sums["gain"] = {last: 1.0, first: -1.0}
    sums["oracle"] = {f"oracle@{sizes[-1]}": 1.0}
    sums["regret"] = {f"oracle@{sizes[-1]}": 1.0, last: -1.0}
    sums["area"] = along("gold", sizes, area)
    gold = {last: -1.0 / gold_std, first: 1.0 / gold_std}
    sums["divergence"] = {f"proxy@{sizes[-1]}": 1.0, **gold}
    sums["law/alpha"] = along("gold", sizes, alpha)
    sums["law/beta"] = along("gold", sizes, beta)
    for name in TEXT_MEASURES:
        sums[f"slope/{name}"] = along(name, sizes, best_of_n.slope_weights(sizes))
    return sums


def along(name: str, positions: Sequence[int], weights: Floats) -> dict[str, float]:
    """The weights of a number that sums a quantity over a curve's positions."""
    return dict(zip(_names(name, positions), weights.tolist(), strict=True))


def _names(name: str, positions: Sequence[int]) -> list[str]:
    return [f"{name}@{position}" for position in positions]


def table_of(columns: Mapping[str, Floats], name: str, positions: Sequence[int]) -> Floats:
    """A quantity at every position of a curve [P, C]."""
    return np.stack(list(map(columns.__getitem__, _names(name, positions))), axis=1)


def shape_of(
    table: Floats, positions: Sequence[int], prompts: Sequence[str], suffix: str = ""
) -> dict[str, Metric]:
    """What is not linear in a curve of gold [P, C]: its peak; the fall from it to the end, and the
    drop to the trough, the lowest position after it; the onset, the first position after the peak
    at which gold has fallen by more than chance. Names of positions get the suffix."""
    means, draws = np.nanmean(table, axis=0), bootstrap_means(table, prompts)
    top, count = int(means.argmax()), len(table)
    # The peak stays where the data have it: a peak chosen anew in each draw would make every fall
    # positive, and the interval of a flat curve would never hold 0.
    falls = draws[:, [top]] - draws
    trough, onset = top + int(means[top:].argmin()), math.nan
    for index in range(len(positions) - 1, top, -1):
        if interval(falls[:, index])[0] > 0:
            onset = float(positions[index])
    peaks = np.array(positions, dtype=np.float64)[draws.argmax(axis=1)]
    # A draw without a gold for some prompt has no peak; argmax takes NaN for the largest.
    peaks[~np.isfinite(draws).all(axis=1)] = np.nan
    drop = float(means[top] - means[trough])
    return {
        f"peak{suffix}": Metric(float(positions[top]), count, *interval(peaks)),
        "fall": Metric(float(means[top] - means[-1]), count, *interval(falls[:, -1])),
        f"onset{suffix}": Metric(onset, count),
        f"trough{suffix}": Metric(float(positions[trough]), count),
        "drop": Metric(drop, count, *_drop_interval(drop, falls[:, top:])),
    }


def _drop_interval(drop: float, falls: Floats) -> tuple[float, float]:
    """The interval of the largest of several falls [R, C]. It holds for all of them at once: the
    trough is where the data have it, and in noise alone some fall is always the largest."""
    usable = falls[np.isfinite(falls).all(axis=1)]
    if not len(usable):
        return math.nan, math.nan
    errors = usable - usable.mean(axis=0)
    low, high = interval(errors.max(axis=1))[1], interval(errors.min(axis=1))[0]
    return min(drop, drop - low), max(drop, drop - high)


def _r2_of_law(means: Floats, sizes: tuple[int, ...]) -> float:
    """The share of the curve's variance over n > 1 that the fitted law explains; NaN with two such
    n, since a law of two coefficients goes through any two points."""
    if len(sizes) < 4:
        return math.nan
    # R² of the fit to the means alone: draws of it would measure the noise of prompts as misfit.
    alpha, beta = best_of_n.law_weights(sizes) @ means
    distances = np.sqrt(list(map(kl_of, sizes[1:])))
    gains = means[1:] - means[0]
    residuals = gains - distances * (alpha - beta * distances)
    total = float(np.sum((gains - gains.mean()) ** 2))
    return 1.0 - float(residuals @ residuals) / total if total > 0 else math.nan
