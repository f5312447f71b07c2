import time
from dataclasses import asdict

import numpy as np
import orjson
import pytest

from smorm import files
from smorm.errors import DataError
from smorm.lab.artifacts import RECORD, ArtifactStore, describe_other_versions, recorded_versions
from smorm.lab.measure import Run
from smorm.lab.run import IMPORTED
from smorm.lab.world_artifacts import WorldArtifacts, read_items
from smorm.model.store import versions
from smorm.processes import worker_context
from smorm.scoring.reward_model import RewardModel
from smorm.world import backbone_path, parse_prompt
from tests.lab.small import WORK, small, store


def rows(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def of(**changes):
    config = small(**changes)
    return WorldArtifacts(config)


def test_an_artifact_is_made_once_and_found_by_its_recipe(tmp_path):
    made = []

    def make(scratch):
        made.append(scratch)
        (scratch / "content").write_text("x")

    for recipe in ({"rate": 1}, {"rate": 1}, {"rate": 2}):
        here = ArtifactStore(tmp_path)
        folder = here.folder(here.path("runs", recipe, label="a/b"), recipe, make)
        assert folder.name == f"a-b-{files.fingerprint(recipe)}"
        assert (folder / "content").read_text() == "x"
        assert files.read_json(folder / RECORD) == {"recipe": recipe, "versions": versions()}
        assert here.other_versions() == []
        files.verify_folder(folder)
    assert len(made) == 2


def test_a_file_is_made_once_with_its_record_beside_it(tmp_path):
    here = ArtifactStore(tmp_path)
    path = here.path("pools", [1], ending=".jsonl")
    for content in ("first", "second"):
        here.file(path, [1], lambda path, text=content: files.write_text(path, text))
    assert path.read_text() == "first"
    assert recorded_versions(path) == versions()


def test_what_fails_while_it_is_made_is_not_found(tmp_path):
    def fail(scratch):
        (scratch / "half").write_text("x")
        raise DataError("no")

    here = ArtifactStore(tmp_path)
    with pytest.raises(DataError):
        here.folder(here.path("runs", 1), 1, fail)
    assert not list((tmp_path / "runs").iterdir())
    assert not here.used


def test_artifacts_of_other_versions_are_used_and_said_to_be_theirs_in_a_line(tmp_path):
    """As before versions were recorded: a folder whose record is its recipe alone, and a file."""
    here = ArtifactStore(tmp_path)
    old, older, now = (here.path("runs", recipe) for recipe in (1, 2, 3))
    for path, record in ((old, {"recipe": 1, "versions": {"smorm": "0.0.1"}}), (older, {"a": 2})):
        with files.atomic_folder(path) as scratch:
            files.write_json(scratch / RECORD, record)
    files.write_text(here.path("pools", 4), "x")

    def fail(path):
        raise AssertionError(f"{path} is there")

    for recipe, path in enumerate((old, older), 1):
        here.folder(path, recipe, fail)
    here.folder(now, 3, lambda scratch: None)
    here.file(here.path("pools", 4), 4, fail)
    groups = here.other_versions()
    assert groups == [{"versions": {"smorm": "0.0.1"}, "count": 1}, {"versions": None, "count": 2}]
    line = describe_other_versions(tmp_path, groups)
    assert "(1 by smorm 0.0.1; 2 before versions were recorded)" in line
    assert "\n" not in line
    assert describe_other_versions(tmp_path, []) == ""


@pytest.mark.slow
def test_what_studies_made_before_is_found_under_the_same_names():
    """Pinned names: a changed recipe would make every study under an old `work` train anew."""
    here = store()
    other = of(policy={"seeds": [5]})
    paths = {
        other.store.path("policies", asdict(other._pretraining(0))).name: "ccb6e70e971950ae",
        here.data(0)["dev-pairs"].parent.name: "7bc01ef208fbbfa8",
        here.pools(0, "ID").name: "30501d4263282f04.jsonl",
        here.arm_path("Single", 0).name: "Single-0-934e21049f7ff22a",
        here.arm_path("Multi", 0).name: "Multi-0-20535160d1b2cb8e",
        here.arm_path("SMORM", 0).name: "SMORM-0-f2d6cbc230b787e8",
        here.arm_path("WARM", 0).name: "WARM-0-df033b3139600c56",
    }
    assert list(paths) == list(paths.values())
    here.rows("Single", 0)
    assert (here.store.root / "arms/Single-0-934e21049f7ff22a.4cac42cb66df769d.npz").is_file()


def test_results_say_which_artifacts_other_versions_made(tmp_path):
    """A study of before goes on, when only arms had a record, of their recipe: nothing is made
    again."""
    config = small(work=tmp_path, methods=["Single"], regimes=["ID"])
    assert "artifacts" not in Run(WorldArtifacts(config), 0).provenance
    for record in tmp_path.rglob(f"*{RECORD}"):
        if record.name == RECORD and record.parent.parent.name == "arms":
            files.write_json(record, files.read_json(record)["recipe"])
        else:
            record.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    run = Run(WorldArtifacts(config), 0)
    assert run.provenance["artifacts"] == [{"versions": None, "count": 4}]
    assert {result.fingerprint["artifacts"][0]["count"] for result in run.results()} == {4}
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert after == before


def test_seed_0_of_the_shipped_size_is_the_shipped_policy():
    assert store().policy(0) == backbone_path()


@pytest.mark.slow
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
    assert of(data=fewer).arm_path("SMORM", 0) != store().arm_path("SMORM", 0)
    assert not list(single.glob("**/checkpoints")), "optimizer states are not kept"
    longer = of(training={"max_steps": 6, "batch_size": 16})
    assert longer.arm_path("Single", 0) != single
    assert store().arm_path("Single", 1) != single


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
    places = [here.arm_path(name, 0) for name in names]
    for place in places:
        assert place.parent == here.store.root / "arms"
        assert len(place.name.encode()) < 200
        assert "\x00" not in place.name
    assert here.arm_path("Single-b", 0).name.startswith("Single-b-0-")


@pytest.mark.slow
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


@pytest.mark.slow
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
    WorldArtifacts(config).arm("Single", 0)


@pytest.mark.slow
def test_a_process_killed_in_training_leaves_nothing_that_is_taken_for_a_model():
    values = {"training": {"max_steps": 4000, "batch_size": 16}, "work": WORK / "killed"}
    process = worker_context(*IMPORTED).Process(target=_train_slowly, args=(values,), daemon=True)
    process.start()
    arms = WORK / "killed" / "arms"
    deadline = time.monotonic() + 300
    while not list(arms.rglob("data.json")) and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    began = bool(list(arms.rglob("data.json")))
    process.kill()
    process.join()
    assert began
    assert not of(**values).arm_path("Single", 0).exists()
    quick = {**values, "training": {"max_steps": 2, "batch_size": 16}}
    assert (of(**quick).arm("Single", 0) / "model" / "config.json").exists()
