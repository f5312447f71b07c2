"""`smorm check` as a user meets it: the page, the JSON, the exit code, token checks, bad usage."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import yaml
from datasets import Dataset

from smorm.cli.main import run_verb
from smorm.config import load_config
from smorm.errors import SmormError
from smorm.training.loop import train
from smorm.world import backbone_path
from tests.checks.made import pairs, rated
from tests.data.sources import jsonl
from tests.tiny import config_values, trained, world


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Run `smorm check`; gives (exit code, page, findings by code, JSON, standard error)."""

    def run(*words: object):
        output = tmp_path / "findings.json"
        output.unlink(missing_ok=True)
        arguments = ["smorm", "check", *map(str, words), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as left:
            sys.exit(run_verb())
        captured = capsys.readouterr()
        content = json.loads(output.read_text()) if output.exists() else {"findings": []}
        findings = {one["code"]: one for one in content["findings"]}
        return int(left.value.code or 0), captured.out, findings, content, captured.err

    return run


@pytest.fixture
def model(tmp_path):
    """A folder with the demo's tokenizer alone."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for path in backbone_path().glob("*tok*"):
        shutil.copy(path, folder)
    shutil.copy(backbone_path() / "chat_template.jinja", folder)
    return folder


def test_a_clean_file_gives_a_page_and_exit_code_0(check, tmp_path):
    data = jsonl(tmp_path / "a.jsonl", pairs(40) + rated(40, 1))
    code, page, findings, content, _ = check(data)
    assert code == 0
    assert content["must_fix"] == 0
    assert content["records"]["train"] == {"preference": 40, "rated": 40}
    assert f"data: {data}: 40 preference, 40 rated" in page
    assert "No tokenizer was named" in page
    assert "lengths in words" in page
    assert "0 must fix" in page
    assert findings["no_token_checks"]["severity"] == "look"
    assert content["unit"] == "words"
    assert content["thresholds"]["overlap"] == 0.01
    assert content["lengths"]["chosen"]["n"] == 40
    assert content["attributes"]["helpful"]["n"] == 40


def test_a_fault_gives_exit_code_1_and_whole_lines_for_grep(check, tmp_path):
    rows = [*pairs(40), {"prompt": "p", "chosen": "a", "rejected": "a"}]
    data = jsonl(tmp_path / ("long-" * 20 + ".jsonl"), rows)
    code, page, findings, _, _ = check(data)
    assert code == 1
    assert findings["equal_sides"]["places"] == [f"{data}:41"]
    assert any(f"{data}:41" in line for line in page.splitlines())
    assert "must fix equal_sides  1 of 41 records (2.4%)" in page


def test_a_saved_dataset_a_folder_and_a_parquet_file_are_read_alike(check, tmp_path):
    rows = pairs(20)
    dataset = Dataset.from_list(rows)
    dataset.save_to_disk(str(tmp_path / "saved"))
    dataset.to_parquet(str(tmp_path / "rows.parquet"))
    jsonl(tmp_path / "folder" / "test.jsonl", rows)
    told = []
    for words in ((tmp_path / "saved",), (tmp_path / "rows.parquet",),
                  (tmp_path / "folder", "--split", "test")):  # fmt: skip
        code, _, _, content, _ = check(*words)
        assert code == 0
        told.append({key: content[key] for key in ("records", "lengths", "length_bias")})
    assert told[0] == told[1] == told[2]


def test_held_out_data_a_benchmark_and_a_stated_range_are_held_against_the_data(check, tmp_path):
    rows = rated(40)
    rows[7]["scores"]["helpful"] = 7
    data = jsonl(tmp_path / "a.jsonl", rows)
    dev = jsonl(tmp_path / "dev.jsonl", [rows[0], *rated(10, 1)])
    bench = jsonl(tmp_path / "bench.jsonl", [{**pairs(1, 3)[0], "prompt": rows[1]["prompt"]}])
    code, page, findings, content, _ = check(
        data, "--dev", dev, "--against", f"preference={bench}", "--range", "helpful=0..4"
    )
    assert code == 1
    assert findings["prompt_leakage"]["count"] == 1
    assert findings["out_of_range"]["places"] == [f"{data}:8"]
    assert content["benchmarks"] == {
        str(bench): {"items": 1, "prompts": 1, "responses": 0, "either": 1}
    }
    assert f"held out: {dev}: 11 rated" in page
    assert "items of benchmarks" in page


def test_a_benchmark_in_its_published_schema_is_read_by_its_name(check, tmp_path):
    rows = pairs(20)
    item = {"prompt": rows[3]["prompt"], "domain": "chat", "chosen": ["a", "b", "c"],
            "rejected": ["d", "e", "f"]}  # fmt: skip
    bench = jsonl(tmp_path / "rm.json", [item])
    data = jsonl(tmp_path / "a.jsonl", rows)
    for name in ("rm_bench", "rm-bench"):
        code, _, findings, _, _ = check(data, "--against", f"{name}={bench}")
        assert (code, findings["benchmark_overlap"]["count"]) == (1, 1)


def test_a_models_tokenizer_counts_tokens_and_finds_what_the_limit_does(check, tmp_path, model):
    rows = pairs(30, words=12)
    rows[4]["prompt"] = " ".join([rows[4]["prompt"]] * 80)
    rows[5]["chosen"] = " ".join([rows[5]["chosen"]] * 80)
    rows[5]["rejected"] = rows[5]["chosen"] + " more"
    rows[6]["chosen"] = rows[6]["rejected"] + " <eos>"
    data = jsonl(tmp_path / "a.jsonl", rows)
    _, page, findings, content, _ = check(data, "--model", model, "--max-tokens", 600)
    assert content["unit"] == "tokens"
    assert "no_token_checks" not in findings
    assert findings["over_limit"]["count"] == 2
    assert findings["over_limit"]["places"] == [f"{data}:5", f"{data}:6"]
    assert (
        "1 would fit with a shorter prompt; 1 have responses" in findings["over_limit"]["meaning"]
    )
    assert findings["equal_if_cut"]["count"] == 2  # a prompt over the limit leaves nothing either
    assert findings["control_tokens"]["places"] == [f"{data}:7"]
    assert "lengths in tokens, limit 600" in page
    assert content["lengths"]["conversation"]["n"] == 60


def test_sides_that_are_the_same_tokens_must_be_fixed(check, tmp_path, model):
    rows = pairs(10)
    rows[3]["rejected"] = rows[3]["chosen"] + "\n"  # this tokenizer takes no note of spaces
    data = jsonl(tmp_path / "a.jsonl", rows)
    code, _, findings, _, _ = check(data, "--model", model)
    assert code == 1
    assert findings["equal_tokens"]["places"] == [f"{data}:4"]


@pytest.mark.parametrize(
    ("before", "code"),
    [("{{ strftime_now('%Y-%m-%d') }}", "template_date"), ("{{ bos_token }}", "double_bos")],
)
def test_a_faulty_template_of_a_model_gives_exit_code_1(check, tmp_path, model, before, code):
    path = model / "chat_template.jinja"
    path.write_text(before + path.read_text())
    data = jsonl(tmp_path / "a.jsonl", pairs(10))
    left, _, findings, content, _ = check(data, "--model", model)
    assert left == 1
    assert findings[code]["severity"] == "must fix"
    if code == "double_bos":  # such a template cannot count tokens: said, and done in words
        assert "Lengths are in words" in findings["template_unusable"]["meaning"]
        assert content["unit"] == "words"


def test_records_that_the_template_refuses_are_told_with_the_reason(check, tmp_path, model):
    path = model / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    path.write_text(refusal + path.read_text())
    rows = pairs(10)
    rows[2]["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    data = jsonl(tmp_path / "a.jsonl", rows)
    code, _, findings, _, _ = check(data, "--model", model)
    assert code == 1
    assert "no system" in findings["not_rendered"]["meaning"]
    assert findings["not_rendered"]["places"] == [f"{data}:3"]


def test_a_runs_config_says_what_is_checked_and_how(check, tmp_path):
    values = config_values(tmp_path / "run")
    values["evaluation"] = {"preference": str(world()["dev-pairs"])}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    code, _, findings, content, _ = check("--config", path)
    assert code == 0, findings
    assert content["records"]["train"] == {"preference": 120, "rated": 60}
    assert content["records"]["held_out"] == {"preference": 30}
    assert content["max_tokens"] == 256
    assert content["unit"] == "tokens"
    assert [source.get("kind") for source in content["sources"]] == [
        "preference", "rated", "preference",
    ]  # fmt: skip
    code, _, findings, _, _ = check("--config", path, "--max-tokens", 8)
    assert code == 1
    assert "The run would stop at the first" in findings["over_limit"]["meaning"]


def test_a_config_that_trains_its_tokenizer_is_checked_with_that_one(check, tmp_path):
    rows = [*pairs(30), {"prompt": "p", "chosen": "a"}]
    values = {
        "model": {
            "backbone": {"architecture": "llama", "hidden_size": 16, "num_attention_heads": 2},
            "tokenizer": {"train": "bpe", "vocab_size": 300},
        },
        "data": {"preference": str(jsonl(tmp_path / "a.jsonl", rows)), "overlong": "drop"},
        "objective": {"kind": "preference"},
        "output": {"folder": str(tmp_path / "run")},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    code, _, findings, content, _ = check("--config", path, "--limit", 20)
    assert (code, content["records"]["train"]) == (0, {"preference": 20})
    code, _, findings, content, _ = check("--config", path, "--max-tokens", 200)
    assert code == 1  # the bad record is a finding, and ends nothing
    assert findings["bad_records"]["count"] == 1
    assert "The run drops them" in findings["over_limit"]["meaning"]
    assert not (tmp_path / "run").exists()
    code, _, _, _, err = check("--config", path, "model.backbone.hidden_size=15")
    assert code == 2
    assert "model.backbone: llama: " in err
    assert "hidden size (15) is not a multiple" in err


def test_a_trained_models_own_limit_is_the_default(check, tmp_path):
    data = jsonl(tmp_path / "a.jsonl", pairs(10))
    _, _, _, content, _ = check(data, "--model", trained())
    assert content["max_tokens"] == 256
    assert content["unit"] == "tokens"


def run_config(folder, **changes):
    """A configuration file of a run on the world."""
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config_values(folder / "run", **changes)))
    return path


def test_words_with_an_equals_sign_override_the_config_and_others_are_data(check, tmp_path):
    path, extra = run_config(tmp_path), jsonl(tmp_path / "a=b.jsonl", pairs(7))
    code, _, findings, content, _ = check(
        extra, "data.max_tokens=8", "--config", path, "data.overlong=drop"
    )
    assert (code, content["max_tokens"]) == (1, 8)  # none is left
    assert content["records"]["train"] == {"preference": 127, "rated": 60}
    assert "The run drops them" in findings["over_limit"]["meaning"]
    code, _, _, _, err = check("data.max_token=8", "--config", path)
    assert code == 2
    assert "did you mean data.max_tokens?" in err
    code, _, _, _, err = check(extra, "data.max_tokens=8")
    assert code == 2
    assert "give --config" in err


def refusal(config, override) -> str:
    """The error with which a run stops."""
    with pytest.raises(SmormError) as stopped:
        train(load_config(config, [override]))
    return str(stopped.value)


def test_what_stops_a_run_is_told_in_its_words(check, tmp_path):
    path = run_config(tmp_path)
    _, _, findings, _, _ = check("--config", path, "data.max_tokens=8")
    assert refusal(path, "data.max_tokens=8") in findings["over_limit"]["meaning"]
    code, _, findings, _, _ = check("--config", path, "data.max_tokens=4096")
    assert (code, findings["over_positions"]["severity"]) == (1, "must fix")
    _, _, unknown, _, _ = check("--config", path, "data.attributes=[no_such]")
    reason = refusal(path, "data.attributes=[no_such]")
    assert unknown["unknown_attributes"]["meaning"] == f"{reason}."
    assert findings["over_positions"]["meaning"] == f"{refusal(path, 'data.max_tokens=4096')}."


def test_a_default_limit_is_that_of_the_backbones_positions(check, tmp_path, model):
    values = config_values(tmp_path / "run")
    del values["data"]["max_tokens"]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    code, page, findings, content, _ = check("--config", path)
    assert (code, content["max_tokens"]) == (0, 256)
    assert "The token limit is 256, the backbone's positions" in page
    assert findings["limit_lowered"]["severity"] == "fine"
    data = jsonl(tmp_path / "a.jsonl", pairs(4))
    _, _, findings, content, _ = check(data, "--model", backbone_path())
    assert (content["max_tokens"], "limit_lowered" in findings) == (256, True)
    _, _, findings, _, _ = check(data, "--model", backbone_path(), "--max-tokens", 300)
    assert "the backbone has 256 positions" in findings["over_positions"]["meaning"]
    # Without a config of the backbone nothing is known of its positions.
    assert check(data, "--model", model)[3]["max_tokens"] == 2048


def test_held_out_data_may_name_its_split(check, tmp_path):
    data = jsonl(tmp_path / "a.jsonl", pairs(5))
    for split, count in (("validation", 3), ("test", 2)):
        jsonl(tmp_path / "folder" / f"{split}.jsonl", pairs(count, 1))
    _, _, _, content, _ = check(data, "--dev", f"{tmp_path / 'folder'}:validation")
    assert content["records"]["held_out"] == {"preference": 3}
    odd = jsonl(tmp_path / "dev:test.jsonl", pairs(4, 1))
    _, _, _, content, _ = check(data, "--dev", odd)
    assert content["records"]["held_out"] == {"preference": 4}


def test_flat_columns_are_ratings_where_they_are_named(check, tmp_path):
    rows = [{"prompt": f"p {n}", "response": "r", "help": n % 4, "polite": 1} for n in range(9)]
    data = jsonl(tmp_path / "a.jsonl", rows)
    code, _, findings, content, _ = check(data, "--attributes", "help,polite")
    assert (code, list(content["attributes"])) == (0, ["help", "polite"])
    assert "polite is always 1" in findings["constant_attribute"]["meaning"]


def test_adapters_are_checked_with_their_models_tokenizer_and_positions(check, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(backbone_path())}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    data = jsonl(tmp_path / "a.jsonl", pairs(4))
    _, _, _, content, _ = check(data, "--model", folder)
    assert (content["unit"], content["max_tokens"]) == ("tokens", 256)


def test_what_the_template_does_not_write_is_counted_as_a_run_counts_it(check, tmp_path, model):
    path = model / "chat_template.jinja"
    first = "{% for message in messages if message.role != 'system' %}"
    text = path.read_text()
    path.write_text(text.replace("{% for message in messages %}", first, 1))
    assert path.read_text() != text
    rows = pairs(6)
    rows[2]["prompt"] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "u"},
    ]
    rows[4]["chosen"] = [{"role": "assistant", "content": "a", "reasoning_content": "because"}]
    data = jsonl(tmp_path / "a.jsonl", rows)
    _, page, _, content, _ = check(data, "--model", model)
    removed = [each for each in content["findings"] if each["code"] == "not_written"]
    assert [(each["severity"], each["places"]) for each in removed] == [
        ("look", [f"{data}:3"]), ("look", [f"{data}:5"]),
    ]  # fmt: skip
    assert "message that the chat template does not write: the score cannot depend" in page
    assert "reasoning that the chat template does not write" in page


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "nothing to check"),
        (("nowhere.jsonl",), 3, "no such file"),
        (("{data}", "--format", "preferense"), 2, "did you mean 'preference'"),
        (("{data}", "--format", "rm_bench"), 1, ""),
        (("{data}", "--max-tokens", "100"), 2, "needs a tokenizer"),
        (("{data}", "--model", "/nowhere"), 2, "/nowhere: no such folder"),
        (("{data}", "--config", "/nowhere.yaml"), 2, "no such config file"),
        (("{data}", "--against", "nobench={data}"), 2, "expected NAME=PATH with NAME one of"),
        (("{data}", "--against", "/nowhere.jsonl"), 3, "no such file"),
        (("{data}", "--range", "helpful"), 2, "expected NAME=LOW..HIGH"),
        (("{data}", "--range", "helpful=4..0"), 2, "expected NAME=LOW..HIGH"),
        (("{data}", "--dev", "/nowhere.jsonl"), 3, "no such file"),
        (("{data}", "--limit", "0"), 2, "at least 1"),
    ],
)
def test_nonsense_gives_one_line_and_its_exit_code(check, tmp_path, words, code, told):
    data = jsonl(tmp_path / "a.jsonl", pairs(5))
    left, _, _, _, err = check(*(str(word).format(data=data) for word in words))
    assert left == code
    assert told in err
    assert "Traceback" not in err


def test_an_output_that_cannot_be_written_is_one_line(monkeypatch, capsys, tmp_path):
    data = jsonl(tmp_path / "a.jsonl", pairs(5))
    monkeypatch.setattr(sys, "argv", ["smorm", "check", str(data), "-o", f"{data}/x.json"])
    with pytest.raises(SystemExit) as left:
        sys.exit(run_verb())
    assert left.value.code == 1
    assert "could not be written" in capsys.readouterr().err
