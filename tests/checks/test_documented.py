"""docs/check.md says what every finding means."""

from __future__ import annotations

import ast

import pytest

from smorm.checks.findings import Thresholds
from tests.conftest import ROOT

SOURCES = [
    *(ROOT / "src/smorm/data/checks").glob("*.py"),
    *(ROOT / "src/smorm/checks").glob("*.py"),
    ROOT / "src/smorm/checks/template.py",
]
MAKERS = {"Finding", "TemplateFault", "_one"}
PAGE = (ROOT / "docs/check.md").read_text()


def codes() -> set[str]:
    """Every text in the code that has the form of a finding's code and is told as one."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS and node.args:
                found |= constants(node.args[0])
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                found |= constants(node.value.elts[0])
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
                found |= constants(node.value)
    return found


def constants(node: ast.AST) -> set[str]:
    """The text itself, or both texts of a choice."""
    choice = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
    return {one.value for one in choice if isinstance(one, ast.Constant)}


def test_the_codes_are_found_in_the_code():
    assert {"bad_records", "prompt_leakage", "double_bos", "length_bias"} <= codes()
    assert len(codes()) > 35


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_finding_is_documented(code):
    assert f"`{code}`" in PAGE


def test_every_threshold_is_documented_where_it_is_kept():
    for name in Thresholds.__dataclass_fields__:
        assert f"        {name}: " in (Thresholds.__doc__ or "")
