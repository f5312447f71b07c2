"""A name says what it holds: words that do not are refused as variables and arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "smorm"
WORDS = """
found told one asked own given kept other both parts part whole apart marks mark way ways shown left
here there several alone place places wanted taken seen chance spread reach freedom
"""
SAY_NOTHING = frozenset(WORDS.split())


def bound_names(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of every variable that is assigned and every argument."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
    return names


def empty_names(room: str) -> list[str]:
    """`file:line: name` of the names in a room that say nothing."""
    path = PACKAGE / room
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    uses = []
    for file in files:
        for line, name in bound_names(ast.parse(file.read_text(encoding="utf-8"))):
            if name in SAY_NOTHING:
                uses.append(f"{file.relative_to(PACKAGE)}:{line}: {name}")
    return uses


def rooms() -> list[str]:
    folders = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    return sorted([*folders, *(path.name for path in PACKAGE.glob("*.py"))])


@pytest.mark.parametrize("room", rooms())
def test_names_say_what_they_hold(room: str) -> None:
    uses = empty_names(room)
    assert not uses, "\n".join(uses)


def test_the_rule_sees_variables_arguments_and_loops() -> None:
    tree = ast.parse(
        "def f(one, *, other=1):\n    found = 1\n    for place in x: pass\n    y.own = 2"
    )
    names = {name for _, name in bound_names(tree)}
    assert names & SAY_NOTHING == {"one", "other", "found", "place"}
