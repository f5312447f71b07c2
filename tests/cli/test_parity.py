"""`smorm parity` and `smorm export` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smorm.config import parse_config
from smorm.training.loop import train
from tests.rewards.reward_servers import Engine, RewardServer, sglang, shifted, vllm
from tests.tiny import config_values, trained, world


def error_of(err: str) -> str:
    """What is wrong, from its first line on."""
    assert "Traceback" not in err
    assert err.count("error: ") == 1, err
    return err[err.index("error: ") :]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> tuple[str, Path]:
    """An option that makes a parity of a few conversations."""
    lines = world()["eval-pairs-ID"].read_text().splitlines(keepends=True)
    file = tmp_path_factory.mktemp("few") / "few.jsonl"
    file.write_text("".join(lines[:6]))
    return "--conversations", file


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    from smorm import RewardModel
    from smorm.model.export import export_view

    model = RewardModel.load(trained())
    parts = (model.network, model.tokenizer, model.card, model.view("M"))
    return export_view(tmp_path_factory.mktemp("good") / "M", *parts).folder


@pytest.mark.slow
def test_an_export_is_checked_by_itself_and_then_by_parity(smorm, tmp_path):
    folder = tmp_path / "plain"
    code, out, err = smorm("export", trained(), "--view", "M", "--output", folder)
    assert (code, err.strip()) == (0, "")
    assert "plain transformers gives the same scores (largest difference" in out
    assert "The view's constant" in out
    code, out, _ = smorm("parity", trained(), folder, "--output", tmp_path / "r.json")
    assert code == 0
    assert out.count(" ok ") == 21
    assert "verl 0.9: text without BOS" in out
    assert "FAILS" not in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["kind"], result["view"]) == ("parity", "M")
    assert len(result["items"]) == 21


@pytest.mark.slow
def test_a_users_own_conversations_are_compared(smorm, good):
    code, out, _ = smorm("parity", trained(), good, "--conversations", world()["eval-pairs-ID"])
    assert code == 0
    assert "64 conversations" in out
    assert "conversations beyond the first 64" in out


def test_a_failure_is_exit_code_1_with_its_cause_and_its_result(smorm, good, few, tmp_path):
    code, out, err = smorm(
        "parity", trained(), good, *few, "--view", "F", "--output", tmp_path / "r.json"
    )
    assert code == 1
    assert "FAILS" in out
    assert "head: " in error_of(err)
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["metrics"]["passed"]["value"] == 0.0
    assert [failure["cause"] for failure in result["failures"]] == ["head"]


@pytest.mark.slow
def test_the_gate_is_the_users_to_choose(smorm, good, few):
    code, _, err = smorm("parity", trained(), good, *few, "--gate", "1e-9")
    assert code == 1
    assert "weights or precision" in error_of(err)
    code, out, _ = smorm("parity", trained(), good, *few, "--dtype", "bfloat16", "--gate", "0.5")
    assert code == 0
    assert "bfloat16, gate 0.5 of the standard deviation" in out


@pytest.mark.slow
def test_a_server_is_compared_by_its_address_with_its_token(smorm, good, few, tmp_path):
    engine = Engine(good)
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    for by, wanted in ((0.0, 0), (0.5, 1)):
        with RewardServer(vllm(engine, shifted(by))) as server:
            code, out, err = smorm(
                "parity", trained(), server.url, *few, "--view", "M", "--token-file", token
            )
            assert code == wanted, err
            # The table breaks the lines of long names.
            assert "vllm /pooling of messages" in out
            assert all(one.headers["Authorization"] == "Bearer s3cret" for one in server.asked)
            assert "HTTP Request" not in out + err
    assert "offset: all scores are shifted by the same constant +0.5" in error_of(err)


@pytest.mark.slow
def test_a_tokenizer_that_plain_transformers_replaces_is_a_warning_of_export_and_fails_parity(
    smorm, few, tmp_path
):
    values = config_values(tmp_path / "run", training={"max_steps": 1})
    values["model"] = {
        "backbone": {
            "architecture": "qwen2", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        },
        "tokenizer": {"train": "bpe", "vocab_size": 400},
    }  # fmt: skip
    model, folder = train(parse_config(values)), tmp_path / "out"
    code, out, err = smorm("export", model, "--view", "F", "--output", folder)
    assert code == 0
    assert "plain transformers gives the same scores" in out
    assert "warning: that holds for the model's token ids" in err
    assert "warning: SGLang adds a `score.bias` to qwen2" in err
    code, out, err = smorm("parity", model, folder)
    assert code == 1
    assert "token ids differ: AutoTokenizer takes the class" in error_of(err)
    assert "plain, our ids, batch 1" in out
    with RewardServer(sglang(Engine(folder), shifted(0.25))) as server:
        code, _, err = smorm("parity", model, server.url, *few, "--view", "F")
    assert code == 1
    assert "offset: all scores are shifted by the same constant +0.25" in error_of(err)
    assert "SGLang draws a `score.bias` of qwen2 at random at each start" in err


@pytest.mark.slow
def test_clients_tokens_are_checked_offline(smorm, good, few, tmp_path):
    chosen = ["--as", "verl", "--as", "vllm", "--as", "trl"]
    result = tmp_path / "r.json"
    code, _, err = smorm("parity", trained(), good, *few, *chosen, "--output", result)
    assert (code, err.strip()) == (0, "")
    paths = [item["path"] for item in json.loads(result.read_text())["items"]]
    assert [path.partition(":")[0] for path in paths if "scoring" not in path] == [
        "plain, our ids, batch 1", "verl 0.9", "vLLM 0.32", "TRL 1.16",
    ]  # fmt: skip
    code, _, err = smorm("parity", good, *few, "--as", "sglang")
    assert code == 1
    assert "token ids differ: a doubled BOS" in error_of(err)
    assert "send `input_ids`" in err
    code, _, err = smorm("parity", trained(), *few, "--as", "verl")
    assert code == 1
    assert "head: it has 6 rows, and verl reads the last row" in error_of(err)


@pytest.mark.slow
def test_an_export_of_gemma3_is_plain_transformers_and_says_how_vllm_is_to_be_started(
    smorm, tmp_path
):
    values = config_values(tmp_path / "run", training={"max_steps": 1})
    values["model"] = {
        "backbone": {
            "architecture": "gemma3_text", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "tokenizer": {"train": "bpe", "vocab_size": 400},
    }  # fmt: skip
    model, folder = train(parse_config(values)), tmp_path / "out"
    code, out, _ = smorm("export", model, "--view", "F", "--output", folder)
    assert code == 0
    assert "plain transformers gives the same scores" in out
    assert "--convert classify" in out
    assert '--hf-overrides \'{"architectures":["Gemma3ForCausalLM"]}\'' in out
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Gemma3TextForSequenceClassification"]


def test_an_export_that_gives_other_scores_says_not_to_use_it(smorm, tmp_path, monkeypatch):
    from smorm.model import export

    def spoil(folder, network, tokenizer, card, row):
        save_view(folder, network, tokenizer, card, row * 1.1)

    save_view = export.save_view
    monkeypatch.setattr(export, "save_view", spoil)
    code, _, err = smorm("export", trained(), "--view", "F", "--output", tmp_path / "out")
    assert code == 1
    assert "do not use it" in error_of(err)
    assert "weights or precision" in err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["none", "GOOD"], 2, "no such model folder"),
        (["MODEL", "none"], 2, "no such model folder"),
        (["MODEL", "GOOD", "--dtype", "int8"], 2, "--dtype int8: expected one of"),
        (["MODEL", "GOOD", "--gate", "0"], 2, "--gate 0: expected a number above 0"),
        (["MODEL", "GOOD", "--gate", "nan"], 2, "--gate nan"),
        (["MODEL", "GOOD", "--timeout", "-1"], 2, "--timeout -1"),
        (["MODEL", "GOOD", "--view", "Z"], 2, "Z"),
        (["MODEL", "GOOD", "--conversations", "none.jsonl"], 3, "none.jsonl"),
        (["MODEL", "http://127.0.0.1:9", "--token-file", "none"], 2, "--token-file none"),
        (["MODEL", "http://127.0.0.1:9", "--timeout", "1"], 1, "ConnectError"),
        (["MODEL", "http://127.0.0.1:9", "--protocol", "tei"], 2, "expected one of auto"),
        (["MODEL", "ftp://127.0.0.1"], 2, "expected an address such as"),
        (["MODEL"], 2, "name what to compare with"),
        (["MODEL", "GOOD", "--as", "velr"], 2, "did you mean verl?"),
        (["MODEL", "GOOD", "--as", ""], 2, "expected one of verl, openrlhf"),
        (["MODEL", "http://127.0.0.1:9", "--as", "verl"], 2, "--as is offline"),
        (["MODEL", "none", "--as", "verl"], 2, "no such model folder"),
    ],
)
def test_nonsense_is_one_line_and_the_right_exit_code(smorm, good, words, code, told):
    known = {"MODEL": trained(), "GOOD": good}
    found, _, err = smorm("parity", *[known.get(word, word) for word in words])
    assert found == code, err
    assert told in error_of(err)


def test_conversations_that_are_no_records_are_named_by_their_line(smorm, good, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": 3}\n')
    code, _, err = smorm("parity", trained(), good, "--conversations", file)
    assert code == 3
    assert "bad.jsonl:2" in error_of(err)


@pytest.mark.slow
def test_the_export_of_an_export_is_the_same_view(smorm, good, few, tmp_path):
    assert smorm("export", good, "--view", "F", "--output", tmp_path / "again")[0] == 0
    assert smorm("parity", good, tmp_path / "again", *few)[0] == 0
