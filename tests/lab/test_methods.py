import pytest

from smorm.config import METHODS, parse_config
from smorm.config.reading import parse_section
from smorm.errors import ConfigError
from smorm.lab.config import LabConfig
from smorm.lab.methods import (
    ARMS,
    SYSTEMS,
    arms_of,
    label_of,
    needed_arms,
    systems_of,
    training_config,
)
from smorm.lab.run import plan
from tests.lab.small import small


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if not arm.merge])
def test_every_built_in_arm_is_a_valid_configuration_of_training(name, tmp_path):
    values = training_config(ARMS[name], small(), seed=3)
    values["model"]["backbone"] = "somewhere"
    values["output"] = {"folder": str(tmp_path)}
    config = parse_config(values)
    assert config.training.seed == 1000 * ARMS[name].twin + 3


def test_twins_differ_in_their_training_seed_alone():
    one, other = (training_config(ARMS[name], small(), 3) for name in ("Single", "Single-b"))
    assert one["training"].pop("seed") != other["training"].pop("seed")
    assert one == other


def test_all_methods_can_be_compared_and_have_names_of_their_own():
    config = small(methods="all")
    labels = [label_of(name, system) for name, system in systems_of(config).items()]
    assert len(set(labels)) == len(labels) == len(SYSTEMS)
    assert {arm for stage in needed_arms(config) for arm in stage} <= set(ARMS)


def test_arms_are_trained_once_and_before_what_is_made_of_them():
    stages = needed_arms(small(methods=["WARM", "Ens-mean", "Single", "SM", "ArmoRM"]))
    assert stages == [["Single", "Single-b", "Single-c", "Multi"], ["WARM", "ArmoRM"]]
    jobs = plan(small(methods=["WARM"], seeds=2))
    assert [job.name for job in jobs[2]] == ["Single", "Single-b", "Single-c"] * 2
    assert [job.name for job in jobs[3]] == ["WARM"] * 2


def test_a_configuration_changes_an_arm_and_adds_a_system():
    config = small(
        methods=["Pessimist"],
        arms={
            "GRM": {"objective": {"grm": {"share": 0.3}}},
            "Own": {"objective": {"kind": "odin"}},
        },
        systems={"Pessimist": {"members": ["GRM:F", "Own:F"], "combine": "min"}},
    )
    assert arms_of(config)["GRM"].objective == {"kind": "grm", "grm": {"share": 0.3}}
    assert arms_of(config)["GRM"].training == ARMS["GRM"].training
    assert needed_arms(config) == [["GRM", "Own"]]
    assert label_of("Pessimist", systems_of(config)["Pessimist"]) == ("Pessimist", "min")


def test_a_registered_method_is_an_arm_and_a_system_by_its_name():
    METHODS.register("mine", METHODS["odin"])
    try:
        config = small(methods=["Single", "mine", "regression"])
        assert list(systems_of(config)) == ["Single", "mine", "regression"]
        assert systems_of(config)["regression"].members == ["regression:L"]
        assert arms_of(config)["mine"].objective == {"kind": "mine"}
        assert arms_of(config)["mine"].data == "pairs"
        assert needed_arms(config) == [["Single", "mine", "regression"]]
    finally:
        METHODS.remove("mine")


def test_an_arm_says_how_many_ratings_stand_beside_a_pair():
    mixing = {"rated_per_pair": 0.25}
    arm = arms_of(small(arms={"SMORM": {"mixing": mixing}}))["SMORM"]
    assert training_config(arm, small(), 0)["data"]["mixing"] == mixing
    assert "mixing" not in training_config(ARMS["SMORM"], small(), 0)["data"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["Singel"]}, "'Singel' is unknown; did you mean 'Single'"),
        ({"methods": []}, "name at least one"),
        ({"methods": ["x"], "systems": {"x": {"members": ["Nobody:F"]}}}, "no arm 'Nobody'"),
        ({"methods": ["x"], "systems": {"x": {"members": ["Single:Q"]}}}, "unknown view 'Q'"),
        (
            {"methods": ["x"], "systems": {"x": {"members": ["Single"], "kappa": 1.0}}},
            "kappa is for uwo",
        ),
        (
            {"methods": ["Single", "x"], "systems": {"x": {"members": ["GRM"], "model": "Single"}}},
            "two of them are called Single F",
        ),
        ({"methods": ["x"], "systems": {"x": {"members": ["GRM:L"]}}}, "trained on no ratings"),
        ({"methods": ["x"], "systems": {"x": {"members": ["WARM:style"]}}}, "no ratings"),
        (
            {
                "methods": ["x"],
                "systems": {"x": {"members": ["Plain:L"]}},
                "arms": {"Plain": {"data": "both", "objective": {"kind": "preference"}}},
            },
            "Plain is trained on no ratings",
        ),
        (
            {
                "methods": ["x"],
                "arms": {"T": {"reward": "truth"}},
                "systems": {"x": {"members": ["T:L"]}},
            },
            "needs its own view in the section of T's reward",
        ),
        (
            {"methods": ["GRM"], "arms": {"GRM": {"start": "T"}, "T": {"reward": "truth"}}},
            "'T', which GRM needs, is a reward, no model",
        ),
        ({"methods": ["x"], "systems": {"x": {"members": ["Multi:M"]}}}, "trained on no pairs"),
        (
            {"methods": ["WARM"], "arms": {"WARM": {"merge": ["Single", "Gone"]}}},
            "'Gone', which WARM needs, is no arm",
        ),
        (
            {
                "methods": ["GRM"],
                "arms": {"GRM": {"start": "ODIN"}, "ODIN": {"start": "GRM"}},
            },
            "GRM needs ODIN needs GRM",
        ),
    ],
)
def test_names_that_are_not_there_are_told(changes, told):
    with pytest.raises(ConfigError, match=told):
        needed_arms(small(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"regime": ["ID"]}, "unknown key regime: did you mean regimes"),
        ({"regimes": ["ID", "ID"]}, "named twice"),
        ({"n": [2, 4, 8]}, "expected 1 and at least two larger"),
        ({"n": [1, 4, 512]}, "have 256 answers"),
        ({"world": {"temperature": 0}}, "world.temperature"),
        ({"policy": {"hidden": 60}}, "policy.hidden"),
        ({"arms": {"x": {"merge": ["Single"]}}}, "two arms or more"),
        ({"arms": {"x": {"reward": "truth", "twin": 1}}}, "not trained here"),
        (
            {"arms": {"x": {"merge": ["Single", "GRM"], "objective": {"kind": "grm"}}}},
            "not trained",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        parse_section(LabConfig, {"output": "lab", **changes}, "lab.yaml")
