"""PEFT adapters for sequence classification load with base and head, or one line says why not."""

from __future__ import annotations

import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import chaos.templates
from smorm import RewardModel
from smorm.errors import ModelError, UnboundedError
from smorm.model.backbone import import_peft
from smorm.model.border import quiet
from smorm.model.foreign import Unreadable, UnreadableModelError
from tests.model.foreign_folders import (
    PAIRS,
    change_json,
    classifier,
    load_plain,
    plain_logits,
    tokenizer,
)


def headless(folder: Path, architecture: str = "llama") -> Path:
    """A language model, as adapters are usually trained on."""
    source = classifier(folder.with_name("source"), architecture)
    with quiet():
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def adapted(base: Path, folder: Path, rows: int = 1, **options) -> np.ndarray:
    """Save adapters as TRL's RewardTrainer does; returns what plain transformers and peft give."""
    torch.manual_seed(1)
    model = load_plain(base, num_labels=rows)
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    with import_peft() as peft:
        model = peft.get_peft_model(model, peft.LoraConfig(**{**settings, **options}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    with import_peft():
        model.save_pretrained(folder)
    return plain_logits(model.eval())


@pytest.fixture(scope="module")
def shared_adapters(tmp_path_factory) -> Path:
    """Adapters on a language model beside them: leave them as they are."""
    folder = tmp_path_factory.mktemp("shared")
    adapted(headless(folder / "base"), folder / "adapters")
    return folder / "adapters"


@pytest.fixture
def adapters(shared_adapters, tmp_path) -> Path:
    """A copy, free to be spoiled; its base is the shared one."""
    return shutil.copytree(shared_adapters, tmp_path / "adapters")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_adapters_and_their_head_score_as_in_plain_transformers(tmp_path, architecture):
    base = headless(tmp_path / "base", architecture)
    expected = adapted(base, tmp_path / "adapters")
    model = RewardModel.load(tmp_path / "adapters")
    np.testing.assert_allclose(model.score(PAIRS).view(), expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(model.score(PAIRS).preference, expected[:, 0], atol=1e-5)


def test_several_rows_are_labels(tmp_path):
    expected = adapted(headless(tmp_path / "base"), tmp_path / "adapters", rows=2)
    scores = RewardModel.load(tmp_path / "adapters").score(PAIRS, {"LABEL_1": 1})
    np.testing.assert_allclose(scores.view(), expected[:, 1], atol=1e-5)


def test_adapters_on_the_head_itself_and_dora_are_merged(tmp_path):
    targets = ["q_proj", "score"]
    options = {"target_modules": targets, "modules_to_save": None, "use_dora": True}
    base = classifier(tmp_path / "base")
    expected = adapted(base, tmp_path / "adapters", **options)
    # `SEQ_CLS` saves the head whole; these adapters change it.
    found = RewardModel.load(tmp_path / "adapters").score(PAIRS).view()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def test_the_base_may_stand_beside_the_adapters(tmp_path):
    expected = adapted(headless(tmp_path / "base"), tmp_path / "adapters")
    change_json(tmp_path / "adapters/adapter_config.json", base_model_name_or_path="../base")
    found = RewardModel.load(tmp_path / "adapters").score(PAIRS).view()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def test_adapters_without_a_head_take_the_head_of_a_reward_model(tmp_path):
    base = classifier(tmp_path / "base")
    expected = adapted(base, tmp_path / "adapters", task_type="FEATURE_EXTRACTION",
                       target_modules=["q_proj", "v_proj"])  # fmt: skip
    found = RewardModel.load(tmp_path / "adapters").score(PAIRS).view()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def edited(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def without_head(weights) -> None:
    del weights["base_model.model.score.weight"]


def other_layers(weights) -> None:
    for name in list(weights):
        if "layers.1" in name:
            weights[name.replace("layers.1", "layers.9")] = weights.pop(name)


def eight_bit(weights) -> None:
    name = "base_model.model.score.weight"
    weights[name] = weights[name].to(torch.int8)


def value_head(weights) -> None:
    weights["v_head.summary.weight"] = weights.pop("base_model.model.score.weight")


CHANGES = {
    "head": (without_head, Unreadable.NO_ADAPTED_HEAD, "modules_to_save"),
    "layers": (other_layers, Unreadable.UNREAD_ADAPTERS, "layers.9"),
    "int8": (eight_bit, Unreadable.QUANTISED, "int8"),
    "value": (value_head, Unreadable.VALUE_HEAD, "v_head.summary.weight"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_adapters_that_would_be_read_in_part_are_refused(adapters, name):
    change, kind, found = CHANGES[name]
    edited(adapters, change)
    with pytest.raises(UnreadableModelError) as caught:
        RewardModel.load(adapters)
    assert caught.value.kind is kind
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_not_here_is_named(adapters):
    for missing in (str(adapters.with_name("gone")), None):
        change_json(adapters / "adapter_config.json", base_model_name_or_path=missing)
        with pytest.raises(UnreadableModelError, match="base_model_name_or_path") as caught:
            RewardModel.load(adapters)
        assert caught.value.kind is Unreadable.NO_BASE


def test_pickled_adapters_are_refused(adapters):
    weights = adapters / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnreadableModelError, match=r"adapter_model\.bin") as caught:
        RewardModel.load(adapters)
    assert caught.value.kind is Unreadable.PICKLED


def test_adapters_that_are_only_prompts_are_refused(tmp_path):
    model = load_plain(headless(tmp_path / "base"), num_labels=1)
    with import_peft() as peft:
        config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapters")
    with pytest.raises(ModelError, match="PROMPT_TUNING"):
        RewardModel.load(tmp_path / "adapters")


# Each takes its second: every pattern once, under every key some.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "key"),
    list(zip(chaos.templates.PATTERNS, cycle(["target_modules", "rank_pattern"]))),
)
def test_a_pattern_that_takes_hours_is_refused(monkeypatch, hostile, pattern, key):
    monkeypatch.setenv("SMORM_LIMIT_PROBE_SECONDS", "1")
    value = {pattern: 4} if key == "rank_pattern" else pattern
    change_json(hostile / "adapter_config.json", **{key: value})
    refusal = rf"adapter_config\.json: {key}: takes too long: .*PROBE_SECONDS raises it"
    with pytest.raises(UnboundedError, match=refusal):
        RewardModel.load(hostile)


def test_an_honest_pattern_is_matched(hostile):
    change_json(hostile / "adapter_config.json", target_modules=r".*\.(q|v)_proj|.*mlp.*_proj")
    assert np.isfinite(RewardModel.load(hostile).score(PAIRS).view()).all()


@pytest.fixture(scope="module")
def patterned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patterned")
    targets = r".*\.(q|v)_proj|.*mlp.*_proj"
    adapted(headless(folder / "base"), folder / "adapters", target_modules=targets)
    return folder / "adapters"


@pytest.fixture
def hostile(patterned, tmp_path) -> Path:
    """Adapters, made once and copied, whose modules a pattern names; their base is shared."""
    return shutil.copytree(patterned, tmp_path / "adapters")
