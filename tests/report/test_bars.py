"""The figures: valid SVG with units, n and intervals, in the reader's ink."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.bars import bars
from smorm.report.blocks import PALETTE
from smorm.report.rows import rows_of
from smorm.report.sections import accuracy_section
from smorm.report.style import Style, style_of

SVG = "{http://www.w3.org/2000/svg}"
ACCURACY = style_of("accuracy")


def texts(drawing):
    root = ElementTree.fromstring(drawing.svg())
    return [" ".join(node.itertext()) for node in root.iter(f"{SVG}text")]


def results(*suites):
    return [
        Result("eval", suite, "SMORM", view, {"accuracy": Metric(value, 400, 0.5, 0.9)})
        for suite in suites
        for view, value in (("F", 0.71), ("L", 0.62), ("M", 0.73))
    ]


def colours_of(rows):
    return {row.label: index for index, row in enumerate(rows)}


def bar_lengths(drawing, colour):
    """Lengths of the bars of a colour, from their outlines."""
    svg = drawing.svg()
    lengths = []
    for outline in re.findall(rf'<path d="([^"]*)"[^>]*fill: {colour.lower()}', svg):
        numbers = [float(number) for number in re.findall(r"-?[0-9.]+", outline)]
        lengths.append(max(numbers[0::2]) - min(numbers[0::2]))
    return lengths


def test_bars_carry_title_unit_n_and_names():
    groups = {"ID": {"Single": Metric(0.6, 100, 0.5, 0.7), "SMORM-F": Metric(0.8, 90, 0.7, 0.9)}}
    words = texts(bars(groups, ACCURACY, "pairs: accuracy", chances={"ID": 0.5}))
    for expected in ("pairs: accuracy", "accuracy, %", "n = 90–100", "Single", "SMORM-F"):
        assert expected in words
    assert any("chance" in word for word in words)


def test_bars_are_as_long_as_their_values():
    groups = {
        "a": {"m": Metric(0.2, 9, 0.1, 0.3)},
        "b": {"m": Metric(0.8, 9, 0.7, 0.9)},
    }
    low, high = bar_lengths(bars(groups, ACCURACY, "t"), PALETTE[0])
    assert high / low == pytest.approx(4, rel=0.01)


def test_a_missing_number_leaves_a_gap_and_a_missing_interval_no_line():
    groups = {
        "a": {"m": Metric(0.2, 9), "o": Metric(math.nan, 0)},
        "b": {"m": Metric(0.4, 9, 0.3, 0.5)},
    }
    drawing = bars(groups, Style("score"), "t")
    assert len(bar_lengths(drawing, PALETTE[0])) >= 2
    assert "nan" not in drawing.svg().lower().replace("dominant", "")


def test_negative_and_empty_values_are_drawn_too():
    assert "<svg" in bars({"a": {"m": Metric(-3.0, 9, -4.0, -2.0)}}, Style("score"), "t").svg()
    assert "<svg" in bars({"a": {"m": Metric(math.nan, 0)}}, Style("score"), "t").svg()


def test_the_comparison_has_methods_as_rows_and_regimes_side_by_side():
    rows = rows_of(results("pairs/ID", "pairs/OODtopic", "pairs/far"))
    (figure,) = accuracy_section(rows, colours_of(rows)).figures
    words = texts(figure.drawing)
    for expected in ("ID", "OODtopic", "far", "SMORM-F", "SMORM-L", "SMORM-M", "71.0", "n = 400"):
        assert expected in words
    assert any("95 % intervals" in word for word in words)
    assert words.count("SMORM-F") == 1
    assert [texts(panel).count("SMORM-F") for panel in figure.panels] == [1, 1, 1]


def test_one_regime_is_no_comparison():
    rows = rows_of(results("pairs/ID"))
    assert accuracy_section(rows, colours_of(rows)) is None
    assert accuracy_section([], {}) is None


def test_colours_come_from_the_palette_and_stay_with_a_method():
    groups = {"a": {"m": Metric(0.2, 9, 0.1, 0.3)}}
    assert PALETTE[3].lower() in bars(groups, ACCURACY, "t", colours={"m": 3}).svg()


def test_more_methods_than_colours_are_told_apart_by_hatching():
    group = {f"m{number}": Metric(0.5, 9, 0.4, 0.6) for number in range(9)}
    assert "<pattern" in bars({"a": group}, ACCURACY, "t").svg()


def test_ink_is_the_readers_and_text_is_text():
    svg = bars({"a": {"m": Metric(0.2, 9, 0.1, 0.3)}}, ACCURACY, "t").svg()
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<metadata" not in svg
    assert 'role="img" aria-label="t"' in svg


@pytest.mark.parametrize("name", ["$x^{", "a<b>&\"'", "名前", "x" * 200, "a\x00\ud800b", "_m", ""])
def test_any_name_can_be_drawn(name):
    groups = {name: {name: Metric(0.2, 9, 0.1, 0.3), "other": Metric(0.3, 9, 0.2, 0.4)}}
    words = texts(bars(groups, Style(name), name, chances={name: 0.1}))
    assert "other" in words


def test_a_name_that_begins_with_an_underscore_is_drawn():
    group = {"_m": Metric(0.2, 9, 0.1, 0.3), "other": Metric(0.3, 9, 0.2, 0.4)}
    assert any(word.endswith("_m") for word in texts(bars({"a": group}, ACCURACY, "t")))


def test_a_panel_has_the_axes_of_all_groups():
    groups = {"a": {"m": Metric(2.0, 9, 1.0, 3.0)}, "b": {"o": Metric(9.0, 9, 8.0, 10.0)}}
    of_b = texts(bars(groups, Style("score"), "t"))
    of_a = texts(bars(groups, Style("score"), "t", panels=["a"]))
    assert {"a", "m", "o", "10"} <= set(of_a)
    assert "b" not in {word.split("\n")[0] for word in of_a}
    assert {"a", "b"} <= set(of_b)


def test_a_standalone_figure_has_a_white_ground():
    svg = bars({"a": {"m": Metric(0.2, 9, 0.1, 0.3)}}, ACCURACY, "t").standalone_svg()
    assert "background:#fff" in ElementTree.fromstring(svg).attrib["style"]
