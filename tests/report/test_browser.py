"""The page in a real browser: nothing is cut on a phone, panels stack there and only there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from smorm.evaluation.result import CauseKind, Failure, Result
from tests.report.made_up import hacked, near, page_html, rising, runs, training_result

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium to show the page with")
LONG = "a-model-with-a-long-name/step-12000"

# The page runs no script, and its policy forbids it: a page around it measures.
MEASURE = """<!DOCTYPE html><iframe id="page" style="border:0;width:{width}px;height:900px"
srcdoc="{page}"></iframe><pre id="result"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument;
  const width = () => page.documentElement.scrollWidth;
  const found = {{closed: width()}};
  page.querySelectorAll("details").forEach(each => each.open = true);
  found.open = width();
  const boxes = selector => [...page.querySelectorAll(selector)].map(
    each => each.getBoundingClientRect());
  found.narrow = boxes(".narrow table, .narrow td, .narrow th").map(box => box.right);
  found.panels = boxes("main > section figure:first-of-type .panel").slice(0, 2).map(
    box => [box.left, box.top]);
  found.alarm = page.defaultView.getComputedStyle(page.querySelector("td.failed")).color;
  found.ink = page.defaultView.getComputedStyle(page.querySelector("td")).color;
  document.getElementById("result").textContent = JSON.stringify(found);
}});</script>"""


@pytest.fixture(scope="module")
def page():
    methods = {
        (name, "F"): {"ID": rising(0.7), "OODtopic": hacked(0.7, 0.6)}
        for name in ("Single", "SMORM", LONG)
    }
    results = runs(methods, range(2))
    results += [training_result("SMORM", seed, [1.0, 0.5]) for seed in range(2)]
    subsets = {f"subset/{name}": near(0.7) for name in ("a", "b", "a-subset-with-a-long-name")}
    for model in ("Single", LONG):
        metrics = {"overall": near(0.6), "chat": near(0.5), "length_only/overall": near(0.5)}
        results.append(Result("eval", "rm-bench", model, "F", metrics | subsets))
        results.append(Result("eval", "pairs/ID", model, "F", {"accuracy": near(0.7)}))
    failure = Failure("swapped", CauseKind.HEAD, "swapped: scores do not depend on the response")
    results.append(Result("sanity", "pairs/ID", "Single", "F", {"swapped": near(1.0)},
                          failures=(failure,)))  # fmt: skip
    return page_html(results, f"A page about {LONG}")


def measured(page, folder, width):
    path = folder / "measure.html"
    path.write_text(MEASURE.format(width=width, page=html.escape(page)), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 40},1000",
               path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result is not None, done.stderr[-2000:]
    return json.loads(html.unescape(result[1]))


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_page_and_panels_stack(page, tmp_path):
    measures = measured(page, tmp_path, 390)
    assert measures["closed"] <= 390
    assert measures["open"] <= 390
    assert measures["narrow"]
    assert max(measures["narrow"]) <= 390
    (x, top), (left_below, below) = measures["panels"]
    assert x == left_below
    assert below > top


def test_on_a_desk_panels_stand_side_by_side_and_a_failure_has_its_colour(page, tmp_path):
    measures = measured(page, tmp_path, 1280)
    assert measures["open"] <= 1280
    (x, top), (x_beside, top_beside) = measures["panels"]
    assert top == top_beside
    assert x_beside > x
    assert measures["alarm"] != measures["ink"]
