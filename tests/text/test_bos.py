"""The BOS that a template writes is written by the tokenizer too, once."""

from __future__ import annotations

import json

import pytest
from tokenizers.processors import ByteLevel
from transformers import AutoTokenizer

from smorm import RewardModel
from smorm.model.export import export_view
from smorm.text.bos import ensure_bos
from smorm.text.chat import Message, Renderer
from smorm.text.tokenizers import load_tokenizer, train_bpe
from smorm.world import backbone_path
from tests.tiny import trained

TALK = (Message("user", "What is 2 + 2?"), Message("assistant", "Four 🙂"))


def bpe():
    return train_bpe(["some words to learn from, and a few more words"] * 5, 400)


def without_bos(renderer: Renderer) -> str:
    """What verl sends: the rendered text less its BOS."""
    text = renderer.text(TALK)
    assert text.startswith(renderer.tokenizer.bos_token)
    return text.removeprefix(renderer.tokenizer.bos_token)


@pytest.mark.parametrize("post_processor", [None, ByteLevel(trim_offsets=False)])
def test_a_text_without_its_bos_gives_the_renderers_ids_also_once_saved(tmp_path, post_processor):
    tokenizer = bpe()
    tokenizer.backend_tokenizer.post_processor = post_processor
    renderer = Renderer(tokenizer)
    ids, fingerprint = renderer.render(TALK), renderer.fingerprint
    text = without_bos(renderer)
    assert tokenizer(text)["input_ids"] != ids
    assert ensure_bos(renderer)
    assert not ensure_bos(renderer)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (
        tokenizer,
        load_tokenizer(str(tmp_path)),
        AutoTokenizer.from_pretrained(tmp_path),
    ):
        assert loaded(text)["input_ids"] == ids
        assert loaded("a", "b")["input_ids"].count(loaded.bos_token_id) == 2
        again = Renderer(loaded)
        assert (again.render(TALK), again.fingerprint) == (ids, fingerprint)
        turns = [message.as_dict() for message in TALK]
        assert loaded.apply_chat_template(turns, return_dict=False) == ids


def test_a_setting_that_would_undo_it_is_changed_too(tmp_path):
    bpe().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "add_bos_token": False}))
    renderer = Renderer(load_tokenizer(str(tmp_path)))
    ids, text = renderer.render(TALK), without_bos(renderer)
    assert ensure_bos(renderer)
    renderer.tokenizer.save_pretrained(tmp_path / "again")
    for loaded in (renderer.tokenizer, load_tokenizer(str(tmp_path / "again"))):
        assert loaded(text)["input_ids"] == ids
        assert Renderer(loaded).render(TALK) == ids


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}",
        "{% if messages[0]['role'] == 'system' %}{{ bos_token }}{% endif %}"
        "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}",
    ],
)
def test_a_template_that_does_not_always_write_a_bos_changes_nothing(template):
    tokenizer = bpe()
    renderer = Renderer(tokenizer, template)
    before = renderer.render(TALK)
    assert not ensure_bos(renderer)
    assert tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]
    assert renderer.render(TALK) == before


def test_trained_folders_and_their_exports_have_it(tmp_path):
    model = RewardModel.load(trained())
    parts = (model.network, model.tokenizer, model.card, model.view("F"))
    folder = export_view(tmp_path / "F", *parts).folder
    text, ids = without_bos(model.renderer), model.renderer.render(TALK)
    start = AutoTokenizer.from_pretrained(backbone_path())
    assert start(text)["input_ids"] == ids[1:]
    for path in (trained(), folder):
        assert AutoTokenizer.from_pretrained(path)(text)["input_ids"] == ids
