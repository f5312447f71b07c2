"""No code of a model is run: not by any call of a loader, nor when somebody answers yes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.folders import PAIRS, make_folders
from smorm import RewardModel
from smorm.checks.plan import tokens_of_model
from smorm.config import parse_config
from smorm.errors import ModelError
from smorm.model.backbone import load_backbone, positions_of
from smorm.model.export import PlainModel
from smorm.model.language import load_language_model
from smorm.model.store import load_start, resolve
from smorm.scoring.merge import merge_models
from smorm.stress.config import SampleSection
from smorm.stress.sample import Policy
from smorm.text.tokenizers import load_tokenizer
from smorm.training.setup import prepare
from tests.tiny import config_values

ROOT = Path(__file__).parents[2]
LOADERS = {"from_pretrained", "from_config", "pipeline"}
CALLS = 28
"""Calls of transformers' loaders in the program, its experiments, benchmarks and clients."""


def loader_calls() -> Iterator[tuple[str, ast.Call]]:
    """Calls of a loader by any name, and where they are."""
    for folder in ("src", "bench", "experiments", "chaos", "engines"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called, _, name = ast.unparse(node.func).rpartition(".")
                # PEFT puts adapters on a model that is loaded; it has no such argument.
                if name in LOADERS and called != "peft.PeftModel":
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node


@pytest.mark.slow
def test_every_call_of_a_loader_says_that_no_code_is_trusted():
    calls = dict(loader_calls())
    for where, call in calls.items():
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        value = keywords.get("trust_remote_code")
        assert isinstance(value, ast.Constant), where
        assert value.value is False, where
    assert len(calls) == CALLS, "\n".join(calls)


def test_nothing_loads_by_other_means():
    names = {"get_class_from_dynamic_module", "torch.load", "load_adapter"}
    for folder in ("src", "bench", "experiments"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func) not in names, f"{file}:{node.lineno}"


# What a hostile folder asks for

CODE = "import pathlib; pathlib.Path({canary!r}).write_text('run')\nraise SystemExit\n"
MAP = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.Evil",
    "AutoModelForCausalLM": "evil.Evil",
    "AutoModelForSequenceClassification": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", None],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("folders")
    return {**make_folders(folder), "base": folder / "base"}


@pytest.fixture
def yes() -> Iterator[None]:
    """Somebody who answers every question on the standard input with yes."""
    read, write = os.pipe()
    os.write(write, b"y\n" * 1000)
    os.close(write)
    before = os.dup(0)
    os.dup2(read, 0)
    os.close(read)
    yield
    os.dup2(before, 0)
    os.close(before)


def hostile(source: Path, folder: Path, file: str, key: str = r"auto\u005fmap") -> Path:
    """A copy of a folder whose file asks for code, with the key escaped, and an architecture that
    transformers does not know."""
    shutil.copytree(source, folder)
    canary = str(folder.with_name("canary"))
    (folder / "evil.py").write_text(CODE.format(canary=canary))
    path = folder / file
    values = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if file == "config.json":
        values["model_type"] = "evil"
    text = json.dumps({**values, "KEY": MAP}).replace("KEY", key)
    path.write_text(text, "utf-8")
    return folder


def policy(folder: Path) -> None:
    Policy(SampleSection(policy=str(folder), answers=1))


def train_on(folder: Path) -> None:
    values = config_values(folder.with_name("run"), model={"backbone": str(folder)})
    prepare(parse_config(values))


WAYS: dict[str, Callable[[Path], Any]] = {
    "score": RewardModel.load,
    "find": resolve,
    "start": lambda folder: load_start(str(folder)),
    "backbone": lambda folder: load_backbone(str(folder)),
    "language": lambda folder: load_language_model(str(folder), 280),
    "plain": PlainModel.load,
    "tokenizer": lambda folder: load_tokenizer(str(folder)),
    "check": lambda folder: tokens_of_model(str(folder)),
    "policy": policy,
    "train": train_on,
    "merge": lambda folder: merge_models([folder, folder], folder.with_name("merged")),
}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("way", list(WAYS))
def test_code_is_refused_in_every_way_in(folders, tmp_path, yes, way, file):
    source = folders["base"] if way in ("language", "policy") else folders["foreign"]
    folder = hostile(source, tmp_path / "m", file)
    with pytest.raises(ModelError, match=rf"{file}: auto_map asks to run code") as caught:
        WAYS[way](folder)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("generation_config.json", "custom_generate"),
        ("processor_config.json", "auto_map"),
        ("preprocessor_config.json", "auto_map"),
        ("config.4.0.0.json", "auto_map"),
        ("config.json", "trust_remote_code"),
        ("adapter_config.json", "megatron_config"),
    ],
)
def test_other_files_and_keys_are_looked_at_too(folders, tmp_path, file, key):
    kind = "foreign-adapters" if file == "adapter_config.json" else "foreign"
    with pytest.raises(ModelError, match=f"{key} asks to run code"):
        RewardModel.load(hostile(folders[kind], tmp_path / "m", file, key))


def test_a_key_is_found_however_deep_it_stands(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"layers": [{"inner": {"auto_map": MAP}}]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="auto_map asks to run code"):
        RewardModel.load(folder)


def test_a_kernel_of_the_hub_is_code(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["attn_implementation"] = "someone/attention"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="attn_implementation asks to run code"):
        RewardModel.load(folder)


def test_a_folder_of_generation_code_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["base"], tmp_path / "m")
    (folder / "custom_generate").mkdir()
    with pytest.raises(ModelError, match="custom_generate"):
        policy(folder)


@pytest.mark.parametrize("kind", ["adapters", "foreign-adapters"])
def test_the_base_of_adapters_is_looked_at_as_they_are(folders, tmp_path, yes, kind):
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    base = hostile(folders["base"], tmp_path / "base", "config.json")
    name, key = "adapter_config.json", "base_model_name_or_path"
    if kind == "adapters":
        name, key = "smorm.json", "base"
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**values, key: str(base)}))
    for way in ("score", "start"):
        with pytest.raises(ModelError, match="auto_map asks to run code"):
            WAYS[way](folder)
    assert not (tmp_path / "canary").exists()


def test_a_token_in_a_vocabulary_may_be_called_so(folders, tmp_path):
    folder = shutil.copytree(folders["foreign"], tmp_path / "m")
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    token = max(values["model"]["vocab"], key=values["model"]["vocab"].get)
    values["model"]["vocab"]["auto_map"] = values["model"]["vocab"].pop(token)
    values["model"]["merges"] = []
    path.write_text(json.dumps(values))
    assert len(RewardModel.load(folder).score(PAIRS)) == len(PAIRS)


def test_a_hub_model_is_fetched_and_then_looked_at(folders, tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "cache" / "models--someone--evil"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    (model / "snapshots").mkdir()
    hostile(folders["base"], model / "snapshots" / revision, "config.json")
    code = (
        "from smorm.errors import ModelError\n"
        "from smorm import RewardModel\n"
        "from smorm.model.backbone import load_backbone\n"
        "from smorm.text.tokenizers import load_tokenizer\n"
        "for load in (RewardModel.load, load_backbone, load_tokenizer):\n"
        "    try:\n        load('someone/evil')\n"
        "    except ModelError as error:\n        print('auto_map asks' in str(error))\n"
    )
    settings = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True,
        text=True, input="y\n" * 100,
    )  # fmt: skip
    assert done.stdout.split() == ["True"] * 3, done.stderr
    assert not list(model.rglob("canary"))


def test_no_positions_are_read_of_a_hostile_config(folders, tmp_path, yes):
    assert positions_of(str(hostile(folders["base"], tmp_path / "m", "config.json"))) is None
    assert not (tmp_path / "canary").exists()
