"""YAML without its surprises: what is refused, what is text, and bombs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from smorm.config import load_config, parse_config
from smorm.config.strict_yaml import parse_override, read_yaml
from smorm.errors import ConfigError

# 747 bytes that would write out to 9**9 texts.
BOMB = "a0: &a0 x\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)  # fmt: skip
CONFIG = "model: {backbone: b}\ndata: {preference: p, rated: r}\noutput: {folder: out}\n"


def read(tmp_path: Path, content: str | bytes) -> Any:
    path = tmp_path / "run.yaml"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return read_yaml(path)


def told(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    message = str(caught.value).removeprefix(str(tmp_path / "run.yaml"))
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    return message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: 2\n\na: 3\n", ":4: the key 'a' stands twice, in lines 1 and 4"),
        ("a: {b: 1, b: 2}", ":1: the key 'b' stands twice, in lines 1 and 1"),
        ("seed: 010", ":1: '010' is an octal number to YAML: leave out its first 0, or"),
        ("a: [1, -07]", ":1: '-07' is an octal number"),
        ("time: 1:30:00", ":1: '1:30:00' is a number in base 60 to YAML: put it in quotes"),
        ("time: 1:30.5", ":1: '1:30.5' is a number in base 60"),
        ("a: .inf", ":1: '.inf', expected a finite number"),
        ("a: -.INF", "expected a finite number"),
        ("a: .nan", "expected a finite number"),
        ("a: 1.0e+400", ":1: '1.0e+400', expected a finite number"),
        ("a: " + "9" * 5000, ":1: 5,000 digits, over the limit of 400 digits a number; SMORM_"),
        ("a: !!python/name:os.system x", ":1: the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("a: !!binary aGk=", ":1: the tag 'tag:yaml.org,2002:binary': tags are not read"),
        ("a: !!int '010'", ": tags are not read"),
        ("? [a, b]\n: 1", ":1: a list or an object cannot be a key"),
        ("a: 1\n---\nb: 2", ": not valid YAML: expected a single document"),
        ("a:\n\t- b", ": not valid YAML: "),
        (b"a: \x00", ": not valid YAML: unacceptable character #x0000"),
        (b"\x89PNG\r\n\x1a\n\xff", ":1: not UTF-8 text"),
        ("a: &x [*x]", ":1: an alias stands inside of what it stands for"),
        ("a: *none", ": not valid YAML: found undefined alias"),
        ("[" * 101 + "]" * 101, ":1: 101 levels, over the limit of 100 levels; SMORM_LIMIT_DEPTH"),
        ("[" * 5000 + "]" * 5000, ": not valid YAML: over the limit of 100 levels; SMORM_LIMIT_D"),
        ("a: " + "x" * (300 << 10), ": over the limit of 256 KiB a config; SMORM_LIMIT_CONFIG_B"),
        (BOMB, ":6: with its aliases written out 66,430 values, over the limit of 50,000 values"),
    ],
    ids=range(25),
)
def test_what_is_refused(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert expected in told(tmp_path, content)


def test_levels_behind_aliases_count(tmp_path: Path) -> None:
    chain = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
    assert "over the limit of 100 levels" in told(tmp_path, chain)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("---\n", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: [yes, No, on, OFF, y]", {"a": ["yes", "No", "on", "OFF", "y"]}),
        ("no: 1", {"no": 1}),
        ("a: [true, False, null, ~]", {"a": [True, False, None, None]}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: '010'", {"a": "010"}),
        ("a: [0, 0x10, 1_000, -3, 1.5, 1.0e-5, 1e5]", {"a": [0, 16, 1000, -3, 1.5, 1e-5, "1e5"]}),
        ("a: =", {"a": "="}),
        ("d: &d {x: 1, y: 2}\ne: {<<: *d, y: 3}", {"d": {"x": 1, "y": 2}, "e": {"x": 1, "y": 3}}),
        ("a: exp # a comment", {"a": "exp"}),
    ],
)
def test_what_is_read(tmp_path: Path, content: str, value: Any) -> None:
    assert read(tmp_path, content) == value


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    shared = ["yes", "010", "1:30", "2024-01-01", "#3", 1e-7, 1e30, None, True, "ä", ""]
    value = {"a": shared, "b": shared, "off": {"x": {}}}
    assert read(tmp_path, yaml.safe_dump(value, allow_unicode=True)) == value


def test_an_endless_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: over the limit of 256 KiB a config"):
        load_config("/dev/zero")


def test_words_for_true_and_false_keep_their_meaning_where_one_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG + "training: {tensorboard: yes}\n")
    config = load_config(path, ["model.freeze=off", "data.preference={path: no, booleans: on}"])
    assert config.training.tensorboard is True
    assert config.model.freeze is False
    assert (config.data.preference[0].path, config.data.preference[0].booleans) == ("no", True)
    backbone = "model={backbone: {architecture: llama, tie_word_embeddings: no}, tokenizer: t}"
    built = load_config(path, [backbone]).model.backbone
    assert not isinstance(built, str)
    assert built.fields() == {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("exp #3", "exp #3"),
        ("#3", "#3"),
        ("a #b #c ", "a #b #c"),
        ("'exp #3'", "exp #3"),
        ("exp#3", "exp#3"),
        ("[a, 'b #c']", ["a", "b #c"]),
        ("", None),
        ("yes", "yes"),
        ("5 ", 5),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_an_override_keeps_all_of_its_text(text: str, value: Any) -> None:
    assert parse_override(text) == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("output.folder=[a] #b", "' #' for a comment: put the text in quotes"),
        ("output.folder='a' #b", "' #' for a comment"),
        ("training.seed=010", "octal"),
        ("data.max_tokens=1:30", "base 60"),
        ("output.folder=*a", "not valid YAML"),
        ("output.folder=!!binary aGk=", "tags are not read"),
        ("training.seed=" + "9" * 5000, "5,000 digits, over the limit"),
        ("data.rated=" + "[" * 5000, "not valid YAML"),
        ("data={rated: x, rated: y}", "stands twice"),
        ("x" * 20_000 + "=1", "unknown key xxx"),
        (".".join("a" * 5000) + "=1", "over the limit of 100 levels"),
        ("output.folder=" + "x" * (1 << 20), "over the limit of 256 KiB a config"),
    ],
)
def test_an_override_that_is_refused(tmp_path: Path, override: str, expected: str) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.yaml", [override])
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.learning_rate", 1e30, "1e+30, expected a number of at most 1e+12"),
        ("training.batch_size", 10**30, "expected a number of at most 1e+12"),
        ("training.seed", 10**30, "expected a number of at most 9.22337e+18"),
        ("training.betas", [0.9, 1e30], "at most 1e+12"),
        ("training.weight_decay", float("inf"), "finite number"),
        ("training.epochs", float("nan"), ""),
        ("data.max_tokens", 10**9, "1,000,000,000 tokens, over the limit of 16,777,216 tokens a"),
        ("data.max_tokens", 0, "greater than or equal to 8, got 0"),
        ("data.max_tokens", -1, "greater than or equal to 8, got -1"),
        ("data.mixing", {"rated_per_pair": 1e30}, "at most 1e+12"),
        ("objective", {"weight": 1e300}, "at most 1e+12"),
        ("output.folder", ["x" * 50_000], "not a valid path"),
    ],
)
def test_a_number_without_sense_is_refused(key: str, value: Any, expected: str) -> None:
    section, _, name = key.partition(".")
    values: dict[str, Any] = {
        "model": {"backbone": "b"}, "data": {"preference": "p", "rated": "r"},
        "output": {"folder": "out"},
    }  # fmt: skip
    if name:
        values.setdefault(section, {})[name] = value
    else:
        values[section] = value
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_bombs_take_little_memory_and_time(tmp_path: Path) -> None:
    lines = f"[{', '.join(['x'] * 80_000)}]"
    contents = [BOMB, f"a: {lines}", "x" * 260_000, "'" + "x " * 120_000]
    pieces = ("[", "{a: ", "- ", "a: ", "&a ", "? ", "a: &a\n ", "# \n")
    contents += [piece * (250_000 // len(piece)) for piece in pieces]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.yaml").write_text(content)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from smorm.config import load_config\n"
        "from smorm.errors import ConfigError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_config(Path(path))\n"
        "        print('accepted')\n"
        "    except ConfigError:\n"
        "        pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    began = time.monotonic()
    paths = [str(tmp_path / f"{number}.yaml") for number in range(len(contents))]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (kilobytes,) = run.stdout.split()
    assert int(kilobytes) < 300_000
    assert time.monotonic() - began < 60
