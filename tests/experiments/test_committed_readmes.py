"""The committed pages are what the experiments write from the committed numbers."""

import shutil
from pathlib import Path

import pytest

from experiments.rewrite import PAGES

RESULTS = Path("results")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """All numbers of `results/` without its pages."""
    folder = tmp_path_factory.mktemp("pages") / "results"
    shutil.copytree(RESULTS, folder, ignore=shutil.ignore_patterns("*.md", "*.html", "figures"))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_committed_page_is_made_of_the_committed_numbers(page, numbers):
    PAGES[page]((numbers / page).parent)
    assert (numbers / page).read_text("utf-8") == (RESULTS / page).read_text("utf-8")
