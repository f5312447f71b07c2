"""What the readers and the renderer refused or dropped, as findings."""

from __future__ import annotations

from enum import StrEnum

from smorm.checks.findings import PLACES, Finding, Severity, Tally, among
from smorm.checks.scan import Scan
from smorm.data.census import Defect, DropReason, Reason

EMPTY = (Defect.EMPTY_PROMPT, Defect.EMPTY_RESPONSE)
REFUSED = (DropReason.BAD_RECORD, DropReason.TIE)
CANNOT = "cannot be rendered: "

_PLAIN: dict[StrEnum, tuple[Severity, str]] = {
    DropReason.NO_RATING: ("look", "rated records without any rating: they are dropped"),
    DropReason.EMPTY_RESPONSE: ("look", "candidates with an empty response are scored"),
    DropReason.EQUAL_RATINGS: (
        "fine",
        "pairs with equal ratings prefer neither side: the format drops them",
    ),
}
"""Kinds that the census counts, with their severity and meaning; any other is told as it is."""


def counted_findings(scan: Scan) -> list[Finding]:
    """Bad, empty and equal records, and whatever else was counted on the way."""
    return [
        *(_unusable(reason) for reason in scan.unusable),
        *_census(scan),
        *_not_rendered(scan),
        *_control(scan),
    ]


def _unusable(reason: str) -> Finding:
    return Finding("no_usable_record", "must fix", 1, reason, of="sources")


def _census(scan: Scan) -> list[Finding]:
    census, findings = scan.census, []
    refused = sum(census[kind] for kind in REFUSED)
    total = len(scan.table) + refused
    for reason, count in census.totals().items():
        places = tuple(census.examples.get(reason, [])[:PLACES])
        code, severity, meaning = _meaning(reason)
        told = among(count, total, "records")
        findings.append(Finding(code, severity, count, meaning, places=places, **told))
    return findings


def _meaning(reason: Reason) -> tuple[str, Severity, str]:
    """Code, severity and meaning of a reason that the census counts."""
    if reason.kind is DropReason.TIE:
        meaning = "both sides are the same text: such a pair prefers nothing; remove it"
        return "equal_sides", "must fix", meaning
    if reason.kind is DropReason.BAD_RECORD:
        meaning = f"{reason.detail}: such a record stops a run, or is skipped; repair or remove it"
        return "empty_sides" if reason.detail in EMPTY else "bad_records", "must fix", meaning
    severity, meaning = _PLAIN.get(reason.kind, ("fine", str(reason)))
    return "counted", severity, meaning


def _not_rendered(scan: Scan) -> list[Finding]:
    tally: Tally = scan.tally
    return [
        Finding(
            "not_rendered",
            "must fix",
            count,
            code,
            places=tally.where(code),
            **among(count, len(scan.table), "records"),
        )
        for code, count in tally.counts.items()
        if code.startswith(CANNOT)
    ]


def _control(scan: Scan) -> list[Finding]:
    count = scan.tally["control_tokens"]
    if not count:
        return []
    return [
        Finding(
            "control_tokens",
            "look",
            count,
            "texts that hold a control token of the template: smorm encodes it as text, a program "
            "that does not lets the text speak for another role; see that it is meant",
            places=scan.tally.where("control_tokens"),
            **among(count, len(scan.table), "records"),
        )
    ]
