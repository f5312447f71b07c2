"""The judge of pages and cards sees what a reader's program would run, and nothing else."""

from __future__ import annotations

import pytest

from chaos.injections import _judge_page
from chaos.trial import Ended


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        ("README.md", "see [x](javascript:alert(1))", 1),
        ("README.md", 'a ` and "><svg onload=alert(1)>', 1),
        ("README.md", 'see `"><svg onload=alert(1)>` and ``[`x`](javascript:alert(1))``', 0),
        ("README.md", "```yaml\nname: <svg onload=x>\n```\n", 0),
        ("page.html", "<svg onload=alert(1)>", 1),
        ("page.html", '<a href="javascript:alert(1)">', 1),
        ("page.html", "<p>[x](javascript:alert(1))</p>", 0),
    ],
)
def test_the_judge_of_pages(tmp_path, name, text, faults):
    (tmp_path / name).write_text(text)
    assert len(list(_judge_page(tmp_path, Ended(0, "", 0.1, 0)))) == faults
