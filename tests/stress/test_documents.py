"""What docs/stress.md says: its configuration is valid, and every key and number is in it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from smorm.config import parse_section
from smorm.stress.config import PromptsSection, RewardSection, SampleSection, StressConfig
from smorm.stress.curves import ScoredPools, measure
from smorm.stress.symptoms import text_measures
from tests.conftest import ROOT
from tests.stress.made_up import pool

TEXT = (ROOT / "docs" / "stress.md").read_text()


def test_the_configuration_is_valid():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)
    config = parse_section(StressConfig, yaml.safe_load(block))
    assert [one.kind for one in config.models] == ["model", "model", "function"]
    assert config.gold.kind == "url"
    assert [one.name for one in config.prompts] == ["ID", "OODtopic"]


@pytest.mark.parametrize("section", [StressConfig, PromptsSection, RewardSection, SampleSection])
def test_every_key_is_there(section):
    plain = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", plain))))
    assert set(section.model_fields) <= words


def test_every_number_is_there():
    one = pool("p", ["a", "b", "c"])
    numbers = measure(
        ScoredPools([one], [np.array([1.0, 2, 3])], [np.array([1.0, 3, 2])],
               [text_measures(one.texts)], (1, 2, 3))
    )[0].metrics  # fmt: skip
    for name in numbers:
        family = re.sub(r"@\d+", "@n", name)
        shown = "slope/MEASURE" if family.startswith("slope/") else family
        assert f"`{shown}`" in TEXT, name
