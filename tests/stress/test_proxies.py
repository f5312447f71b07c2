"""Ensembles as what is pushed and as gold, and a server that takes only text."""

from __future__ import annotations

import numpy as np
import pytest

from smorm import RewardModel
from smorm.data.census import Census, DropReason
from smorm.errors import ConfigError, ModelError
from smorm.model.export import export_view
from smorm.rewards.protocol import ScoringOptions, open_reward, score_all
from smorm.rewards.section import RewardSection
from smorm.stress.config import ProxySection
from smorm.stress.proxies import names_of, open_proxy
from smorm.stress.symptoms import ATTACKS, attacked
from tests.rewards.reward_servers import Engine, RewardServer, sglang
from tests.rewards.values import values
from tests.stress.made_up import pool, write_rows
from tests.tiny import trained

POOLS = [
    pool("metals full tin iron", ["tin iron steel", "tin", "tin iron zinc ."]),
    pool("birds brief owl", ["owl swan", "owl"]),
]


def members():
    return [{"model": str(trained("preference")), "view": "F", "name": "Single"},
            {"model": str(trained("joint")), "view": "L", "name": "SMORM"}]  # fmt: skip


def pusher_of(**section):
    asked = ProxySection.model_validate({"ensemble": members(), **section})
    return open_proxy(asked, names_of([asked])[0], ScoringOptions())


def own_rewards():
    """Rewards of all answers by each member alone, [M, N]."""
    records = [{"prompt": p.prompt[0].content, "response": text}
               for p in POOLS for text in p.texts]  # fmt: skip
    return np.stack([RewardModel.load(m["model"]).score(records).view(m["view"])
                     for m in members()])  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "combined"),
    [
        ({}, lambda own: own.mean(axis=0)),
        ({"combine": "min"}, lambda own: own.min(axis=0)),
        ({"combine": "uwo"}, lambda own: own.mean(axis=0) - 0.5 * own.var(axis=0)),
        ({"combine": "uwo", "kappa": 2}, lambda own: own.mean(axis=0) - 2 * own.var(axis=0)),
    ],
)
def test_an_ensemble_is_pushed_by_the_combination_of_its_members(asked, combined):
    pusher = pusher_of(**asked)
    (column,) = pusher.score(POOLS, Census())
    want = combined(own_rewards())
    np.testing.assert_allclose(np.concatenate(column), want, atol=1e-5)
    assert [len(one) for one in column] == [3, 2]
    assert pusher.name == "ensemble (Single, SMORM)"
    names = {"min": "min", "uwo": f"uwo {asked.get('kappa', 0.5):g}"}
    (view,) = pusher.views
    assert view.name == names.get(asked.get("combine", "mean"), "mean")
    assert [one["view"] for one in pusher.reward.provenance["members"]] == ["F", "L"]


def test_an_ensemble_is_a_gold_too_and_judges_attacks():
    asked = {"ensemble": members(), "combine": "min"}
    gold = open_reward(RewardSection.model_validate(asked))
    np.testing.assert_allclose(
        np.concatenate(values(gold, POOLS)), own_rewards().min(axis=0), atol=1e-5
    )
    pusher = pusher_of(combine="min")
    assert pusher.reward.reads_text
    (column,) = pusher.score([attacked(one) for one in POOLS], Census())
    assert [len(one) for one in column] == [1 + len(ATTACKS)] * 2


def test_members_are_standardised_on_the_reference_file(tmp_path):
    rows = [{"prompt": f"metals full {'tin ' * at}", "responses": ["tin", "iron tin", "zinc " * at]}
            for at in range(1, 13)]  # fmt: skip
    pusher = pusher_of(standardise=str(write_rows(tmp_path / "ref.jsonl", rows)), combine="min")
    facts = pusher.reward.provenance["members"]
    own = own_rewards()
    want = [(v - one["centre"]) / one["spread"] for v, one in zip(own, facts, strict=True)]
    (column,) = pusher.score(POOLS, Census())
    np.testing.assert_allclose(np.concatenate(column), np.min(want, axis=0), atol=1e-4)
    assert all(one["spread"] != 1.0 for one in facts)


def test_a_pool_that_one_member_cannot_score_names_it_and_a_shortened_prompt_is_counted():
    long = pool("metals full tin", ["tin " * 400, "tin"])
    (column,) = pusher_of().score([long, POOLS[1]], Census())
    assert str(column[0]).startswith("Single: ")
    assert isinstance(column[1], np.ndarray)
    census = Census()
    asked = RewardSection.model_validate({"ensemble": members(), "combine": "min"})
    both = open_reward(asked, ScoringOptions(overlong="truncate_prompt"))
    score_all(both, [pool("metals full " + "tin " * 400, ["tin", "iron"])], census, skip=False)
    assert census[DropReason.SHORTENED] == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ensemble": []}, "at least 1"),
        ({"ensemble": ["a"], "kappa": 1.0}, "kappa: is for combine uwo"),
        ({"ensemble": ["a"], "combine": "max"}, "combine"),
        ({"ensemble": ["x/a/model", "y/a"]}, "a is named twice"),
        ({"ensemble": ["a"], "view": "F"}, "give each member its own"),
        ({"ensemble": ["a"], "views": ["F"]}, "only a model has several"),
        ({"model": "a", "combine": "min"}, "only with ensemble"),
        ({"model": "a", "ensemble": ["b"]}, "model and ensemble are given"),
        ({"url": "http://x", "protocol": "sglang"}, "name under tokenizer"),
        ({"model": "a", "tokenizer": "b"}, "only for a server"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, said):
    with pytest.raises(ValueError, match=said):
        ProxySection.model_validate(asked)


def test_a_missing_member_is_found_before_the_first_is_loaded():
    with pytest.raises(ModelError, match="no/such"):
        pusher_of(ensemble=[str(trained()), "no/such/model"])
    with pytest.raises(ConfigError, match="view"):
        pusher_of(ensemble=[{"model": str(trained("preference")), "view": "L"}])


def test_members_may_be_given_by_name():
    named = {"Single": str(trained("preference")), "Both": {"model": str(trained()), "view": "M"}}
    asked = ProxySection.model_validate({"ensemble": named})
    assert asked.place == "ensemble (Single, Both)"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """View M of a trained model as a plain folder, and its own scores of all answers."""
    model = RewardModel.load(trained())
    folder = tmp_path_factory.mktemp("export") / "M"
    records = [{"prompt": p.prompt[0].content, "response": text}
               for p in POOLS for text in p.texts]  # fmt: skip
    own = model.score(records).view("M")
    done = export_view(folder, model.network, model.tokenizer, model.card, model.view("M"))
    return folder, own - done.offset


@pytest.mark.parametrize("protocol", ["sglang", "auto"])
def test_sglang_gives_what_the_folder_that_it_serves_gives(exported, protocol):
    folder, own = exported
    with RewardServer(sglang(Engine(folder))) as server:
        asked = {"url": server.url, "protocol": protocol, "tokenizer": str(folder)}
        gold = open_reward(RewardSection.model_validate(asked))
        found = np.concatenate(values(gold, POOLS))
        assert {one.path for one in server.posts()} == {"/classify"}
    np.testing.assert_allclose(found, own, atol=1e-4)


@pytest.mark.parametrize(
    ("protocol", "asked", "said"),
    [
        ("sglang", {"view": "F", "tokenizer": "IT"}, "view: http"),
        ("smorm", {"tokenizer": "IT"}, "tokenizer: http"),
        ("sglang", {"tokenizer": "no/such"}, "no/such"),
    ],
)
def test_a_key_that_a_server_has_no_use_for_is_refused(exported, protocol, asked, said):
    asked = {key: str(exported[0]) if value == "IT" else value for key, value in asked.items()}
    with (
        RewardServer(sglang(Engine(exported[0]))) as server,
        pytest.raises((ConfigError, ModelError), match=said),
    ):
        open_reward(RewardSection.model_validate(
            {"url": server.url, "protocol": protocol, **asked}))  # fmt: skip


def test_sglang_without_a_tokenizer_says_what_to_name(exported):
    with (
        RewardServer(sglang(Engine(exported[0]))) as server,
        pytest.raises(ConfigError, match="name the tokenizer"),
    ):
        open_reward(RewardSection.model_validate({"url": server.url}))
