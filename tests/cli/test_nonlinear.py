"""ArmoRM and the two-layer classifier as a user meets them: trained, scored, measured, pushed."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from smorm import RewardModel
from smorm.evaluation.result import read_results
from smorm.files import sha256
from tests.stress.made_up import read_lines, write_rows
from tests.tiny import config_values, trained, world

ARMO = {"width": 32, "layers": 2}
KINDS = {
    "armo": {"objective": {"kind": "armo", "armo": ARMO}},
    "mlp": {"objective": {"kind": "preference"}, "model": {"head": "mlp", "freeze": True}},
}


def config_file(folder, name="run", **changes):
    """A short run whose backbone is a trained Single's."""
    model = {"backbone": str(trained("preference")), **changes.pop("model", {})}
    values = config_values(folder / name, model=model, **changes)
    values["training"] |= {"max_steps": 20, "batch_size": 32, "warmup": 0.0, **changes.get(
        "training", {})}  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a finished run of each kind."""
    from smorm.config import load_config
    from smorm.training.loop import train

    folder = tmp_path_factory.mktemp("nonlinear")
    held_out = {"evaluation": {"preference": str(world()["dev-pairs"])}}
    for name, changes in KINDS.items():
        train(load_config(config_file(folder, name, **changes, **held_out), []))
    return {name: folder / name for name in KINDS}


@pytest.mark.slow
def test_a_run_of_armo_is_measured_as_often_as_it_is_asked(tmp_path):
    from smorm.config import load_config
    from smorm.training.loop import train

    changes = {**KINDS["armo"], "evaluation": {"preference": str(world()["dev-pairs"])}}
    often = {"max_steps": 7, "log_every": 4, "evaluate_every": 3}
    train(load_config(config_file(tmp_path, **changes, training=often), []))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [one["step"] for one in lines] == [1, 3, 4, 6, 7]
    assert [one["step"] for one in lines if "dev/accuracy" in one] == [3, 6, 7]


@pytest.mark.slow
def test_of_models_to_be_merged_the_one_that_has_no_rows_is_named(runs, tmp_path, smorm):
    words = ("merge", trained("preference"), runs["armo"], "-o", tmp_path / "merged")
    code, _, err = smorm(*words)
    assert code == 2
    assert f"{runs['armo']}: this model's head is a gate" in err


def test_a_run_of_armo_that_is_there_is_not_told_to_be_resumed(runs, smorm):
    code, _, err = smorm("train", runs["armo"].parent / "armo.yaml")
    assert code == 2
    assert "holds a run already: name another folder" in err
    assert "--resume" not in err
    code, _, err = smorm("train", runs["armo"].parent / "armo.yaml", "--resume")
    assert code == 2
    assert "writes no checkpoints: leave out --resume" in err


def test_a_run_of_armo_claims_nothing_about_a_verbosity_that_it_did_not_measure(
    tmp_path, smorm, caplog
):
    changes = {"objective": {"kind": "armo", "armo": {**ARMO, "debias": None}}}
    caplog.set_level(logging.INFO, logger="smorm")
    code, _, err = smorm("train", config_file(tmp_path, **changes))
    assert code == 0, err
    assert "ridge, correctness: alpha" in caplog.text
    assert "correlation" not in caplog.text
    found = json.loads((tmp_path / "run" / "armo.json").read_text())["attributes"]
    assert {(one["multiple"], one["correlation"]) for one in found.values()} == {(0.0, None)}


def test_a_correlation_that_so_few_responses_cannot_come_down_to_is_told(tmp_path, smorm, caplog):
    changes = {"objective": {"kind": "armo", "armo": {**ARMO, "correlation": 1e-9}}}
    data = {"preference": {"path": str(world()["train-pairs"]), "limit": 6}}
    code, _, err = smorm("train", config_file(tmp_path, **changes, data=data))
    assert code == 0, err
    told = "warning: no multiple brings it to 1e-09 or less over these 12 responses"
    found = json.loads((tmp_path / "run" / "armo.json").read_text())["attributes"]
    above = [one for one in found.values() if abs(one["correlation"]["after"]) > 1e-9]
    assert caplog.text.count(told) == len(above) > 0


def test_a_run_of_armo_says_what_it_chose(runs):
    found = json.loads((runs["armo"] / "armo.json").read_text())
    rated = json.loads((runs["armo"] / "data.json").read_text())["rated"]
    model = RewardModel.load(runs["armo"])
    assert tuple(found["attributes"]) == model.attributes
    for one in found["attributes"].values():
        assert abs(one["correlation"]["after"]) <= 0.03
        errors = one["held_out_error"]
        assert errors[f"{one['alpha']:g}"] == min(errors.values())
        assert 0 < one["held_out_ratings"] < 0.3 * rated
    assert sum(one["mean_share"] for one in found["attributes"].values()) == pytest.approx(1)
    (*_, last) = read_lines(runs["armo"] / "metrics.jsonl")
    assert last["step"] == 20
    assert {"loss", "accuracy", "dev/accuracy", "dev/preference_loss"} <= set(last)
    cost = json.loads((runs["armo"] / "cost.json").read_text())
    assert (cost["kind"], cost["steps"], cost["passes_per_score"]) == ("armo", 20, 1)
    assert cost["tokens"]["first_pass"] > 0 == cost["tokens"]["trained"]
    assert cost["parameters"]["trained"] < cost["parameters"]["model"]


@pytest.mark.parametrize("name", KINDS)
def test_the_backbone_stays_as_it_came(runs, name):
    before = load_file(trained("preference") / "model.safetensors")
    after = load_file(runs[name] / "model" / "model.safetensors")
    assert len(after) == len(before) - 1  # without the old head
    for key, weight in after.items():
        assert torch.equal(weight, before[f"model.{key}"]), key


def test_armo_scores_ratings_and_a_gated_preference(runs, smorm, tmp_path):
    output = tmp_path / "scores.jsonl"
    code, _, err = smorm("score", runs["armo"], "--input", world()["eval-pairs-ID"], "-o", output)
    assert code == 0, err
    lines = [one for line in read_lines(output) for one in line["responses"]]
    assert len({round(one["preference"], 6) for one in lines}) > 100
    assert all(one["view"] == one["preference"] for one in lines)
    model = RewardModel.load(runs["armo"])
    rows = read_lines(world()["eval-pairs-ID"])
    scores = model.score(rows)
    np.testing.assert_allclose([one["preference"] for one in lines], scores.view("F"), atol=1e-5)
    np.testing.assert_allclose(scores.view("L"), scores.attributes.mean(axis=1), atol=1e-9)
    alone = model.score([(rows[0]["prompt"], rows[0]["rejected"])]).preference
    np.testing.assert_allclose(alone, scores.preference[1:2], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_is_measured_and_pushed_like_any_other_model(runs, name, smorm, tmp_path):
    suites = [f"pairs/ID={world()['eval-pairs-ID']}"]
    suites += [f"rated/ID={world()['eval-rated-ID']}"] if name == "armo" else []
    words = [word for suite in suites for word in ("--suite", suite)]
    code, _, err = smorm("eval", runs[name], *words, "-o", tmp_path / "eval.json")
    assert code == 0, err
    assert len(read_results(tmp_path / "eval.json")) == len(suites)
    rows = read_lines(world()["eval-pairs-ID"])[:12]
    pools = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"],
              "tin iron .", "well ."], "gold": [3, 2, 1, 0]} for row in rows]  # fmt: skip
    config = {
        "models": {"it": {"model": str(runs[name])},
                   "both": {"ensemble": [str(runs[name]), str(trained("joint"))],
                            "combine": "min"}},
        "prompts": {"ID": str(write_rows(tmp_path / "pools.jsonl", pools))},
        "gold": "field:gold", "output": str(tmp_path / "stress.json"),
    }  # fmt: skip
    path = tmp_path / "stress.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    code, _, err = smorm("stress", path)
    assert code == 0, err
    found = [one for one in read_results(tmp_path / "stress.json") if one.kind == "stress"]
    assert [(one.model, one.view) for one in found] == [("it", "F"), ("both", "min")]
    assert all("probe/praise" in one.metrics for one in found)
    assert ("disagreement_auc@4" in found[0].metrics) == (name == "armo")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "words",
    [("export", "IT", "--view", "F", "-o", "OUT"), ("export", "IT", "--all-rows", "-o", "OUT"),
     ("merge", "IT", "IT", "--output", "OUT"), ("parity", "IT", "IT"),
     ("diagnose", "IT", "--preference", "PAIRS", "--rated", "RATED", "-o", "OUT"),
     ("eval", "IT", "--sanity", "--suite", "SUITE", "-o", "OUT")],
    ids=["view", "all rows", "merge", "parity", "diagnose", "sanity"],
)  # fmt: skip
def test_what_needs_a_linear_head_is_refused_in_a_line(runs, name, words, smorm, tmp_path):
    stands = {"IT": runs[name], "OUT": tmp_path / "out", "PAIRS": world()["eval-pairs-ID"],
              "RATED": world()["eval-rated-ID"],
              "SUITE": f"pairs/ID={world()['eval-pairs-ID']}"}  # fmt: skip
    code, _, err = smorm(*(stands.get(word, word) for word in words))
    assert code == 2
    assert "not one linear layer" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_raw_text_has_no_prompt_to_read(runs, smorm, tmp_path):
    rows = [{"prompt": "metals full tin", "response": "tin"}, {"text": "tin iron"}]
    path = write_rows(tmp_path / "raw.jsonl", rows)
    code, _, err = smorm("score", runs["armo"], "--input", path, "-o", tmp_path / "s.jsonl")
    assert code == 3
    code, _, err = smorm(
        "score", runs["armo"], "--input", path, "-o", tmp_path / "s.jsonl", "--skip-bad"
    )
    assert code == 0, err
    first, second = read_lines(tmp_path / "s.jsonl")
    assert "preference" in first
    assert "error" in second


@pytest.mark.slow
def test_one_seed_gives_one_model_and_another_another(smorm, tmp_path):
    def head(name, **training):
        path = config_file(tmp_path, name, training=training, **KINDS["armo"])
        assert smorm("train", path)[0] == 0
        return sha256(tmp_path / name / "model" / "head.safetensors")

    assert head("a") == head("b") != head("c", seed=1)


def test_an_attribute_may_stand_for_verbosity_or_nothing(smorm, tmp_path):
    found = {}
    for debias in ("conciseness", None):
        own = {"objective": {"kind": "armo", "armo": {**ARMO, "debias": debias}}}
        name = str(debias)
        code, _, err = smorm("train", config_file(tmp_path, name, **own))
        assert code == 0, err
        found[debias] = json.loads((tmp_path / name / "armo.json").read_text())["attributes"]
    assert found["conciseness"]["conciseness"]["multiple"] == 1.0
    assert any(one["multiple"] for name, one in found["conciseness"].items()
               if name != "conciseness")  # fmt: skip
    assert not any(one["multiple"] for one in found[None].values())


@pytest.mark.slow
def test_an_mlp_run_goes_on_where_it_stopped(smorm, tmp_path):
    whole = config_file(tmp_path, "whole", **KINDS["mlp"])
    assert smorm("train", whole)[0] == 0
    parts = config_file(tmp_path, "parts", training={"save_every": 10}, **KINDS["mlp"])
    assert smorm("train", parts)[0] == 0
    run = tmp_path / "parts"
    for gone in ("model", "checkpoints/step-00000020"):
        (run / gone).rename(tmp_path / gone.replace("/", "-"))
    assert smorm("train", parts, "--resume")[0] == 0
    names = ("head.safetensors", "model.safetensors")
    for name in names:
        assert sha256(run / "model" / name) == sha256(tmp_path / "whole" / "model" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [({"objective": {"kind": "grm"}, "model": {"head": "mlp"}}, ()),
     ({"objective": {"kind": "preference"}, "model": {"head": "mlp", "lora": {"rank": 2}}}, ())],
    ids=["grm", "adapters"],
)  # fmt: skip
def test_a_published_grm_head_and_adapters_have_one_too(changes, words, smorm, tmp_path):
    from smorm.world import backbone_path

    changes = {**changes, "training": {"max_steps": 2}}
    changes["model"] = {**changes["model"], "backbone": str(backbone_path())}
    code, _, err = smorm("train", config_file(tmp_path, **changes), *words)
    assert code == 0, err
    model = RewardModel.load(tmp_path / "run")
    assert model.card.head == "mlp"
    assert np.ptp(model.score(read_lines(world()["eval-pairs-ID"])).preference) > 0


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        (KINDS["armo"], ("--resume",), "writes no checkpoints"),
        (KINDS["armo"], ("objective.armo.debias=wordiness",), "expected length, null or one of"),
        (KINDS["armo"], ("objective.armo.depth=2",), "unknown key objective.armo.depth"),
        (KINDS["armo"], ("objective.armo.temperature=0",), "temperature"),
        (KINDS["armo"], ("model.lora={rank: 2}",), "leaves the backbone as it comes"),
        (KINDS["armo"], ("model.backbone={architecture: llama}", "model.tokenizer=x"), "trained"),
        (KINDS["armo"], ("data.rated=[]",), "needs rated responses"),
        (KINDS["armo"], ("model.head=mlp",), "kind preference or grm, not armo"),
        (KINDS["mlp"], ("objective.kind=joint",), "preference or grm, not joint"),
        (KINDS["mlp"], ("model.head=mpl",), "model.head"),
        (KINDS["mlp"], ("objective.armo.width=8",), "with kind armo only"),
    ],
)
def test_nonsense_is_told_in_one_line(smorm, tmp_path, changes, words, said):
    code, _, err = smorm("train", config_file(tmp_path, **changes), *words)
    assert code == 2, err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()
