"""The committed pages are what the experiments write from the committed numbers."""

import shutil
from pathlib import Path

import pytest

from experiments.rewrite import PAGES

RESULTS = Path("results")


@pytest.mark.parametrize("page", PAGES)
def test_a_committed_page_is_made_of_the_committed_numbers(page, tmp_path):
    committed = RESULTS / page
    folder = tmp_path / "results"
    shutil.copytree(committed.parent, folder, ignore=shutil.ignore_patterns("*.md", "*.html"))
    PAGES[page](folder)
    assert (folder / committed.name).read_text("utf-8") == committed.read_text("utf-8")
