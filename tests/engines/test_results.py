"""Rows of agreement, and what makes the command fail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from engines.page import page, rewrite
from engines.results import Outcome, Results, Row, compare, put
from engines.vllm import refusal, rows_of_parity

EXPECTED = np.array([0.5, -1.0, 2.0])


def client_row(*scores: float | None, errors: tuple[str | None, ...] = (None,) * 3) -> Row:
    return compare("a client", "smorm serve", "llama", scores, errors, EXPECTED)


def test_scores_within_the_gate_agree_and_the_difference_is_in_standard_deviations() -> None:
    row = client_row(0.5, -1.0 + 4e-6, 2.0)
    assert row.outcome == Outcome.AGREES
    assert row.difference == pytest.approx(4e-6 / EXPECTED.std())
    assert (row.compared, row.conversations) == (3, 3)


@pytest.mark.parametrize("wrong", [0.5 + 1e-4, math.nan, math.inf])
def test_another_score_differs(wrong: float) -> None:
    row = client_row(wrong, -1.0, 2.0)
    assert row.outcome == Outcome.DIFFERS


def test_a_missing_score_is_a_refusal_that_says_why_and_hides_no_difference() -> None:
    row = client_row(0.5, None, 2.0, errors=(None, "400: too long", None))
    assert (row.outcome, row.compared, row.problem) == (Outcome.REFUSED, 2, "400: too long")
    assert client_row(0.7, None, 2.0).outcome == Outcome.DIFFERS
    nothing = client_row(None, None, None)
    assert (nothing.outcome, nothing.compared, nothing.difference) == (Outcome.REFUSED, 0, None)


def test_too_few_scores_are_a_refusal() -> None:
    assert client_row(0.5).outcome == Outcome.REFUSED


def test_a_refusal_fails_the_run_unless_another_way_to_ask_agrees() -> None:
    refused = refusal("gemma3_text", "start", "no such architecture", "")
    assert Results(engines=[refused]).failures() == [refused]
    agrees = Row("vLLM", "/classify of ids", "gemma3_text", Outcome.AGREES, 9, 9, 1e-7,
                 options="--convert classify")  # fmt: skip
    assert Results(engines=[refused, agrees]).failures() == []
    elsewhere = Row("vLLM", "/classify of ids", "llama", Outcome.AGREES, 9, 9, 1e-7)
    assert Results(engines=[refused, elsewhere]).failures() == [refused]


def test_another_score_fails_the_run_whatever_agrees_beside_it() -> None:
    differs = client_row(0.6, -1.0, 2.0)
    agrees = client_row(*EXPECTED)
    assert Results(clients=[agrees, differs]).failures() == [differs]


def test_a_later_row_takes_the_place_of_an_earlier_one_of_the_same() -> None:
    rows = [client_row(0.6, -1.0, 2.0)]
    put(rows, client_row(*EXPECTED))
    put(rows, refusal("llama", "start", "", ""))
    assert [row.outcome for row in rows] == [Outcome.AGREES, Outcome.REFUSED]


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    results = Results({"cpu": "a processor"}, {"vllm": {"torch": "2.13.0"}}, [], [])
    results.engines.append(refusal("llama", "start", "it ended", "--convert classify"))
    results.clients.append(client_row(0.5, None, 2.0))
    results.save(tmp_path)
    assert Results.load(tmp_path) == results
    assert Results.load(tmp_path / "nothing") == Results()


def parity_file(**items: dict[str, object]) -> dict[str, object]:
    """A result file of `smorm parity`, as far as it is read; items by the path's name."""
    listed = []
    for path, changes in items.items():
        item = {"path": path, "difference": 1e-7, "in_spreads": 2e-7, "worst": 0,
                "same_tokens": True, "passed": True}  # fmt: skip
        listed.append({**item, **changes})
    return {
        "metrics": {"largest_difference": {"value": 1e-7, "n": 72}, "spread": {"value": 0.5}},
        "fingerprint": {"gate": 1e-5},
        "items": listed,
    }


IDS, MESSAGES = "vllm /classify of ids, batch 8", "vllm /classify of messages, 1 at a time"


def test_a_parity_file_gives_a_row_for_each_way_to_ask() -> None:
    content = parity_file(**{
        "scoring, forest, batch 1": {"difference": 9.0},
        IDS: {},
        "vllm /classify of ids, batch 32": {"in_spreads": 3e-7},
        MESSAGES: {"same_tokens": False, "refused": 1, "passed": False},
    })  # fmt: skip
    content["failures"] = [{"text": f"refused: 400: too long [{MESSAGES}]"}]
    ids, messages = rows_of_parity(content, "qwen2")
    assert (ids.target, ids.outcome, ids.difference) == ("/classify of ids", Outcome.AGREES, 3e-7)
    assert (ids.compared, ids.same_tokens, ids.problem) == (72, True, "")
    assert (messages.outcome, messages.compared) == (Outcome.REFUSED, 71)
    assert "too long" in messages.problem
    assert messages.same_tokens is False


def test_a_path_over_the_gate_differs_and_one_without_scores_is_refused() -> None:
    (row,) = rows_of_parity(parity_file(**{IDS: {"difference": 2e-5, "passed": False}}), "llama")
    assert row.outcome == Outcome.DIFFERS
    nothing = {"difference": None, "in_spreads": None, "passed": False, "error": "500"}
    (row,) = rows_of_parity(parity_file(**{IDS: nothing}), "llama")
    assert (row.outcome, row.compared, row.difference) == (Outcome.REFUSED, 0, None)


def test_the_page_hides_neither_refusals_nor_differences(tmp_path: Path) -> None:
    results = Results({"cpu": "a processor"}, {"vllm": {"vllm": "0.32.0"}})
    results.engines.append(refusal("gemma3_text", "start", "no such\narchitecture", "--convert x"))
    results.clients += [client_row(0.6, -1.0, 2.0), client_row(*EXPECTED)]
    text = page(results)
    assert "Of 3 comparisons 1 agree, 1 differ, 1 are refused, in part or whole." in text
    assert "no such architecture" in text
    assert "`--convert x`" in text
    assert "vllm 0.32.0" in text
    results.save(tmp_path)
    rewrite(tmp_path)
    assert (tmp_path / "README.md").read_text("utf-8") == text


def test_the_committed_page_is_made_of_the_committed_numbers() -> None:
    folder = Path("results/engines")
    assert json.loads((folder / "results.json").read_text("utf-8"))["engines"]
    assert page(Results.load(folder)) == (folder / "README.md").read_text("utf-8")
