"""What README and docs say is run: the YAML, the Python, the verbs, the links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from smorm.cli.verbs import VERBS
from smorm.config import Config, parse_config
from smorm.data.formats import FORMATS
from tests.conftest import ROOT
from tests.tiny import trained

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.S)


def test_the_readmes_config_is_valid():
    (text,) = blocks(ROOT / "README.md", "yaml")
    assert parse_config(yaml.safe_load(text)).objective.kind == "joint"


def test_the_readmes_python_runs():
    (text,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(text.replace("runs/first", str(trained())), names)
    assert names["scores"].view("M").shape == (2,)
    assert names["scores"].attributes.shape == (2, 5)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_verb_and_make_target_that_a_document_names_exists(path):
    text = path.read_text()
    assert {verb for verb in re.findall(r"^smorm (\w+)|`smorm (\w+)", text, re.M) for verb in verb
            if verb} <= set(VERBS)  # fmt: skip
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`|    )make (\w+)", text, re.M)) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_every_config_key_and_every_format_is_documented():
    text = "".join(path.read_text() for path in DOCUMENTS)
    for section in Config.model_fields.values():
        for name in section.annotation.model_fields:
            assert f"`{name}`" in text or f"`{name}:" in text or f"data.{name}" in text, name
    for name in FORMATS:
        assert f"`{name}`" in text, name


def test_the_files_that_the_architecture_page_names_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:src|tests|bench|docs|experiments)/[\w./]+)`", text)
    assert len(paths) > 30
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_architecture_of_the_architecture_page_is_fed_a_forest():
    (text,) = blocks(ROOT / "docs" / "architecture.md", "python")
    names: dict[str, object] = {}
    exec(text, names)
    assert names["verdict"].layout == "forest"
