"""An exported view is a plain reward model that gives the same scores in other programs."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from smorm import RewardModel
from smorm.config import parse_config
from smorm.errors import ConfigError, ModelError, SmormError
from smorm.model.export import PlainModel, export_all_rows, export_view
from smorm.text.chat import Message
from smorm.training.loop import train
from smorm.world import backbone_path
from tests.tiny import config_values, trained, world


def rows_of_pairs() -> list[dict]:
    return [orjson.loads(line) for line in world()["eval-pairs-far"].read_bytes().splitlines()]


def plain_scores(folder, conversations: list[tuple[str, str]], batch: int) -> np.ndarray:
    """What a user of plain transformers gets: template, right padding, batches."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    chats = [
        [{"role": "user", "content": p}, {"role": "assistant", "content": r}]
        for p, r in conversations
    ]
    found = []
    for start in range(0, len(chats), batch):
        inputs = tokenizer.apply_chat_template(
            chats[start : start + batch], tokenize=True, return_dict=True, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            found.append(model(**inputs).logits)
    return torch.cat(found).numpy()


@pytest.mark.parametrize(
    "view", ["F", "L", "M", {"name": "w", "weights": {"preference": 0.3, "style": -2}}]
)
def test_plain_transformers_gives_the_view_up_to_its_constant(tmp_path, view):
    model = RewardModel.load(trained())
    done = export_view(
        tmp_path / "out", model.network, model.tokenizer, model.card, model.view(view)
    )
    conversations = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()]
    expected = model.score(conversations, view).view()
    for batch in (1, 8):
        found = plain_scores(tmp_path / "out", conversations, batch)
        assert found.shape == (len(conversations), 1)
        np.testing.assert_allclose(found[:, 0] + done.offset, expected, atol=1e-5)
    again = RewardModel.load(tmp_path / "out")
    np.testing.assert_allclose(again.score(conversations).view(), expected, atol=1e-5)


def test_the_exported_config_asks_for_raw_scores(tmp_path):
    model = RewardModel.load(trained())
    export_view(tmp_path / "out", model.network, model.tokenizer, model.card, model.view("F"))
    config = orjson.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] is not None
    assert len(config["id2label"]) == 1


@pytest.mark.slow
def test_a_lora_run_exports_merged(tmp_path):
    values = config_values(tmp_path / "run")
    values["model"]["lora"] = {"rank": 4, "alpha": 8}
    folder = train(parse_config(values))
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "head.safetensors"} <= names
    assert "model.safetensors" not in names
    conversations = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()]
    expected = RewardModel.load(folder).score(conversations, "M").view()
    model = RewardModel.load(folder)
    done = export_view(tmp_path / "m", model.network, model.tokenizer, model.card, model.view("M"))
    found = plain_scores(tmp_path / "m", conversations, 4)[:, 0]
    np.testing.assert_allclose(found + done.offset, expected, atol=1e-5)
    model = RewardModel.load(folder)
    export_all_rows(tmp_path / "all", model.network, model.tokenizer, model.card)
    again = RewardModel.load(tmp_path / "all")
    assert again.card.base is None
    np.testing.assert_allclose(again.score(conversations, "M").view(), expected, atol=1e-5)


def test_all_rows_keep_their_names_in_the_config(tmp_path):
    model = RewardModel.load(trained())
    export_all_rows(tmp_path / "all", model.network, model.tokenizer, model.card)
    config = orjson.loads((tmp_path / "all" / "config.json").read_bytes())
    assert list(config["id2label"].values()) == ["preference", *model.attributes]


def test_a_reward_model_of_others_without_a_card_is_scored_by_its_rows(tmp_path):
    config_values(tmp_path)
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(backbone_path(), num_labels=1)
    plain.config.pad_token_id = 0
    plain.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(backbone_path()).save_pretrained(tmp_path / "plain")
    conversations = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()]
    model = RewardModel.load(tmp_path / "plain")
    expected = plain_scores(tmp_path / "plain", conversations, 1)[:, 0]
    np.testing.assert_allclose(model.score(conversations, "F").view(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.data
def test_a_foreign_export_has_a_chat_template_and_a_pad_token_that_ends_nothing(
    tmp_path, data_folder
):
    source = data_folder / "stories260k" / "hf"
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    plain.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "theirs")
    model = RewardModel.load(tmp_path / "theirs")
    conversations = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()]
    expected = model.score(conversations).view()
    done = export_view(tmp_path / "out", *_parts(model), model.view("F"))
    assert done.new_pad == "<unk>"
    for batch in (1, 8):
        found = plain_scores(tmp_path / "out", conversations, batch)[:, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    again = RewardModel.load(tmp_path / "out")
    np.testing.assert_allclose(again.score(conversations).view(), expected, atol=1e-5)
    own = RewardModel.load(trained())
    assert export_view(tmp_path / "own", *_parts(own), own.view("F")).new_pad is None


def test_a_pad_token_is_added_where_the_vocabulary_has_none_to_spare(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(backbone_path())
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(backbone_path(), num_labels=1)
    tokenizer.pad_token = tokenizer.unk_token = tokenizer.eos_token
    tokenizer.chat_template = "{{ messages[-1]['content'] }}{{ eos_token }}<pad>"
    plain.config.pad_token_id = tokenizer.eos_token_id
    plain.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    model = RewardModel.load(tmp_path / "theirs")
    words = model.network.backbone.get_input_embeddings().weight.shape[0]
    conversations = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()]
    expected = model.score(conversations).view()
    done = export_view(tmp_path / "out", *_parts(model), model.view("F"))
    assert done.new_pad == "<|pad|>"
    config = orjson.loads((tmp_path / "out" / "config.json").read_bytes())
    assert config["vocab_size"] == words + 1
    found = plain_scores(tmp_path / "out", conversations, 8)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_plain_model_gives_the_same_for_any_padding(tmp_path, side, batch):
    model = RewardModel.load(trained())
    folder = export_all_rows(tmp_path / "out", *_parts(model)).folder
    plain = PlainModel.load(folder)
    assert plain.template is None
    conversations = [
        (Message("user", row["prompt"]), Message("assistant", row["chosen"]))
        for row in rows_of_pairs()[:20]
    ]
    ids = [plain.tokens(talk) for talk in conversations]
    assert ids == [model.renderer.render(talk) for talk in conversations]
    records = [(row["prompt"], row["chosen"]) for row in rows_of_pairs()[:20]]
    found = plain.logits(ids, batch=batch, side=side)
    np.testing.assert_allclose(found, model.score(records).rows, atol=1e-5)


def test_a_token_that_the_embedding_has_no_row_for_is_no_traceback(tmp_path):
    model = RewardModel.load(trained())
    plain = PlainModel.load(export_all_rows(tmp_path / "out", *_parts(model)).folder)
    rows = plain.model.config.vocab_size
    with pytest.raises(ModelError, match=f"token id {rows:,}, and the embedding has {rows:,} rows"):
        plain.logits([[1, 2], [rows, 1]], batch=2)


def test_a_folder_of_adapters_is_no_plain_model(tmp_path):
    values = config_values(tmp_path / "run", training={"max_steps": 1})
    values["model"]["lora"] = {"rank": 2, "alpha": 4}
    with pytest.raises(ModelError, match="export it first"):
        PlainModel.load(train(parse_config(values)))


def test_a_language_model_is_no_plain_model():
    with pytest.raises(SmormError, match=r"finds no score.weight in it and draws it at random"):
        PlainModel.load(backbone_path())


def test_a_view_that_is_not_linear_is_refused_before_anything_is_written(tmp_path):
    model = RewardModel.load(trained())
    view = {
        "name": "low", "kind": "min", "rows": ["preference", "style"],
        "centres": {"preference": 0, "style": 0}, "spreads": {"preference": 1, "style": 1},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not linear"):
        export_view(tmp_path / "out", *_parts(model), model.view(view))
    assert not (tmp_path / "out").exists()


def _parts(model: RewardModel) -> tuple:
    return model.network, model.tokenizer, model.card
