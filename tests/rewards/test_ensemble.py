"""Several models as one: laws of the rules, of standardising, and of models held together."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import numpy as np
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from smorm import RewardModel
from smorm.data.items import as_items
from smorm.errors import ConfigError, DataError
from smorm.rewards.ensemble import Ensemble, Member, Rule, Standard, standard_of
from smorm.rewards.model import ModelReward
from tests.tiny import trained, world

law = settings(deadline=None)
NUMBER = st.floats(-100, 100, width=32)
VALUES = npst.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=NUMBER
)  # [M, N]
RULES = st.sampled_from([Rule("mean"), Rule("min"), Rule("uwo", 0.5), Rule("uwo", 2.0)])


def test_the_rules_are_their_definitions():
    values = np.array([[1.0, 4.0], [3.0, 4.0], [8.0, 1.0]])
    assert Rule("mean").combine(values).tolist() == [4.0, 3.0]
    assert Rule("min").combine(values).tolist() == [1.0, 1.0]
    # Variances over the members, divided by their number: (9 + 1 + 16) / 3 and (1 + 1 + 4) / 3.
    expected = [4 - 0.5 * 26 / 3, 3 - 0.5 * 2]
    np.testing.assert_allclose(Rule("uwo", 0.5).combine(values), expected)


@pytest.mark.parametrize(
    "rule", [Rule("mean"), Rule("min"), Rule("uwo", 0.5)], ids=lambda r: r.name
)
def test_a_member_without_a_number_is_not_passed_over(rule):
    found = rule.combine(np.array([[np.nan, 1.0], [2.0, 1.0]]))
    assert np.isnan(found[0])
    assert found[1] == 1.0


@law
@given(VALUES, RULES)
def test_an_ensemble_of_one_is_the_member(values, rule):
    assert rule.combine(values[:1]).tolist() == values[0].tolist()


@law
@given(VALUES, RULES, st.integers(2, 7))
def test_equal_members_are_the_member(values, rule, count):
    assert rule.combine(np.stack([values[0]] * count)).tolist() == values[0].tolist()


@law
@given(VALUES)
def test_the_lowest_is_at_most_the_mean_and_a_free_variance_changes_nothing(values):
    lowest, mean = Rule("min").combine(values), Rule("mean").combine(values)
    assert (lowest <= mean).all()
    assert Rule("uwo", 0.0).combine(values).tolist() == mean.tolist()
    assert (Rule("uwo", 0.5).combine(values) <= mean).all()
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=1e-9)


@law
@given(VALUES, RULES, st.randoms())
def test_the_order_of_members_changes_nothing(values, rule, chance):
    shuffled = values[chance.sample(range(len(values)), len(values))]
    assert rule.combine(shuffled).tolist() == rule.combine(values).tolist()


@law
@given(
    npst.arrays(np.float64, 24, elements=st.floats(-4, 4, width=16)).filter(lambda v: v.std() > .1),
    st.floats(0.01, 50), NUMBER, st.sampled_from(["mean", "min"]), st.booleans(),
)  # fmt: skip
def test_standardising_undoes_an_affine_change_of_a_member(values, scale, shift, how, repeated):
    prompts = np.arange(24) // (2 if repeated else 1)
    pooled = [values[prompts == prompt].std() for prompt in set(prompts)]
    assume(how != "mean" or not repeated or max(pooled) > 0.01)  # else refused, as below
    plain = standard_of(values, prompts, "a", Rule(how)).apply(values)
    changed = values * scale + shift
    found = standard_of(changed, prompts, "a", Rule(how)).apply(changed)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert abs(plain.mean()) < 1e-9


def test_the_mean_pools_spreads_within_prompts_and_the_others_do_not():
    generator = np.random.default_rng(0)
    prompts = np.repeat(np.arange(200), 2)
    values = 10.0 * generator.normal(size=200)[prompts] + generator.normal(size=400)
    assert standard_of(values, prompts, "a", Rule("mean")).std == pytest.approx(1, rel=0.2)
    for rule in (Rule("min"), Rule("uwo", 0.5)):
        assert standard_of(values, prompts, "a", rule).std == pytest.approx(values.std())


def test_what_cannot_be_standardised_is_told():
    with pytest.raises(DataError, match="Multi: its reward does not vary"):
        standard_of(np.full(20, 0.1), np.arange(20), "Multi", Rule())
    few = "Multi: it cannot be standardised: 5 prompts are too few. Give a file of 10 prompts"
    with pytest.raises(DataError, match=few):
        standard_of(np.arange(5.0), np.arange(5), "Multi", Rule())


@pytest.mark.parametrize(
    ("how", "kappa", "said"),
    [("max", 0.0, "expected one of mean, min, uwo"), ("uwo", -1.0, "expected 0 or more"),
     ("uwo", float("nan"), "expected 0 or more"), ("mean", 0.5, "is for uwo, not for mean")],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_told(how, kappa, said):
    with pytest.raises(ConfigError, match=said):
        Rule(how, kappa)


def member(name: str, model: RewardModel, view: str | None = None) -> Member:
    return Member(name, partial(ModelReward, model), view)


@pytest.fixture(scope="module")
def models() -> tuple[RewardModel, RewardModel]:
    return RewardModel.load(trained("preference")), RewardModel.load(trained("regression"))


@pytest.fixture(scope="module")
def members(models) -> tuple[Member, Member]:
    """Single's F and Multi's L: the naive ensemble SM."""
    return member("Single", models[0], "F"), member("Multi", models[1])


def records() -> list[dict]:
    """Some pairs of the world."""
    return [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()[:4]]


def columns(ensemble: Ensemble) -> np.ndarray:
    """The members' rewards of the records' responses [M, N]."""
    items = [item for record in records() for item in as_items(record)]
    return np.concatenate([one.rows for one in ensemble.score(items)]).T


def test_models_held_together_score_as_their_members_do(models, members):
    single, multi = models[0].score(records(), "F").view(), models[1].score(records()).view()
    for rule, expected in (
        (Rule(), (single + multi) / 2),
        (Rule("min"), np.minimum(single, multi)),
    ):
        ensemble = Ensemble(members, rule)
        np.testing.assert_allclose(ensemble.score_records(records()), expected, atol=1e-9)
        np.testing.assert_array_equal(columns(ensemble), [single, multi])


def test_a_members_standard_is_applied_before_its_reward_counts(members):
    (plain,) = columns(Ensemble(members[1:]))
    moved = Ensemble(members[1:], standardise=lambda *_: Standard(mean=2.0, std=0.5))
    np.testing.assert_allclose(columns(moved)[0], (plain - 2.0) / 0.5)


def test_members_keep_their_own_limit_and_the_cost_is_theirs_together(models, members):
    ensemble = Ensemble(members)
    weights = [sum(weight.numel() for weight in model.network.parameters()) for model in models]
    assert ensemble.parameters == tuple(weights)
    assert ensemble.cost() == (
        f"cost: 2 forward passes a response, {sum(weights):,} parameters "
        f"({weights[0]:,} + {weights[1]:,})"
    )
    with pytest.raises(DataError, match=r"record 1: Single: .*tokens"):
        ensemble.score_records([("word " * 500, "r")])


def test_an_ensemble_needs_members_that_can_be_told_apart(members):
    with pytest.raises(ConfigError, match="needs members"):
        Ensemble(())
    with pytest.raises(ConfigError, match="one is named twice"):
        Ensemble((members[0], members[0]))


def test_a_mean_of_one_models_F_and_L_is_its_M():
    joint = RewardModel.load(trained())
    both = Ensemble((member("a", joint, "F"), member("b", joint, "L")))
    found, expected = both.score_records(records()), joint.score(records(), "M").view()
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.slow
def test_members_that_are_not_resident_are_in_memory_one_at_a_time():
    loaded: list[weakref.ref] = []

    def load(kind: str) -> ModelReward:
        gc.collect()
        assert not any(ref() is not None for ref in loaded)
        reward = ModelReward(RewardModel.load(trained(kind)))
        loaded.append(weakref.ref(reward.model.network))
        return reward

    members = [Member(kind, partial(load, kind)) for kind in ("preference", "regression", "joint")]
    ensemble = Ensemble(members, resident=False)
    found = ensemble.score_records(records())
    assert len(loaded) == 3
    resident = Ensemble([member(kind, RewardModel.load(trained(kind)))
                         for kind in ("preference", "regression", "joint")])  # fmt: skip
    np.testing.assert_array_equal(found, resident.score_records(records()))
