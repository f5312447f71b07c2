"""`smorm stress` with `rl` as a user meets it: models and views, seeds, constraints, nonsense."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import yaml

from smorm.config import load_section
from smorm.errors import ConfigError, Interrupted
from smorm.evaluation.result import read_results
from smorm.stress.config import StressConfig
from smorm.stress.rl.run import run_rl
from smorm.world import backbone_path
from tests.stress.made_up import write_rows
from tests.stress.rl.made_up import write_prompts
from tests.tiny import trained

LENGTH = "tests.stress.made_up:half_length"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    return {
        "train": write_prompts(folder / "train.jsonl", "ID", "train", 8),
        "ID": write_prompts(folder / "ID.jsonl", "ID", "eval", 4),
        "OODtopic": write_prompts(folder / "OODtopic.jsonl", "OODtopic", "eval", 4),
    }


def config(tmp_path, files, rl=None, **changes):
    values = {
        "models": {"length": LENGTH},
        "prompts": {name: str(files[name]) for name in ("ID", "OODtopic")},
        "gold": "lab",
        "output": str(tmp_path / "rl.json"),
        "rl": {
            "policy": str(backbone_path()), "prompts": str(files["train"]), "steps": 2,
            "prompts_per_step": 4, "answers_per_prompt": 4, "learning_rate": 1e-3,
            "max_new_tokens": 12, "evaluate_every": 1, "passes": 1, **(rl or {}),
        },
        **changes,
    }  # fmt: skip
    path = tmp_path / "rl.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


@pytest.mark.slow
def test_a_policy_is_optimised_against_every_view_and_traced_on_every_set(smorm, tmp_path, prompts):
    models = {
        "Joint": {"model": str(trained()), "views": ["F", "L"]},
        "Single": {"model": str(trained("preference")), "view": "F"},
    }
    path = config(tmp_path, prompts, models=models, in_distribution="ID")
    code, out, err = smorm("stress", path)
    assert code == 0, err
    results = read_results(tmp_path / "rl.json")
    runs = [one for one in results if one.kind == "rl"]
    assert [(r.suite, r.model, r.view) for r in runs] == [
        ("ppo/ID", "Joint", "F"), ("ppo/OODtopic", "Joint", "F"),
        ("ppo/ID", "Joint", "L"), ("ppo/OODtopic", "Joint", "L"),
        ("ppo/ID", "Single", "F"), ("ppo/OODtopic", "Single", "F"),
    ]  # fmt: skip
    for one in runs:
        assert [point["step"] for point in one.items] == [0, 1, 2]
        assert one.items[0]["kl"]["value"] == 0
        assert one.items[-1]["kl"]["value"] > 0
        assert one.items[0]["proxy"]["value"] == 0
        assert one.metrics["gold@last"].n == 4
        assert one.metrics["gold@first"].value == one.items[0]["gold"]["value"]
        assert one.fingerprint["seed"] == 0
        # The mean attribute stands beside F of a model that has both heads.
        beside = (one.model, one.view) == ("Joint", "F")
        kinds = {alarm.kind.value for alarm in one.alarms}
        assert ("policy_on_attributes" in kinds) == beside
        assert ("standing_on_attributes" in one.items[0]) == beside
        assert ("score_drift" in kinds) == one.suite.endswith("topic")
        assert {"closing_word", "near_empty"} <= kinds
    # all runs begin at the same policy with the same chance
    assert len({one.metrics["gold@first"].value for one in runs if one.suite == "ppo/ID"}) == 1
    assert ("Single − Joint", "F") in {(r.model, r.view) for r in results if r.kind == "difference"}
    assert "step 1/2: ID gold" in err
    assert "s left" in err
    for word in ("gold@last", "onset step", "results:"):
        assert word in out
    assert smorm("report", tmp_path / "rl.json", "--output", tmp_path / "page.html")[0] == 0


@pytest.mark.slow
def test_seeds_are_runs_of_one_method(smorm, tmp_path, prompts):
    code, out, err = smorm("stress", config(tmp_path, prompts, {"seeds": [3, 4]}))
    assert code == 0, err
    runs = read_results(tmp_path / "rl.json")
    assert [(r.suite, r.fingerprint["seed"]) for r in runs] == [
        ("ppo/ID", 3), ("ppo/OODtopic", 3), ("ppo/ID", 4), ("ppo/OODtopic", 4),
    ]  # fmt: skip
    same = {k: v for k, v in runs[0].fingerprint.items() if k != "seed"}
    assert same == {k: v for k, v in runs[2].fingerprint.items() if k != "seed"}
    assert runs[0].items != runs[2].items
    assert "Mean over 2 seeds" in out


@pytest.mark.slow
def test_the_same_configuration_gives_the_same_numbers(smorm, tmp_path, prompts):
    path = config(tmp_path, prompts)
    found = []
    for name in ("one", "two"):
        assert smorm("stress", path, f"output={tmp_path / name}.json")[0] == 0
        found.append([one.as_dict() for one in read_results(tmp_path / f"{name}.json")])
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_trls_algorithms_are_traced_alike(smorm, tmp_path, prompts, algorithm):
    code, _, err = smorm("stress", config(tmp_path, prompts), f"rl.algorithm={algorithm}")
    assert code == 0, err
    one, _ = read_results(tmp_path / "rl.json")
    assert one.suite == f"{algorithm}/ID"
    assert [point["step"] for point in one.items] == [0, 1, 2]
    assert one.items[0]["kl"]["value"] == 0 < one.items[-1]["kl"]["value"]


@pytest.mark.slow
def test_a_threshold_comes_from_the_golds_peak_of_an_earlier_run(smorm, tmp_path, prompts):
    assert smorm("stress", config(tmp_path, prompts), "--output", tmp_path / "first.json")[0] == 0
    first, other = read_results(tmp_path / "first.json")
    held = {"kl_coefficient": 0.05, "constraint": {"from": str(tmp_path / "first.json")}}
    code, _, err = smorm("stress", config(tmp_path, prompts, held))
    assert code == 0, err
    threshold = f"{first.metrics['raw_proxy@peak'].value:.3f}"
    assert f"proxy held at {threshold}" in err
    notes = read_results(tmp_path / "rl.json")[0].notes
    assert f"Constrained: the raw proxy held at {threshold}." in notes
    held["constraint"]["prompts"] = "OODtopic"
    _, _, err = smorm("stress", config(tmp_path, prompts, held))
    assert f"proxy held at {other.metrics['raw_proxy@peak'].value:.3f}" in err
    assert "multiplier" in read_results(tmp_path / "rl.json")[0].items[-1]
    models = {"length": LENGTH, "other": LENGTH}
    code, _, err = smorm("stress", config(tmp_path, prompts, held, models=models))
    assert code == 3
    assert "step 0" not in err  # before anything is trained
    assert "has no policy optimisation against other" in err


def test_a_view_that_a_later_model_lacks_is_told_before_the_first_run(smorm, tmp_path, prompts):
    models = {"length": LENGTH, "single": {"model": str(trained("preference")), "view": "L"}}
    code, _, err = smorm("stress", config(tmp_path, prompts, models=models))
    assert code == 2, err
    assert "view" in err
    assert "step 0" not in err


@pytest.mark.slow
def test_finished_runs_are_kept_when_a_later_one_fails(smorm, tmp_path, prompts):
    models = {"length": LENGTH, "worse": "tests.stress.rl.made_up:nothing"}
    code, _, err = smorm("stress", config(tmp_path, prompts, models=models))
    assert code == 3
    kept = tmp_path / "rl.json.part"
    assert f"the results of finished runs are in {kept}" in err
    assert [(one.suite, one.model) for one in read_results(kept)] == [
        ("ppo/ID", "length"), ("ppo/OODtopic", "length"),
    ]  # fmt: skip
    assert not (tmp_path / "rl.json").exists()
    assert smorm("stress", config(tmp_path, prompts))[0] == 0
    assert not kept.exists()
    written = read_results(tmp_path / "rl.json")[0]
    assert written.notes[0].startswith("4 prompts with 4 sampled answers each at 3 evaluations;")


def test_a_stop_keeps_finished_runs_and_no_second_process_writes_them(tmp_path, prompts):
    path = config(tmp_path, prompts, models={"first": LENGTH, "second": LENGTH})
    section = load_section(StressConfig, path, [])

    def tell(line: str) -> None:
        if "against second" in line:
            with pytest.raises(ConfigError, match="is in use by another run"):
                run_rl(section, tell=lambda _: None)
            os.kill(os.getpid(), signal.SIGTERM)

    kept = tmp_path / "rl.json.part"
    with pytest.raises(Interrupted, match=f"the results of finished runs are in {kept}"):
        run_rl(section, tell=tell)
    assert {one.model for one in read_results(kept)} == {"first"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rl.json.part", "rl.yaml"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_policy_that_diverges_is_told(smorm, tmp_path, prompts, algorithm):
    path = config(tmp_path, prompts, {"learning_rate": 1e12, "passes": 2})
    code, _, err = smorm("stress", path, f"rl.algorithm={algorithm}")
    assert code == 1
    assert f"{algorithm} against length" in err
    assert "became NaN or infinite: take a smaller rl.learning_rate than 1e+12" in err


def test_a_starting_policy_that_is_not_finite_is_told(smorm, tmp_path, prompts):
    code, _, err = smorm("stress", config(tmp_path, prompts, {"temperature": 1e-40}))
    assert code == 1
    assert "the starting policy's probabilities became NaN or infinite" in err


def test_what_could_not_be_measured_is_told_before_training(smorm, tmp_path, prompts):
    path = config(tmp_path, prompts, gold="tests.stress.rl.made_up:same")
    code, _, err = smorm("stress", path)
    assert code == 3
    assert "prompts ID: starting policy: gold: all answers of every pool have the same" in err
    assert "step 1" not in err


def test_a_file_without_prompts_is_told(smorm, tmp_path, prompts):
    (tmp_path / "empty.jsonl").write_text("")
    path = config(tmp_path, prompts, {"prompts": str(tmp_path / "empty.jsonl")})
    code, _, err = smorm("stress", path)
    assert code == 3
    assert "empty.jsonl: no usable prompt in it: it holds none" in err


def test_a_prompt_that_the_policys_template_refuses_is_named(smorm, tmp_path, prompts):
    policy = tmp_path / "policy"
    shutil.copytree(backbone_path(), policy)
    template = policy / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    turns = [{"role": "system", "content": "tin"}, {"role": "user", "content": "metals full tin"}]
    sets = {"ID": str(write_rows(tmp_path / "turns.jsonl", [{"prompt": turns}]))}
    code, _, err = smorm("stress", config(tmp_path, prompts, {"policy": str(policy)}, prompts=sets))
    assert code == 3, err
    assert "turns.jsonl:1: prompt: the chat template refused the roles system" in err
    assert "the policy's template" in err


def test_a_prompt_that_is_too_long_is_left_out_and_counted(smorm, tmp_path, prompts):
    rows = [{"prompt": "metals full tin iron"}, {"prompt": "metals full " + "tin " * 40},
            {"prompt": "birds brief owl swan"}]  # fmt: skip
    sets = {"ID": str(write_rows(tmp_path / "long.jsonl", rows))}
    code, out, err = smorm("stress", config(tmp_path, prompts, {"prompt_tokens": 12}, prompts=sets))
    assert code == 0, err
    assert "prompt longer than prompt_tokens, left out: 1 (such as" in out
    assert read_results(tmp_path / "rl.json")[0].metrics["gold@last"].n == 2


def test_a_gold_that_cannot_judge_a_prompt_stops_it_or_leaves_it_out(smorm, tmp_path, prompts):
    rows = [{"prompt": "metals full tin iron"}, {"prompt": "What is tin?"},
            {"prompt": "birds brief owl swan"}]  # fmt: skip
    sets = {"ID": str(write_rows(tmp_path / "strange.jsonl", rows))}
    path = config(tmp_path, prompts, prompts=sets)
    code, _, err = smorm("stress", path)
    assert code == 3
    assert "strange.jsonl:2" in err
    code, out, err = smorm("stress", path, "on_bad_record=skip")
    assert code == 0, err
    assert "no gold: 3" in out  # at each of three evaluations
    assert read_results(tmp_path / "rl.json")[0].metrics["gold@last"].n == 2


@pytest.mark.parametrize(
    ("rl", "words", "code", "said"),
    [
        ({"algoritm": "ppo"}, (), 2, "did you mean rl.algorithm?"),
        ({"algorithm": "dpo"}, (), 2, "rl.algorithm"),
        ({"policy": "no/such/policy"}, (), 2, "no such folder"),
        ({"prompts": "nothing.jsonl"}, (), 3, "nothing.jsonl"),
        ({"prompts_per_step": 64}, (), 2, "fewer than rl.prompts_per_step (64)"),
        ({"minibatch": 5}, (), 2, "does not divide the 16 answers"),
        ({"algorithm": "grpo", "answers_per_prompt": 1}, (), 2, "compares answers to one prompt"),
        ({"constraint": {"threshold": 1}}, (), 2, "expected above 0 with a constraint"),
        ({"constraint": {}, "kl_coefficient": 0.1}, (), 2, "either threshold"),
        ({"seeds": [1, 1]}, (), 2, "twice"),
        ({"seeds": [2**64]}, (), 2, "rl.seeds"),
        ({}, ("n=[1, 2, 4]",), 2, "for best-of-n"),
        ({}, ("gold=field:gold",), 2, "cannot judge answers that are newly sampled"),
    ],
)
def test_nonsense_is_told_in_one_line(smorm, tmp_path, prompts, rl, words, code, said):
    left, _, err = smorm("stress", config(tmp_path, prompts, rl), *words)
    assert left == code, err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "rl.json").exists()
