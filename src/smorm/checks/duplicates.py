"""Records that occur twice, nearly twice, or in training and held-out data alike."""

from __future__ import annotations

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
    findings = []
    # Copies beyond the first of records with the same texts, label and ratings.
    train = np.flatnonzero(scan.table.train)
    copies = np.setdiff1d(train, first_rows(records["record"], train))
    if len(copies):
        severity = above(len(copies) / len(train), limits.duplicates, LOOK, FINE)
        unit = "training records"
        findings.append(
            _finding(scan, FindingKind.DUPLICATE_RECORDS, severity, copies, len(train), unit)
        )
    # Different records whose prompts are alike and whose responses, taken together, are too.
    usable = scan.table.train & (records["texts_filled"] != 0)
    distinct = first_rows(records["texts"], np.flatnonzero(usable))
    files = [scan.texts, scan.prompts]
    near = np.flatnonzero(near_rows(files, distinct, records["texts"][distinct], limits.near))
    if len(near):
        severity = above(len(near) / len(distinct), limits.duplicates, LOOK, FINE)
        unit = "distinct training records"
        findings.append(
            _finding(scan, FindingKind.NEAR_DUPLICATE_RECORDS, severity, near, len(distinct), unit)
        )
    # Fine, never more: a prompt asked in several ways is usual, and harms only a split.
    prompts = _distinct_prompts(scan, train=True)
    rows = _with_words(scan, prompts)
    near = np.flatnonzero(near_rows([scan.prompts], rows, records["prompt"][rows], limits.near))
    if len(near):
        kind, unit = FindingKind.NEAR_DUPLICATE_PROMPTS, "distinct training prompts"
        findings.append(_finding(scan, kind, FINE, near, len(prompts), unit))
    return findings


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
    total, unit = len(held_out), "distinct held-out prompts"
    findings = []
    if exact.any():
        kind, leaked = FindingKind.PROMPT_LEAKAGE, held_out[exact]
        findings.append(_finding(scan, kind, MUST_FIX, leaked, total, unit))
    nearly = unseen[near[unseen]]
    if len(nearly):
        severity = above(len(nearly) / total, limits.near_leakage, MUST_FIX, LOOK)
        kind = FindingKind.NEAR_PROMPT_LEAKAGE
        findings.append(_finding(scan, kind, severity, nearly, total, unit))
    return findings


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
    findings = []
    for kind, severity, shared in (
        (FindingKind.PROMPTS_IN_SEVERAL_SOURCES, LOOK, in_sources),
        (FindingKind.PROMPTS_OF_SEVERAL_KINDS, FINE, of_kinds),
    ):
        if len(shared):
            findings.append(_finding(scan, kind, severity, shared, total, unit))
    return findings


def _with_several(scan: Scan, rows: Ints, column: str) -> Ints:
    """A row of each prompt whose rows have several values in a column."""
    prompts = scan.table.records["prompt"][rows]
    values = scan.table.records[column][rows].astype(np.uint64)
    # Distinct (prompt, value) pairs first: a prompt that is among them twice has two values.
    distinct = np.unique(np.stack([prompts, values], axis=1), axis=0)[:, 0]
    unique, times = np.unique(distinct, return_counts=True)
    shared = np.isin(prompts, unique[times > 1])
    return first_rows(scan.table.records["prompt"], rows[shared])


def _finding(
    scan: Scan, kind: FindingKind, severity: Severity, rows: Ints, total: int, unit: str
) -> Finding:
    return Finding(kind, severity, len(rows), total, unit, locations=scan.table.locations(rows))


def _distinct_prompts(scan: Scan, *, train: bool) -> Ints:
    """One record for each distinct prompt."""
    records = scan.table.records
    usable = (records["has_prompt"] != 0) & (scan.table.train == train)
    return first_rows(records["prompt"], np.flatnonzero(usable))


def _with_words(scan: Scan, rows: Ints) -> Ints:
    # A text without words has an empty sketch, which would equal every other empty one.
    filled: Ints = rows[scan.table.records["prompt_filled"][rows] != 0]
    return filled
