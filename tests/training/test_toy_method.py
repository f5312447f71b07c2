"""The method of docs/training.md, in a package outside ours: trained, scored, an arm of the lab."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smorm.config import METHODS, parse_config
from smorm.errors import ConfigError
from smorm.training.methods import make_method
from tests.processes import Setting, run
from tests.training.runs import LAB, config_of, prepared, world
from tests.training.test_rivals import scores_of
from tests.training.test_step import WHOLE, assert_same_step, gradients, with_budget

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def code_of_the_page() -> str:
    blocks: list[str] = re.findall(
        r"```python\n(# smorm_hinge\.py\n.*?)```", PAGE.read_text(), re.S
    )
    return blocks[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Of a process in which the package is installed, as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    (site / "smorm_hinge.py").write_text(code_of_the_page())
    information = site / "smorm_hinge-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: smorm-hinge\nVersion: 1\n")
    entry = re.search(
        r'```toml\n\[project\.entry-points\."(.*?)"\]\n(.*?)```', PAGE.read_text(), re.S
    )
    assert entry is not None
    points = entry[2].replace('"', "")
    (information / "entry_points.txt").write_text(f"[{entry[1]}]\n{points}")
    return Setting(packages=(str(site),))


def smorm(setting: Setting, *words: Any) -> None:
    code, err = run(*words, setting=setting)
    assert code == 0, err


@pytest.mark.slow
def test_an_installed_method_trains_and_its_model_scores(
    installed: Setting, tmp_path: Path
) -> None:
    values = config_of(tmp_path / "run", model=LAB).as_dict()
    for name in ("odin", "grm", "armo"):
        del values["objective"][name]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    smorm(installed, "train", tmp_path / "run.yaml", "objective.kind=hinge",
          "objective.hinge.margin=0.5")  # fmt: skip
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["objective"]["hinge"] == {"margin": 0.5}
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["kind"] == "hinge"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"loss/hinge", "accuracy"} <= json.loads(lines[-1]).keys()
    output = tmp_path / "scores.jsonl"
    smorm(installed, "score", tmp_path / "run" / "model", "--input", world()["dev-pairs"],
          "--output", output)  # fmt: skip
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 6
    assert all(side["view"] == side["preference"] for row in rows for side in row["responses"])


@pytest.mark.slow
def test_an_installed_method_is_an_arm_of_the_lab(installed: Setting, tmp_path: Path) -> None:
    smorm(installed, "lab", "methods=[Single, Hinge]", "arms.Hinge={objective: {kind: hinge}}",
          "systems.Hinge={members: ['Hinge:F']}", "seeds=1", "regimes=[ID]",
          "data={pairs: 60, rated: 8, dev_pairs: 20, eval_pairs: 20, eval_rated: 8}",
          "pools={prompts: 2, answers: 4}", "training={max_steps: 3, batch_size: 16}",
          f"output={tmp_path / 'lab'}")  # fmt: skip
    results = json.loads((tmp_path / "lab" / "results.json").read_text())
    models = {result["model"] for result in results}
    assert {"Single", "Hinge"} <= models


@pytest.fixture
def hinge() -> Iterator[Any]:
    """The class, registered by the decorator for the time of a test."""
    names: dict[str, Any] = {"__name__": "smorm_hinge"}
    exec(compile(code_of_the_page(), "smorm_hinge.py", "exec"), names)
    yield METHODS.add("hinge")(names["Hinge"])
    METHODS.remove("hinge")


def test_a_registered_method_is_exact_over_micro_batches(hinge: Any) -> None:
    ready = prepared(objective={"kind": "hinge", "hinge": {"margin": 0.25}})
    method = make_method(ready)
    assert isinstance(method, hinge)
    whole = gradients(with_budget(ready, WHOLE), method)
    split = gradients(with_budget(ready, 100), method)
    assert split[0].micro_batches > whole[0].micro_batches == 1
    assert_same_step(split, whole)
    scores, _ = scores_of(ready)
    gaps = torch.from_numpy(scores[:, 0, 0] - scores[:, 1, 0])
    expected = float(torch.relu(0.25 - gaps).mean())
    assert whole[0].values["loss/hinge"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "hing"}, r"objective\.kind: expected one of joint, .*, hinge, got 'hing'; did"),
        ({"kind": "hinge", "hinge": {"margn": 1}}, r"did you mean objective\.hinge\.margin\?"),
        ({"kind": "joint", "hinge": {"margin": 2}}, "hinge: with kind hinge only, not joint"),
        ({"kind": "hinge", "bsr": 0.1}, "bsr: with kind joint or preference only, not hinge"),
        ({"hing": {}}, r"unknown key objective\.hing: did you mean objective\.hinge\?"),
    ],
)
@pytest.mark.usefixtures("hinge")
def test_its_settings_are_checked_like_any_others(
    tmp_path: Path, objective: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, objective=objective)


def test_a_method_that_cannot_be_imported_stops_only_runs_that_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("broken", "no_such_module:Method", "smorm.methods")
    monkeypatch.setattr(METHODS, "_installed", {"broken": point})
    assert config_of(tmp_path, objective={"kind": "odin"}).objective.kind == "odin"
    with pytest.raises(ConfigError, match="bsr: with kind joint or preference only, not odin"):
        config_of(tmp_path, objective={"kind": "odin", "bsr": 0.1})
    with pytest.raises(ConfigError, match=r"unknown key objective\.odn: did you mean"):
        config_of(tmp_path, objective={"odn": {}})
    with pytest.raises(ConfigError, match="'broken': no_such_module:Method cannot be loaded"):
        config_of(tmp_path, objective={"kind": "broken"})


def test_a_method_that_is_not_used_is_in_no_hash(hinge: Any, tmp_path: Path) -> None:
    with_it = config_of(tmp_path).hash
    METHODS.remove("hinge")
    assert config_of(tmp_path).hash == with_it
    METHODS.register("hinge", hinge)
    values = config_of(tmp_path, objective={"kind": "hinge"}).as_dict()
    assert parse_config(values).as_dict() == values
