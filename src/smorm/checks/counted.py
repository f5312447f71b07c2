"""What the readers and the renderer refused or dropped, as findings."""

from __future__ import annotations

from smorm.checks.findings import PLACES, Finding, Severity, Tally, among
from smorm.checks.scan import Scan

BAD = "bad record skipped: "
EMPTY = ("empty prompt", "empty response")
TIE = "tie: chosen equals rejected"
CANNOT = "cannot be rendered: "

_PLAIN: dict[str, tuple[Severity, str]] = {
    "no rating at all": ("look", "rated records without any rating: they are dropped"),
    "empty response, scored as it is": ("look", "candidates with an empty response are scored"),
    "equal ratings": (
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
    refused = sum(n for kind, n in census.totals().items() if kind.startswith(BAD) or kind == TIE)
    total = len(scan.table) + refused
    for kind, count in census.totals().items():
        places = tuple(census.examples.get(kind, [])[:PLACES])
        code, severity, meaning = _meaning(kind)
        told = among(count, total, "records")
        findings.append(Finding(code, severity, count, meaning, places=places, **told))
    return findings


def _meaning(kind: str) -> tuple[str, Severity, str]:
    """Code, severity and meaning of a kind that the census counts."""
    if kind == TIE:
        meaning = "both sides are the same text: such a pair prefers nothing; remove it"
        return "equal_sides", "must fix", meaning
    if kind.startswith(BAD):
        reason = kind.removeprefix(BAD)
        meaning = f"{reason}: such a record stops a run, or is skipped; repair or remove it"
        return "empty_sides" if reason in EMPTY else "bad_records", "must fix", meaning
    severity, meaning = _PLAIN.get(kind, ("fine", kind))
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
