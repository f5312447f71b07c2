"""The whole page on made-up results of several methods: what it holds, and what it never does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image

from smorm.errors import ConfigError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.curves import curves_of
from smorm.report.page import write_page
from smorm.report.rows import rows_of
from smorm.report.sections import cost_section, sections_of, training_section
from smorm.report.tables import correlation_table, show_count
from tests.report.made_up import (
    cost_result,
    hacked,
    near,
    page_html,
    policy_result,
    rising,
    runs,
    training_result,
)
from tests.report.test_page import Reader


def rated(model, seed):
    metrics = {"spearman": near(0.4), "spearman/clarity": near(0.6), "spearman/style": near(-0.2)}
    return Result("eval", "rated/ID", model, "attributes", metrics, [], {"seed": seed})


def test_a_caption_names_grey_lines_only_where_they_are_drawn():
    for many, drawn in ((9, True), (14, False)):
        methods = {(f"m{index}", "F"): {"ID": rising(0.7)} for index in range(many)}
        results = runs(methods, range(2))
        sections = sections_of(rows_of(results), curves_of(results), (), ())
        captions = " ".join(figure.caption for each in sections for figure in each.figures)
        assert ("Dashed: m0; grey: the others." in captions) == drawn
        assert ("Dashed: m0. Bands" in captions) != drawn


@pytest.fixture(scope="module")
def results():
    methods = {
        ("Single", "F"): {"OODtopic": hacked(0.7, 0.6), "ID": rising(0.7)},
        ("SMORM", "F"): {"OODtopic": rising(0.75), "ID": rising(0.75)},
    }
    results = runs(methods, range(3))
    for seed in range(3):
        results += [
            policy_result(name, "F", "ID", seed, [0.5, 0.6, 0.6]) for name in ("Single", "SMORM")
        ]
        results += [cost_result(name, "F", seed) for name in ("Single", "SMORM")]
        results += [training_result("SMORM", seed, [1.0, 0.6, 0.4]), rated("SMORM", seed)]
    return results


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    """The page of these results, and the files of its figures."""
    page = tmp_path_factory.mktemp("rivals") / "page.html"
    plain = [result.as_dict() for result in results]
    return page, write_page(plain, page, "Rivals", figures=page.parent / "figures")


@pytest.fixture(scope="module")
def text(written):
    return written[0].read_text()


def test_the_page_has_conclusions_curves_tables_costs_and_fingerprints(text):
    words = " ".join(Reader(text).words)
    for expected in (
        "What the numbers show",
        "comparisons over seeds",
        "gold of the best of 256 compared with Single: higher for SMORM",
        "best-of-n: gold and proxy against KL",
        "Bands are 95 % intervals: Student's t over seeds",
        "ppo: traced over steps",
        "gold lost after its peak",
        "All 6 paired differences",
        "Unseen topics (OODtopic)",
        "Training loss of each method",
        "forward passes a score",
        "1,250,000",
        "163,000",
        "Spearman's rank correlation of each attribute",
        "Fingerprints",
        "c0ffee",
    ):
        assert expected in words, expected


def test_the_page_is_self_contained_and_its_ids_are_unique(text):
    reader = Reader(text)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(\s*['\"]?[^#'\")]", text)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    named = [name for name in reader.ids if not re.fullmatch(r"[mph][0-9a-f]{10}", name)]
    assert len(named) == len(set(named))
    for target in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{target}"' in text


@pytest.mark.slow
def test_the_same_results_give_the_same_page(results, text):
    assert page_html(results, "Rivals") == text


def test_every_figure_is_written_as_svg_and_png_under_a_plain_name(written, text):
    folder = written[0].parent / "figures"
    assert sorted(folder.iterdir()) == sorted(written[1])
    names = {path.stem for path in written[1]}
    assert {"best-of-n-gold-and-proxy-by-kl", "ppo-by-step", "training-loss"} <= names
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert len(text.split("<figure>")) - 1 == len(names)
    for name in names:
        Image.open(folder / f"{name}.png").verify()
        assert (folder / f"{name}.svg").read_text().startswith("<svg ")


def test_figures_of_one_name_do_not_overwrite_each_other(tmp_path):
    pair = [
        Result("eval", name, "m", "F", {"accuracy": near(0.6)}) for name in ("hhh/a b", "hhh/a-b")
    ]
    written = write_page(
        [result.as_dict() for result in pair], tmp_path / "p.html", "t", figures=tmp_path
    )
    assert len({path.name for path in written}) == 4


def test_a_baseline_and_a_highlight_can_be_chosen_and_must_exist(results, tmp_path):
    plain = [result.as_dict() for result in results if result.kind == "stress"]
    write_page(plain, tmp_path / "p.html", "t", baselines=["SMORM"], highlighted=["Single"])
    assert "compared with SMORM: lower for Single −" in (tmp_path / "p.html").read_text()
    for options in ({"baselines": ["x"]}, {"highlighted": ["x"]}):
        with pytest.raises(ConfigError, match="x: no"):
            write_page(plain, tmp_path / "q.html", "t", **options)
    assert not (tmp_path / "q.html").exists()


def test_hostile_names_in_curves_never_become_markup():
    hostile = "<script>alert(1)</script>"
    results = runs({(hostile, "F"): {hostile: rising(0.7)}}, range(2))
    results += runs({("other", "F"): {hostile: rising(0.8)}}, range(2))
    text = page_html(results, hostile)
    assert "script" not in Reader(text).tags


def test_a_heat_table_needs_two_attributes_and_colours_by_sign():
    rows = rows_of([rated("SMORM", None)])
    table = correlation_table(rows)
    shades = " ".join(cell.shade for cell in table.rows[0].cells)
    assert "var(--above) 43%" in shades  # 0.6 of 72
    assert "var(--below) 14%" in shades
    assert "clarity" in table.headings
    assert "var(--above) 43%" in page_html([rated("SMORM", None)], "t")
    metrics = {"spearman": near(0.5), "spearman/x": near(0.5)}
    assert correlation_table(rows_of([Result("eval", "rated/x", "m", "F", metrics)])) is None


def test_long_training_curves_are_averaged_and_say_so():
    curves = curves_of([training_result("m", 0, [float(x) for x in range(240)])])
    section = training_section(curves)
    assert "at most 60 points" in section.figures[0].caption
    assert training_section([]) is None
    short = curves_of([training_result("m", 0, [1.0, 0.5])])
    assert "averaged" not in training_section(short).figures[0].caption


def test_costs_show_passes_of_an_ensemble_and_unknown_numbers_too():
    base = cost_result("SM", "mean", 0, passes=2)
    more = replace(base, model="x", metrics={**base.metrics, "first_pass_tokens": Metric(7.0, 1)})
    text = page_html([base, more], "t")
    assert "<td>2</td>" in text
    assert "326,000" in text
    assert "first pass tokens" in text
    assert cost_section([]) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(2.0, "2"), (1.5, "1.5"), (1234567.4, "1,234,567"), (float("nan"), "–")]
)
def test_counts_have_their_thousands_apart(value, expected):
    assert show_count(Metric(value, 1)) == expected
