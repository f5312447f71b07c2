"""`--chat-template`, and what is said of a model that has no chat template."""

from __future__ import annotations

import json

import pytest

from smorm import RewardModel
from smorm.config import parse_config
from smorm.model.export import export_view
from smorm.text.tokenizers import TEMPLATE
from smorm.training.setup import prepare
from tests.data.sources import jsonl
from tests.model.foreign_folders import classifier
from tests.tiny import trained


@pytest.mark.slow
def test_a_template_of_a_file_is_used_told_and_exported(smorm, tmp_path, caplog):
    rows, scores = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    rows.write_text('{"prompt": "tin", "response": "iron"}\n')
    file = tmp_path / "own.jinja"
    file.write_text("{{ bos_token }}{{ messages[-1].content }}{{ eos_token }}")
    values = []
    for extra in ((), ("--chat-template", file)):
        code, _, err = smorm(
            "score", trained(), "--input", rows, "--output", scores, "--view", "M", *extra
        )
        assert code == 0, err
        values.append(json.loads(scores.read_text())["view"])
        assert ("not the template of training" in caplog.text) == bool(extra)
        scores.unlink()
    assert values[0] != values[1]
    folder = tmp_path / "plain"
    code, _, err = smorm(
        "export", trained(), "--view", "M", "--output", folder, "--chat-template", file
    )
    assert code == 0, err
    plain = RewardModel.load(folder)
    assert plain.renderer.chat_template == file.read_text()
    # So that a later change of the folder's template is refused.
    assert plain.card.renderer == plain.renderer.fingerprint


def test_a_file_that_is_no_template_is_named(smorm, tmp_path):
    file = tmp_path / "none.jinja"
    for content, problem in ((None, "No such file"), ("", "an empty file")):
        if content is not None:
            file.write_text(content)
        code, _, err = smorm("parity", trained(), trained(), "--chat-template", file)
        assert code == 2
        assert f"--chat-template: {file}: " in err
        assert problem in err


def test_stress_takes_the_options_of_loading_before_its_configuration(smorm, tmp_path):
    config = tmp_path / "stress.yaml"
    config.write_text(
        f"models: [{trained()}]\nprompts: [{tmp_path}/p.jsonl]\ngold: lab\n"
        f"output: {tmp_path}/o.json\nchat_template: other.jinja\n"
    )
    missing = tmp_path / "none: it.jinja"
    code, _, err = smorm("stress", config, "--chat-template", missing)
    assert code == 2
    assert err.startswith(f"error: chat_template: {missing}: ")
    code, _, err = smorm("stress", config, "--dtype", "float16")
    assert (code, err) == (2, "error: --dtype float16: expected one of float32, bfloat16\n")


def test_a_model_without_a_template_is_named_once(smorm, tmp_path, caplog):
    model = RewardModel.load(trained())
    parts = (model.network, model.tokenizer, model.card, model.view("F"))
    folder = export_view(tmp_path / "plain", *parts).folder
    for name in ("chat_template.jinja", "smorm.json", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "tin", "response": "iron"}\n' * 2)
    code, _, err = smorm("score", folder, "--input", rows, "--output", tmp_path / "a.jsonl")
    assert code == 0, err
    assert caplog.text.count("has a chat template") == 1
    caplog.clear()
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)
    options = ("--output", tmp_path / "b.jsonl", "--chat-template", file)
    code, _, err = smorm("score", folder, "--input", rows, *options)
    assert code == 0, err
    assert "has a chat template" not in caplog.text


@pytest.mark.parametrize("with_template", [False, True])
def test_training_says_that_its_backbone_has_no_template(tmp_path, caplog, with_template):
    folder = classifier(tmp_path / "m")
    if not with_template:
        (folder / "chat_template.jinja").unlink()
    rows = jsonl(tmp_path / "d.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    values = {
        "model": {"backbone": str(folder)},
        "data": {"preference": str(rows), "max_tokens": 64, "cache": None, "workers": 1},
        "objective": {"kind": "preference"},
        "training": {"max_steps": 1, "batch_size": 1},
        "output": {"folder": str(tmp_path / "run")},
    }
    prepare(parse_config(values))
    assert ("has a chat template" in caplog.text) is not with_template
