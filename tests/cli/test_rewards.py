"""A kind of reward from outside the package, and any kind in any verb: the example of
docs/rewards.md."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import yaml

from smorm import RewardModel
from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.evaluation.result import read_results
from smorm.rewards.protocol import SingleReward, open_reward
from smorm.rewards.section import REWARDS, RewardSection, parse_reward
from tests.rewards.reward_servers import Asked, Reply, RewardServer, counting
from tests.stress.made_up import write_rows
from tests.tiny import trained, world

TOY = """
import numpy as np
from smorm.rewards.protocol import SingleReward

class Toy(SingleReward):
    def values(self, item):
        return np.array([float(self.argument or 1) * len(text.split()) for text in item.texts])
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package whose entry point is a kind of reward."""
    information = tmp_path / "toy_reward-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-reward\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[smorm.rewards]\ntoy = toy_reward:Toy\n")
    (tmp_path / "toy_reward.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_reward", raising=False)
    monkeypatch.setattr(REWARDS, "_installed", None)  # found again with the package
    yield
    REWARDS.remove("toy")
    REWARDS._installed = None


def lines_of(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def named(asked: Asked) -> Reply:
    """Scores by length of text, of a server that says what it is."""
    return Reply(content={"model": "m"}) if asked.method == "GET" else counting(asked)


def words(text: str) -> float:
    return float(len(text.split()))


@pytest.mark.usefixtures("toy")
def test_an_installed_kind_scores_a_file(smorm, tmp_path):
    rows = [{"id": "a", "prompt": "p", "response": "one two"}, {"prompt": "p", "response": "x"}]
    source = write_rows(tmp_path / "in.jsonl", rows)
    code, said, err = smorm("score", "toy:3", "--input", source, "--output", tmp_path / "out")
    assert code == 0, err
    assert "2 responses in 2 lines" in said
    first, second = lines_of(tmp_path / "out")
    assert first == {"id": "a", "preference": None, "attributes": {}, "view": 6.0, "tokens": None,
                     "truncated": False}  # fmt: skip
    assert second["view"] == 3.0


@pytest.mark.usefixtures("toy")
def test_an_installed_kind_is_evaluated_beside_a_function(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    code, _, err = smorm(
        "eval", "toy", "tests.stress.made_up:half_length", "--suite", f"pairs={pairs}",
        "--output", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, err
    first, second, difference = read_results(tmp_path / "out.json")
    expected = [
        (words(row["chosen"]) > words(row["rejected"]))
        + 0.5 * (words(row["chosen"]) == words(row["rejected"]))
        for row in lines_of(pairs)
    ]
    assert first.metrics["accuracy"].value == pytest.approx(np.mean(expected))
    assert (first.model, first.view, second.view) == ("toy", "toy", "function")
    assert second.metrics["accuracy"] == first.metrics["accuracy"]  # half the words, one order
    assert first.fingerprint["toy"] == ""
    assert difference.kind == "difference"


@pytest.mark.usefixtures("toy")
def test_an_installed_kind_is_optimised_against_and_is_a_gold(smorm, tmp_path):
    rows = [{"prompt": f"ask {i}", "responses": ["a", "a b", "a b c", "a b c d"]} for i in range(3)]
    values = {
        "models": {"Toy": "toy:2", "Half": {"function": "tests.stress.made_up:half_length"}},
        "prompts": {"set": str(write_rows(tmp_path / "pools.jsonl", rows))},
        "gold": {"reward": "toy:1"}, "output": str(tmp_path / "out.json"),
    }  # fmt: skip
    (tmp_path / "stress.yaml").write_text(yaml.safe_dump(values))
    code, _, err = smorm("stress", tmp_path / "stress.yaml")
    assert code == 0, err
    stressed = [one for one in read_results(tmp_path / "out.json") if one.kind == "stress"]
    assert [one.model for one in stressed] == ["Half", "Toy"]
    for result in stressed:
        assert result.metrics["gold@4"].value == 4.0
    assert stressed[1].fingerprint["gold"] == {"name": "toy:1", "toy": "1"}


@pytest.mark.usefixtures("toy")
def test_an_installed_kind_relabels(smorm, tmp_path):
    rows = [{"prompt": "p", "chosen": "one", "rejected": "one two"}]
    source = write_rows(tmp_path / "in.jsonl", rows)
    code, said, err = smorm("relabel", source, "--gold", "toy", "--output", tmp_path / "out")
    assert code == 0, err
    assert "1 swapped" in said
    assert lines_of(tmp_path / "out")[0]["chosen"] == "one two"


def test_a_decorator_registers_a_kind_for_this_process():
    @REWARDS.add("shortest")
    class Shortest(SingleReward):
        def values(self, item: Item) -> Floats:
            return np.array([-float(len(text)) for text in item.texts])

    try:
        reward = open_reward(parse_reward("shortest"))
        assert reward.score_records([("p", "abc"), ("p", "a")]).tolist() == [-3.0, -1.0]
        assert (reward.kind, reward.name, reward.view().name) == ("shortest",) * 3
    finally:
        REWARDS.remove("shortest")


def test_a_running_server_is_evaluated_and_scores_a_file(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    with RewardServer(named) as server:
        code, _, err = smorm(
            "eval", server.url, "--suite", f"pairs={pairs}", "--output", tmp_path / "out.json"
        )
        assert code == 0, err
        code, _, err = smorm("score", server.url, "--input", pairs, "--output", tmp_path / "out")
        assert code == 0, err
    (result,) = read_results(tmp_path / "out.json")
    rows = lines_of(pairs)
    longer = [np.heaviside(len(row["chosen"]) - len(row["rejected"]), 0.5) for row in rows]
    assert result.metrics["accuracy"].value == pytest.approx(np.mean(longer))
    assert result.fingerprint["url"] == server.url
    scores = [one["view"] for one in lines_of(tmp_path / "out")[0]["responses"]]
    assert scores == [len(rows[0]["chosen"]), len(rows[0]["rejected"])]


def test_a_field_and_a_file_of_scores_are_evaluated(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    code, _, err = smorm("score", "truth", "--input", pairs, "--output", tmp_path / "gold.jsonl")
    assert code == 0, err
    code, _, err = smorm(
        "eval", "field:gold", tmp_path / "gold.jsonl", "--suite", f"pairs={pairs}",
        "--output", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, err
    by_field, by_file, _ = read_results(tmp_path / "out.json")
    assert by_field.metrics["accuracy"].value == by_file.metrics["accuracy"].value == 1.0


def test_an_ensemble_of_a_model_and_a_server(smorm, tmp_path):
    pairs = world()["eval-pairs-ID"]
    model = trained("preference")
    with RewardServer(named) as server:
        for verb, data in (("score", ("--input", pairs)), ("eval", ("--suite", f"pairs={pairs}"))):
            code, _, err = smorm(
                verb, model, server.url, "--combine", "min", *data, "--output", tmp_path / verb
            )
            assert code == 0, err
        section = {"ensemble": [str(model), {"url": server.url, "name": "Server"}],
                   "combine": "min"}  # fmt: skip
        rows = lines_of(pairs)
        found = open_reward(RewardSection.model_validate(section)).score_records(rows)
    single = RewardModel.load(model).score(rows).view()
    lengths = [float(len(row[side])) for row in rows for side in ("chosen", "rejected")]
    expected = np.minimum(single, lengths)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    scored = [one["view"] for line in lines_of(tmp_path / "score") for one in line["responses"]]
    np.testing.assert_allclose(scored, expected, atol=1e-5)
    assert lines_of(tmp_path / "score")[0]["responses"][0]["tokens"] is None
    together, *members = [one for one in read_results(tmp_path / "eval") if one.kind == "eval"]
    assert together.view == "min"
    assert len(members) == 2
    assert together.fingerprint["members"][1]["url"] == server.url


def test_a_reward_may_be_a_file_of_its_section(smorm, tmp_path):
    (tmp_path / "reward.yaml").write_text(
        "function: tests.stress.made_up:half_length\nname: Half\n"
    )
    (tmp_path / "own.py").write_text("def f(prompts, completions): return [1.0] * len(prompts)")
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": "p", "response": "one two"}])
    for reward, expected in ((tmp_path / "reward.yaml", 1.0), (f"{tmp_path}/own.py:f", 1.0)):
        code, _, err = smorm("score", reward, "--input", rows, "--output", tmp_path / "out")
        assert code == 0, err
        assert lines_of(tmp_path / "out")[0]["view"] == expected


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("lab", {"lab": 0}), ("truth", {"lab": 0}), ("world:3", {"lab": 3}),
        ("http://x:1", {"url": "http://x:1"}), ("url:http://x:1", {"url": "http://x:1"}),
        ("module.sub:name", {"function": "module.sub:name"}),
        ("function:module:name", {"function": "module:name"}),
        ("a/b.py:name", {"function": "a/b.py:name"}), ("field:meta.gold", {"field": "meta.gold"}),
        ("scores.jsonl", {"file": "scores.jsonl"}), ("owner/name", {"model": "owner/name"}),
        ("model:a:b", {"model": "a:b"}),
    ],
)  # fmt: skip
def test_the_spelling_of_each_kind(text, section):
    assert parse_reward(text).model_dump(exclude_unset=True) == section


def test_a_folder_that_is_there_is_a_model_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module:name").mkdir()
    assert parse_reward("module:name").kind == "model"


def test_sanity_tests_a_models_own_parts(smorm, tmp_path):
    code, _, err = smorm(
        "eval", "tests.stress.made_up:half_length", "--sanity", "--suite",
        f"pairs={world()['eval-pairs-ID']}", "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert "is a function" in err
