import multiprocessing
import time
from dataclasses import asdict

import numpy as np
import orjson
import pytest

from smorm import files
from smorm.lab.artifacts import ArtifactStore
from smorm.lab.scores import read_items
from smorm.scoring.reward_model import RewardModel
from smorm.world import backbone_path, parse_prompt
from tests.lab.small import WORK, small, store


def rows(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def of(**changes):
    config = small(**changes)
    return ArtifactStore(config, config.work)


def test_seed_0_of_the_shipped_size_is_the_shipped_policy():
    assert store().policy(0) == backbone_path()


def test_another_policy_is_pretrained_once_on_its_own_world():
    values = {"seeds": [7], "hidden": 16, "layers": 1, "steps": 2, "batch": 2}
    there = of(policy=values).policy(0)
    made = (there / "model.safetensors").stat().st_mtime_ns
    assert files.read_json(there / "pretraining.json")["seed"] == 7
    assert of(policy=values).policy(5) == there
    assert (there / "model.safetensors").stat().st_mtime_ns == made
    assert of(policy=values, world={"facts": 1}).policy(0) != there


def test_pools_answer_different_prompts_of_their_regime_as_often_as_asked():
    for regime in ("ID", "far"):
        found = rows(store().pools(0, regime))
        prompts = [parse_prompt(row["prompt"]) for row in found]
        assert {(prompt.regime, prompt.split) for prompt in prompts} == {(regime, "eval")}
        assert len({prompt.text for prompt in prompts}) == 3
        assert [len(row["responses"]) for row in found] == [8, 8, 8]


def test_every_seed_has_its_own_data_and_prompts():
    here = store()
    for one, other in ((here.pools(0, "ID"), here.pools(1, "ID")),
                       (here.data(0)["train-pairs"], here.data(1)["train-pairs"])):  # fmt: skip
        assert {row["prompt"] for row in rows(one)} != {row["prompt"] for row in rows(other)}


def test_a_model_is_found_again_where_nothing_that_decides_it_has_changed():
    fewer = {**small().data.model_dump(), "rated": 20}
    single = store().arm("Single", 0)
    assert of(data=fewer).arm("Single", 0) == single, "Single sees no ratings"
    assert of(data=fewer)._place("SMORM", 0) != store()._place("SMORM", 0)
    assert not list(single.glob("**/checkpoints")), "optimizer states are not kept"
    longer = of(training={"max_steps": 6, "batch_size": 16})
    assert longer._place("Single", 0) != single
    assert store()._place("Single", 1) != single


def test_what_another_device_makes_is_not_taken_for_this_ones():
    values = {"seeds": [7], "hidden": 16, "layers": 1, "steps": 2, "batch": 2}
    here = of(policy=values)
    assert of(policy=values, device="cpu")._device == {}
    there = of(policy=values, device="meta")
    folders = {files.fingerprint({**asdict(one._pretraining(0)), **one._device})
               for one in (here, there)}  # fmt: skip
    assert len(folders) == 2
    assert here.policy(0).name in folders


def test_no_name_of_an_arm_leaves_the_folder_or_is_too_long_for_it():
    objective = {"objective": {"kind": "preference"}}
    names = ["../../up", "</b>", "a\x00b", "模" * 300, "."]
    here = of(arms=dict.fromkeys(names, objective))
    places = [here._place(name, 0) for name in names]
    for place in places:
        assert place.parent == here.root / "arms"
        assert len(place.name.encode()) < 200
        assert "\x00" not in place.name
    assert here._place("Single-b", 0).name.startswith("Single-b-0-")


def test_rows_are_the_models_scores_of_every_answer_in_order():
    here = store()
    found = here.rows("SMORM", 0)
    model = RewardModel.load(here.arm("SMORM", 0) / "model")
    for name, path in here.sets(0).items():
        items = read_items(path)
        texts = [(i.prompt[0].content, r[0].content) for i in items for r in i.responses]
        scores = model.score(texts)
        for view in ("F", "L", "M", "coherence"):
            expected = (
                scores.view(view)
                if len(view) == 1
                else scores.attributes[:, model.attributes.index(view)]
            )
            np.testing.assert_allclose(found[name].view(view), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[name].tokens, scores.tokens)


def test_arms_whose_names_hold_dots_keep_their_own_rows():
    training = [{"epochs": 1, "learning_rate": rate} for rate in (0.01, 0.001)]
    arms = {f"rate-0.{place}": {"training": one} for place, one in enumerate(training)}
    here = of(arms={k: {**v, "objective": {"kind": "preference"}} for k, v in arms.items()})
    one, other = (here.rows(name, 0)["dev"].view("F") for name in arms)
    assert (one != other).any()


def test_a_model_of_ratings_alone_has_no_preference_row():
    found = store().rows("Multi", 0)["dev"]
    assert "preference" not in found.names
    with pytest.raises(Exception, match="no row 'preference'"):
        found.view("F")


def test_rated_answers_become_pairs_where_a_prompt_has_two():
    here = store()
    paths = here.rated_as_pairs(0)
    rated = {(row["prompt"], row["response"]) for row in rows(here.data(0)["train-rated"])}
    for pair in rows(paths["rated-pairs"]):
        assert {(pair["prompt"], pair["chosen"]), (pair["prompt"], pair["rejected"])} <= rated
    assert 10 < len(rows(paths["rated-pairs"])) < 40


def test_the_average_of_weights_is_that_of_its_arms():
    here = of(
        methods=["x"],
        arms={"Mean": {"merge": ["Single", "Single-b"]}},
        systems={"x": {"members": ["Mean:F"]}},
    )
    from safetensors.torch import load_file

    one, other, mean = (
        load_file(here.arm(name, 0) / "model" / "model.safetensors")
        for name in ("Single", "Single-b", "Mean")
    )
    for name, weight in mean.items():
        np.testing.assert_allclose(weight, (one[name] + other[name]) / 2, atol=1e-6)
    assert any(bool((one[name] != other[name]).any()) for name in one)


def _train_slowly(values):
    config = small(**values)
    ArtifactStore(config, config.work).arm("Single", 0)


def test_a_process_killed_in_training_leaves_nothing_that_is_taken_for_a_model():
    values = {"training": {"max_steps": 4000, "batch_size": 16}, "work": WORK / "killed"}
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_train_slowly, args=(values,), daemon=True)
    process.start()
    arms = WORK / "killed" / "arms"
    deadline = time.monotonic() + 300
    while not list(arms.rglob("data.json")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    began = bool(list(arms.rglob("data.json")))
    process.kill()
    process.join()
    assert began
    assert not of(**values)._place("Single", 0).exists()
    quick = {**values, "training": {"max_steps": 2, "batch_size": 16}}
    assert (of(**quick).arm("Single", 0) / "model" / "config.json").exists()
