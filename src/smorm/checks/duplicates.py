"""Records that occur twice, nearly twice, or in training and held-out data alike."""

from collections.abc import Iterator

import numpy as np

from smorm.arrays import Bools, Ints
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Thresholds, above
from smorm.checks.scan import Scan
from smorm.checks.shingles import near_rows
from smorm.checks.table import KINDS, Table, first_rows


def duplicate_findings(scan: Scan, limits: Thresholds) -> Iterator[Finding]:
    """Exact and near duplicates of training records, and near duplicates of their prompts."""
    table, records = scan.table, scan.table.records
    # Copies beyond the first of records with the same texts, label and ratings.
    train = np.flatnonzero(table.train)
    copies = np.setdiff1d(train, first_rows(records["record"], train))
    severity = above(len(copies), len(train), limits.duplicates, LOOK, FINE)
    yield from table.findings(FindingKind.DUPLICATE_RECORDS, severity, copies, len(train))
    # Different records whose prompts are alike and whose responses, taken together, are too.
    usable = table.train & (records["texts_filled"] != 0)
    distinct = first_rows(records["texts"], np.flatnonzero(usable))
    files = [scan.texts, scan.prompts]
    near = np.flatnonzero(near_rows(files, distinct, records["texts"][distinct], limits.near))
    severity = above(len(near), len(distinct), limits.duplicates, LOOK, FINE)
    yield from table.findings(FindingKind.NEAR_DUPLICATE_RECORDS, severity, near, len(distinct))
    # Fine, never more: a prompt asked in several ways is usual, and harms only a split.
    prompts = _distinct_prompts(table, train=True)
    rows = _with_words(table, prompts)
    near = np.flatnonzero(near_rows([scan.prompts], rows, records["prompt"][rows], limits.near))
    yield from table.findings(FindingKind.NEAR_DUPLICATE_PROMPTS, FINE, near, len(prompts))


def leakage_findings(scan: Scan, limits: Thresholds) -> Iterator[Finding]:
    """Held-out prompts that are in training, exactly or nearly."""
    table, records, is_train = scan.table, scan.table.records, scan.table.train
    train, held_out = (_distinct_prompts(table, train=side) for side in (True, False))
    if not len(held_out) or not len(train):
        return
    # Exact twins are excluded from the search for near ones, so each prompt is reported once.
    exact = np.isin(records["prompt"][held_out], records["prompt"][train])
    unseen = _with_words(table, held_out[~exact])
    rows = np.concatenate([_with_words(table, train), unseen])

    # Near twins within one side are duplicates, not leakage.
    def across(first: Ints, second: Ints) -> Bools:
        return np.asarray(is_train[first] != is_train[second])

    near = near_rows([scan.prompts], rows, records["prompt"][rows], limits.near, related=across)
    nearly, total = unseen[near[unseen]], len(held_out)
    yield from table.findings(FindingKind.PROMPT_LEAKAGE, MUST_FIX, held_out[exact], total)
    # A few near twins may be accidents, such as greetings.
    severity = above(len(nearly), total, limits.near_leakage, MUST_FIX, LOOK)
    yield from table.findings(FindingKind.NEAR_PROMPT_LEAKAGE, severity, nearly, total)


def shared_prompt_findings(table: Table) -> Iterator[Finding]:
    """Prompts in several training sources of one kind, and prompts with several kinds of record."""
    usable = np.flatnonzero(table.train & (table.records["has_prompt"] != 0))
    kinds = table.records["kind"][usable]
    # Within one kind only: pairs and ratings over one prompt are intended.
    by_kind = [usable[kinds == index] for index in range(len(KINDS))]
    in_sources = np.concatenate([_with_several(table, rows, "source") for rows in by_kind])
    of_kinds = _with_several(table, usable, "kind")
    total = len(first_rows(table.records["prompt"], usable))
    yield from table.findings(FindingKind.PROMPTS_IN_SEVERAL_SOURCES, LOOK, in_sources, total)
    yield from table.findings(FindingKind.PROMPTS_OF_SEVERAL_KINDS, FINE, of_kinds, total)


def _with_several(table: Table, rows: Ints, column: str) -> Ints:
    """A row of each prompt whose rows have several values in a column."""
    prompts = table.records["prompt"][rows]
    values = table.records[column][rows].astype(np.uint64)
    # Distinct (prompt, value) pairs first: a prompt that is among them twice has two values.
    distinct = np.unique(np.stack([prompts, values], axis=1), axis=0)[:, 0]
    unique, times = np.unique(distinct, return_counts=True)
    shared = np.isin(prompts, unique[times > 1])
    return first_rows(table.records["prompt"], rows[shared])


def _distinct_prompts(table: Table, *, train: bool) -> Ints:
    usable = (table.records["has_prompt"] != 0) & (table.train == train)
    return first_rows(table.records["prompt"], np.flatnonzero(usable))


def _with_words(table: Table, rows: Ints) -> Ints:
    # A text without words has an empty sketch, which would equal every other empty one.
    return np.asarray(rows[table.records["prompt_filled"][rows] != 0])
