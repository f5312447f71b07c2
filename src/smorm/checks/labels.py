"""What labels and ratings show: contradictions, ranges, and their correlation with length.
The correlation with length is the shortcut that a reward model learns first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smorm.arrays import Ints
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Thresholds, above
from smorm.checks.shingles import Hashes
from smorm.checks.table import Table
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, pair_outcomes, share_metric

Range = tuple[float, float]

# Scales of formats whose publishers state one.
PUBLISHED: dict[str, Range] = {"helpsteer2": (0.0, 4.0), "ultrafeedback": (1.0, 5.0)}
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# Ratings of an attribute that its correlation is computed of: those with the smallest hashes where
# there are more, so that the order of records has no influence.
MOST_RATINGS = 20_000


def opposite_pairs(table: Table, limits: Thresholds) -> Iterator[Finding]:
    """Training pairs over the same prompt and the same two responses, labelled both ways."""
    rows = table.rows("preference")
    # `texts` ignores the order of the two sides; `flipped` says which of them was chosen.
    _, group = np.unique(table.records["texts"][rows], return_inverse=True)
    flipped = np.bincount(group, table.records["flipped"][rows])
    contradictory = (flipped > 0) & (flipped < np.bincount(group))
    opposite = rows[contradictory[group]]
    severity = above(len(opposite), len(rows), limits.conflicts, MUST_FIX, LOOK)
    yield from table.findings(FindingKind.CONFLICTING_PAIRS, severity, opposite, len(rows))


def conflicting_ratings(table: Table, limits: Thresholds) -> Iterator[Finding]:
    """One prompt and response rated more than once and differently in training records."""
    rows = table.rows("rated")
    texts = table.responses["text"][table.first_response()[rows]]
    distinct, responses = np.unique(texts, return_inverse=True)
    total = len(distinct)
    group_of_row = np.full(len(table), -1)
    group_of_row[rows] = responses
    differing, far = np.zeros((2, total), dtype=bool)
    for column in range(len(table.attributes)):
        values, rated = table.ratings_of(column)
        if len(values):
            # Largest less smallest rating of each response; -inf where it has none.
            low, high = np.full(total, np.inf), np.full(total, -np.inf)
            np.minimum.at(low, group_of_row[rated], values)
            np.maximum.at(high, group_of_row[rated], values)
            differing |= high > low
            # Relative to the attribute's observed range, since its scale is seldom known.
            far |= high - low > limits.rating_spread * float(np.ptp(values))
    if not differing.any():
        return
    count, num_far = int(differing.sum()), int(far.sum())
    severity = above(num_far, total, limits.rating_conflicts, MUST_FIX, LOOK)
    numbers = {"far": num_far, "fraction": limits.rating_spread}
    kind, locations = FindingKind.CONFLICTING_RATINGS, table.locations(rows[differing[responses]])
    yield Finding(kind, severity, count, total, numbers, locations=locations)


def summarise(table: Table) -> dict[str, dict[str, Any]]:
    """Every attribute that some training record rates, in order of appearance; `missing` counts
    rated records without it, `integers` is the share of ratings that are whole numbers, `raters`
    their mean number where some ratings are several people's."""
    rated = len(table.rows("rated"))
    summaries: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(table.attributes):
        # Sorted, so that the order of records cannot change the rounding of the mean.
        values = np.sort(table.ratings_of(column)[0])
        if len(values):
            summaries[name] = {
                "n": len(values),
                "missing": rated - len(values),
                "min": float(values[0]),
                "max": float(values[-1]),
                "mean": float(values.mean()),
                "deviation": float(values.std()),
                "integers": float((values == np.round(values)).mean()),
                "distinct": len(np.unique(values)),
            }
            raters = table.raters_of(column)
            if (raters > 1).any():
                summaries[name]["raters"] = float(raters.mean())
    return summaries


def unknown_attributes(table: Table, names: Sequence[str]) -> Iterator[Finding]:
    """Attributes that the run asks for and no training record rates."""
    rated = list(summarise(table))
    unknown = sorted(set(names) - set(rated))
    if unknown:
        numbers = {"unknown": ", ".join(unknown), "rated": ", ".join(rated)}
        yield Finding(FindingKind.UNKNOWN_ATTRIBUTES, MUST_FIX, len(unknown), numbers=numbers)


def attribute_findings(table: Table, limits: Thresholds) -> Iterator[Finding]:
    """Constant and mostly missing attributes."""
    for name, summary in summarise(table).items():
        count, missing = summary["n"], summary["missing"]
        numbers = {"attribute": name, "value": summary["min"]}
        if summary["min"] == summary["max"]:
            yield Finding(FindingKind.CONSTANT_ATTRIBUTE, LOOK, count, count, numbers)
        # Missing ratings are allowed; most of them missing is rarely intended.
        total = missing + count
        if missing / total > limits.missing:
            yield Finding(FindingKind.MISSING_RATINGS, LOOK, missing, total, numbers)


def range_findings(
    table: Table, ranges: Mapping[str, Range], formats: Sequence[str]
) -> Iterator[Finding]:
    """Out-of-range ratings; `ranges` are lowest and highest values of attributes, as the user
    states them, and take precedence over `PUBLISHED` ones of a source's format."""
    for column, name in enumerate(table.attributes):
        # Held-out ratings too: a wrong scale is wrong everywhere.
        selected = table.ratings["column"] == column
        rows, values = table.ratings["row"][selected], table.ratings["value"][selected]
        sources = table.records["source"][rows]
        # By source, since files of several formats may rate attributes of one name; infinite where
        # no range is stated.
        low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
        for source, format in enumerate(formats):
            if format in PUBLISHED:
                low[sources == source], high[sources == source] = PUBLISHED[format]
        case, stated = "published", (0.0, 0.0)
        # The user's range wins over the published one: a set may use a scale of its own.
        if name in ranges:
            case, stated = "stated", ranges[name]
            low[:], high[:] = stated
        outside = rows[(values < low) | (values > high)]
        if len(outside):
            numbers = {"attribute": name, "low": values.min(), "high": values.max()}
            numbers |= {"stated_low": stated[0], "stated_high": stated[1]}
            yield from table.findings(
                FindingKind.OUT_OF_RANGE, MUST_FIX, outside, len(values), numbers=numbers, case=case
            )


def length_table(table: Table, unit: str) -> dict[str, Any]:
    """Summaries of the lengths of prompts, sides and conversations over training records."""
    pairs, rated = table.rows("preference"), table.rows("rated")
    prompted = np.flatnonzero(table.train & (table.records["has_prompt"] != 0))
    # Lists of candidates differ in length, so theirs are gathered index by index.
    rows, candidates = table.rows("candidates"), np.zeros(0, dtype=np.int64)
    counts = table.records["responses"][rows]
    for index in range(max(counts, default=0)):
        of_index = table.response_lengths(rows[counts > index], index, unit)
        candidates = np.concatenate([candidates, of_index])
    lengths: dict[str, Ints] = {
        "prompt": table.records[f"prompt_{unit}"][prompted].astype(np.int64),
        "chosen": table.response_lengths(pairs, 0, unit),
        "rejected": table.response_lengths(pairs, 1, unit),
        "response": table.response_lengths(rated, 0, unit),
        "candidate": candidates,
    }
    if unit == "tokens":
        # Held-out conversations are left out here as everywhere in these tables.
        trained = np.repeat(table.train, table.records["responses"])
        lengths["conversation"] = table.responses["tokens"][trained].astype(np.int64)
    known = {name: values[values >= 0] for name, values in lengths.items()}
    return {name: _summary(values) for name, values in known.items() if len(values)}


def _summary(values: Ints) -> dict[str, Any]:
    """`{n, mean, max, percentiles: {"50": ...}, histogram: [[from, below, count], ...]}`, where the
    borders are powers of two."""
    # Lengths that occur, not interpolated ones: a limit is chosen from this table.
    levels = np.percentile(values, PERCENTILES, method="inverted_cdf").astype(int).tolist()
    bits = np.frexp(values.astype(np.float64))[1]  # 0 for 0, k for 2^(k-1) to 2^k - 1
    histogram = []
    for bit, count in enumerate(np.bincount(bits).tolist()):
        if count:
            histogram.append([(1 << bit) >> 1, 1 << bit, count])
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "max": int(values.max()),
        "percentiles": dict(zip(map(str, PERCENTILES), levels, strict=True)),
        "histogram": histogram,
    }


@dataclass(frozen=True, slots=True)
class Bias:
    """How labels depend on length; intervals resample prompts."""

    unit: str
    # share of pairs whose chosen side is the longer one, a tie half
    longer_wins: Metric | None = None
    ties: int = 0
    # Spearman correlation of each attribute with the response's length
    correlations: Mapping[str, Metric] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "unit": self.unit,
            "longer_wins": self.longer_wins and self.longer_wins.as_dict(),
            "ties": self.ties,
            "attributes": {name: metric.as_dict() for name, metric in self.correlations.items()},
        }


def measure_bias(table: Table, unit: str) -> Bias:
    """Over training records; lengths in `words` or `tokens`."""
    correlations = {}
    for column, name in enumerate(table.attributes):
        values, rows = table.ratings_of(column)
        lengths = table.response_lengths(rows, 0, unit)
        known = np.flatnonzero(lengths >= 0)
        # By hash and not by position: the sample must not depend on the order of files.
        order = np.lexsort((values[known], table.records["record"][rows[known]]))
        sample = known[order[:MOST_RATINGS]]
        if len(sample):
            length = lengths[sample].astype(np.float64)
            clusters = _clusters(table, rows[sample])
            correlations[name] = spearman_metric(values[sample], length, clusters)
    pairs = table.rows("preference")
    chosen, rejected = (table.response_lengths(pairs, side, unit) for side in (0, 1))
    usable = (chosen >= 0) & (rejected >= 0)
    if not usable.any():
        return Bias(unit, correlations=correlations)
    outcomes, ties = pair_outcomes(chosen[usable].astype(float), rejected[usable].astype(float))
    return Bias(unit, share_metric(outcomes, _clusters(table, pairs[usable])), ties, correlations)


def _clusters(table: Table, rows: Ints) -> Hashes:
    """The prompt's hash; without a prompt that of the record's texts."""
    # All records without a prompt share one prompt hash, but they are not alike.
    unprompted = table.records["has_prompt"][rows] == 0
    return np.where(unprompted, table.records["texts"][rows], table.records["prompt"][rows])


def bias_findings(bias: Bias, limits: Thresholds) -> Iterator[Finding]:
    """The share of longer sides, and attributes that correlate with length too much."""
    wins = bias.longer_wins
    if wins is not None:
        case, severity = "", FINE
        # A small set can be far from one half by accident.
        far = abs(wins.value - 0.5) > limits.length_wins
        if far and not wins.low <= 0.5 <= wins.high:
            case, severity = "shorter" if wins.value < 0.5 else "longer", LOOK
        numbers: dict[str, Any] = {"share_longer": wins}
        count = round(wins.value * wins.n)
        yield Finding(FindingKind.LENGTH_BIAS, severity, count, wins.n, numbers, case)
    for name, metric in bias.correlations.items():
        if abs(metric.value) > limits.length_correlation:
            numbers = {"attribute": name, "unit": bias.unit, "correlation": metric}
            yield Finding(FindingKind.ATTRIBUTE_LENGTH, LOOK, metric.n, numbers=numbers)
