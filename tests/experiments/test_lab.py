"""The account of a study says what the numbers say, and the studies are ones that can be run."""

from pathlib import Path

import pytest

from experiments.lab import policies, sweeps, tuning
from experiments.lab.claims import MARGIN, Line, claim_sections, f_is_m, robust_head
from experiments.lab.numbers import Numbers
from experiments.tables import excludes_zero, plus_minus
from smorm.config.reading import load_section, parse_section
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result, read_results
from smorm.lab.config import LabConfig
from smorm.lab.methods import needed_arms, systems_of
from smorm.stress.config import StressConfig

REGIMES = ("ID", "far")
SIZES = (1, 4, 16, 64)


def planted(gains, seeds=4):
    """Numbers in which a method has `gains[label]` over the first, with a little noise by seed."""
    lines = []

    def line(kind, name, label, seed, metric, value):
        model, _, view = label.partition("-")
        lines.append({"kind": kind, "set": name, "model": model, "view": view or "F",
                      "seed": str(seed), "metric": metric, "value": str(value)})  # fmt: skip

    for seed in range(seeds):
        for regime in REGIMES:
            luck = 0.05 * seed
            for label, gain in gains.items():
                extra = gain[regime] + 0.001 * (seed % 2)
                line("pairs", regime, label, seed, "accuracy", 0.7 + luck + extra)
                for size in SIZES:
                    value = 0.6 + luck + (extra if size > 1 else 0)
                    line("stress", regime, label, seed, f"gold@{size}", value)
            for metric in ("mse", "spearman"):
                line("rated", regime, "Multi-attributes", seed, metric, 1.0 + luck)
                line("rated", regime, "SMORM-attributes", seed, metric, 0.8 + luck)
    return Numbers(lines)


@pytest.fixture
def numbers():
    same = dict.fromkeys(REGIMES, 0.0)
    more = {"ID": 0.02, "far": 0.06}
    return planted({"Single": same, "Multi": same, "SM": {"ID": 0.1, "far": 0.1}, "SMORM-F": more,
                    "SMORM-L": same, "SMORM-M": {"ID": 0.021, "far": 0.061}})  # fmt: skip


def test_luck_that_methods_share_does_not_widen_their_difference(numbers):
    gain = numbers.gain("pairs/ID", "SMORM-F", "Single", "accuracy")
    assert gain.value == pytest.approx(0.02)
    assert excludes_zero(gain)
    alone = numbers.mean("pairs/ID", "SMORM-F", "accuracy")
    assert alone.high - alone.low > 20 * (gain.high - gain.low)


def test_a_fall_from_one_size_to_a_larger_one_is_found(numbers):
    for seed, values in enumerate([(0.7, 0.6), (0.8, 0.69)]):
        for size, value in zip((16, 64), values, strict=True):
            numbers.values.setdefault(("best-of-n/ID", "Falling", f"gold@{size}"), {})[seed] = value
    change = numbers.change("best-of-n/ID", "Falling", "gold@16", "gold@64")
    assert change.value == pytest.approx(-0.105)
    assert excludes_zero(change)


def test_a_larger_gain_out_of_distribution_is_found(numbers):
    shift = numbers.shift(("best-of-n/ID", "best-of-n/far"), "SMORM-F", "Single", "gold@64")
    assert shift.value == pytest.approx(0.04)
    lines = robust_head(numbers, REGIMES)
    assert {line.verdict for line in lines} == {"holds"}


def test_f_and_m_within_the_margin_are_about_the_same_and_others_are_not(numbers):
    assert {line.verdict for line in f_is_m(numbers, REGIMES)} == {"holds"}
    far = Line("ID", "gold", Metric(0.05, 4, 0.03, 0.07), margin=MARGIN)
    unsure = Line("ID", "gold", Metric(0.0, 4, -0.03, 0.03), margin=MARGIN)
    assert (far.verdict, unsure.verdict) == ("contradicted", "undecided")


@pytest.mark.parametrize(
    ("metric", "sign", "verdict"),
    [
        (Metric(0.1, 4, 0.05, 0.15), 1, "holds"),
        (Metric(0.1, 4, 0.05, 0.15), -1, "contradicted"),
        (Metric(-0.1, 4, -0.15, -0.05), -1, "holds"),
        (Metric(0.1, 4, -0.05, 0.25), 1, "undecided"),
        (Metric(0.1, 1), 1, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_interval(metric, sign, verdict):
    assert Line("ID", "", metric, sign).verdict == verdict


def test_the_account_contradicts_the_paper_where_the_ensemble_is_better(numbers):
    text = claim_sections(numbers, REGIMES)
    fourth = text.partition("### 4.")[2]
    assert "12 contradicted" in fourth
    assert "**+0.100" in fourth


def test_numbers_are_shown_with_half_their_interval():
    assert plus_minus(Metric(0.5, 4, 0.4, 0.6)) == "0.500 ± 0.100"
    assert plus_minus(Metric(0.5, 4, 0.4, 0.6), signed=True) == "**+0.500 ± 0.100**"
    assert plus_minus(Metric(0.5, 4, -0.1, 1.1), signed=True) == "+0.500 ± 0.600"
    assert plus_minus(None) == "–"


@pytest.mark.parametrize(
    "path", sorted(Path("experiments/lab").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_study_is_one_that_can_be_run(path):
    config = load_section(LabConfig, path)
    assert needed_arms(config)
    assert config.seeds >= 3


def test_the_search_and_its_final_numbers_share_methods_and_no_seed_world_or_policy():
    search, final = (
        load_section(LabConfig, f"experiments/lab/{name}.yaml") for name in ("search", "final")
    )
    assert list(systems_of(search)) == list(systems_of(final))
    assert not set(search.runs) & set(final.runs)
    assert search.world.facts != final.world.facts
    assert not set(search.policy.seeds) & set(final.policy.seeds)


def test_every_sweep_is_one_that_can_be_run():
    for name, values in (*sweeps.rated(), *sweeps.knobs(), *sweeps.weights(), *sweeps.epochs()):
        config = parse_section(LabConfig, {"output": "lab", **values}, name)
        assert needed_arms(config)


def test_gold_is_read_where_a_policy_first_reached_a_depth():
    def point(kl, gold):
        return {"kl": {"value": kl}, "gold": {"value": gold}}

    points = [point(0.0, 0.5), point(4.0, 0.6), point(8.0, 0.8), point(4.0, 0.1), point(9.0, 0.2)]
    found = policies.at_depths(Result("rl", "ppo/ID", "Single", "F", {}, points)).metrics
    assert found["gold@KL5"].value == pytest.approx(0.65)
    assert "gold@KL20" not in found


def test_the_highest_setting_of_each_method_is_marked_and_settings_of_one_stand_together(tmp_path):
    accuracies = {"Single-1": 0.6, "GRM-0.1-2": 0.7, "Single-4": 0.65}
    lines = [f"pairs,development,{name},F,{seed},accuracy,{value}"
             for name, value in accuracies.items() for seed in (100, 101)]  # fmt: skip
    path = tmp_path / "numbers.csv"
    path.write_text("\n".join(["kind,set,model,view,seed,metric,value", *lines]), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("data: {dev_pairs: 3000}", encoding="utf-8")
    rows = [line for line in tuning.account(path).splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(name, mark) for name, _, mark in cells] == [
        ("Single-1", ""), ("Single-4", "highest"), ("GRM-0.1-2", "highest")]  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """The configurations of studies and stress tests that were run; each gives one number."""
    configs = []

    def run(config, *_, **__):
        configs.append(config)
        metrics = {"accuracy": Metric(float(len(configs)), 1)}
        return [Result("pairs", "pairs/ID", "Single", "F", metrics, fingerprint={"seed": 0})]

    monkeypatch.setattr(sweeps, "run_lab", run)
    monkeypatch.setattr(policies, "run_stress", run)
    return configs


def test_a_sweep_that_something_else_made_is_made_again_and_a_finished_one_is_used(
    made, tmp_path, capsys
):
    output, work = tmp_path / "output", tmp_path / "work"
    path = output / "rated=100" / "numbers.csv"
    path.parent.mkdir(parents=True)
    path.write_text("made by another version", encoding="utf-8")

    sweeps.run(("rated=100", {"data": {"rated": 100}}), output, work)
    assert "numbers.csv: old" in capsys.readouterr().out
    first = path.read_text(encoding="utf-8")
    assert first.endswith("pairs,ID,Single,F,0,accuracy,1\n")

    path.unlink()
    sweeps.run(("rated=100", {"data": {"rated": 100}}), output, work)
    assert path.read_text(encoding="utf-8") == first
    assert len(made) == 1

    # Under the same name, but another study.
    sweeps.run(("rated=100", {"data": {"rated": 200}}), output, work)
    assert len(made) == 2
    assert path.read_text(encoding="utf-8") != first


def test_a_policy_that_something_else_optimised_is_made_again_and_a_finished_one_is_used(
    made, tmp_path, monkeypatch, capsys
):
    rates = []

    def configuration(algorithm, seed, output):
        rl = {
            "algorithm": algorithm,
            "policy": "policy",
            "prompts": "p",
            "learning_rate": rates[-1],
        }
        return parse_section(StressConfig, {
            "models": {"Single": {"model": "model"}}, "prompts": {"ID": {"path": "p"}},
            "gold": "lab", "output": str(output), "rl": rl,
        }, "test")  # fmt: skip

    monkeypatch.setattr(policies, "configuration", configuration)
    monkeypatch.setattr(policies, "GRID", str(Path(policies.GRID).resolve()))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ppo-0.json"
    path.write_text("[]", encoding="utf-8")
    for rate, count in ((1e-3, 1), (1e-3, 1), (1e-4, 2), (1e-3, 2)):
        rates.append(rate)
        policies.run(("ppo", 0, tmp_path))
        assert len(made) == count
    assert capsys.readouterr().out.count("ppo-0.json: old") == 2
    assert read_results(path)[0].metrics["accuracy"].value == 1
