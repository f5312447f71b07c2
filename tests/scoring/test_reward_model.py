"""Scores do not depend on batches, order or neighbours; views are what they say."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm import RewardModel
from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences
from smorm.errors import ConfigError, DataError, ModelError
from smorm.model.backbone import fit_embeddings
from smorm.model.export import export_view
from smorm.model.store import save_model
from smorm.text.chat import Renderer
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


@pytest.fixture(scope="module")
def pairs() -> list:
    return list(read_preferences(Source(world()["eval-pairs-ID"]), census=Census()))


def test_the_three_views_are_the_preference_row_the_mean_attribute_and_their_mean(model, pairs):
    scores = model.score(pairs)
    preference, mean = scores.preference, scores.attributes.mean(axis=1)
    np.testing.assert_allclose(scores.view("F"), preference, atol=1e-12)
    np.testing.assert_allclose(scores.view("L"), mean, atol=1e-12)
    np.testing.assert_allclose(scores.view("M"), (preference + mean) / 2, atol=1e-12)
    np.testing.assert_array_equal(scores.view(), scores.view("M"))
    assert scores.attributes.shape == (2 * len(pairs), 5)
    assert scores.view("F").std() > 0.05


def test_a_weighted_view_counts_attributes_on_their_own_scale(model, pairs):
    view = {"name": "mine", "weights": {"preference": 2.0, "style": -0.5}, "offset": 1.0}
    scores = model.score(pairs, view)
    style = scores.attributes[:, model.attributes.index("style")]
    np.testing.assert_allclose(scores.view(), 2 * scores.preference - 0.5 * style + 1, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(budget=st.sampled_from([1, 64, 300, 1000, 8192]), seed=st.integers(0, 10**6))
def test_a_score_depends_neither_on_the_batch_nor_on_the_order(model, pairs, budget, seed):
    expected = model.score(pairs).rows.reshape(len(pairs), 2, -1)
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    found = model.score([pairs[i] for i in order], max_batch_tokens=budget).rows
    np.testing.assert_allclose(found.reshape(len(pairs), 2, -1), expected[order], atol=1e-5)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_layouts_agree(model, pairs, layout):
    other = RewardModel.load(trained(), layout=layout)
    assert model.network.layout == "forest"
    np.testing.assert_allclose(other.score(pairs).rows, model.score(pairs).rows, atol=1e-5)


def test_bf16_weights_stay_within_two_hundredths_of_the_spread(model, pairs):
    half = RewardModel.load(trained(), dtype="bfloat16")
    assert half.network.head.weight.dtype == torch.float32
    expected = model.score(pairs).preference
    gap = np.abs(half.score(pairs).preference - expected).max()
    assert gap < 0.05 * expected.std() + 0.02


def test_every_accepted_kind_of_record_gives_the_same_score(model):
    prompt, response = "a question", "an answer"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    given_as = [
        (prompt, response),
        {"prompt": prompt, "response": response},
        {"messages": messages},
        {"prompt": messages[:1], "responses": [response]},
    ]
    scores = model.score(given_as)
    assert np.ptp(scores.preference) < 1e-6
    assert not scores.truncated.any()
    assert len(set(scores.tokens.tolist())) == 1


def test_nothing_to_score_gives_empty_arrays(model):
    scores = model.score([])
    assert len(scores) == 0
    assert scores.view("M").shape == (0,)
    assert scores.attributes.shape == (0, 5)


@pytest.mark.parametrize("record", ["text", 3, None, ("only prompt",), {"prompt": "x"}, (1, 2)])
def test_what_is_no_record_is_refused_by_its_number(model, record):
    with pytest.raises(DataError, match="record 2"):
        model.score([("p", "r"), record])


def test_a_conversation_that_does_not_fit_is_an_error_or_shortened_and_told(model):
    long = ("word " * 400, "an answer")
    with pytest.raises(DataError, match="record 1: the conversation has"):
        model.score([long])
    scores = model.score([long, ("short", "an answer")], overlong="truncate_prompt")
    assert scores.truncated.tolist() == [True, False]
    assert scores.tokens[0] <= 256


@pytest.mark.parametrize("view", ["X", {"weights": {"tone": 1.0}}, {"weights": {"style": "a"}}, {}])
def test_an_unknown_view_is_refused(model, view):
    with pytest.raises(ConfigError, match="view"):
        model.score([("p", "r")], view)


def test_a_model_trained_on_ratings_alone_refuses_its_untrained_preference_row():
    multi = RewardModel.load(trained("regression"))
    assert multi.score([("p", "r")]).view().shape == (1,)
    for view in ("F", "M", {"weights": {"preference": 1.0}}):
        with pytest.raises(ConfigError, match="not trained"):
            multi.view(view)


def test_a_model_trained_on_pairs_alone_has_no_attribute_views():
    single = RewardModel.load(trained("preference"))
    assert single.attributes == ()
    with pytest.raises(ConfigError, match="no"):
        single.view("L")


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no such model folder"):
        RewardModel.load(tmp_path / "missing")
    with pytest.raises(ModelError, match="no weights in it"):
        RewardModel.load(tmp_path)


def test_a_model_of_a_template_with_added_tokens_trained_before_loads_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model, folder = RewardModel.load(trained()), tmp_path / "model"
    model.tokenizer.add_tokens(["<think>"])
    fit_embeddings(model.network.backbone, len(model.tokenizer))
    template = f"{model.card.chat_template}{{% if false %}}<think>{{% endif %}}"
    renderer = Renderer(model.tokenizer, template).older_fingerprint
    card = replace(model.card, chat_template=template, renderer=renderer)
    save_model(folder, model.network, model.tokenizer, card)
    RewardModel.load(folder)
    assert "they are tokens now" in caplog.text


def test_another_chat_template_than_in_training_is_refused(tmp_path: Path):
    folder = shutil.copytree(trained(), tmp_path / "model")
    card = json.loads((folder / "smorm.json").read_text())
    card["chat_template"] = card["chat_template"].replace("<sep>", "")
    (folder / "smorm.json").write_text(json.dumps(card))
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match="rendered to other tokens"):
        RewardModel.load(folder)


def test_a_view_that_is_resolved_twice_has_an_exports_constant_once(model, tmp_path):
    export_view(tmp_path / "m", model.network, model.tokenizer, model.card, model.view("L"))
    exported = RewardModel.load(tmp_path / "m")
    once = exported.view("F")
    assert once.offset != 0
    assert exported.view(once) == once
    pairs = [("metals full tin iron", "tin soft because age .")]
    np.testing.assert_allclose(
        exported.score(pairs, once).view(), model.score(pairs, "L").view(), atol=1e-5
    )


def test_fields_that_are_not_read_are_named_in_python_too(model, caplog: pytest.LogCaptureFixture):
    row = {"prompt": "Q", "response": "A", "system": "Be brief.", "model": "m"}
    model.score([row, row])
    assert "though it holds text, messages, tools or scores: system (2)" in caplog.text
    assert "not read: model (2)" in caplog.text
    with pytest.raises(DataError, match="instruction: not read"):
        model.score([{"instruction": "Q", "chosen": "A", "rejected": "B"}])
