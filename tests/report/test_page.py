"""The page: one file, nothing from elsewhere, all text escaped, numbers with n and interval."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from smorm.errors import DataError
from smorm.evaluation.alarms import RULES, Alarm, AlarmKind
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import CauseKind, Failure, Result, parse_result
from smorm.printing import clean
from smorm.report.page import write_page
from smorm.report.rows import method_labels, rows_of, separated_best
from smorm.report.style import style_of
from tests.report.made_up import near, page_html

HOSTILE = "<script>alert('x')</script> \"$\\frac\" & \x00\ud800 名前 </style><!-- -->"
VOID = {"meta", "br", "use"}


def result(model="SMORM", view="F", suite="pairs/ID", value=0.7, low=0.6, high=0.8, **more):
    metrics = {"accuracy": Metric(value, 400, low, high), "margin": Metric(1.25, 400)}
    fields = {"kind": "eval", "metrics": metrics, "fingerprint": {"config": "abc"}} | more
    return Result(suite=suite, model=model, view=view, **fields)


class Reader(HTMLParser):
    """Collects tags and text, and insists that they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


def sample():
    notes = ("2 pairs with equal scores count as half.",)
    attributes = {
        name: Metric(0.5, 90, 0.4, 0.6) for name in ("spearman", "spearman/clarity", "spearman/x")
    }
    levels = {name: Metric(0.6, 90, 0.5, 0.7) for name in ("overall", "hard", "chat", "chat/hard")}
    return [
        *(result(suite=suite, view=view, notes=notes) for suite in ("pairs/ID", "pairs/far")
          for view in "FLM"),
        result(model="Single", notes=notes),
        result(suite="rated/helpsteer2", metrics=attributes),
        result(suite="rm-bench", metrics=levels),
        result(kind="stress", suite="best-of-n", metrics={"gold/at 16": Metric(-2.5, 9, -3, -2)}),
        result(suite="empty", metrics={}),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_is_one_file_without_an_address_or_a_script(tmp_path):
    output = tmp_path / "deep" / "report.html"
    write_page([each.as_dict() for each in sample()], output, "A title", "Hello.\n\nWorld.")
    text = output.read_text(encoding="utf-8")
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(\s*['\"]?[^#'\")]", text)
    tags = Reader(text).tags
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(tags)
    assert "Content-Security-Policy" in text
    assert "prefers-color-scheme: dark" in text


def test_tags_nest_and_no_two_parts_of_the_page_share_an_id():
    reader = Reader(page_html(sample(), "A title"))
    drawn = [name for name in reader.ids if re.fullmatch(r"[mph][0-9a-f]{10}", name)]
    named = [name for name in reader.ids if name not in drawn]
    assert len(named) == len(set(named))
    assert {"suite-1", "source-1", "source-11"} <= set(named)


def test_the_page_shows_value_interval_n_notes_and_fingerprints():
    words = " ".join(Reader(page_html(sample(), "A title", "One.\n\nTwo.")).words)
    for expected in (
        "A title",
        "One.",
        "70.0",
        "60.0 to 80.0",
        "n = 400",
        "no interval",
        "2 pairs with equal scores count as half.",
        "config",
        "abc",
        "accuracy, %",
        "SMORM-L",
        "Accuracy by method and regime",
        "gold: at 16",
        "−2.500",
        "Spearman: clarity",
    ):
        assert expected in words


def test_hostile_names_are_shown_and_never_become_markup():
    hostile = Result(
        kind=HOSTILE,
        suite=f"pairs/{HOSTILE}",
        model=HOSTILE,
        view=HOSTILE,
        metrics={"accuracy": Metric(0.5, 2, 0.4, 0.6), HOSTILE: Metric(1.0, 2)},
        items=HOSTILE,
        fingerprint={HOSTILE: HOSTILE, "deep": {HOSTILE: [HOSTILE]}},
        notes=(HOSTILE,),
    )
    elsewhere = parse_result({**hostile.as_dict(), "suite": "pairs/far", "view": "L"}, "here")
    text = page_html([hostile, elsewhere], HOSTILE, HOSTILE)
    reader = Reader(text)
    assert "script" not in reader.tags
    assert "<script" not in text
    assert "\x00" not in text
    text.encode("utf-8")
    assert any("<script>alert('x')</script>" in words for words in reader.words)


def test_a_hostile_name_is_written_to_a_file(tmp_path):
    write_page([result(model=HOSTILE).as_dict()], tmp_path / "page.html", HOSTILE)
    assert "alert" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes():
    assert page_html(sample(), "A title") == page_html(sample(), "A title")


def test_no_results_or_a_wrong_one_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no results"):
        write_page([], tmp_path / "page.html", "t")
    with pytest.raises(DataError, match="result 2: not a result"):
        write_page([result().as_dict(), {}], tmp_path / "page.html", "t")
    assert list(tmp_path.iterdir()) == []


def test_results_of_several_seeds_become_their_mean_with_students_interval():
    values = (0.70, 0.72, 0.77)
    rows = rows_of([result(value=v, fingerprint={"seed": s}) for s, v in enumerate(values)])
    assert len(rows) == 1
    accuracy = rows[0].metrics["accuracy"]
    half_width = 4.3027 * math.sqrt(0.0013 / 3)  # sum of squares 0.0026, two degrees of freedom
    assert accuracy.value == pytest.approx(0.73)
    assert (accuracy.low, accuracy.high) == pytest.approx(
        (0.73 - half_width, 0.73 + half_width), abs=1e-6
    )
    assert (rows[0].seeds, rows[0].sources) == (3, (1, 2, 3))
    assert "Mean over 3 seeds" in rows[0].notes[0]
    text = page_html([result(value=v, fingerprint={"seed": s}) for s, v in enumerate(values)], "t")
    assert "mean of 3 seeds" in text
    assert "n = 400 × 3 seeds" in text


def test_seeds_of_different_size_show_the_range_of_n_and_what_is_missing():
    small = {"accuracy": Metric(0.5, 300, 0.4, 0.6)}
    results = [result(fingerprint={"seed": 0}), result(fingerprint={"seed": 1}, metrics=small)]
    assert "n = 300–400 × 2 seeds" in page_html(results, "t")
    assert "mean margin, score units: 1 of 2 seeds have it." in rows_of(results)[0].notes


@pytest.mark.parametrize("prints", [({}, {}), ({"seed": 1}, {"seed": 1}), ({"seed": 1}, {})])
def test_results_that_seeds_do_not_tell_apart_stay_apart(prints):
    rows = rows_of([result(fingerprint=fingerprint) for fingerprint in prints])
    assert [row.label for row in rows] == ["SMORM (1)", "SMORM (2)"]
    assert [row.sources for row in rows] == [(1,), (2,)]


def test_the_view_is_part_of_the_name_where_a_model_shows_several():
    labels = method_labels([result(), result(view="L"), result(model="Single")])
    assert list(labels.values()) == ["SMORM-F", "SMORM-L", "Single"]


def best(name, *intervals):
    rows = rows_of(
        [
            result(model=str(index), metrics={name: Metric((low + high) / 2, 9, low, high)})
            for index, (low, high) in enumerate(intervals)
        ]
    )
    row = separated_best(rows, name)
    return None if row is None else rows.index(row)


def test_only_a_best_row_whose_interval_is_apart_is_bold():
    assert best("accuracy", (0.1, 0.2), (0.5, 0.6), (0.3, 0.4)) == 1
    assert best("accuracy", (0.1, 0.2), (0.5, 0.6), (0.3, 0.5)) is None
    assert best("mse", (0.1, 0.2), (0.5, 0.6)) == 0
    assert best("mse/clarity", (0.1, 0.2), (0.5, 0.6)) == 0
    assert best("accuracy", (0.1, 0.2)) is None
    assert best("accuracy", (0.1, 0.2), (math.nan, math.nan)) is None
    assert best("length_correlation", (0.1, 0.2), (0.5, 0.6)) is None
    assert best("anything", (0.1, 0.2), (0.5, 0.6)) is None


def test_bold_is_on_the_page_where_it_is_due():
    disjoint = [result(low=0.65, high=0.75), result(model="Single", value=0.5, low=0.4, high=0.6)]
    assert '<td class="best">70.0' in page_html(disjoint, "t")
    assert 'class="best"' not in page_html([disjoint[0], result(model="Single")], "t")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("accuracy", 0.73149, "73.1"),
        ("margin", -1.23456, "−1.235"),
        ("margin", 123.456, "123.5"),
        ("margin", 0.0, "0.000"),
        ("margin", 1.2e-5, "1.20e−05"),
        ("margin", math.nan, "–"),
        ("matrix/concise/markdown", 0.5, "50.0"),
    ],
)
def test_numbers_are_shown_in_their_unit(name, value, expected):
    assert style_of(name).show(value) == expected


def test_control_characters_and_surrogates_are_replaced():
    assert clean("a\x00b\ud800c\x85\td") == "a\ufffdb\ufffdc\ufffd\td"


def test_a_name_cannot_turn_round_the_reading_of_the_numbers_behind_it():
    assert clean("a\u202eb\u2067c \u05d0") == "a\ufffdb\ufffdc \u05d0"


def test_what_an_interval_over_seeds_holds_is_said_for_items_of_each_seeds_own_too():
    rows = rows_of([result(fingerprint={"seed": seed}) for seed in range(2)])
    assert "only where each seed has items of its own" in rows[0].notes[0]
    assert "leave out" not in rows[0].notes[0]


def test_the_report_imports_no_torch_no_transformers_and_matplotlib_only_to_draw():
    program = (
        "import sys, smorm.report.page\n"
        "bad = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "raise SystemExit(', '.join(sorted(bad)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_failed_test_is_on_top_of_the_page_and_marked_in_its_table():
    failure = Failure("swapped", CauseKind.HEAD, "swapped: no score depends on the response")
    sanity = [
        result(kind="sanity", model=model, metrics={"swapped": Metric(1.0, 9)}, failures=failures)
        for model, failures in (("SMORM", ()), ("Single", (failure,)))
    ]
    text = page_html([result(), *sanity], "t")
    words = " ".join(Reader(text).words)
    assert words.index("Failed tests") < words.index("Fingerprints")
    assert "Single, pairs/ID: failed." in words
    assert "swapped: no score depends on the response" in words
    assert '<td class="failed">1 failed' in text
    assert "<td>passed" in text
    assert "Failed tests" not in page_html([result(), sanity[0]], "t")


def test_the_chance_level_is_that_of_the_result_and_nothing_where_it_has_none():
    metrics = {"overall": Metric(0.6, 90, 0.5, 0.7)}
    with_level = result(suite="rewardbench-2", metrics=metrics, chance_levels={"overall": 0.25})
    text = page_html([with_level], "t")
    assert "Dashed: chance (25.0 %)." in text
    assert "Chance level of overall: 25.0 %." in text
    assert "chance" not in page_html([replace(with_level, chance_levels={})], "t").lower()
    assert "Chance level of accuracy: 50.0 %." in page_html([result()], "t")  # pairs of any version


def test_both_length_rules_stand_beside_an_accuracy_and_old_files_look_as_before():
    levels = {"length_only/overall": Metric(0.3, 90), "shortest_only/overall": Metric(0.6, 90)}
    metrics = {"overall": Metric(0.6, 90, 0.5, 0.7), **levels}
    both = result(suite="rewardbench", metrics=metrics)
    sentence = "The longest response wins: 30.0 %; the shortest: 60.0 %."
    assert sentence in page_html([both], "t")
    del metrics["shortest_only/overall"]
    old = page_html([replace(both, metrics=metrics)], "t")
    assert "The longest response wins" not in old
    assert "length-only rule" in old


def test_a_stress_test_shows_gold_by_the_size_of_best_of_n():
    stressed = [
        Result("stress", "best-of-n/ID", model, "F",
               {f"gold@{n}": Metric(0.1 * n, 20, 0.0, 1.0) for n in (1, 4)})
        for model in ("a", "b")
    ]  # fmt: skip
    text = page_html(stressed, "t")
    assert "gold, best of 4" in text
    for label in ("best of 1", "best of 4"):
        assert label in re.sub(r"<table.*?</table>", "", text, flags=re.S)


@pytest.mark.parametrize("number", [101, 2001])
def test_more_than_a_page_can_show_is_refused(tmp_path, number):
    names = [f"pairs/{index % 101}" for index in range(number)]
    results = [Result("eval", name, "m", "F", {"accuracy": near(0.5)}).as_dict() for name in names]
    with pytest.raises(DataError, match=r"over the limit of .*; SMORM_LIMIT_(SUITES|RESULTS) "):
        write_page(results, tmp_path / "p.html", "title")


def test_alarms_stand_at_the_head_of_the_page_with_what_to_do():
    rule = RULES[AlarmKind.CLOSING_WORD]
    loud = Alarm(AlarmKind.CLOSING_WORD, Metric(0.99, 9), rule.threshold, HOSTILE)
    quiet = Alarm(AlarmKind.NEAR_EMPTY, Metric(0.0, 9), 0.05)
    text = " ".join(Reader(page_html([result(alarms=(loud, quiet)), result(model="B")], "T")).words)
    assert "Alarms without gold" in text
    assert rule.advice in text
    assert "1 of 1 rows" in text
    assert "no alarm: near-empty picks 0.00" in text
    assert text.index(rule.advice) < text.index("How to read the tables")
    silent = " ".join(Reader(page_html([result(alarms=(quiet,))], "T")).words)
    assert "0 of 1 rows" in silent
    assert "Alarms without gold" not in page_html([result()], "T")
