"""`smorm lab` and `smorm demo` as a user meets them."""

import csv
import signal
import subprocess
import sys

import pytest
import yaml

from smorm.cli.demo_command import demo_values, publish
from smorm.config.reading import parse_section
from smorm.evaluation.result import read_results
from smorm.lab.config import LabConfig
from smorm.scoring.reward_model import RewardModel
from tests.lab.small import WORK, small, store

TINY = [
    "data.pairs=80", "data.rated=40", "data.dev_pairs=30", "data.eval_pairs=40",
    "data.eval_rated=30", "pools.prompts=3", "pools.answers=8", "training.max_steps=5",
    "training.batch_size=16", f"work={WORK / 'work'}", "regimes=[ID, far]",
]  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("lab") / "out"


@pytest.mark.slow
def test_a_study_prints_its_tables_and_writes_results_numbers_and_a_page(smorm, output):
    code, out, err = smorm("lab", "--methods", "Single,SMORM-F", "--seeds", 2, "-o", output, *TINY)
    assert code == 0
    assert "gold@8" in out
    assert "Student's t over seeds" in out
    assert out.count("SMORM") >= 2
    assert "SMORM, seed 1" in err
    assert "about 0 s left" in err
    assert {r.fingerprint.get("seed") for r in read_results(output / "results.json")} == {0, 1}
    with (output / "numbers.csv").open() as stream:
        assert {row["model"] for row in csv.DictReader(stream)} == {"Single", "SMORM"}
    assert yaml.safe_load((output / "config.yaml").read_text())["seeds"] == 2
    page = (output / "report.html").read_text()
    assert "SMORM" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "prompts as in training (ID) and longer requests of unseen topics (far)." in page
    assert "OODlong" not in page


@pytest.mark.slow
def test_names_with_brackets_and_long_ones_do_not_break_the_tables(smorm, tmp_path):
    long = "a system with a very long name " * 4
    systems = {name: {"members": ["Single:F"]} for name in ("[bold]x[/y]", long)}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"methods": [*systems], "systems": systems}))
    code, out, _ = smorm("lab", tmp_path / "own.yaml", "--seeds", 1, "-o", tmp_path / "o", *TINY)
    assert code == 0
    assert "[bold]x[/y]" in out
    assert "0…" not in out
    assert "±" in next(line for line in out.splitlines() if "a system with" in line)


def test_all_methods_can_be_asked_for_by_that_word(smorm, tmp_path):
    code, _, err = smorm("lab", "--methods", "all", "-o", tmp_path / "out", "training.x=1")
    assert code == 2
    assert "arms.Single: unknown key training.x" in err


@pytest.mark.slow
def test_the_written_configuration_gives_the_same_study_again(smorm, output, tmp_path):
    code, _, _ = smorm("lab", output / "config.yaml", "-o", tmp_path)
    assert code == 0
    one, other = (folder / "numbers.csv" for folder in (output, tmp_path))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--methods", "Singel"], "did you mean 'Single'"),
        (["seed=3"], "unknown key seed: did you mean seeds"),
        (["world.temperature=hot"], "world.temperature"),
        (["nothing.yaml"], "no such config file"),
        (["seeds"], "no such config file"),
        (["one.yaml", "two.yaml"], "expected one configuration"),
        (["--seeds", "0"], "greater than or equal to 1"),
    ],
)
def test_nonsense_is_told_in_a_line(smorm, tmp_path, words, told):
    code, _, err = smorm("lab", "-o", tmp_path / "out", *words)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_demo_is_a_study_that_is_valid_and_shows_every_kind_of_rival(tmp_path):
    config = parse_section(LabConfig, demo_values(tmp_path, 0, 3), "demo")
    assert {"Single", "Multi", "SM", "GRM", "ODIN", "SMORM-F"} <= set(config.methods)
    assert config.seeds == 3
    assert len(config.regimes) == 3


@pytest.mark.slow
def test_the_demo_leaves_models_and_data_where_recipes_look_for_them(tmp_path):
    (tmp_path / "out").mkdir()
    publish(store(), tmp_path / "out", 0)
    assert RewardModel.load(tmp_path / "out" / "models" / "Single").attributes == ()
    assert (tmp_path / "out" / "data" / "train-pairs.jsonl").stat().st_size > 0
    assert small().methods != "all"


@pytest.mark.slow
def test_a_demo_that_was_stopped_goes_on_in_its_folder(tmp_path):
    command = [sys.executable, "-m", "smorm.cli.main", "demo", "-o", "demo", "--seeds", "1"]
    for begun in ("first", "again"):
        with subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as demo:
            assert demo.stderr is not None
            told = next(line for line in demo.stderr if "data, seed 0" in line or "error" in line)
            demo.send_signal(signal.SIGINT)
            _, rest = demo.communicate(timeout=60)
        assert "data, seed 0" in told, begun
        assert demo.returncode == 130, rest
        assert "the same study goes on" in rest
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["work"]


def test_the_demo_refuses_a_folder_that_holds_something(smorm, tmp_path):
    (tmp_path / "mine").write_text("precious")
    code, _, err = smorm("demo", "--output", tmp_path)
    assert code == 2
    assert "is not empty" in err
    code, _, err = smorm("demo", "--output", tmp_path / "mine")
    assert code == 2
    assert "is a file" in err
