"""The configuration: what is told about a mistake, and what decides the hash."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import yaml

from smorm.config import (
    BOOKKEEPING,
    Architecture,
    TrainedTokenizer,
    dump_config,
    load_config,
    parse_config,
)
from smorm.errors import ConfigError
from smorm.model.backbone import build_backbone
from smorm.text.tokenizers import train_bpe

BASE = {
    "model": {"backbone": "some/model"},
    "data": {"preference": "pairs.jsonl", "rated": {"path": "rated.jsonl", "limit": 5}},
    "output": {"folder": "out"},
}
SCRATCH = {"architecture": "llama", "hidden_size": 32}


def values_with(key, value):
    """The base with one dotted key set."""
    values = copy.deepcopy(BASE)
    *parents, last = key.split(".")
    node = values
    for name in parents:
        node = node.setdefault(name, {})
    node[last] = value
    return values


def told(key, value):
    with pytest.raises(ConfigError) as caught:
        parse_config(values_with(key, value))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(BASE))
    return file


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainin", {}, "config: unknown key trainin: did you mean training?"),
        ("training.lerning_rate", 1, "training.lerning_rate: did you mean training.learning_rate?"),
        ("data.mixing.mod", "zip", "data.mixing.mod: did you mean data.mixing.mode?"),
        ("model.lora", {"rnk": 4}, "model.lora.rnk: did you mean model.lora.rank?"),
        (
            "data.preference",
            ["a.jsonl", {"path": "b.jsonl", "formt": "x"}],
            "data.preference.1.formt: did you mean data.preference.1.format?",
        ),
        (
            "evaluation.rated",
            {"path": "b", "attribute": []},
            "evaluation.rated.0.attribute: did you mean evaluation.rated.0.attributes?",
        ),
        (
            "model.tokenizer",
            {"train": "bpe", "vocab": 400},
            "model.tokenizer.vocab: did you mean model.tokenizer.vocab_size?",
        ),
        ("output.xyzzy", 1, "output.xyzzy: expected one of folder, default_view"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_name(key, value, expected):
    message = told(key, value)
    assert message.endswith(f"unknown key {expected}".replace("unknown key config: ", ""))
    assert "\n" not in message


def test_an_unknown_field_of_an_architecture_is_told_with_the_nearest_name():
    tokenizer = train_bpe(["a b"], 300)
    with pytest.raises(
        ConfigError, match=r"llama has no field hiden_size: did you mean hidden_size\?"
    ):
        build_backbone("llama", {"hiden_size": 32}, seed=0, tokenizer=tokenizer, max_tokens=64)
    with pytest.raises(ConfigError, match=r"model\.backbone: lama: "):
        build_backbone("lama", {}, seed=0, tokenizer=tokenizer, max_tokens=64)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("training.learning_rate", "fast", "training.learning_rate: "),
        ("training.learning_rate", -1, "training.learning_rate: "),
        ("training.learning_rate", float("nan"), "training.learning_rate: "),
        ("training.learning_rate", float("inf"), "training.learning_rate: "),
        ("training.batch_size", 2.5, "training.batch_size: "),
        ("training.batch_size", 0, "training.batch_size: "),
        ("training.batch_size", True, "training.batch_size: true and false are no values"),
        ("model.lora", False, "model.lora: true and false are no values of this key"),
        ("training.seed", -1, "training.seed: "),
        ("training.betas", [0.9], "training.betas.1: missing"),
        ("training.betas", 0.9, "training.betas: "),
        ("training.tensorboard", 7, "training.tensorboard: "),
        ("training", "fast", "training: "),
        ("training", None, "training: "),
        ("objective.kind", "jont", "objective.kind: expected one of joint, preference"),
        ("objective.label_smoothing", 0.5, "objective.label_smoothing: "),
        ("data.max_tokens", 4, "data.max_tokens: "),
        ("data.preference", ["a", 7], "data.preference.1: "),
        ("data.rated", {"path": "r", "attributes": {"a": 5}}, "data.rated.0.attributes.a: "),
        ("data.preference", {"format": "auto"}, "data.preference.0.path: missing"),
        ("model.backbone", {"hidden_size": 3}, "model.backbone.architecture: missing"),
        ("model.backbone", SCRATCH, "model: tokenizer: a backbone from scratch needs one"),
        ("model.lora", {"targets": 5}, "model.lora.targets: "),
        ("output.folder", 5, "output.folder: "),
        ("data.preference", [], "data.preference: objective.kind joint needs preference pairs"),
        ("data.rated", [], "data.rated: objective.kind joint needs rated responses"),
    ],
)
def test_a_wrong_value_names_its_key(key, value, named):
    assert told(key, value).splitlines()[0].startswith(f"config: {named}")


def test_every_problem_is_told_on_a_line_of_its_own():
    values = values_with("training", {"batch_size": 0, "epoch": 1})
    values["objective"] = {"weight": "much"}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, where="run.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("run.yaml: ") for line in lines)


def test_adapters_on_a_backbone_from_scratch_are_refused():
    values = values_with("model", {"backbone": SCRATCH, "tokenizer": {"train": "bpe"}, "lora": {}})
    with pytest.raises(ConfigError, match="lora: adapters need a pretrained backbone"):
        parse_config(values)


def test_the_sets_that_an_objective_does_not_use_may_be_absent():
    for kind, missing in (("preference", "rated"), ("regression", "preference")):
        values = values_with("objective.kind", kind)
        del values["data"][missing]
        assert parse_config(values).objective.kind == kind


HASHES = [
    ({}, "baf1f7544904323e"),
    ({"weighting": "learned"}, "187065c5c9e9b8cc"),
    ({"kind": "preference", "bsr": 0.1}, "3a99706fe30c6441"),
    ({"kind": "regression"}, "675f6dd354ef25c2"),
    ({"kind": "odin", "odin": {"length": 0.5}}, "0afb941eaf1d4de0"),
    ({"kind": "grm", "grm": {"regulariser": "dpo"}}, "53018c3ad056e076"),
    ({"kind": "armo", "armo": {"width": 64}}, "35606159c71abfba"),
]


@pytest.mark.parametrize(("objective", "expected"), HASHES)
def test_the_hash_of_a_configuration_never_changes(objective, expected):
    """Runs are resumed, and found again by the lab, by it."""
    values = {
        "model": {"backbone": "org/model"},
        "data": {"preference": "pairs.jsonl", "rated": "rated.jsonl"},
        "output": {"folder": "runs/x"},
        "objective": objective,
    }
    assert parse_config(values).hash == expected


def test_importing_the_configuration_imports_no_method():
    code = (
        "import sys, smorm.config; assert not {'torch', 'transformers'} & set(sys.modules); "
        "assert not [name for name in sys.modules if name.startswith('smorm.training')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_stands_for_a_source_and_a_source_for_a_list_of_one():
    for form in ("p", ["p"], {"path": "p"}, [{"path": "p"}]):
        (source,) = parse_config(values_with("data.preference", form)).data.preference
        assert (source.path, source.format, source.split) == ("p", "auto", "train")


def test_a_backbone_from_scratch_keeps_its_fields():
    section = {"backbone": SCRATCH, "tokenizer": {"train": "bpe", "vocab_size": 300}}
    config = parse_config(values_with("model", section))
    assert isinstance(config.model.backbone, Architecture)
    assert config.model.backbone.fields() == {"hidden_size": 32}
    assert isinstance(config.model.tokenizer, TrainedTokenizer)


def test_a_field_of_a_backbone_in_powers_of_ten_is_a_number():
    text = "{architecture: llama, rms_norm_eps: 1e-5, rope_parameters: {rope_theta: 1e4}, act: e5}"
    section = {"backbone": yaml.safe_load(text), "tokenizer": "t"}
    backbone = parse_config(values_with("model", section)).model.backbone
    assert isinstance(backbone, Architecture)
    expected = {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 1e4}, "act": "e5"}
    assert backbone.fields() == expected


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rate=1e-5", 1e-5),
        ("training.learning_rate=0.5", 0.5),
        ("training.betas=[0.5, 9e-1]", (0.5, 0.9)),
        ("training.max_steps=null", None),
        ("training.tensorboard=true", True),
        ("objective.weighting=learned", "learned"),
        ("data.mixing.rated_per_pair=2", 2.0),
        ("model.lora.rank=8", 8),
        ("output.default_view=F", "F"),
    ],
)
def test_an_override_sets_a_key_at_any_depth(path, override, expected):
    node = load_config(path, [override])
    for name in override.partition("=")[0].split("."):
        node = getattr(node, name)
    assert node == expected


def test_a_list_of_sources_can_be_given_as_an_override_and_later_ones_win(path):
    config = load_config(
        path,
        [
            "data.preference=[a.jsonl, {path: b.jsonl, limit: 3}]",
            "training.seed=1",
            "training.seed=2",
        ],
    )
    assert [source.path for source in config.data.preference] == ["a.jsonl", "b.jsonl"]
    assert config.data.preference[1].limit == 3
    assert config.training.seed == 2


def test_an_override_goes_into_an_empty_section(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**BASE, "training": None}))
    assert load_config(path, ["training.seed=4"]).training.seed == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed", "expected dotted.key=value"),
        ("=3", "expected dotted.key=value"),
        ("model.backbone.hidden_size=3", "backbone is not a section"),
        ("data.rated=[a", "the value is not valid YAML"),
        ("training.sed=3", "unknown key training.sed: did you mean training.seed?"),
        ("training.seed=x", "training.seed: "),
    ],
)
def test_a_bad_override_is_told(path, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_value_that_looks_like_no_number_stays_text(path):
    assert str(load_config(path, ["output.folder=runs/a=b"]).output.folder) == "runs/a=b"
    assert str(load_config(path, ["output.folder=nan"]).output.folder) == "nan"


# The file


def test_a_missing_file_is_told_with_the_nearest_name(path):
    with pytest.raises(ConfigError, match=r"rnu\.yaml: no such config file: did you mean .*/run\."):
        load_config(path.with_name("rnu.yaml"))
    with pytest.raises(ConfigError, match=r"no such config file$"):
        load_config(path.parent / "none" / "run.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: {backbone: x\ndata: y", "not valid YAML: "),
        (b"a: b: c", "not valid YAML: "),
        (b"- a\n- b", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"a: b\n\xff\xfe\x00", ":2: not UTF-8 text"),
        (b"\na: !!python/object/apply:os.getcwd []", ":2: the tag 'tag:yaml.org,2002:python/"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


# Dump and hash

RICH = {
    **BASE,
    "model": {
        "backbone": {**SCRATCH, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "tokenizer": {"train": "bpe", "vocab_size": 320},
        "chat_template": "a/tëmplate.jinja",
    },
    "data": {
        "preference": ["p.jsonl", {"path": "1e5", "stride": 2}],
        "rated": [{"path": "yes", "attributes": {"clarity": "no", "null": "x: y"}}],
        "attributes": ["clarity"],
    },
    "training": {"learning_rate": 1e-7, "epochs": 0.1, "save_every": 7},
}


@pytest.mark.parametrize("values", [BASE, RICH])
def test_the_resolved_configuration_reads_back_as_itself(tmp_path, values):
    config = parse_config(values)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert again.hash == config.hash
    assert dump_config(again) == dump_config(config)


def test_what_only_keeps_the_books_does_not_change_the_hash():
    other = {
        "output.folder": "elsewhere",
        "data.workers": 3,
        "data.cache": None,
        "training.threads": 1,
        "training.accept_other_bits": True,
        "training.parallel": "sharded",
        "training.log_every": 3,
        "training.evaluate_every": 3,
        "training.save_every": 3,
        "training.keep_checkpoints": 9,
        "training.tensorboard": True,
        "training.report_to": ["wandb"],
    }
    assert {*other, "training.offload"} == set(BOOKKEEPING)
    for key, value in other.items():
        assert parse_config(values_with(key, value)).hash == parse_config(BASE).hash, key
    offloaded = values_with("training.offload", True)
    with pytest.raises(ConfigError, match="offload: of sharded weights only"):
        parse_config(offloaded)
    offloaded["training"]["parallel"] = "sharded"
    assert parse_config(offloaded).hash == parse_config(BASE).hash


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.seed", 1),
        ("training.learning_rate", 2e-5),
        ("training.diagnose_every", 5),
        ("objective.weighting", "paper"),
        ("data.preference", "other.jsonl"),
        ("data.mixing.mode", "zip"),
        ("model.layout", "padded"),
        ("model.lora", {}),
    ],
)
def test_what_decides_the_result_changes_the_hash(key, value):
    assert parse_config(values_with(key, value)).hash != parse_config(BASE).hash


def test_a_default_that_is_written_out_does_not_change_the_hash():
    values = values_with("training", {"seed": 0, "precision": "fp32"})
    assert parse_config(values).hash == parse_config(BASE).hash


def test_the_written_configuration_has_no_secrets_of_addresses():
    values = values_with("data.preference", "https://me:pa55word@host/pairs.jsonl?token=qk1234")
    values["output"]["folder"] = "runs/hf_0123456789abcdef"
    written = yaml.safe_load(dump_config(parse_config(values)))
    (source,) = written["data"]["preference"]
    assert source["path"] == "https://***@host/pairs.jsonl?token=***"
    assert written["output"]["folder"] == "runs/hf_0123456789abcdef"
