"""Folders that transformers 4 and 5 both read alike."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from smorm.files import write_json
from smorm.model.store import add_older_names, load_model, save_model
from tests.tiny import trained

TEXTS = ("What is 2 + 2?\n", " naïve 你好 🙂", "<|user|> def f(x):\n    return x")


def read(path):
    return orjson.loads(path.read_bytes())


def test_the_old_names_stand_beside_the_new_ones(tmp_path):
    save_model(tmp_path / "m", *load_model(trained()))
    config, tokenizer = (
        read(tmp_path / "m" / name) for name in ("config.json", "tokenizer_config.json")
    )
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert "extra_special_tokens" not in tokenizer


def test_transformers_5_reads_the_same_tokens_and_scores(tmp_path):
    network, tokenizer, card = load_model(trained())
    save_model(tmp_path / "m", network, tokenizer, card)
    plain = AutoTokenizer.from_pretrained(tmp_path / "m")
    for text in TEXTS:
        assert plain(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert plain.all_special_tokens == tokenizer.all_special_tokens
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        hidden = network.backbone(input_ids=ids).last_hidden_state[:, -1]
        np.testing.assert_allclose(model(ids).logits, network.head(hidden), atol=1e-5)


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 500000.0, "rope_type": "default"},
        {
            "rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    ],
)  # fmt: skip
def test_rotary_settings_are_the_same_under_both_names(tmp_path, rotary):
    config = AutoConfig.for_model(
        "llama", hidden_size=32, num_attention_heads=2, num_key_value_heads=2, vocab_size=50,
        num_hidden_layers=1, intermediate_size=32, rope_parameters=rotary, num_labels=1,
        pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    add_older_names(tmp_path)
    written = read(tmp_path / "config.json")
    assert written["rope_theta"] == 500000.0
    assert written.get("rope_scaling", {"rope_type": "default"})["rope_type"] == rotary["rope_type"]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    # what transformers 4 would see of it: the old names alone
    old = {key: value for key, value in written.items() if key != "rope_parameters"}
    write_json(tmp_path / "config.json", old)
    as_four = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(as_four(ids).logits, model(ids).logits)


def test_settings_by_kind_of_layer_are_left_as_they_are(tmp_path):
    config = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}
    write_json(tmp_path / "config.json", config)
    add_older_names(tmp_path)
    assert read(tmp_path / "config.json") == config
