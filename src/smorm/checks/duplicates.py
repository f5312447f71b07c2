"""Records that are there twice, nearly twice, or in training and held-out data alike."""

from __future__ import annotations

import numpy as np

from smorm.checks.columns import KINDS, first_rows
from smorm.checks.findings import Finding, Thresholds, among
from smorm.checks.scan import Scan
from smorm.checks.shingles import Ints
from smorm.checks.sketches import near_rows


def duplicate_findings(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Exact and near duplicates of training records, and near duplicates of their prompts."""
    return [*_exact(scan, limits), *_near_records(scan, limits), *_near_prompts(scan, limits)]


def _exact(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Copies beyond the first of records with the same texts, label and ratings."""
    rows = np.flatnonzero(scan.table.train)
    kept = first_rows(scan.table.records["record"], rows)
    copies = np.setdiff1d(rows, kept)
    if not len(copies):
        return []
    share = len(copies) / len(rows)
    return [
        Finding(
            "duplicate_records",
            "look" if share > limits.duplicates else "fine",
            len(copies),
            "the same record once more: it counts so many times in the loss; drop copies that "
            "nobody meant",
            places=scan.table.places(copies),
            **among(len(copies), len(rows), "training records"),
        )
    ]


def _near_records(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Different records whose prompts are alike and whose responses, taken together, are too."""
    records = scan.table.records
    usable = scan.table.train & (records["texts_filled"] != 0)
    rows = first_rows(records["texts"], np.flatnonzero(usable))
    near = near_rows([scan.texts, scan.prompts], rows, records["texts"][rows], limits.near)
    found = np.flatnonzero(near)
    if not len(found):
        return []
    share = len(found) / len(rows)
    return [
        Finding(
            "near_duplicate_records",
            "look" if share > limits.duplicates else "fine",
            len(found),
            "nearly the same texts as another record: intervals and dev numbers that take them "
            "for independent are too sure; drop or group them",
            places=scan.table.places(found),
            **among(len(found), len(rows), "distinct training records"),
        )
    ]


def _prompts(scan: Scan, *, train: bool) -> Ints:
    """One record for each distinct prompt."""
    records = scan.table.records
    usable = (records["has_prompt"] != 0) & (scan.table.train == train)
    return first_rows(records["prompt"], np.flatnonzero(usable))


def _with_words(scan: Scan, rows: Ints) -> Ints:
    found: Ints = rows[scan.table.records["prompt_filled"][rows] != 0]
    return found


def _near_prompts(scan: Scan, limits: Thresholds) -> list[Finding]:
    records = scan.table.records
    distinct = _prompts(scan, train=True)
    rows = _with_words(scan, distinct)
    found = np.flatnonzero(near_rows([scan.prompts], rows, records["prompt"][rows], limits.near))
    if not len(found):
        return []
    return [
        Finding(
            "near_duplicate_prompts",
            "fine",
            len(found),
            "a prompt nearly the same as another: a split by exact prompt may put the two on "
            "different sides; split by groups of near prompts",
            places=scan.table.places(found),
            **among(len(found), len(distinct), "distinct training prompts"),
        )
    ]


def leakage_findings(scan: Scan, limits: Thresholds) -> list[Finding]:
    """Held-out prompts that are in training, exactly or nearly."""
    records = scan.table.records
    train, held_out = _prompts(scan, train=True), _prompts(scan, train=False)
    if not len(held_out) or not len(train):
        return []
    exact = np.isin(records["prompt"][held_out], records["prompt"][train])
    others = _with_words(scan, held_out[~exact])
    rows = np.concatenate([_with_words(scan, train), others])
    is_train = scan.table.train
    near = near_rows(
        [scan.prompts],
        rows,
        records["prompt"][rows],
        limits.near,
        related=lambda one, other: is_train[one] != is_train[other],
    )
    near_held_out = others[near[others]]
    return [
        *_leaked(scan, held_out[exact], len(held_out)),
        *_nearly_leaked(scan, near_held_out, len(held_out), limits),
    ]


def _leaked(scan: Scan, rows: Ints, total: int) -> list[Finding]:
    if not len(rows):
        return []
    return [
        Finding(
            "prompt_leakage",
            "must fix",
            len(rows),
            "a held-out prompt that is in training too: dev numbers are of what was seen; split "
            "by prompt",
            places=scan.table.places(rows),
            **among(len(rows), total, "distinct held-out prompts"),
        )
    ]


def _nearly_leaked(scan: Scan, rows: Ints, total: int, limits: Thresholds) -> list[Finding]:
    if not len(rows):
        return []
    return [
        Finding(
            "near_prompt_leakage",
            "must fix" if len(rows) / total > limits.near_leakage else "look",
            len(rows),
            "a held-out prompt nearly the same as one in training: dev numbers are in part of "
            "what was seen; move it to one side",
            places=scan.table.places(rows),
            **among(len(rows), total, "distinct held-out prompts"),
        )
    ]


def shared_prompt_findings(scan: Scan) -> list[Finding]:
    """Prompts that stand in several training sources: of one kind to look at, else as it may be."""
    records = scan.table.records
    usable = np.flatnonzero(scan.table.train & (records["has_prompt"] != 0))
    findings = []
    for same_kind in (True, False):
        shared = _shared(scan, usable, same_kind)
        if not len(shared):
            continue
        meaning = (
            "a prompt that stands in several sources of one kind: see that none of them was meant "
            "to be held out, and that they are not copies"
            if same_kind
            else "a prompt with pairs and with ratings: as it should be; with "
            "mixing.group_by_prompt it is computed once for both"
        )
        code = "prompts_in_several_sources" if same_kind else "prompts_of_several_kinds"
        total = len(first_rows(records["prompt"], usable))
        findings.append(
            Finding(
                code,
                "look" if same_kind else "fine",
                len(shared),
                meaning,
                places=scan.table.places(shared),
                **among(len(shared), total, "distinct training prompts"),
            )
        )
    return findings


def _shared(scan: Scan, usable: Ints, same_kind: bool) -> Ints:
    """A row of each prompt that is in several sources of a kind, or in several kinds."""
    records = scan.table.records
    label = records["source"] if same_kind else records["kind"]
    groups = [usable]
    if same_kind:
        groups = [usable[records["kind"][usable] == kind] for kind in range(len(KINDS))]
    found = []
    for rows in groups:
        seen = np.stack([records["prompt"][rows], label[rows].astype(np.uint64)], axis=1)
        distinct = np.unique(seen, axis=0)[:, 0]
        prompts, times = np.unique(distinct, return_counts=True)
        several = np.isin(records["prompt"][rows], prompts[times > 1])
        found.append(first_rows(records["prompt"], rows[several]))
    return np.concatenate(found)
