"""What the readers refused, dropped or repaired, as findings."""

from __future__ import annotations

from enum import StrEnum

from smorm.checks.findings import (
    FINE,
    LOOK,
    MAX_LOCATIONS,
    MUST_FIX,
    Finding,
    FindingKind,
    Severity,
)
from smorm.checks.scan import Scan
from smorm.data.census import Defect, DropReason, Reason

_EMPTY = (Defect.EMPTY_PROMPT, Defect.EMPTY_RESPONSE)
_REFUSED = (DropReason.BAD_RECORD, DropReason.TIE)
# Reasons with a sentence of their own; the rest is reported as it is counted.
_SEVERITIES: dict[StrEnum, Severity] = {
    DropReason.NO_RATING: LOOK,
    DropReason.EMPTY_RESPONSE: LOOK,
    DropReason.EQUAL_RATINGS: FINE,
}


def dropped_findings(scan: Scan) -> list[Finding]:
    """Sources without a record, then bad, empty and equal records, and all other counts."""
    findings = []
    for error in scan.unusable:
        numbers = {"reason": error}
        kind = FindingKind.NO_USABLE_RECORD
        findings.append(Finding(kind, MUST_FIX, unit="sources", numbers=numbers))
    census = scan.census
    # Of all records that were there, so also of those that the readers refused.
    total = len(scan.table) + sum(census[kind] for kind in _REFUSED)
    for reason, count in census.totals().items():
        locations = tuple(census.examples.get(reason, [])[:MAX_LOCATIONS])
        findings.append(_finding(reason, count, total, locations))
    return findings


def _finding(reason: Reason, count: int, total: int, locations: tuple[str, ...]) -> Finding:
    kind, severity, case = FindingKind.COUNTED, FINE, ""
    if reason.kind is DropReason.TIE:
        kind, severity = FindingKind.EQUAL_SIDES, MUST_FIX
    elif reason.kind is DropReason.BAD_RECORD:
        kind, severity = FindingKind.BAD_RECORDS, MUST_FIX
        # Apart from other bad records: empty texts are common and have one obvious remedy.
        if reason.detail in _EMPTY:
            kind = FindingKind.EMPTY_SIDES
    elif reason.kind in _SEVERITIES:
        severity, case = _SEVERITIES[reason.kind], reason.kind.name.lower()
    numbers = {"reason": str(reason), "defect": reason.detail}
    return Finding(kind, severity, count, total, "records", numbers, case, locations)
