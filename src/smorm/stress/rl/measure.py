"""The numbers of a run on one set of prompts, and the points of its curve.

Nearly all are weighted sums of column means, so that one bootstrap over prompts gives the intervals
and the paired differences of two runs, as for best-of-n (`smorm.stress.curves`).

Shapes: `P` prompts, `E` evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement
from smorm.stress.best_of_n import spread_within
from smorm.stress.curves import shape_of, table_of
from smorm.stress.rl.trace import Snapshot
from smorm.stress.symptoms import TEXT_MEASURES

QUANTITIES = ("kl", "gold", "proxy", "raw_proxy", *TEXT_MEASURES)
# Numbers that a table shows first.
LEADING = (
    "gold@first", "gold@peak", "gold@last", "gain", "fall", "peak_step", "onset_step", "kl@peak",
    "kl@last", "proxy@last", "divergence",
)  # fmt: skip
Weights = dict[str, dict[str, float]]


def measure(
    snapshots: Sequence[Snapshot], prompts: Sequence[str], keys: Sequence[str]
) -> tuple[Measurement, list[dict[str, Any]]]:
    """A run's numbers, and its points.

    Args:
        snapshots: in the order of their steps [E]; the first is of the starting policy.
        prompts: a label of each prompt, which intervals resample [P].
        keys: each prompt's place in its file [P]."""
    steps = [snapshot.step for snapshot in snapshots]
    gold_std, proxy_std = initial_stds(snapshots[0])
    columns = _columns(snapshots, proxy_std)
    single = {name: {name: 1.0} for name in columns}
    comparable = _comparable(steps, gold_std)
    of_run = {**comparable, **_slopes(columns, steps)}
    peak = steps[int(np.nanmean(table_of(columns, "gold", steps), axis=0).argmax())]
    for name in ("gold", "raw_proxy", "kl"):
        of_run[f"{name}@peak"] = {f"{name}@{peak}": 1.0}
    weights = {**single, **of_run}
    measured = Outcomes(columns, prompts, weights, keys, frozenset(weights)).metrics()
    metrics = {name: measured[name] for name in of_run}
    metrics |= shape_of(table_of(columns, "gold", steps), steps, prompts, "_step")
    metrics = {name: metrics[name] for name in (*LEADING, *metrics)}
    points = []
    for snapshot in snapshots:
        point: dict[str, Any] = {"step": snapshot.step, "multiplier": snapshot.multiplier}
        for name in QUANTITIES:
            point[name] = measured[f"{name}@{snapshot.step}"].as_dict()
        points.append(point)
    # Only numbers that mean the same in every run may be compared: the peak is at another step.
    outcomes = Outcomes(columns, prompts, comparable, keys, frozenset(comparable))
    return Measurement(metrics, outcomes=outcomes), points


def initial_stds(first: Snapshot) -> tuple[float, float]:
    """The standard deviation of gold and of the raw proxy within the starting policy's answers to a
    prompt."""
    stds = []
    for what, name in (("gold", "gold"), ("proxy", "raw_proxy")):
        scored = [values for values in first.values[name] if np.isfinite(values).all()]
        stds.append(spread_within(what, scored))
    return stds[0], stds[1]


def _columns(snapshots: Sequence[Snapshot], proxy_std: float) -> dict[str, Floats]:
    """`QUANTITY@step` to the mean of each prompt's answers [P]. `proxy` is the gain over the
    starting policy, in units of the proxy's standard deviation within its answers to a prompt: so
    rewards of any scale can be compared."""
    start = snapshots[0].means("raw_proxy")
    columns: dict[str, Floats] = {}
    for snapshot in snapshots:
        means = {name: snapshot.means(name) for name in snapshot.values}
        means["proxy"] = (means["raw_proxy"] - start) / proxy_std
        for name in QUANTITIES:
            columns[f"{name}@{snapshot.step}"] = means[name]
    return columns


def _comparable(steps: Sequence[int], gold_std: float) -> Weights:
    """Numbers that mean the same in every run of these steps."""
    first, last = steps[0], steps[-1]
    weights: Weights = {}
    for name in ("gold", "raw_proxy"):
        weights[f"{name}@first"] = {f"{name}@{first}": 1.0}
        weights[f"{name}@last"] = {f"{name}@{last}": 1.0}
    for name in ("proxy", "kl", *TEXT_MEASURES):
        weights[f"{name}@last"] = {f"{name}@{last}": 1.0}
    weights["gain"] = {f"gold@{last}": 1.0, f"gold@{first}": -1.0}
    weights["divergence"] = {
        f"proxy@{last}": 1.0, f"gold@{last}": -1.0 / gold_std, f"gold@{first}": 1.0 / gold_std
    }  # fmt: skip
    return weights


def _slopes(columns: Mapping[str, Floats], steps: Sequence[int]) -> Weights:
    """Slopes of the text measures per nat of KL by least squares; none where the KL stands still.
    The KL of each step is taken as known."""
    nats = np.nanmean(table_of(columns, "kl", steps), axis=0)
    centred = nats - nats.mean()
    if not centred @ centred > 1e-12:
        return {}
    # The least-squares slope is a weighted sum of the values: Σ (x − x̄) y / Σ (x − x̄)².
    weights = (centred / (centred @ centred)).tolist()
    slopes: Weights = {}
    for name in TEXT_MEASURES:
        at_steps = [f"{name}@{step}" for step in steps]
        slopes[f"slope/{name}"] = dict(zip(at_steps, weights, strict=True))
    return slopes
