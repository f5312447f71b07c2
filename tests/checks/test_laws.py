"""What no check may depend on: the order of records, and how they are cut into files."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.reading import Source
from tests.checks.made import checked, pairs, rated
from tests.data.sources import jsonl


def mixed(seed: int) -> list:
    """Records of all kinds with faults of many kinds among them."""
    rng = random.Random(seed)
    good, other = pairs(30, seed), rated(30, seed)
    rows = [
        *good,
        *other,
        *good[:4],
        *({**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in good[:2]),
        *({**row, "prompt": row["prompt"] + " indeed"} for row in good[3:8]),
        *({**row, "scores": {"helpful": 9, "honest": None}} for row in other[:3]),
        {**good[0], "chosen": ""},
        {**good[0], "chosen": "same", "rejected": "same"},
        {"prompt": "p"},
        {"prompt": good[9]["prompt"], "responses": [good[9]["chosen"], "no"]},
    ]
    rng.shuffle(rows)
    return rows


def told(report) -> dict:
    """All of a report but the places, which name lines, those in sentences among them."""
    values = report.as_dict()
    findings = []
    for finding in report.findings:
        numbers = dict(finding.numbers)
        if "reason" in numbers:
            numbers["reason"] = re.sub(r"\S+\.jsonl:\d+: ", "", numbers["reason"])
        findings.append(replace(finding, locations=(), numbers=numbers))
    values["findings"] = sorted(findings, key=str)
    del values["sources"]
    return values


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=12)
def test_the_order_of_records_changes_no_finding(tmp_path_factory, seed):
    rows = mixed(seed)
    bench = pairs(3, seed) + pairs(3, seed + 1)
    held_out = pairs(2, seed) + pairs(3, seed + 2)
    first = checked(tmp_path_factory.mktemp("a"), rows, held_out, bench)
    random.Random(seed + 1).shuffle(rows)
    second = checked(tmp_path_factory.mktemp("b"), rows, held_out[::-1], bench[::-1])
    assert told(first) == told(second)


@given(st.integers(0, 10_000), st.floats(0.2, 0.8))
@settings(deadline=None, max_examples=12)
def test_cutting_a_file_in_two_changes_no_total(tmp_path_factory, seed, share):
    rows = mixed(seed)
    folder = tmp_path_factory.mktemp("c")
    cut = int(share * len(rows))
    whole = [jsonl(folder / "all.jsonl", rows)]
    halves = [jsonl(folder / "a.jsonl", rows[:cut]), jsonl(folder / "b.jsonl", rows[cut:])]
    one, two = (
        told(check(Plan(tuple(CheckedSource(Source(path)) for path in paths))))
        for paths in (whole, halves)
    )
    several = {"prompts_in_several_sources"}  # of course
    two["findings"] = [f for f in two["findings"] if f.kind not in several]
    assert one == two


@pytest.mark.parametrize("size", [1, 7, 2048, 4096])
def test_the_size_of_a_batch_changes_nothing(tmp_path, monkeypatch, size):
    rows = mixed(1)
    before = told(checked(tmp_path, rows))
    monkeypatch.setattr("smorm.checks.scan.BATCH_RECORDS", size)
    assert told(checked(tmp_path, rows)) == before
