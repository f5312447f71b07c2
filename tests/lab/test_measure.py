import numpy as np
import orjson
import pytest

from smorm.data.reading import Source
from smorm.evaluation.metrics import mean_over_seeds
from smorm.evaluation.suites import Suite, run_suite
from smorm.lab.config import SystemSection
from smorm.lab.measure import Run
from smorm.lab.methods import SYSTEMS
from smorm.scoring.reward_model import RewardModel
from smorm.stress.config import StressConfig
from smorm.stress.run import run_stress
from tests.lab.small import small, store


@pytest.fixture(scope="module")
def run():
    return Run(store(), 0)


@pytest.fixture(scope="module")
def results(run):
    return list(run.results())


def one(results, **wanted):
    found = [r for r in results if all(getattr(r, key) == v for key, v in wanted.items())]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("regime", ["ID", "far"])
def test_pairs_and_ratings_are_what_smorm_eval_measures(results, regime):
    folder = store().arm("SMORM", 0) / "model"
    data = store().data(0)
    model = RewardModel.load(folder)
    pairs = Suite(f"pairs/{regime}", Source(data[f"eval-pairs-{regime}"]))
    for view in ("F", "M"):
        expected = run_suite(model, pairs, [view])[0].metrics["accuracy"]
        found = one(results, suite=f"pairs/{regime}", model="SMORM", view=view)
        assert found.metrics["accuracy"].value == pytest.approx(expected.value)
    rated = Suite(f"rated/{regime}", Source(data[f"eval-rated-{regime}"]))
    expected = run_suite(model, rated)[0].metrics
    found = one(results, suite=f"rated/{regime}", model="SMORM").metrics
    for name in ("mse", "spearman", "mse/coherence"):
        assert found[name].value == pytest.approx(expected[name].value, abs=1e-6)


def test_best_of_n_is_what_smorm_stress_measures(results, tmp_path):
    config = StressConfig(
        models=[
            {"model": str(store().arm("Single", 0) / "model"), "name": "Single", "view": "F"},
            {"model": str(store().arm("SMORM", 0) / "model"), "name": "SMORM", "view": "M"},
        ],
        prompts=[{"name": "far", "path": str(store().pools(0, "far"))}],
        gold="lab",
        output=tmp_path / "out.json",
    )
    for expected in [result for result in run_stress(config) if result.kind == "stress"]:
        found = one(results, suite="best-of-n/far", model=expected.model, view=expected.view)
        for name in ("gold@1", "gold@4", "gold@8", "proxy@8", "gain", "regret", "slope/length"):
            assert found.metrics[name].value == pytest.approx(
                expected.metrics[name].value, abs=1e-6
            )


def test_the_naive_ensemble_is_the_mean_of_two_models_scores(run):
    single, multi = (run.rows[arm]["pairs/ID"] for arm in ("Single", "Multi"))
    expected = (single.values[:, 0] + multi.values.mean(axis=1)) / 2
    np.testing.assert_allclose(run.values(SYSTEMS["SM"], "pairs/ID"), expected)


def test_standardised_members_weigh_alike_whatever_their_units(run):
    system = SystemSection(members=["Single:F", "Multi:L"], standardise=True)
    dev = run.values(system, "dev")
    parts = [
        run.values(SystemSection(members=[one], standardise=True), "dev")
        for one in ("Single:F", "Multi:L")
    ]
    np.testing.assert_allclose(dev, sum(parts) / 2)
    for part in parts:
        within = part.reshape(-1, 2) - part.reshape(-1, 2).mean(axis=1, keepdims=True)
        assert 0.9 < np.sqrt((within**2).sum() / len(within)) < 1.1
    pessimist = SystemSection(members=["Single:F", "Multi:L"], combine="min", standardise=True)
    assert (run.values(pessimist, "dev") <= np.mean(parts, axis=0) + 1).all()


def test_costs_count_every_member_and_an_average_of_weights_once(run, results):
    cost = {r.model: r.metrics for r in results if r.kind == "cost"}
    assert cost["Single"]["passes_per_score"].value == 1
    assert cost["SM"]["passes_per_score"].value == 2
    for name in ("parameters", "training_tokens", "training_passes"):
        parts = [cost[model][name].value for model in ("Single", "Multi")]
        assert cost["SM"][name].value == sum(parts)
    config = small(methods=["WARM", "Ens-mean"])
    of_both = Run(type(store())(config), 0)
    found = {name: of_both._cost(SYSTEMS[name]) for name in ("WARM", "Ens-mean")}
    assert found["WARM"]["passes_per_score"].value == 1
    assert found["Ens-mean"]["passes_per_score"].value == 3
    assert found["WARM"]["parameters"].value * 3 == found["Ens-mean"]["parameters"].value
    assert found["WARM"]["training_tokens"] == found["Ens-mean"]["training_tokens"]


def test_answers_that_had_no_room_to_end_are_counted(results):
    told = "answers did not end within pools.max_new_tokens"
    assert not any(told in note for one in results for note in one.notes)
    pools = {**small().pools.model_dump(), "max_new_tokens": 4}
    config = small(pools=pools, methods=["Single"], regimes=["ID"])
    run = Run(type(store())(config), 0)
    (note,) = one(list(run.results()), kind="stress").notes[-1:]
    rows = [orjson.loads(line) for line in run.artifacts.pools(0, "ID").read_bytes().splitlines()]
    cut = sum(not answer["finished"] for row in rows for answer in row["responses"])
    assert cut > 0
    assert note == f"{cut} of 24 {told}."


def test_training_curves_are_told_of_every_model_that_was_trained(run):
    curves = list(run.curves())
    assert [curve.model for curve in curves] == ["Single", "Multi", "SMORM"]
    for curve in curves:
        assert [point["step"] for point in curve.items] == [1, 5]
        assert all(np.isfinite(point["loss"]) for point in curve.items)


def test_every_result_says_which_seed_it_is_of(results):
    assert {result.fingerprint["seed"] for result in results} == {0}
    golds = [result.metrics["gold@8"].value for result in results if result.kind == "stress"]
    assert mean_over_seeds(golds, 1).n == 1


def words(prompts, completions, **_):
    """A function as a reward: longer is better."""
    return [float(len(completion[-1]["content"].split())) for completion in completions]


def test_any_reward_is_an_arm(tmp_path):
    model = str(store().arm("Single", 0) / "model")
    config = small(
        methods=["Single", "Truth", "Words", "Folder"],
        regimes=["ID"],
        arms={
            "Truth": {"reward": "truth"},
            "Words": {"reward": "tests.lab.test_measure:words"},
            "Folder": {"reward": {"model": model, "view": "F"}},
        },
        systems={name: {"members": [f"{name}:F"]} for name in ("Truth", "Words", "Folder")},
    )
    run = Run(type(store())(config), 0)
    results = list(run.results())
    accuracy = {
        name: one(results, suite="pairs/ID", model=name).metrics["accuracy"]
        for name in config.methods
    }
    assert accuracy["Truth"].value == 1
    assert accuracy["Folder"] == accuracy["Single"]
    length = one(results, suite="best-of-n/ID", model="Words").metrics
    assert (
        length["gold@8"].value
        < one(results, suite="best-of-n/ID", model="Truth").metrics["gold@8"].value
    )
    costs = {r.model: r.metrics for r in results if r.kind == "cost"}
    assert costs["Words"]["passes_per_score"].value == 0
    assert costs["Folder"]["passes_per_score"].value == 1
    assert costs["Folder"]["parameters"] == costs["Single"]["parameters"]
    assert [curve.model for curve in run.curves()] == ["Single"]
