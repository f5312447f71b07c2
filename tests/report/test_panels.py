"""Panels of curves: everything is named, in order, and the drawings are whole."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smorm.evaluation.metrics import Metric
from smorm.report.blocks import PALETTE
from smorm.report.curves import curves_of
from smorm.report.panels import (
    BASE,
    HIGHLIGHTED,
    line_styles,
    separate,
    side_by_side,
    small_multiples,
)
from tests.report.made_up import SETS, hacked, rising, runs

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing):
    root = ElementTree.fromstring(drawing.svg())
    return [" ".join(node.itertext()) for node in root.iter(f"{SVG}text")]


def some(count, sets=SETS[:2], seeds=range(2)):
    methods = {
        (f"m{number}", "F"): {name: rising(0.6 + 0.01 * number) for name in sets}
        for number in range(count)
    }
    return curves_of(runs(methods, seeds))


@pytest.mark.slow
def test_the_overview_has_a_column_for_each_set_and_names_each_line():
    curves = some(3)
    drawing = side_by_side(curves, ("gold", "proxy"), "kl", "t", styles=line_styles(curves, ["m0"]))
    words = texts(drawing)
    assert words.index("ID") < words.index("OODtopic")
    for label in ("m0", "m1", "m2"):
        assert words.count(label) == 4  # two sets, two quantities
    for expected in ("gold", "proxy gain, std", "n = 1", "256"):
        assert expected in words
    assert any("nats" in word for word in words)
    assert PALETTE[0].lower() in drawing.svg()


def test_more_methods_than_can_be_told_apart_are_grey_and_unnamed():
    curves = some(9)
    styles = line_styles(curves, ["m3"], ["m4"])
    assert len(styles) == HIGHLIGHTED
    assert styles["m3"] == BASE
    assert {"m3", "m4", "m8", "m7", "m6", "m5", "m2"} == set(styles)  # most gold at the end
    assert len(set(styles.values())) == HIGHLIGHTED
    words = texts(side_by_side(curves, ("gold",), "kl", "t", styles=styles))
    assert "m8" in words
    assert "m0" not in words


def test_every_method_has_a_panel_of_its_own():
    curves = [curve for curve in some(9) if curve.prompts == "ID"]
    words = texts(small_multiples(curves, "gold", "kl", "t", base="m0"))
    assert [word for word in words if word.startswith("m")] == [f"m{at}" for at in range(9)]


def test_losses_are_drawn_each_on_its_own_scale():
    curves = [replace(curve, kind="training") for curve in some(2, ("ID",))]
    assert "gold" in texts(small_multiples(curves, "gold", "step", "t", shared=False))


def test_missing_numbers_and_single_points_can_be_drawn():
    (curve,) = some(1, ("ID",))
    holes = tuple(Metric(math.nan, 0) for _ in curve.at)
    for values in (
        {"gold": holes, "kl": curve.values["kl"]},
        {"gold": (Metric(0.5, 3), *holes[1:]), "kl": curve.values["kl"]},
        {"kl": curve.values["kl"]},
    ):
        empty = replace(curve, values=values)
        drawing = side_by_side([empty], ("gold",), "kl", "t", styles={empty.label: 0})
        assert "<svg" in drawing.svg()
        assert "<svg" in small_multiples([empty], "gold", "kl", "u").svg()
    point = replace(curve, at=curve.at[:1], values={k: v[:1] for k, v in curve.values.items()})
    assert "<svg" in side_by_side([point], ("gold",), "kl", "v", styles={point.label: 0}).svg()


def test_a_png_is_white_and_as_large_as_it_says():
    (curve,) = curves_of(runs({("a", "F"): {"ID": hacked(0.7, 0.6)}}, range(2)))
    drawing = small_multiples([curve], "gold", "kl", "t")
    image = Image.open(io.BytesIO(drawing.png()))
    assert image.size == pytest.approx([side * 160 for side in drawing.size], abs=1)
    assert image.convert("RGB").getpixel((1, image.size[1] - 2)) == (255, 255, 255)
    assert drawing.png() == drawing.png()


@pytest.mark.parametrize("name", ["$x^{", "a<b>&\"'", "名前", "x" * 80, "_m", "a\x00b"])
def test_any_name_can_stand_beside_a_line(name):
    curves = curves_of(runs({(name, "F"): {name: rising(0.7)}}, range(2)))
    styles = line_styles(curves, [name])
    assert "<svg" in side_by_side(curves, ("gold",), "kl", name, styles=styles).svg()


def test_a_way_back_in_kl_has_bars_for_a_band():
    (curve,) = some(1, ("ID",))
    kl = curve.values["kl"]
    forth = replace(curve, kind="rl")
    back = replace(forth, values={**curve.values, "kl": (*kl[:-1], kl[3])})
    drawn = [
        side_by_side([c], ("gold",), "kl", "t", styles={c.label: 0}).svg() for c in (forth, back)
    ]
    assert ["fill-opacity: 0.13" in svg for svg in drawn] == [True, False]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_names_at_line_ends_keep_their_order_and_their_distance(values):
    values.sort()
    placed = separate(values, 0.1, 0.0, 1.0)
    assert len(placed) == len(values)
    gaps = [after - before for before, after in pairwise(placed)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)
    assert max(placed) <= 1.0 + 1e-9


def test_a_lone_name_stands_at_its_line():
    assert separate([0.4], 0.1, 0.0, 1.0) == [0.4]
    assert separate([0.2, 0.8], 0.1, 0.0, 1.0) == pytest.approx([0.2, 0.8])
    assert separate([0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.45, 0.55])
