"""Registries: built-in names are lazy, others are added by decorator or entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smorm.errors import ConfigError
from smorm.registry import Registry


def made() -> Registry[object]:
    return Registry("thing", "smorm.test_things", {"path": "pathlib:Path", "gone": "no_such:thing"})


def test_a_built_in_is_imported_when_it_is_used() -> None:
    things = made()
    assert things.names() == ("path", "gone")
    assert things["path"] is Path
    with pytest.raises(ModuleNotFoundError):
        things["gone"]


def test_a_decorator_adds_and_a_second_one_is_refused() -> None:
    things = made()

    @things.add("mine")
    class Mine:
        pass

    assert things["mine"] is Mine
    assert "mine" in things
    assert list(things) == ["path", "gone", "mine"]
    with pytest.raises(ConfigError, match="thing 'path' is registered already"):
        things.register("path", object())


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"expected one of path, gone; did you mean 'path'\?"):
        made()["paths"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with entry points, as pip would leave it."""
    information = tmp_path / "toy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[smorm.test_things]\ntoy = toy_things:TOY\nbroken = toy_things:NOTHING\n"
    )
    (tmp_path / "toy_things.py").write_text("TOY = 'a toy'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_things", raising=False)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_adds_by_entry_point() -> None:
    things = made()
    assert things.names() == ("path", "gone", "toy", "broken")
    assert things["toy"] == "a toy"
    with pytest.raises(ConfigError, match="thing 'broken': toy_things:NOTHING cannot be loaded"):
        things["broken"]
