"""Every import of another package is declared in `pyproject.toml`, and every declaration used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"smorm", "bench", "chaos", "engines", "experiments", "tests"}
# Programs that load a module of ours as a plug-in: never installed for it, since they are there.
HOSTS = {"verl"}


def declared() -> dict[str, set[str]]:
    """Distributions by extra; the dependencies of every installation under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {distribution_of(entry) for entry in entries} for extra, entries in groups.items()
    }


def distribution_of(requirement: str) -> str:
    """`pyyaml` of `PyYAML>=6`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return normal(name.group())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: str) -> dict[str, str]:
    """Top packages that a folder's files import from elsewhere -> one file that does."""
    packages: dict[str, str] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                packages.setdefault(module.partition(".")[0], str(file.relative_to(ROOT)))
    return {name: file for name, file in packages.items() if foreign(name)}


def foreign(package: str) -> bool:
    return package not in OURS | HOSTS and package not in sys.stdlib_module_names


@pytest.mark.parametrize("folder", ["src", "bench", "chaos", "experiments"])
def test_every_import_is_declared(folder: str) -> None:
    groups = declared()
    if folder == "src":  # what an installation has; the tools of a developer are not there
        del groups["dev"]
    allowed = set().union(*groups.values())
    distributions = packages_distributions()
    for package, file in imported(folder).items():
        names = {normal(name) for name in distributions.get(package, [package])}
        assert names & allowed, f"{file} imports {package}: declare one of {sorted(names)}"


def test_every_dependency_of_an_installation_is_imported() -> None:
    distributions = packages_distributions()
    used = {normal(name) for package in imported("src") for name in distributions.get(package, [])}
    assert declared()[""] <= used


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {distribution_of(line) for line in lines if line and not line.startswith("#")}
    assert set().union(*declared().values()) <= pinned
