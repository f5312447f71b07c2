"""Records that occur twice, nearly twice, or in training and held-out data alike."""

import numpy as np

from smorm.arrays import Bools, Ints
from smorm.checks.findings import (
    FINE,
    LOOK,
    MUST_FIX,
    Finding,
    FindingKind,
    Severity,
    Thresholds,
    above,
)
from smorm.checks.scan import Scan
from smorm.checks.sketches import near_rows
from smorm.checks.table import KINDS, first_rows


def duplicate_findings(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Exact and near duplicates of training records, and near duplicates of their prompts."""
    records = scan.table.records
    # Copies beyond the first of records with the same texts, label and ratings.
    train = np.flatnonzero(scan.table.train)
    copies = np.setdiff1d(train, first_rows(records["record"], train))
    kind, unit = FindingKind.DUPLICATE_RECORDS, "training records"
    findings = _findings(scan, kind, copies, len(train), unit, LOOK, limits.duplicates)
    # Different records whose prompts are alike and whose responses, taken together, are too.
    usable = scan.table.train & (records["texts_filled"] != 0)
    distinct = first_rows(records["texts"], np.flatnonzero(usable))
    files = [scan.texts, scan.prompts]
    near = np.flatnonzero(near_rows(files, distinct, records["texts"][distinct], limits.near))
    kind, unit = FindingKind.NEAR_DUPLICATE_RECORDS, "distinct training records"
    findings += _findings(scan, kind, near, len(distinct), unit, LOOK, limits.duplicates)
    # Fine, never more: a prompt asked in several ways is usual, and harms only a split.
    prompts = _distinct_prompts(scan, train=True)
    rows = _with_words(scan, prompts)
    near = np.flatnonzero(near_rows([scan.prompts], rows, records["prompt"][rows], limits.near))
    kind, unit = FindingKind.NEAR_DUPLICATE_PROMPTS, "distinct training prompts"
    return findings + _findings(scan, kind, near, len(prompts), unit, FINE)


def leakage_findings(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Held-out prompts that are in training, exactly or nearly."""
    records, is_train = scan.table.records, scan.table.train
    train, held_out = _distinct_prompts(scan, train=True), _distinct_prompts(scan, train=False)
    if not len(held_out) or not len(train):
        return []
    # Exact twins are excluded from the search for near ones, so each prompt is reported once.
    exact = np.isin(records["prompt"][held_out], records["prompt"][train])
    unseen = _with_words(scan, held_out[~exact])
    rows = np.concatenate([_with_words(scan, train), unseen])

    # Near twins within one side are duplicates, not leakage.
    def across(first: Ints, second: Ints) -> Bools:
        crosses: Bools = is_train[first] != is_train[second]
        return crosses

    near = near_rows([scan.prompts], rows, records["prompt"][rows], limits.near, related=across)
    nearly, total, unit = unseen[near[unseen]], len(held_out), "distinct held-out prompts"
    leaked, near_kind = FindingKind.PROMPT_LEAKAGE, FindingKind.NEAR_PROMPT_LEAKAGE
    findings = _findings(scan, leaked, held_out[exact], total, unit, MUST_FIX)
    # A few near twins may be accidents, such as greetings.
    severe = above(len(nearly) / total, limits.near_leakage, MUST_FIX, LOOK)
    return findings + _findings(scan, near_kind, nearly, total, unit, severe)


def shared_prompt_findings(scan: Scan) -> list[Finding]:
    """Prompts in several training sources of one kind, and prompts with several kinds of record."""
    records = scan.table.records
    usable = np.flatnonzero(scan.table.train & (records["has_prompt"] != 0))
    kinds = records["kind"][usable]
    # Within one kind only: pairs and ratings over one prompt are intended.
    by_kind = [usable[kinds == index] for index in range(len(KINDS))]
    in_sources = np.concatenate([_with_several(scan, rows, "source") for rows in by_kind])
    of_kinds = _with_several(scan, usable, "kind")
    total, unit = len(first_rows(records["prompt"], usable)), "distinct training prompts"
    several_sources = FindingKind.PROMPTS_IN_SEVERAL_SOURCES
    several_kinds = FindingKind.PROMPTS_OF_SEVERAL_KINDS
    return [
        *_findings(scan, several_sources, in_sources, total, unit, LOOK),
        *_findings(scan, several_kinds, of_kinds, total, unit, FINE),
    ]


def _with_several(scan: Scan, rows: Ints, column: str) -> Ints:
    """A row of each prompt whose rows have several values in a column."""
    prompts = scan.table.records["prompt"][rows]
    values = scan.table.records[column][rows].astype(np.uint64)
    # Distinct (prompt, value) pairs first: a prompt that is among them twice has two values.
    distinct = np.unique(np.stack([prompts, values], axis=1), axis=0)[:, 0]
    unique, times = np.unique(distinct, return_counts=True)
    shared = np.isin(prompts, unique[times > 1])
    return first_rows(scan.table.records["prompt"], rows[shared])


def _findings(
    scan: Scan, kind: FindingKind, rows: Ints, total: int, unit: str, severity: Severity,
    threshold: float = 0.0,
) -> list[Finding]:  # fmt: skip
    """A finding where there is any row, fine up to the threshold; else none."""
    if not len(rows):
        return []
    severity = above(len(rows) / total, threshold, severity, FINE)
    return [Finding(kind, severity, len(rows), total, unit, locations=scan.table.locations(rows))]


def _distinct_prompts(scan: Scan, *, train: bool) -> Ints:
    """One record for each distinct prompt."""
    records = scan.table.records
    usable = (records["has_prompt"] != 0) & (scan.table.train == train)
    return first_rows(records["prompt"], np.flatnonzero(usable))


def _with_words(scan: Scan, rows: Ints) -> Ints:
    # A text without words has an empty sketch, which would equal every other empty one.
    filled: Ints = rows[scan.table.records["prompt_filled"][rows] != 0]
    return filled
