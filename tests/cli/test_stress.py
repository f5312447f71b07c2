"""`smorm stress` as a user meets it: lab pools, real pools, seeds, differences, nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from smorm.evaluation.result import read_results
from smorm.world import backbone_path, make_world, sample_prompt, write_answer
from smorm.world import gold as lab_gold
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import trained


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Pools of 12 answers by the lab's writer, on 6 prompts of two regimes."""
    folder, rng = tmp_path_factory.mktemp("pools"), np.random.default_rng(0)
    found = {}
    for regime in ("ID", "OODtopic"):
        prompts = {p.text: p for p in (sample_prompt(rng, regime) for _ in range(20))}
        rows = []
        for prompt in list(prompts.values())[:6]:
            answers = [write_answer(make_world(), prompt, rng) for _ in range(12)]
            rows.append({"prompt": prompt.text, "responses": [
                {"response": text, "gold": lab_gold(make_world(), prompt, text)}
                for text in answers]})  # fmt: skip
        found[regime] = write_rows(folder / f"{regime}.jsonl", rows)
    return found


def config(tmp_path, pools, **changes):
    values = {
        "models": {
            "Joint": {"model": str(trained()), "views": ["F", "L"]},
            "Single": {"model": str(trained("preference")), "view": "F"},
        },
        "prompts": {name: str(path) for name, path in pools.items()},
        "gold": "lab",
        "output": str(tmp_path / "stress.json"),
        **changes,
    }
    path = tmp_path / "stress.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


@pytest.mark.slow
def test_models_and_views_are_pushed_in_and_out_of_distribution(smorm, tmp_path, pools):
    path = config(tmp_path, pools, in_distribution="ID")
    code, out, err = smorm("stress", path)
    assert code == 0, err
    results = read_results(tmp_path / "stress.json")
    stressed = [r for r in results if r.kind == "stress"]
    assert [(r.suite, r.model, r.view) for r in stressed] == [
        ("best-of-n/ID", "Joint", "F"), ("best-of-n/ID", "Joint", "L"),
        ("best-of-n/OODtopic", "Joint", "F"), ("best-of-n/OODtopic", "Joint", "L"),
        ("best-of-n/ID", "Single", "F"), ("best-of-n/OODtopic", "Single", "F"),
    ]  # fmt: skip
    for one in stressed:
        assert [point["n"] for point in one.items] == [1, 2, 4, 8, 12]
        assert one.metrics["gold@1"].n == 6
        assert one.metrics["proxy@12"].value > one.metrics["proxy@1"].value
        assert one.metrics["oracle"].value >= one.metrics["gold@12"].value
        assert "probe/praise" in one.metrics
        assert ("disagreement_auc@12" in one.metrics) == (one.model == "Joint")
        # Twelve answers are too few for the picks' place on the attributes.
        kinds = {alarm.kind.value for alarm in one.alarms}
        drift = {"score_drift"} if one.suite.endswith("topic") else set()
        assert kinds == {"closing_word", "near_empty"} | drift
        assert all(alarm.measured.n == 6 for alarm in one.alarms)
    assert "no alarm: " in out or "ALARM" in out
    assert "alarms not measured: picks on the mean attribute (needs pools of 16 answers)" in out
    differences = {(r.suite, r.model, r.view) for r in results if r.kind == "difference"}
    assert ("best-of-n/ID", "Single − Joint", "F") in differences
    assert ("best-of-n/ID", "Joint", "L − F") in differences
    for word in ("gold@12", "oracle", "peak", "paired differences", "results:"):
        assert word in out
    page = tmp_path / "page.html"
    assert smorm("report", tmp_path / "stress.json", "--output", page)[0] == 0
    assert "best-of-n/OODtopic" in page.read_text()
    assert "Alarms without gold" in page.read_text()


def test_the_files_gold_and_the_labs_agree_and_overrides_reach_the_config(smorm, tmp_path, pools):
    path = config(tmp_path, pools, probes=False)
    found = {}
    for gold in ("lab", "field:gold"):
        output = tmp_path / f"{gold[:3]}.json"
        words = ("stress", path, f"gold={gold}", f"output={output}", "n=[1, 2, 6]")
        assert smorm(*words)[0] == 0
        found[gold] = [r for r in read_results(output) if r.kind == "stress"]
    for one, other in zip(*found.values(), strict=True):
        assert [point["n"] for point in one.items] == [1, 2, 6]
        assert "probe/praise" not in one.metrics
        for name in ("gold@2", "gold@6", "oracle", "fall"):
            assert one.metrics[name].value == pytest.approx(other.metrics[name].value)


@pytest.mark.slow
def test_an_answer_that_does_not_fit_stops_the_test_or_is_left_out_and_counted(
    smorm, tmp_path, pools
):
    rows = read_lines(pools["ID"])
    rows[2]["responses"][5]["response"] = "tin " * 300
    prompts = {"ID": str(write_rows(tmp_path / "long.jsonl", rows))}
    path = config(tmp_path, {}, prompts=prompts)
    code, _, err = smorm("stress", path)
    assert code == 3
    assert "long.jsonl:3" in err
    assert "leaves it out" in err
    code, out, _ = smorm("stress", path, "on_bad_record=skip")
    assert code == 0
    for name in ("Joint", "Single"):
        assert f"{name}: left out: no score: 1" in out
    marks = set()
    for one in read_results(tmp_path / "stress.json"):
        assert one.metrics["gold@1"].n == 5
        marks.add(one.fingerprint.get("data"))
    assert smorm("stress", path, "models=tests.stress.made_up:half_length")[0] == 0
    (whole,) = read_results(tmp_path / "stress.json")
    assert whole.metrics["gold@1"].n == 6
    assert whole.fingerprint["data"] not in marks  # it was measured on other pools
    prompts["ID"] = {"path": prompts["ID"], "max_words": 100}
    code, out, _ = smorm("stress", config(tmp_path, {}, prompts=prompts))
    assert code == 0
    assert "answer of more than 100 words, left out: 1" in out
    for one in read_results(tmp_path / "stress.json"):
        assert one.metrics["gold@1"].n == 6
        if one.kind == "stress":
            assert one.items[-1]["n"] == 11  # the pool that lost its long answer is the smallest


@pytest.mark.slow
def test_seeds_of_a_method_stand_together_and_differences_are_paired_by_seed(
    smorm, tmp_path, pools
):
    models = [
        {"name": name, "model": str(trained(kind)), "view": "F", "seed": seed}
        for name, kind in (("Single", "preference"), ("SMORM", "joint"))
        for seed in (0, 1)
    ]
    code, out, err = smorm("stress", config(tmp_path, pools, models=models, probes=False))
    assert code == 0, err
    assert "Mean over 2 seeds" in out
    results = json.loads((tmp_path / "stress.json").read_text())
    of_kind = [r for r in results if r["kind"] == "difference" and r["suite"].endswith("/ID")]
    assert [(r["model"], r["fingerprint"]["seed"]) for r in of_kind] == [
        ("SMORM − Single", 0), ("SMORM − Single", 1),
    ]  # fmt: skip


def test_a_length_reward_of_the_users_own_is_a_proxy(smorm, tmp_path, pools):
    models = {"length": "tests.stress.made_up:half_length", "true": "field:gold"}
    code, _, err = smorm("stress", config(tmp_path, pools, models=models))
    assert code == 0, err
    length, true = (r for r in read_results(tmp_path / "stress.json")
                    if r.kind == "stress" and r.suite == "best-of-n/ID")  # fmt: skip
    assert length.metrics["slope/length"].low > 0
    assert length.metrics["probe_wins/filler"].value == 1.0
    assert true.metrics["regret"].value == pytest.approx(0.0)
    assert not any(name.startswith("probe") for name in true.metrics)  # a field reads no new text


@pytest.mark.data
def test_real_answers_with_a_real_gold(smorm, tmp_path, data_folder):
    prompts = {"alpaca": {"path": str(data_folder / "alpaca_eval_bon" / "dev.jsonl.gz")}}
    models = {"length": "tests.stress.made_up:half_length"}
    path = config(tmp_path, {}, prompts=prompts, models=models, gold="field:gold", probes=False)
    code, _out, err = smorm("stress", path)
    assert code == 0, err
    (one,) = read_results(tmp_path / "stress.json")
    assert (one.items[-1]["n"], one.metrics["gold@1"].n) == (58, 51)
    # the judge is known to like length: choosing by it gains, and far less than the oracle
    assert one.metrics["gain"].low > 0
    assert one.metrics["regret"].low > 0


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"models": ["tests.stress.nowhere:f"]}, 2, "cannot be imported"),
        ({"models": ["tests.stress.made_up:half_length", "no/such/model"]}, 2, "no/such/model"),
        ({"models": {"a": {"ensemble": ["no/such/member"]}}}, 2, "no/such/member"),
        ({"models": {"a": {"model": "THE MODEL", "views": ["F", "Q"]}}}, 2, "error: view Q:"),
        ({"output": "THE FOLDER"}, 2, "is a folder"),
        ({"output": "THE FOLDER/stress.yaml/x.json"}, 1, "could not be written"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_scored(
    smorm, tmp_path, pools, changes, code, said
):
    places = {"THE MODEL": str(trained()), "THE FOLDER": str(tmp_path)}
    text = json.dumps(changes)
    for word, place in places.items():
        text = text.replace(word, place)
    left, _, err = smorm("stress", config(tmp_path, pools, **json.loads(text)))
    assert left == code, err
    assert said in err
    assert "gold of" not in err
    assert "scoring with" not in err


def test_a_reward_that_chooses_nothing_is_named(smorm, tmp_path, pools):
    constant = "tests.stress.made_up:constant"
    models = {"length": "tests.stress.made_up:half_length", "flat": constant}
    code, _, err = smorm("stress", config(tmp_path, pools, models=models))
    assert code == 3
    assert "flat, view function, prompts ID: proxy: all answers" in err
    code, _, err = smorm("stress", config(tmp_path, pools, gold=constant))
    assert code == 3
    assert "prompts ID: gold: all answers" in err
    assert "scoring with" not in err


def test_a_missing_gold_stops_the_test_also_where_long_answers_are_dropped(smorm, tmp_path, pools):
    rows = read_lines(pools["ID"])
    del rows[1]["responses"][0]["gold"]
    prompts = {"ID": str(write_rows(tmp_path / "gap.jsonl", rows))}
    path = config(tmp_path, {}, prompts=prompts, gold="field:gold", overlong="drop", probes=False)
    code, _, err = smorm("stress", path)
    assert code == 3
    assert "gap.jsonl:2: no gold: answer 1: gold: missing" in err


def test_one_prompt_says_that_there_is_no_interval(smorm, tmp_path, pools):
    prompts = {"ID": {"path": str(pools["ID"]), "limit": 1}}
    models = {"length": "tests.stress.made_up:half_length"}
    code, out, err = smorm("stress", config(tmp_path, {}, prompts=prompts, models=models))
    assert code == 0, err
    assert "1 prompt with 12 answers; intervals resample prompts, so that there is none." in out
    assert "row of a prompt beyond the limit, left out: 5" in out


@pytest.mark.parametrize(
    ("changes", "words", "code", "said"),
    [
        ({}, ("modles=x",), 2, "did you mean models?"),
        ({"gold": None}, (), 2, "gold: missing"),
        ({"gold": "field:nothing"}, (), 3, "no gold: answer 1: nothing: missing"),
        ({"models": ["no/such/model"]}, (), 2, "no/such/model"),
        ({"models": ["same/model", "same/model"]}, (), 2, "is there twice"),
        ({"prompts": {"x": "nothing.jsonl"}}, (), 3, "nothing.jsonl"),
        ({"n": [1, 2, 64]}, (), 3, "fewer than 64 answers"),
        ({"n": [2, 4]}, (), 2, "expected 1 and at least two larger"),
        ({"gold": {"lab": 0, "field": "gold"}}, (), 2, "exactly one of"),
        ({"models": {"a": {"field": "gold", "views": ["F"]}}}, (), 2, "only a model has several"),
        ({"models": {"a": {"model": "x", "views": ["F", "F"]}}}, (), 2, "one is there twice"),
        (
            {"prompts": {"a/b": {"path": "x", "sample": {"policy": "y"}}}},
            (),
            2,
            "leave out its '/'",
        ),
    ],
)
def test_nonsense_is_told_in_one_line(smorm, tmp_path, pools, changes, words, code, said):
    left, _, err = smorm("stress", config(tmp_path, pools, **changes), *words)
    assert left == code, err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "stress.json").exists()


def test_pools_are_sampled_from_a_policy_and_kept_beside_the_result(smorm, tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "metals full tin iron"},
                                             {"prompt": "birds brief owl swan"}])  # fmt: skip
    sample = {"policy": str(backbone_path()), "answers": 8, "max_new_tokens": 32}
    prompts = {"ID": {"path": str(path), "sample": sample}}
    models = {"length": "tests.stress.made_up:half_length"}
    code, out, err = smorm("stress", config(tmp_path, {}, prompts=prompts, models=models))
    assert code == 0, err
    assert "prompts sampled into stress-ID.pools.jsonl: 2" in out
    (one,) = read_results(tmp_path / "stress.json")
    again = config(tmp_path, {}, prompts={"ID": str(tmp_path / "stress-ID.pools.jsonl")},
                   models=models)  # fmt: skip
    assert smorm("stress", again, "--output", tmp_path / "again.json")[0] == 0
    (other,) = read_results(tmp_path / "again.json")
    assert other.items == one.items
