"""Reward models that others made are read as they mean themselves, or refused in one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import smorm
from smorm import RewardModel
from smorm.errors import ConfigError, ModelError
from smorm.model.export import export_all_rows, export_view
from smorm.model.foreign import Unreadable, UnreadableModelError, count_positions
from smorm.model.heads import ScoreHead, start_head
from tests.model.foreign_folders import (
    PAIRS,
    change_json,
    change_weights,
    classifier,
    load_plain,
    plain_logits,
    tokenizer,
)


def only_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


# Rows


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "mistral", "gpt2"])
def test_a_one_label_reward_model_scores_as_in_plain_transformers(tmp_path, architecture):
    folder = classifier(tmp_path / "m", architecture)
    scores = RewardModel.load(folder).score(PAIRS)
    expected = plain_logits(load_plain(folder))[:, 0]
    np.testing.assert_allclose(scores.view(), expected, atol=1e-5)
    np.testing.assert_allclose(scores.preference, expected, atol=1e-5)


def test_rows_keep_their_names_and_each_is_a_view(tmp_path):
    names = ("helpful", "honest", "harmless")
    folder = classifier(tmp_path / "m", labels=names, problem_type="regression")
    model = RewardModel.load(folder)
    assert model.attributes == names
    expected = plain_logits(load_plain(folder))
    for row, name in enumerate(names):
        view = model.view({name: 1})
        assert view.name == name
        np.testing.assert_allclose(model.score(PAIRS, view).view(), expected[:, row], atol=1e-5)
    mixed = model.score(PAIRS, {"helpful": 2, "harmless": -0.5}).view()
    np.testing.assert_allclose(mixed, 2 * expected[:, 0] - 0.5 * expected[:, 2], atol=1e-5)


@pytest.mark.parametrize("view", [None, "F", "L", "M"])
def test_without_a_preference_row_there_is_no_f_l_or_m(tmp_path, view):
    labels = ("kind", "good")
    folder = classifier(tmp_path / "m", labels=labels, problem_type="regression")
    model = RewardModel.load(folder)
    with pytest.raises(ConfigError) as caught:
        model.view(view)
    line = only_line(caught.value)
    assert "has no preference row, its rows are kind, good" in line
    assert """--view '{"good": 1}'""" in line
    with pytest.raises(ConfigError, match="no preference row"):
        _ = model.score(PAIRS, {"good": 1}).preference


def test_one_row_by_another_name_is_no_preference(tmp_path):
    model = RewardModel.load(classifier(tmp_path / "m", labels=("toxicity",)))
    with pytest.raises(ConfigError, match="its rows are toxicity"):
        model.view()


def test_a_preference_row_is_found_by_its_name(tmp_path):
    labels = ("style", "preference")
    folder = classifier(tmp_path / "m", labels=labels, problem_type="regression")
    scores = RewardModel.load(folder).score(PAIRS)
    expected = plain_logits(load_plain(folder))
    np.testing.assert_allclose(scores.preference, expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(scores.view("L"), expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(scores.view("M"), expected.mean(axis=1), atol=1e-5)


def test_a_classifier_is_refused_with_the_way_to_read_one_label(tmp_path):
    folder = classifier(tmp_path / "m", labels=("bad", "good"))
    model = RewardModel.load(folder)
    with pytest.raises(ConfigError) as caught:
        model.score(PAIRS)
    line = only_line(caught.value)
    assert "is a classifier of bad, good (its problem_type is not regression)" in line
    assert """--view '{"good": 1}'""" in line


def test_a_bias_is_applied_and_kept(tmp_path):
    bias = torch.tensor([1.5, -2.0])
    labels = ("kind", "preference")
    folder = classifier(tmp_path / "m", labels=labels, problem_type="regression")
    expected = plain_logits(load_plain(folder)) + bias.numpy()
    change_weights(folder, lambda weights: weights.update({"score.bias": bias}))
    model = RewardModel.load(folder)
    scores = model.score(PAIRS)
    np.testing.assert_allclose(scores.preference, expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(scores.attributes[:, 0], expected[:, 0], atol=1e-5)
    view = {"preference": 0.5, "kind": 2.0}
    weighted = 0.5 * expected[:, 1] + 2 * expected[:, 0]
    np.testing.assert_allclose(model.score(PAIRS, view).view(), weighted, atol=1e-5)

    contents = model.network, model.tokenizer, model.card
    exported = export_view(tmp_path / "one", *contents, model.view(view))
    assert exported.offset == pytest.approx(0.5 * -2.0 + 2 * 1.5)
    one = RewardModel.load(tmp_path / "one").score(PAIRS)
    np.testing.assert_allclose(one.view(), weighted, atol=1e-5)
    export_all_rows(tmp_path / "all", *contents)
    rows = RewardModel.load(tmp_path / "all").score(PAIRS)
    np.testing.assert_allclose(rows.preference, expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(rows.attributes[:, 0], expected[:, 0], atol=1e-5)


def test_a_biased_preference_row_stands_at_its_place_in_a_pessimistic_view(tmp_path):
    labels = ("kind", "preference")
    folder = classifier(tmp_path / "m", labels=labels, problem_type="regression")
    change_weights(folder, lambda weights: weights.update({"score.bias": torch.tensor([0.0, 3.0])}))
    model = RewardModel.load(folder)
    view = {
        "kind": "min", "rows": list(labels),
        "centres": {"kind": 0.0, "preference": 1.0}, "spreads": {"kind": 1.0, "preference": 2.0},
    }  # fmt: skip
    scores = model.score(PAIRS, view)
    expected = np.minimum(scores.attributes[:, 0], (scores.preference - 1.0) / 2.0)
    np.testing.assert_allclose(scores.view(), expected, atol=1e-9)


def test_all_rows_of_labels_without_a_preference_come_back(tmp_path):
    folder = classifier(tmp_path / "m", labels=("bad", "good"))
    model = RewardModel.load(folder)
    export_all_rows(tmp_path / "all", model.network, model.tokenizer, model.card)
    again = RewardModel.load(tmp_path / "all")
    np.testing.assert_array_equal(
        again.score(PAIRS, {"good": 1}).attributes, model.score(PAIRS, {"good": 1}).attributes
    )
    np.testing.assert_allclose(
        plain_logits(load_plain(tmp_path / "all")), plain_logits(load_plain(folder)), atol=1e-6
    )
    with pytest.raises(ConfigError, match="is a classifier of bad, good"):
        again.view("L")


def test_training_does_not_start_from_a_label_that_is_no_preference(tmp_path, caplog):
    head = ScoreHead(32, 2)
    before = head.weight.detach().clone()
    assert not start_head(head, classifier(tmp_path / "m", labels=("bad", "good")))
    assert torch.equal(head.weight, before)
    assert "bad, good" in caplog.text
    assert start_head(head, classifier(tmp_path / "one"))
    assert not torch.equal(head.weight[0], before[0])


# What is refused


def renamed(name: str):
    def change(weights):
        weights[name] = weights.pop("score.weight")

    return change


def several_layers(weights):
    weights["score.0.weight"] = torch.zeros(8, 32)
    weights["score.2.weight"] = torch.zeros(1, 8)
    del weights["score.weight"]


def eight_bit(dtype):
    def change(weights):
        weights["score.weight"] = weights["score.weight"].to(dtype)
        weights["score.weight_scale"] = torch.ones(1)

    return change


def packed(weights):
    weights["score.qweight"] = torch.zeros(4, 32, dtype=torch.int32)
    weights["score.scales"] = torch.zeros(1, 32)
    del weights["score.weight"]


HEADS = {
    "int8": (eight_bit(torch.int8), Unreadable.QUANTISED, "score.weight is int8"),
    "fp8": (eight_bit(torch.float8_e4m3fn), Unreadable.QUANTISED, "float8_e4m3fn"),
    "packed": (packed, Unreadable.QUANTISED, "score.qweight"),
    "layers": (several_layers, Unreadable.LAYERS, "score.0.weight, score.2.weight"),
    "trl": (renamed("v_head.summary.weight"), Unreadable.VALUE_HEAD, "v_head.summary.weight"),
    "openrlhf": (renamed("value_head.weight"), Unreadable.VALUE_HEAD, "value_head.weight"),
    "other": (renamed("regression_layer.weight"), Unreadable.OTHER_HEAD, "regression_layer.weight"),
    "none": (lambda weights: weights.pop("score.weight"), Unreadable.NO_HEAD, "smorm train"),
    "more": (
        lambda weights: weights.update({"gating.weight": torch.zeros(2, 32)}),
        Unreadable.MORE_PARTS, "gating.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HEADS))
def test_a_head_that_is_not_one_linear_layer_has_its_own_sentence(tmp_path, name):
    change, kind, found = HEADS[name]
    folder = change_weights(classifier(tmp_path / "m"), change)
    with pytest.raises(UnreadableModelError) as caught:
        RewardModel.load(folder)
    assert caught.value.kind is kind
    assert found in only_line(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_training_does_not_start_from_a_quantised_head(tmp_path, name):
    folder = change_weights(classifier(tmp_path / "m"), HEADS[name][0])
    with pytest.raises(UnreadableModelError):
        start_head(ScoreHead(32, 2), folder)


def test_a_language_models_value_head_beside_it_is_named(tmp_path):
    folder = change_weights(classifier(tmp_path / "m"), lambda weights: weights.pop("score.weight"))
    torch.save({}, folder / "value_head.bin")
    with pytest.raises(UnreadableModelError, match=r"value head \(value_head\.bin\)"):
        RewardModel.load(folder)


def test_an_encoder_is_refused(tmp_path):
    folder = classifier(tmp_path / "m", "bert")
    for load in (RewardModel.load, smorm.model.backbone.load_backbone):
        with pytest.raises(UnreadableModelError) as caught:
            load(str(folder))
        assert caught.value.kind is Unreadable.ENCODER
        assert "bert is an encoder" in only_line(caught.value)


def test_an_encoder_decoder_is_refused(tmp_path):
    config = AutoConfig.for_model(
        "t5", vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    for load in (RewardModel.load, smorm.model.backbone.load_backbone):
        with pytest.raises(UnreadableModelError) as caught:
            load(str(tmp_path))
        assert caught.value.kind is Unreadable.ENCODER_DECODER
        assert "t5 is an encoder-decoder" in only_line(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path, name):
    folder = classifier(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    for load in (RewardModel.load, smorm.model.backbone.load_backbone):
        with pytest.raises(UnreadableModelError) as caught:
            load(str(folder))
        assert caught.value.kind is Unreadable.PICKLED
        assert name in only_line(caught.value)
        assert "save_pretrained" in str(caught.value)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_or_a_page_in_the_stead_of_a_file_is_named(tmp_path, name):
    folder = classifier(tmp_path / "m")
    for content, step in ((POINTER, "git lfs pull"), (b"<!DOCTYPE html>", "download the file")):
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}: the file is .*{step}") as caught:
            RewardModel.load(folder)
        only_line(caught.value)


def test_a_folder_without_weights_says_where_they_may_be(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(
        UnreadableModelError, match=r"no weights in it.*the folder of a model"
    ) as no:
        RewardModel.load(folder)
    assert no.value.kind is Unreadable.NO_WEIGHTS
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnreadableModelError, match="GGUF is not read"):
        RewardModel.load(folder)
    for step in (100, 200):
        classifier(folder / f"checkpoint-{step}")
    with pytest.raises(UnreadableModelError, match=r"name that folder: .*/checkpoint-200$"):
        RewardModel.load(folder)


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path):
    folder = classifier(tmp_path / "m")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer in it .* model\.tokenizer") as caught:
        RewardModel.load(folder)
    only_line(caught.value)


def test_code_of_a_models_own_is_refused_with_the_next_step(tmp_path):
    folder = classifier(tmp_path / "m")
    change_json(folder / "config.json", auto_map={"AutoModel": "modeling_x.X"})
    with pytest.raises(ModelError, match="auto_map asks to run code") as caught:
        RewardModel.load(folder)
    assert "http address" in only_line(caught.value)


def test_an_architecture_that_transformers_does_not_know_is_one_line(tmp_path):
    folder = classifier(tmp_path / "m")
    change_json(folder / "config.json", model_type="nobody_knows")
    with pytest.raises(ModelError, match="nobody_knows") as caught:
        RewardModel.load(folder)
    only_line(caught.value)


def test_a_package_that_is_missing_is_one_line(tmp_path):
    folder = classifier(tmp_path / "m")
    change_json(
        folder / "config.json",
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        RewardModel.load(folder)
    only_line(caught.value)


def test_every_model_that_is_loaded_is_refused_its_own_code():
    found = 0
    for path in Path(smorm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            # PEFT's takes weights alone.
            if node.func.attr != "from_pretrained" or "Peft" in ast.unparse(node.func):
                continue
            found += 1
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert options.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
    assert found >= 5


# Positions

YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("positions", "rotary", "expected"),
    [
        (256, None, 256),
        (256, {"rope_type": "default", "rope_theta": 1e4}, 256),
        (256, {**YARN, "original_max_position_embeddings": 256}, 1024),
        (1024, {**YARN, "original_max_position_embeddings": 256}, 1024),
        (256, YARN, 1024),
        (256, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, 512),
        (256, {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 512),
        (4096, {**LLAMA3, "original_max_position_embeddings": 256}, 4096),
        (256, {**LLAMA3, "original_max_position_embeddings": 256}, 2048),
    ],
)
def test_scaled_rotary_embeddings_are_counted(tmp_path, positions, rotary, expected):
    rope = {} if rotary is None else {"rope_parameters": dict(rotary)}
    folder = classifier(tmp_path / "m", max_position_embeddings=positions, **rope)
    assert count_positions(AutoConfig.from_pretrained(folder)) == expected
    assert RewardModel.load(folder).card.max_tokens == expected


def test_older_configs_with_rope_scaling_are_counted(tmp_path):
    folder = classifier(tmp_path / "m")
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    change_json(folder / "config.json", rope_parameters=None, rope_scaling=scaling)
    assert RewardModel.load(folder).card.max_tokens == 1024


def test_a_limit_of_ones_own_is_at_most_the_positions(tmp_path):
    folder = classifier(tmp_path / "m")
    assert RewardModel.load(folder, max_tokens=20).renderer.max_tokens == 20
    with pytest.raises(ConfigError, match="--max-tokens 300: expected 1 to 256, the positions"):
        RewardModel.load(folder, max_tokens=300)


@pytest.mark.slow
def test_a_missing_peft_names_the_extra(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from smorm.errors import ConfigError\n"
        "from smorm.model.backbone import import_peft\n"
        "try:\n"
        "    with import_peft(): pass\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "adapters (LoRA) need peft: pip install 'smorm[lora]'"
