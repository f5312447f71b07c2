"""The examples run, on tiny parts, or name what is there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smorm import RewardModel
from smorm.serving.settings import ServeOptions
from smorm.verl import compute_score
from smorm.world import backbone_path
from tests.conftest import ROOT
from tests.serving.servers import Running, running
from tests.tiny import trained

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))


@pytest.fixture(scope="module")
def guarded():
    """A server of one model that wants a token."""
    options = ServeOptions({"reward": {"model": str(trained())}}, tokens=("s3cret-token",))
    with running(options) as one:
        yield one


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_shell(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script.stat().st_mode & 0o111


def test_curl_gets_the_scores(guarded: Running, model: RewardModel) -> None:
    command = ["bash", EXAMPLES / "curl.sh", guarded.url]
    environment = {"PATH": "/usr/bin:/bin", "SMORM_TOKEN": "s3cret-token"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    scored, compared = map(json.loads, done.stdout.splitlines())
    talks = [("What is 2 + 2?", "4"), ("What is 2 + 2?", "Five, I think.")]
    values = [item["views"]["M"] for item in scored["items"]]
    assert values == pytest.approx(model.score(talks).view("M").tolist(), abs=1e-5)
    assert compared["views"]["M"]["best"] == values.index(max(values))
    # Without the token the script fails, and says why.
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode != 0
    assert "a bearer token is needed" in done.stdout


def test_verls_example_names_what_is_there() -> None:
    text = (EXAMPLES / "verl_grpo.sh").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^  \+?(reward[\w.]+)=(\S+)", text, re.M))
    function = "reward.custom_reward_function"
    module = importlib.import_module(keys[f"{function}.path"].removeprefix("pkg://"))
    assert getattr(module, keys[f"{function}.name"]) is compute_score
    reward_kwargs = {
        key.removeprefix(f"{function}.reward_kwargs."): value
        for key, value in keys.items()
        if key.startswith(f"{function}.reward_kwargs.")
    }
    assert list(reward_kwargs) == ["url"]
    inspect.signature(compute_score).bind(
        data_source="", solution_str="", ground_truth="", extra_info={}, **reward_kwargs
    )
    # The manager imports verl: its class is looked for in the source.
    path = keys["reward.reward_manager.module.path"].removeprefix("pkg://")
    spec = importlib.util.find_spec(path)
    assert spec is not None
    assert spec.origin is not None
    name = keys["reward.reward_manager.name"]
    assert f"class {name}(" in Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["openrlhf_ppo.sh", "llama_factory_ppo.yaml"])
def test_an_address_of_an_example_is_a_route(guarded: Running, name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    if name.endswith(".yaml"):
        text = yaml.safe_load(text)["reward_model"]
    (route,) = re.findall(r"http://127.0.0.1:8000\}?(/[\w/]+)", text)
    assert route in guarded.client.get("/openapi.json").json()["paths"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trls_example_trains(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("trl_grpo")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "metals full tin iron"}\n{"prompt": "metals brief zinc"}\n')
    with running(ServeOptions({"reward": {"model": str(trained())}})) as server:
        trainer = example.main(
            ["--policy", str(backbone_path()), "--prompts", str(prompts), "--view", "M",
             "--reward", server.url, "--output", str(tmp_path / "grpo"), "--steps", "1",
             "--generations", "2", "--completion-tokens", "8"]
        )  # fmt: skip
    assert any("rewards/smorm_M/mean" in row for row in trainer.state.log_history)
    del sys.modules["trl_grpo"]
