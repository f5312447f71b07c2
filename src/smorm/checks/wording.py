"""Findings as sentences and as JSON; the sentences themselves are in `wording.toml`."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

from smorm.checks.findings import Finding

WORDING: dict[str, dict[str, str]] = tomllib.loads(
    files("smorm.checks").joinpath("wording.toml").read_text(encoding="utf-8")
)


def meaning(finding: Finding) -> str:
    """What a finding means and what to do, in a sentence or two."""
    # Most kinds have one sentence; a case selects among several.
    key = finding.kind.value
    if finding.case:
        key += f"/{finding.case}"
    return " ".join(WORDING[key].values()).format(**finding.numbers)


def as_dict(finding: Finding) -> dict[str, Any]:
    """The JSON object of a finding."""
    return {
        "code": finding.kind.value,
        "severity": finding.severity.value,
        "count": finding.count,
        "meaning": meaning(finding),
        "of": finding.of,
        "share": finding.share,
        "places": list(finding.locations),
    }
