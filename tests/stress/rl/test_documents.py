"""What docs/rl.md says: its configurations are valid, every key and number is in it."""

from __future__ import annotations

import re

import pytest
import yaml

from smorm.config import load_section, parse_section
from smorm.stress.config import ConstraintSection, RLSection, StressConfig, TrainingPrompts
from tests.conftest import ROOT
from tests.stress.rl.test_measure import RUN, measured

TEXT = (ROOT / "docs" / "rl.md").read_text()
RECIPES = sorted((ROOT / "recipes").glob("lab-*.yaml"))


def blocks():
    return [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)]


def test_the_configurations_are_valid():
    whole, constrained = blocks()
    config = parse_section(StressConfig, whole)
    assert config.rl is not None
    assert config.rl.algorithm == "ppo"
    held = parse_section(StressConfig, {**whole, "rl": {**whole["rl"], **constrained["rl"]}})
    assert str(held.rl.constraint.from_result) == "first.json"


@pytest.mark.parametrize("section", [RLSection, ConstraintSection, TrainingPrompts])
def test_every_key_is_there(section):
    plain = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", plain))))
    assert set(section.model_fields) <= words


def test_every_default_is_there():
    rows = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5:
            names, values = re.findall(r"`(\w+)`", cells[1]), cells[3].replace("`", "").split(", ")
            if len(names) == len(values):
                rows |= dict(zip(names, values, strict=True))
    told = {
        "steps", "prompts_per_step", "learning_rate", "max_grad_norm", "clip", "temperature",
        "max_new_tokens", "kl_coefficient", "normalise_rewards", "batch", "gae_lambda",
        "value_coefficient", "evaluate_every", "evaluation_answers", "prompt_tokens",
    }  # fmt: skip
    assert told <= set(rows)
    for name in told:
        default = RLSection.model_fields[name].default
        shown = rows[name]
        assert (shown if isinstance(default, str) else float(shown)) == default, name


def test_every_number_is_there():
    for name in measured(RUN)[0].metrics:
        shown = "slope/MEASURE" if name.startswith("slope/") else name
        assert f"`{shown}`" in TEXT, name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_named_after_its_algorithm(path):
    config = load_section(StressConfig, path)
    assert config.gold.place == "lab:0"
    assert path.stem == f"lab-{config.rl.algorithm}"


def test_there_are_recipes():
    assert {"lab-ppo", "lab-grpo"} <= {path.stem for path in RECIPES}
