"""Golds of every kind, and what each says when it has no number."""

from __future__ import annotations

import numpy as np
import pytest

from smorm import RewardModel
from smorm.data.census import Census, Defect, DropReason, Reason
from smorm.data.readers import read_rows
from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError, SmormError
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import (
    CachedReward,
    ScoringOptions,
    SingleReward,
    open_reward,
    score_all,
)
from smorm.rewards.section import REWARDS, RewardSection, parse_reward
from smorm.stress.pools import read_pools
from smorm.stress.proxies import open_gold
from smorm.text.limits import Unscored
from smorm.world import gold as lab_gold
from smorm.world import make_world, parse_prompt
from tests.rewards.reward_servers import Reply, RewardServer, counting
from tests.rewards.values import values
from tests.stress.made_up import pool, write_rows
from tests.tiny import trained, world


def opened(section, options=None):
    return open_gold(section, options or ScoringOptions())


def gold_of(text):
    return opened(RewardSection.model_validate(text))


def lab_pools(count=3):
    rows = [row for _, row in read_rows(world()["eval-pairs-ID"])][:count]
    return rows, [pool(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]


def test_the_labs_gold_is_its_true_quality():
    rows, pools = lab_pools()
    for row, scores in zip(rows, values(gold_of("lab"), pools), strict=True):
        want = [lab_gold(make_world(0), parse_prompt(row["prompt"]), row[side])
                for side in ("chosen", "rejected")]  # fmt: skip
        np.testing.assert_array_equal(scores, want)
        np.testing.assert_allclose(
            scores, [row["meta"]["gold_chosen"], row["meta"]["gold_rejected"]]
        )


def test_a_prompt_that_is_not_the_labs_is_told_and_stops_or_is_counted():
    pools = [*lab_pools(1)[1], pool("What is 2 + 2?", ["4", "5"])]
    with pytest.raises(DataError, match=r"no gold.*not a prompt of the generated world"):
        score_all(gold_of("lab"), pools, Census(), skip=False, what="gold")
    census = Census()
    found = score_all(
        gold_of("lab"), pools, census, skip=True, reason=DropReason.NO_REWARD, what="gold"
    )
    assert found[0] is not None
    assert found[1] is None
    assert census[DropReason.NO_REWARD] == 1


@pytest.mark.parametrize("view", ["F", "L", "M"])
def test_a_models_gold_is_its_view_and_equal_answers_are_asked_about_once(view):
    rows, pools = lab_pools()
    gold = opened(RewardSection(model=str(trained()), view=view))
    model = RewardModel.load(trained())
    want = model.score(rows, view=view).view().reshape(-1, 2)
    first = values(gold, [*pools, pools[0]])
    np.testing.assert_allclose(np.stack(first), [*want, want[0]], atol=1e-5)
    assert (gold.requested, gold.reused) == (6, 2)
    again = values(gold, pools[::-1])
    np.testing.assert_array_equal(np.stack(again), np.stack(first[:3])[::-1])
    assert gold.requested == 6


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("overlong", ["error", "drop"])
def test_an_answer_is_not_lost_with_a_long_one_beside_which_it_stood(overlong, order):
    ask, fine = "metals full tin iron", ["tin hot .", "iron cold ."]
    pools = [pool(ask, [fine[0], "tin " * 400]), pool(ask, fine)][::order]
    gold = opened(RewardSection(model=str(trained())), ScoringOptions(overlong=overlong))
    found = values(gold, pools)[::order]
    assert isinstance(found[0], Unscored)
    (want,) = values(opened(RewardSection(model=str(trained()))), [pool(ask, fine)])
    np.testing.assert_allclose(found[1], want, atol=1e-5)


@pytest.mark.parametrize("order", [1, -1])
def test_answers_are_read_under_one_prompt_where_a_long_one_shortens_it(order):
    ask = "metals full " + "tin iron " * 100
    pools = [pool(ask, ["tin hot .", "iron ."]), pool(ask, ["tin hot .", "tin " * 150])][::order]
    model = RewardModel.load(trained())
    plain = ModelReward(model, "F", ScoringOptions(overlong="truncate_prompt"))
    want, found = values(plain, pools), values(CachedReward(plain), pools)
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert abs(want[0][0] - want[1][0]) > 1e-3  # the prompt does make a difference


def test_a_field_may_lie_under_others_and_is_never_guessed():
    given = [{"gold": 1, "meta": {"deep": 2.5}}, {"gold": True, "meta": {}}]
    one = pool("ask", ["a", "b"], given)
    assert values(gold_of("field:gold"), [pool("ask", ["a"], given[:1])])[0] == [1.0]
    assert values(gold_of("field:meta.deep"), [pool("ask", ["a"], given[:1])])[0] == [2.5]
    assert "answer 2: gold: True" in str(values(gold_of("field:gold"), [one])[0])
    assert "answer 2: meta.deep: missing" in str(values(gold_of("field:meta.deep"), [one])[0])


def test_a_function_is_called_as_trl_calls_one_and_must_answer_for_all():
    pools = [pool("ask", ["a b", "a"]), pool("more", ["a b c d"])]
    found = values(gold_of("tests.stress.made_up:half_length"), pools)
    np.testing.assert_array_equal(np.concatenate(found), [1.0, 0.5, 2.0])
    with pytest.raises(DataError, match="no list of numbers"):
        values(gold_of("tests.stress.made_up:broken"), pools)
    with pytest.raises(DataError, match="2 numbers"):
        values(gold_of("tests.stress.made_up:one_short"), pools)
    with pytest.raises(SmormError, match=r"raised RuntimeError: no such luck .*made_up.py:\d+"):
        values(gold_of("tests.stress.made_up:raising"), pools)
    for name in ("tests.stress.nowhere:f", "tests.stress.made_up:nothing"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            gold_of(name)


@pytest.mark.parametrize("text", ["x = = 1", "raise ValueError('not today')", "import nowhere_"])
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, text):
    (tmp_path / "faulty_rewards.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="faulty_rewards:f: cannot be imported: "):
        gold_of("faulty_rewards:f")


def test_a_servers_gold_is_what_it_answers_and_a_dead_one_is_an_error():
    pools = [pool("ask", ["abc", "a", "abc"]), pool("more", ["ab"])]
    with RewardServer(counting) as server:
        gold = opened(RewardSection(url=server.url, protocol="smorm", timeout=5.0))
        found = values(gold, pools)
        np.testing.assert_array_equal(np.concatenate(found), [3.0, 1.0, 3.0, 2.0])
        sent = [len(asked.body["items"]) for asked in server.posts()]
        assert sum(sent) == 3  # the answer that stands twice was sent once
        assert values(gold, pools)[1] == [2.0]
        assert len(server.posts()) == len(sent)
    with RewardServer(lambda asked: Reply(500, {"detail": "out of memory"})) as server:
        gold = opened(RewardSection(url=server.url, protocol="smorm", timeout=0.5))
        with pytest.raises(SmormError, match="out of memory"):
            values(gold, pools)


def test_pools_of_a_file_with_objects_lists_and_lines(tmp_path):
    rows = [
        {"prompt": "p", "responses": [{"response": "a", "gold": 1}, {"response": "b", "gold": 2}]},
        {"prompt": "q", "responses": ["c", "d", "e"], "gold": [3, 4, 5]},
        {"prompt": "p", "response": "f", "gold": 6},
        {"prompt": "r", "chosen": "g", "rejected": "h", "gold_chosen": 7,
         "meta": {"rejected_gold": 8}},
    ]  # fmt: skip
    census = Census()
    pools = read_pools(Source(write_rows(tmp_path / "x.jsonl", rows)), census)
    assert [one.texts for one in pools] == [["a", "b", "f"], ["c", "d", "e"], ["g", "h"]]
    found = values(gold_of("field:gold"), pools)
    assert [list(one) for one in found] == [[1, 2, 6], [3, 4, 5], [7, 8]]
    assert census[DropReason.JOINED_POOL] == 1
    counted = Census()
    limited = read_pools(Source(tmp_path / "x.jsonl", limit=1), counted)
    assert [one.texts for one in limited] == [["a", "b", "f"]]
    assert counted[DropReason.BEYOND_LIMIT] == 2


def test_a_bad_row_is_named_or_counted(tmp_path):
    path = write_rows(tmp_path / "x.jsonl", [{"prompt": "p", "responses": []},
                                             {"prompt": "p", "responses": ["a", "b"]}])  # fmt: skip
    with pytest.raises(DataError, match=r"x.jsonl:1: responses"):
        read_pools(Source(path), Census())
    census = Census()
    assert len(read_pools(Source(path), census, "skip")) == 1
    assert census.total == 1


class Plain(SingleReward):
    """A kind of one's own that defines no `open`."""

    def values(self, item):
        return np.full(len(item), float(len(self.argument)))


@pytest.mark.parametrize(
    ("text", "argument"),
    [("plain", ""), ("plain:x", "x"), ("plain:a:b.jsonl", "a:b.jsonl"), ("truth:3", "3"),
     ("field:meta.gold", "meta.gold")],
)  # fmt: skip
def test_a_kind_without_an_open_of_its_own_is_opened_by_its_argument(text, argument):
    REWARDS.register("plain", Plain)
    try:
        reward = open_reward(parse_reward(text))
        assert reward.argument == argument
        assert (reward.kind, reward.name) == (parse_reward(text).kind, parse_reward(text).title)
        if text.startswith("plain"):
            assert values(reward, [pool("ask", ["a", "b"])])[0].tolist() == [len(argument)] * 2
    finally:
        REWARDS.remove("plain")


@pytest.mark.parametrize(
    ("value", "said"),
    [({}, "none is given"), ({"model": "a", "lab": 0}, "model and lab are given"),
     ({"field": "x", "view": "F"}, "has no views"),
     ({"lab": 0, "token_file": "t"}, "only for a server")],
)  # fmt: skip
def test_a_gold_is_exactly_one_thing(value, said):
    with pytest.raises(ValueError, match=said):
        RewardSection.model_validate(value)


@pytest.mark.parametrize("kind", ["model", "field", "server"])
def test_a_built_in_kind_without_its_argument_is_the_path_of_a_model(kind):
    section = parse_reward(kind)
    assert (section.kind, section.model) == ("model", kind)


def test_a_section_says_how_its_own_model_is_loaded(tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{{ bos_token }}{{ messages[-1].content }}{{ eos_token }}")
    keys = {"dtype": "bfloat16", "max_tokens": 77, "chat_template": str(template)}
    section = RewardSection.model_validate({"model": str(trained()), **keys})
    reward = open_reward(section, ScoringOptions(max_tokens=50))
    assert isinstance(reward, ModelReward)
    assert reward.model.card.max_tokens == 77
    assert reward.model.renderer.chat_template == template.read_text()
    assert reward.provenance["dtype"] == "bfloat16"
    ensemble = {"ensemble": [{"model": str(trained()), "max_tokens": 60}, "other"]}
    assert RewardSection.model_validate(ensemble).ensemble[0].max_tokens == 60


@pytest.mark.parametrize("key", ["device", "dtype", "max_tokens", "chat_template"])
def test_keys_of_loading_are_of_models_and_leave_older_fingerprints_alone(key):
    value = {"device": "cpu", "dtype": "float32", "max_tokens": 9, "chat_template": "t"}[key]
    for other in ({"url": "http://x"}, {"ensemble": ["a", "b"]}, {"lab": 0}):
        with pytest.raises(ValueError, match=f"{key}: only for a model"):
            RewardSection.model_validate({**other, key: value})
    assert key not in RewardSection.model_validate("a").model_dump()
    named = RewardSection.model_validate({"model": "a", key: value})
    assert named.model_dump(exclude_unset=True) == {"model": "a", key: getattr(named, key)}


def test_the_words_for_a_record_over_the_limit_are_those_of_training():
    model = RewardModel.load(trained(), max_tokens=12)
    reward = ModelReward(model, options=ScoringOptions(overlong="error"))
    census = Census()
    assert score_all(reward, [pool("tin", ["iron " * 40])], census, skip=True) == [None]
    assert census.count(Reason(DropReason.BAD_RECORD, Defect.OVER_LIMIT)) == 1
