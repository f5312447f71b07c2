"""Parity holds for what is right, and every planted fault is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
)
from transformers import GPT2ForSequenceClassification as Gpt2
from transformers import LlamaForSequenceClassification as Llama

from smorm import RewardModel
from smorm.data.census import Census, DropReason
from smorm.errors import ConfigError, ModelError, SmormError
from smorm.evaluation.parity.check import against_folder, measure_model
from smorm.evaluation.parity.conversations import COUNT, MOST_OF_FILE, built_in, from_file
from smorm.evaluation.parity.paths import ModelPaths
from smorm.evaluation.result import read_results
from smorm.model.export import export_all_rows, export_view
from smorm.text.bos import ensure_bos
from smorm.text.changes import Change
from smorm.text.chat import INPUTS, Renderer
from smorm.world import backbone_path
from tests.text import styles
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def ours() -> ModelPaths:
    return measured(trained())


def measured(folder: Path, *, dtype: str = "float32", whole: bool = False) -> ModelPaths:
    """Our own paths; of every third conversation and those with control tokens in one layout, or
    `whole`."""
    model = RewardModel.load(folder, dtype=dtype)
    conversations = built_in(model.renderer, Census(), longest=256)
    if not whole:
        with_control = [conversation for conversation in conversations if conversation.control]
        conversations = [*conversations[::3], *with_control]
    return measure_model(model, conversations, quick=not whole)


def exported(folder: Path, view: str | None = "F", source: Path | None = None) -> Path:
    model = RewardModel.load(source or trained())
    parts = (folder, model.network, model.tokenizer, model.card)
    if view is None:
        return export_all_rows(*parts).folder
    return export_view(*parts, model.view(view)).folder


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("good") / "F")


def copied(folder: Path, target: Path) -> Path:
    """A copy without the manifest, free to be spoiled."""
    shutil.copytree(folder, target)
    (target / "manifest.json").unlink(missing_ok=True)
    return target


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def only_cause(ours: ModelPaths, folder: Path, view: str | None = None) -> str:
    found = against_folder(ours, str(folder), view, quick=True)
    assert not found.passed
    assert len(found.failures) == 1, found.failures
    return found.failures[0].text


# What is right


@pytest.mark.slow
def test_every_layout_batch_and_padding_side_of_an_export_agrees(good):
    found = against_folder(measured(trained(), whole=True), str(good))
    assert found.passed, found.failures
    names = {row.path.name for row in found.rows}
    assert {f"scoring, {way}, batch {n}" for way in ("forest", "packed", "padded")
            for n in (1, 2, 8, 32)} <= names  # fmt: skip
    assert {f"plain, batch {n}, pad {side}" for n in (2, 8, 32) for side in ("left", "right")} <= (
        names
    )
    assert any(row.path.kind == "client" for row in found.rows)
    assert all(row.same_tokens for row in found.rows)
    assert 0 < found.largest < 1e-5
    assert found.std > 0.05


@pytest.mark.parametrize("view", ["L", "M", {"name": "w", "weights": {"style": -2}, "offset": 3}])
def test_the_views_constant_is_accounted_for_and_said(tmp_path, ours, view):
    found = against_folder(ours, str(exported(tmp_path / "out", view)), quick=True)
    assert found.passed, found.failures
    assert found.comparison.view.name == (view if isinstance(view, str) else "w")
    assert found.comparison.constant != 0
    assert any("constant" in note and "left out" in note for note in found.notes)


def test_an_export_is_compared_with_itself_and_all_rows_row_by_row(tmp_path, ours):
    folder = exported(tmp_path / "m", "M")
    assert against_folder(measured(folder), str(folder), quick=True).passed
    found = against_folder(ours, str(exported(tmp_path / "rows", None)), quick=True)
    assert found.passed, found.failures
    assert found.comparison.view is None
    assert found.as_result().view == "all rows"


def test_text_with_control_tokens_is_told_apart_and_not_in_the_gate(ours, good):
    found = against_folder(ours, str(good), quick=True)
    held = sum(one.control for one in ours.conversations)
    assert held >= 1
    assert any(f"{held} conversations hold control tokens" in note for note in found.notes)
    plain = next(row for row in found.rows if row.path.kind == "plain")
    by_ids = next(row for row in found.rows if row.path.kind == "ids")
    assert plain.outside_gate > 0.01
    assert by_ids.outside_gate == 0


def test_the_result_file_says_what_was_compared(tmp_path, ours, good):
    found = against_folder(ours, str(good), quick=True)
    found.as_result().write(tmp_path / "r.json")
    (result,) = read_results(tmp_path / "r.json")
    assert result.kind == "parity"
    assert result.metrics["passed"].value == 1.0
    assert result.metrics["largest_difference"].n == len(ours.conversations)
    assert {row["path"] for row in result.items} == {row.path.name for row in found.rows}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("rows", [1, 6])
def test_a_model_of_others_agrees_once_its_pad_token_is_not_its_eos(tmp_path, data_folder, rows):
    folder = foreign(tmp_path / "theirs", data_folder, rows)
    target = exported(tmp_path / "ours", "F" if rows == 1 else None, folder)
    found = against_folder(measured(folder), str(target), quick=True)
    assert found.passed, found.failures
    assert not any("no chat template" in note for note in found.notes)


def foreign(target: Path, data_folder: Path, rows: int) -> Path:
    """A pretrained Llama with a random head, written by plain transformers: pad = EOS."""
    source = data_folder / "stories260k" / "hf"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=rows)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


@pytest.mark.slow
def test_bfloat16_has_a_gate_of_its_own_and_names_rounding(good):
    half = measured(trained(), dtype="bfloat16")
    assert against_folder(half, str(good), gate=0.5, quick=True).passed
    found = against_folder(half, str(good), gate=1e-4, quick=True)
    assert not found.passed
    assert found.failures[0].text.startswith("precision: ")


# Planted faults


@pytest.mark.slow
@pytest.mark.data
def test_a_pad_token_that_ends_conversations_is_named(tmp_path, data_folder):
    folder = foreign(tmp_path / "theirs", data_folder, 1)
    cause = only_cause(measured(folder), folder)
    assert cause.startswith("pad token: conversations end with the pad token '</s>'")
    assert "35352" in cause


def test_a_missing_pad_token_is_named(tmp_path, ours, good):
    folder = copied(good, tmp_path / "out")
    change(folder / "config.json", pad_token_id=None)
    change(folder / "tokenizer_config.json", pad_token=None)
    found = against_folder(ours, str(folder), quick=True)
    assert [row.path.batch for row in found.rows if not row.passed] == [8, 8]
    assert all(
        cause.startswith("pad token: the folder names none") for cause in map(str, found.failures)
    )


def test_a_tokenizer_that_pads_with_another_token_than_the_config_is_named(tmp_path, ours, good):
    folder = copied(good, tmp_path / "out")
    change(folder / "config.json", pad_token_id=5)
    cause = only_cause(ours, folder)
    assert cause.startswith("pad token: the tokenizer pads with token 0, the config names 5")


TEMPLATES = {
    "a doubled BOS": ("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}", "a doubled BOS"),
    "no BOS": ("{{ bos_token }}", "", "no BOS"),
    "no EOS": ("{{ eos_token }}", "", "the last token (EOS) is missing"),
    "one more EOS": ("{{ eos_token }}", "{{ eos_token }}{{ eos_token }}", "one more token (EOS)"),
}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_another_chat_template_is_named_by_what_it_adds_or_lacks(tmp_path, ours, good, name):
    before, after, told = TEMPLATES[name]
    folder = copied(good, tmp_path / "out")
    template = (folder / "chat_template.jinja").read_text()
    assert before in template
    (folder / "chat_template.jinja").write_text(template.replace(before, after))
    assert f"token ids differ: {told}" in only_cause(ours, folder)


def test_a_template_that_drops_the_response_is_named_as_another_one(tmp_path, ours, good):
    folder = copied(good, tmp_path / "out")
    file = folder / "chat_template.jinja"
    every = "for message in messages"
    file.write_text(file.read_text().replace(every, f"{every}[:-1]"))
    assert "another chat template" in only_cause(ours, folder)


def test_a_model_whose_own_template_doubles_the_bos_is_refused(tmp_path, good):
    folder = copied(good, tmp_path / "out")
    (folder / "smorm.json").unlink()
    file = folder / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())
    with pytest.raises(ModelError, match="two '<bos>'"):
        RewardModel.load(folder)


def spoil_head(folder: Path, spoil) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = spoil(weights["score.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_row_of_the_head_is_named(tmp_path, ours, good):
    head = load_file(trained() / "model.safetensors")["score.weight"]
    folder = spoil_head(copied(good, tmp_path / "out"), lambda _: head[-1:].clone())
    assert only_cause(ours, folder).startswith("head: these are the scores of the row 'style'")


def test_other_weights_of_the_head_are_told_by_the_order(tmp_path, ours, good):
    torch.manual_seed(3)
    folder = spoil_head(copied(good, tmp_path / "out"), torch.randn_like)
    assert only_cause(ours, folder).startswith("head: the order of the scores differs")


def test_a_scaled_head_keeps_the_order_and_is_told_so(tmp_path, ours, good):
    folder = spoil_head(copied(good, tmp_path / "out"), lambda w: w * 1.01)
    assert only_cause(ours, folder).startswith("weights or precision: the order")


def test_a_head_of_zeros_is_no_parity(tmp_path, good):
    folder = spoil_head(copied(good, tmp_path / "out"), torch.zeros_like)
    found = against_folder(measured(folder), str(folder), quick=True)
    assert all(row.passed for row in found.rows)
    assert not found.passed
    assert found.failures[0].text.startswith("head: the scores of all conversations are the same")


def test_a_head_that_plain_transformers_would_draw_anew_is_refused(tmp_path, ours, good):
    folder = copied(good, tmp_path / "out")
    weights = load_file(folder / "model.safetensors")
    head = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"score.weight": head}, folder / "head.safetensors")
    with pytest.raises(SmormError, match=r"finds no score.weight in it and draws it at random"):
        against_folder(ours, str(folder), quick=True)


def test_a_head_with_other_rows_is_refused(tmp_path, good):
    model = measured(good)
    with pytest.raises(SmormError, match="head: it has 6 rows, the model's has 1"):
        against_folder(model, str(trained()), quick=True)


def test_absolute_positions_and_left_padding_are_named(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(backbone_path())
    ensure_bos(Renderer(tokenizer))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None,
        initializer_range=0.3,
    )  # fmt: skip
    model = Gpt2(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    cause = only_cause(measured(tmp_path / "gpt2"), tmp_path / "gpt2")
    assert cause.startswith("padding: only batches padded on the left differ")


def test_a_view_that_does_not_fold_has_no_parity_with_a_folder(ours, good):
    view = {
        "name": "low", "kind": "min", "rows": ["preference", "style"],
        "centres": {"preference": 0, "style": 0}, "spreads": {"preference": 1, "style": 1},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="not linear"):
        against_folder(ours, str(good), view, quick=True)


# The conversations


def test_the_committed_conversations_are_unlike_each_other():
    renderer = Renderer(AutoTokenizer.from_pretrained(backbone_path()), max_tokens=256)
    found = built_in(renderer, census := Census())
    # Its template knows neither tools nor reasoning of its own: counted, never in silence.
    left_out = {reason.detail: n for reason, n in census.totals().items()}
    assert left_out == {Change.TOOLS_REMOVED: 3, Change.REASONING_REMOVED: 1}
    assert len(found) == COUNT - 4
    lengths = [len(one.tokens) for one in found]
    assert max(lengths) <= 256
    assert max(lengths) > 230
    assert min(lengths) < 15
    assert len({one.messages for one in found}) == len(found)
    assert len({one.prompt for one in found}) < COUNT / 2
    roles = {message.role for one in found for message in one.messages}
    assert roles == {"system", "user", "assistant"}
    assert any(len(one.messages) > 4 for one in found)
    assert any(not one.prompt[-1].content.strip(" .…") for one in found)
    assert any("🏳️‍🌈" in one.response[0].content for one in found)
    again = built_in(renderer, Census())
    assert [one.tokens.tolist() for one in again] == [one.tokens.tolist() for one in found]


@pytest.mark.parametrize("style", styles.STYLES)
def test_each_family_of_templates_takes_them_and_what_it_refuses_is_counted(style):
    renderer = Renderer(styles.shared(style), max_tokens=512)
    found = built_in(renderer, census := Census())
    assert len(found) + census[DropReason.CONVERSATION_LEFT_OUT] == COUNT
    assert len(found) == COUNT - (9 if style == "gemma" else 4)
    assert max(len(one.tokens) for one in found) > 400
    own = {one.control for one in found if "What does" in one.prompt[-1].content}
    assert own == {True}


def test_a_folder_has_parity_with_itself_thinking_and_tool_calls_included(tmp_path):
    template = Path(pytest.importorskip("trl").__file__).parent / "chat_templates/qwen3.jinja"
    tokenizer = styles.build("chatml")
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_labels=1, problem_type="regression", initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        max_position_embeddings=1024,
    )  # fmt: skip
    Llama(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = RewardModel.load(tmp_path, max_tokens=768)
    found = built_in(model.renderer, census := Census(), longest=256)
    assert not census[DropReason.CONVERSATION_LEFT_OUT], census.lines()
    with_tools = [one for one in found if one.prompt[0].role == INPUTS]
    assert len(with_tools) == 3
    chosen = [*found[::8], *(one for one in found if not one.is_plain)]
    parity = against_folder(measure_model(model, chosen, quick=True), str(tmp_path), quick=True)
    assert parity.passed, parity.failures
    assert all(row.same_tokens for row in parity.rows)


def test_a_users_file_gives_its_first_conversations_and_says_what_is_not_used():
    renderer = Renderer(AutoTokenizer.from_pretrained(backbone_path()), max_tokens=256)
    found = from_file(world()["eval-pairs-ID"], renderer, census := Census())
    assert len(found) == MOST_OF_FILE
    assert census[DropReason.CONVERSATIONS_BEYOND] == 1
    first = json.loads(world()["eval-pairs-ID"].read_text().splitlines()[0])
    assert first["chosen"] in (found[0].response[0].content, first["chosen"])
    assert np.all(found[0].tokens == renderer.render(found[0].messages))
