"""How long prompts and responses are, and what the token limit does to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from smorm.checks.columns import Table
from smorm.checks.findings import Finding, Tally, Thresholds, among
from smorm.checks.shingles import Ints
from smorm.data.records import Kind
from smorm.text.limits import Overlong

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def response_lengths(table: Table, rows: Ints, place: int, unit: str) -> Ints:
    """Length of each record's response number `place`, in `words` or `tokens`.

    In tokens it is what the conversation has beyond its prompt. -1 where it is not known.
    """
    at = table.first_response()[rows] + place
    lengths = table.responses[unit][at].astype(np.int64)
    if unit == "words":
        return lengths
    prompt = table.records["prompt_tokens"][rows]
    return np.where((lengths < 0) | (prompt < 0), -1, np.maximum(0, lengths - prompt))


def length_table(table: Table, unit: str) -> dict[str, Any]:
    """Percentiles and a histogram of each part's lengths over training records."""
    parts: dict[str, Ints] = {}
    pairs, rated = table.rows("preference"), table.rows("rated")
    candidates = table.rows("candidates")
    every = np.flatnonzero(table.train & (table.records["has_prompt"] != 0))
    parts["prompt"] = table.records[f"prompt_{unit}"][every].astype(np.int64)
    parts["chosen"] = response_lengths(table, pairs, 0, unit)
    parts["rejected"] = response_lengths(table, pairs, 1, unit)
    parts["response"] = response_lengths(table, rated, 0, unit)
    parts["candidate"] = _all_responses(table, candidates, unit)
    if unit == "tokens":
        whole = np.repeat(table.train, table.records["responses"])
        parts["conversation"] = table.responses["tokens"][whole].astype(np.int64)
    known = {name: values[values >= 0] for name, values in parts.items()}
    return {name: summary(values) for name, values in known.items() if len(values)}


def _all_responses(table: Table, rows: Ints, unit: str) -> Ints:
    counts = table.records["responses"][rows]
    several = [
        response_lengths(table, rows[counts > at], at, unit) for at in range(max(counts, default=0))
    ]
    return np.concatenate(several) if several else np.zeros(0, dtype=np.int64)


def summary(values: Ints) -> dict[str, Any]:
    """`{n, mean, max, percentiles: {"50": ...}, histogram: [[from, below, count], ...]}`.

    The histogram's borders are powers of two.
    """
    levels = np.percentile(values, PERCENTILES, method="inverted_cdf")
    bits = np.frexp(values.astype(np.float64))[1]  # 0 for 0, k for 2^(k-1) to 2^k - 1
    counts = np.bincount(bits)
    bars = [
        [0 if bit == 0 else 1 << (bit - 1), 1 << bit, int(count)]
        for bit, count in enumerate(counts.tolist())
        if count
    ]
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "max": int(values.max()),
        "percentiles": {str(p): int(v) for p, v in zip(PERCENTILES, levels, strict=True)},
        "histogram": bars,
    }


def limit_findings(
    table: Table, tally: Tally, max_tokens: int, overlong: Overlong | None, limits: Thresholds
) -> list[Finding]:
    """Records over the token limit, and sides that are the same tokens within it.

    Args:
        overlong: the run's policy; None where no run was named.
    """
    return [
        *_over(table, tally, max_tokens, overlong, limits),
        *_same(table, tally, max_tokens),
    ]


def _over(
    table: Table, tally: Tally, max_tokens: int, overlong: Overlong | None, limits: Thresholds
) -> list[Finding]:
    count = tally["over_limit"]
    if not count:
        return []
    unusable = tally["unusable_at_limit"]
    does = {
        "error": "the run would stop at the first: raise data.max_tokens or set data.overlong",
        "drop": "the run leaves them out",
        "truncate_prompt": f"the run shortens {tally['shortened']} prompts and drops {unusable} "
        "records whose responses alone are too long",
        None: f"{tally['shortened']} would fit with a shorter prompt, {unusable} have responses "
        "that are too long alone: raise the limit or choose data.overlong",
    }[overlong]
    many = count / len(table) > limits.over_limit
    return [
        Finding(
            "over_limit",
            "must fix" if overlong == "error" else "look" if many else "fine",
            count,
            f"records with a conversation over {max_tokens} tokens; {does}",
            places=tally.where("over_limit"),
            **among(count, len(table), "records"),
        )
    ]


def _same(table: Table, tally: Tally, max_tokens: int) -> list[Finding]:
    pairs = sum(len(table.rows("preference", train=train)) for train in (True, False))
    found = []
    if count := tally["same_tokens"]:
        found.append(
            Finding(
                "equal_tokens",
                "must fix",
                count,
                "pairs whose two sides differ as texts but are the same tokens as training sees "
                "them: training drops them; take them out or repair them",
                places=tally.where("same_tokens"),
                **among(count, pairs, "pairs"),
            )
        )
    if count := tally["same_if_cut"]:
        found.append(
            Finding(
                "equal_if_cut",
                "look",
                count,
                f"pairs over the limit whose sides differ only after token {max_tokens}: trainers "
                "that cut the end see two equal sides; smorm never cuts a response",
                places=tally.where("same_if_cut"),
                **among(count, pairs, "pairs"),
            )
        )
    return found


def unit_of(table: Table) -> str:
    """`tokens` where they were counted, else `words`."""
    return "tokens" if bool((table.responses["tokens"] >= 0).any()) else "words"


def kinds_of(table: Table) -> dict[str, dict[str, int]]:
    """Records by kind, for training and held out."""
    kinds: tuple[Kind, ...] = ("preference", "rated", "candidates")
    return {
        name: {kind: n for kind in kinds if (n := len(table.rows(kind, train=train)))}
        for name, train in (("train", True), ("held_out", False))
    }
