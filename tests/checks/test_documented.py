"""docs/check.md says what every finding means, and every finding has its sentences."""

from __future__ import annotations

import re
import string

import pytest

from smorm.checks.findings import WORDING, FindingKind, Thresholds
from tests.conftest import ROOT

PAGE = (ROOT / "docs/check.md").read_text()


@pytest.mark.parametrize("kind", FindingKind)
def test_every_finding_is_documented_and_worded(kind):
    assert f"`{kind}`" in PAGE
    assert any(key.partition("/")[0] == kind for key in WORDING)


def test_the_sentences_end_as_sentences_do_and_name_their_numbers():
    for key, wording in WORDING.items():
        assert list(wording) in (["meaning"], ["meaning", "remedy"]), key
        for text in wording.values():
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name]
            assert text.endswith((".", "}")), key
            assert all(re.fullmatch("[a-z_]+", name) for name in fields), key


def test_every_threshold_is_documented_where_it_is_kept():
    for name in Thresholds.__dataclass_fields__:
        assert f"        {name}: " in (Thresholds.__doc__ or "")
