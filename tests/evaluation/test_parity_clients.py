"""The tokens that programs make of a conversation before they score it, by a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig
from transformers import LlamaForSequenceClassification as Llama

from smorm import RewardModel
from smorm.data.census import Census
from smorm.errors import ConfigError
from smorm.evaluation.parity.check import against_folder, measure_model
from smorm.evaluation.parity.clients import CLIENTS, Client, clients_of
from smorm.evaluation.parity.conversations import built_in
from smorm.evaluation.parity.paths import ModelPaths, PathResult
from smorm.evaluation.result import CauseKind
from smorm.model.export import PlainModel, export_all_rows, export_view
from tests.text import styles
from tests.tiny import trained


def measured(folder: Path) -> ModelPaths:
    model = RewardModel.load(folder)
    return measure_model(model, built_in(model.renderer, Census(), longest=128)[::5], quick=True)


@pytest.fixture(scope="module")
def ours() -> ModelPaths:
    return measured(trained())


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    model = RewardModel.load(trained())
    parts = (model.network, model.tokenizer, model.card, model.view("F"))
    return export_view(tmp_path_factory.mktemp("good") / "F", *parts).folder


def only(ours: ModelPaths, folder: Path, name: str) -> tuple[PathResult, list[str]]:
    """The one client's path, and the causes of its failure."""
    found = against_folder(ours, str(folder), quick=True, clients=clients_of([name]))
    failed = [row for row in found.rows if not row.passed]
    row = found.rows[-1]
    assert row.path.kind == "client"
    assert failed in ([], [row])
    return row, list(map(str, found.failures))


@pytest.mark.parametrize("name", ["verl", "vllm", "trl"])
def test_an_export_gives_a_client_our_ids_and_our_scores(ours, good, name):
    row, causes = only(ours, good, name)
    assert row.passed, causes
    assert row.same_tokens
    assert row.difference < 1e-5


@pytest.mark.parametrize("folder", ["own", "exported"])
def test_a_tokenizer_that_adds_no_bos_gives_verl_another_score(tmp_path, good, ours, folder):
    for file in good.iterdir():
        if file.name != "manifest.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    assert tokenizer["post_processor"] is not None
    file.write_text(json.dumps({**tokenizer, "post_processor": None}))
    if folder == "exported":  # export mends it
        model = RewardModel.load(tmp_path)
        parts = (model.network, model.tokenizer, model.card, model.view("F"))
        export_view(tmp_path / "again", *parts)
        assert only(ours, tmp_path / "again", "verl")[0].passed
        return
    row, (cause,) = only(ours, tmp_path, "verl")
    assert row.difference > 1e-4
    assert cause.startswith("token ids differ: no BOS: let the tokenizer write the BOS")
    # Without being asked for, too.
    found = against_folder(ours, str(tmp_path), quick=True)
    assert [row.path.kind for row in found.rows if not row.passed] == ["client"]
    assert found.only_tokens_differ


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>' }}END{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml(folder: Path, template: str) -> Path:
    tokenizer = styles.build("chatml")
    tokenizer.chat_template = template
    assert tokenizer.eos_token == "<|im_end|>"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_labels=1, problem_type="regression", initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    Llama(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["openrlhf", "llamafactory"])
def test_a_rollout_ends_at_its_eos_and_not_where_the_template_does(tmp_path, name):
    folder = chatml(tmp_path, CHATML.replace("END", "{{ '\n' }}"))
    row, (cause,) = only(measured(folder), folder, name)
    assert row.same_tokens is False
    assert "token ids differ: it ends before '\\n', which the template writes last" in cause
    assert "smorm.trl.reward_function" in cause


def test_where_the_template_ends_at_the_eos_too_a_rollout_has_our_ids(tmp_path):
    between = "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}"
    folder = chatml(tmp_path, CHATML.replace("END", between))
    row, causes = only(measured(folder), folder, "openrlhf")
    assert row.passed, causes
    assert row.same_tokens


def test_rendered_text_with_special_tokens_has_two_bos(ours, good):
    row, (cause,) = only(ours, good, "sglang")
    assert row.same_tokens is False
    assert cause.startswith("token ids differ: a doubled BOS")
    assert "send `input_ids`" in cause


@pytest.mark.parametrize("name", list(CLIENTS))
def test_a_folder_of_several_rows_is_no_clients(tmp_path, ours, name):
    model = RewardModel.load(trained())
    export_all_rows(tmp_path / "all", model.network, model.tokenizer, model.card)
    found = against_folder(ours, str(tmp_path / "all"), quick=True, clients=clients_of([name]))
    (failure,) = found.failures
    assert failure.cause is CauseKind.HEAD
    assert "it has 6 rows" in failure.text
    assert "`smorm export MODEL --view M`" in failure.text


def test_trls_ids_are_those_of_its_own_functions(good):
    data_utils = pytest.importorskip("trl.data_utils")
    plain = PlainModel.load(good)
    tokenizer = AutoTokenizer.from_pretrained(good)
    turns = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": " Four 🙂\n"},
    ]
    text = data_utils.apply_chat_template({"messages": turns}, tokenizer)["text"]
    expected = tokenizer(text=[text], add_special_tokens=False)["input_ids"][0]
    assert CLIENTS["trl"].ids(plain, turns) == expected


def test_what_no_client_sends_is_left_out_and_said(ours, good):
    verl: list[Client] = clients_of(["verl", "verl"])
    assert len(verl) == 1
    thinking = [one for one in ours.conversations if not one.is_plain]
    found = against_folder(ours, str(good), quick=True, clients=verl)
    assert len(found.rows[-1].path.unsent) == len(thinking)
    with pytest.raises(ConfigError, match=r"--as vlm: .*did you mean vllm\?"):
        clients_of(["vlm"])
