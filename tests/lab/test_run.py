import csv
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import chain

import pytest

from experiments.lab.numbers import Numbers
from smorm.errors import ConfigError, DataError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result, read_results, write_results
from smorm.lab.run import COLUMNS, IMPORTED, Job, Progress, plan, run_lab, write_table
from tests.lab.small import WORK, small


@pytest.fixture(scope="module")
def results():
    return run_lab(small(seeds=2, workers=2))


@pytest.mark.slow
def test_a_study_has_every_method_regime_and_seed(results):
    found = {(r.suite, r.model, r.view, r.fingerprint["seed"]) for r in results}
    for regime in ("ID", "far"):
        for seed in (0, 1):
            for model, view in (("Single", "F"), ("SM", "mean"), ("SMORM", "M")):
                assert (f"best-of-n/{regime}", model, view, seed) in found
                assert (f"pairs/{regime}", model, view, seed) in found


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(results, tmp_path):
    alone = run_lab(small(seeds=2, workers=1, work=tmp_path))
    assert [r.as_dict() for r in alone] == [r.as_dict() for r in results]


@pytest.mark.slow
def test_seeds_do_not_depend_on_how_many_there_are(results):
    second = run_lab(small(seeds=1, first_seed=1))
    one = [r.as_dict()["metrics"] for r in results if r.fingerprint["seed"] == 1]
    assert [r.as_dict()["metrics"] for r in second] == one


@pytest.mark.slow
def test_results_read_back_and_the_table_has_a_line_for_each_number(results, tmp_path):
    write_results(tmp_path / "results.json", results)
    assert len(read_results(tmp_path / "results.json")) == len(results)
    write_table(tmp_path / "numbers.csv", results)
    lines = (tmp_path / "numbers.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    gold = [line for line in lines if line.startswith("stress,far,SMORM,M,1,gold@8,")]
    assert len(gold) == 1
    assert [line for line in lines if line.startswith("stress,far,SMORM,M,1,drop,")]


def test_names_in_the_table_are_no_formulas_and_are_read_as_they_were(tmp_path):
    name = '=HYPERLINK("http://evil.example")'
    metrics = {"accuracy": Metric(-0.25, 4)}
    result = Result("pairs", "pairs/-1+1", name, "+M", metrics, fingerprint={"seed": 0})
    write_table(tmp_path / "numbers.csv", [result])
    with (tmp_path / "numbers.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    cells = [cell for row in rows for cell in row]
    assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")] == ["-0.25"]
    numbers = Numbers.read(tmp_path / "numbers.csv")
    assert numbers.values["pairs/-1+1", name, "accuracy"] == {0: -0.25}


def test_a_job_that_fails_stops_the_study_with_its_own_error():
    config = small(data={**small().data.model_dump(), "answers_per_prompt": 1, "rated": 2},
                   methods=["Rated-Single"])  # fmt: skip
    with pytest.raises(DataError, match="no pair can be made"):
        run_lab(config)


STUDY = """
import sys
from smorm.lab.run import run_lab
from tests.lab.small import small
if __name__ == "__main__":
    run_lab(small(training={"max_steps": 4000}, workers=2, work=sys.argv[1]))
"""

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
}


def processes_below(pid):
    """Its children, and theirs: workers are forks of one process that has imported everything."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    children = [int(one) for one in found.stdout.split()]
    return [*children, *chain.from_iterable(map(processes_below, children))]


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_behind_and_goes_on(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    command = [sys.executable, str(tmp_path / "study.py"), str(tmp_path / "work")]
    study = subprocess.Popen(command, env=ENVIRONMENT)
    deadline = time.monotonic() + 300
    while study.poll() is None and not list((tmp_path / "work").rglob("data.json")):
        time.sleep(0.2)
    below = processes_below(study.pid)
    study.kill()
    study.wait()
    assert len(below) >= 2
    while any(os.path.exists(f"/proc/{one}/task") for one in below):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(run_lab(small(work=tmp_path / "work"))) > 0
    assert list((tmp_path / "work").rglob(".*")) == [], "what the killed one left is removed"


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_stops_a_study_at_once_and_leaves_nothing_half_made(tmp_path, whole_group):
    (tmp_path / "study.py").write_text(STUDY)
    command = [sys.executable, str(tmp_path / "study.py"), str(tmp_path / "work")]
    study = subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    arms = tmp_path / "work" / "arms"
    while study.poll() is None and not list(arms.rglob("data.json")):
        time.sleep(0.1)
    below = processes_below(study.pid)
    (os.killpg if whole_group else os.kill)(study.pid, signal.SIGINT)
    _, told = study.communicate(timeout=60)
    deadline = time.monotonic() + 60
    assert "stopped; what was made stays in" in told
    while any(os.path.exists(f"/proc/{one}/task") for one in below):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert list(arms.iterdir()) == []


def test_what_workers_import_beforehand_is_there():
    # The process that they are forks of passes over a name that it does not find.
    assert all(find_spec(name) for name in IMPORTED)


def test_settings_are_checked_before_anything_is_made():
    config = small(training={"max_stepz": 3}, work=WORK / "untouched")
    with pytest.raises(ConfigError, match=r"arms.Single: unknown key training.max_stepz"):
        run_lab(config)
    assert not (WORK / "untouched").exists()


def test_the_device_is_looked_for_before_anything_is_made():
    with pytest.raises(ConfigError, match="device: 'cuda:99' cannot be used"):
        run_lab(small(device="cuda:99", work=WORK / "untouched"))
    assert not (WORK / "untouched").exists()


def test_names_are_checked_before_anything_is_made():
    config = small(methods=["Nobody"], work=WORK / "untouched")
    with pytest.raises(ConfigError, match="Nobody"):
        run_lab(config)
    assert not (WORK / "untouched").exists()


def test_progress_counts_every_job_and_ends_with_nothing_left():
    jobs = [job for stage in plan(small(seeds=2)) for job in stage]
    told = []
    progress = Progress(jobs, 2, told.append)
    for job in jobs:
        progress.done(job)
    assert [step.count for step in told] == list(range(1, len(jobs) + 1))
    assert told[-1].remaining == 0
    assert "Single, seed 0" in {step.title for step in told}
    assert str(told[-1]).startswith(f"{len(jobs)}/{len(jobs)}  ")
    assert Job("pool", "far", 1).title == "answers to far, seed 1"


def test_the_first_guess_knows_that_a_policy_must_be_pretrained():
    guesses = []
    for seeds in ([0], [5]):
        told = []
        jobs = [job for stage in plan(small(policy={"seeds": seeds})) for job in stage]
        Progress(jobs, 1, told.append).done(jobs[-1])
        guesses.append(told[0].remaining)
    assert 100 < guesses[1] - guesses[0] < 280
