"""What a folder brings is tried in a process of its own: what takes too much is refused by the name
of its part, honest folders pass, and no process is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chaos.templates import (
    BODIES,
    CONDITIONS,
    FILES,
    PIPELINES,
    hostile_pipeline,
    hostile_template,
    write_hostile_file,
)
from smorm import limits
from smorm.errors import ConfigError, ModelError, UnboundedError
from smorm.text import probe, probed
from smorm.text.tokenizers import load_tokenizer, read_template
from smorm.world import backbone_path

from .styles import STYLES, build
from .test_law import TEMPLATES

BOUNDS = {name: about.default for name, about in limits.LIMITS.items()}
SLOW = hostile_template(BODIES["nested ranges"])
LARGE = hostile_template(BODIES["a repeated text"])


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_PROBE_SECONDS", "1")
    monkeypatch.setenv("SMORM_LIMIT_PROBE_BYTES", "512MiB")


def saved_style(folder: Path, style: str = "chatml") -> Path:
    build(style).save_pretrained(folder)
    return folder


def change_json(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_a_hostile_tokenizer_is_refused_by_its_file(tmp_path: Path, name: str) -> None:
    folder = saved_style(tmp_path)
    change_json(folder / "tokenizer.json", lambda saved: hostile_pipeline(name, saved))
    with pytest.raises(
        UnboundedError, match=r": tokenizer\.json: (fails on a text: Onig|.*raises it$)"
    ):
        load_tokenizer(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "condition"),
    [
        ("nested ranges", "always"), ("a repeated text", "the tool role"),
        ("written ranges", "a long message"), ("a macro that doubles", "tools"),
        ("a doubled text", "a text"),
    ],
)  # fmt: skip
def test_a_hostile_template_is_refused_before_it_is_used(
    tmp_path: Path, body: str, condition: str
) -> None:
    folder = saved_style(tmp_path)
    source = hostile_template(BODIES[body], CONDITIONS[condition])
    (folder / "chat_template.jinja").write_text(source)
    with pytest.raises(UnboundedError, match=r"chat_template\.jinja: .*SMORM_LIMIT_\w+ raises it$"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("place", ["tokenizer_config.json", "smorm.json", "list", "additional"])
def test_a_template_is_found_wherever_a_folder_holds_one(tmp_path: Path, place: str) -> None:
    folder = saved_style(tmp_path)
    value: Any = LARGE
    file = folder / ("smorm.json" if place == "smorm.json" else "tokenizer_config.json")
    if place == "list":
        value = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": LARGE}]
    if place == "additional":
        file = folder / "additional_chat_templates" / "tool_use.jinja"
        file.parent.mkdir()
        file.write_text(LARGE)
    else:
        saved = json.loads(file.read_bytes()) if file.exists() else {}
        file.write_text(json.dumps({**saved, "chat_template": value}))
    with pytest.raises(UnboundedError, match=f"{file.name}.*takes too much memory: over"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_an_end_or_of_a_vast_size_is_not_read(tmp_path: Path, kind: str) -> None:
    folder = saved_style(tmp_path)
    write_hostile_file(folder, kind)
    with pytest.raises(ModelError, match=r"not a regular file|SMORM_LIMIT_\w+ raises it$"):
        load_tokenizer(str(folder))


def test_a_template_that_is_named_is_tried_too(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(LARGE)
    with pytest.raises(
        ConfigError, match=r"^--chat-template: .*own\.jinja: chat template: takes too much"
    ):
        read_template(file, "--chat-template")
    with pytest.raises(ConfigError, match="SMORM_LIMIT_TEMPLATE_BYTES raises it"):
        read_template(Path("/dev/zero"), "--chat-template")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEMPLATES if "training" not in name])
def test_an_honest_template_passes_well_within_the_limits(name: str) -> None:
    started = time.process_time()
    probed.try_template(TEMPLATES[name].read_text(encoding="utf-8"), BOUNDS)
    assert time.process_time() - started < BOUNDS["probe_seconds"] / 5


@pytest.mark.parametrize("style", STYLES)
def test_an_honest_tokenizer_passes_once(tmp_path: Path, style: str) -> None:
    folder = saved_style(tmp_path, style)
    load_tokenizer(str(folder))
    with probe.start_folder(folder) as known:
        assert known.process is None
    # Other content is tried again.
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with probe.start_folder(folder) as unknown:
        assert unknown.process is not None
        unknown.wait()


# What well-known tokenizers have: GPT-2's, Llama 3's, Qwen's, o200k's pattern, NFKC, long prefixes.
PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_patterns_of_well_known_tokenizers_pass(tmp_path: Path, pattern: str) -> None:
    saved = json.loads(build("chatml").backend_tokenizer.to_str())
    saved["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    saved["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(saved))
    started = time.process_time()
    probed.try_tokenizer(file, BOUNDS)
    assert time.process_time() - started < BOUNDS["probe_seconds"] / 5


def test_the_backbone_that_smorm_ships_passes() -> None:
    with probe.start_folder(backbone_path()) as trial:
        trial.wait()


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"model": 5}', "[" * 100_000, '{"normalizer": {"type": "Replace"}}']
)
def test_what_is_no_tokenizer_is_left_to_the_loader(tmp_path: Path, damage: str) -> None:
    folder = saved_style(tmp_path)
    (folder / "tokenizer.json").write_text(damage)
    with probe.start_folder(folder) as trial:
        trial.wait()


def test_a_trial_ends_where_its_context_is_left() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        probe.Probe({"template": SLOW, "part": "x"}, os.urandom(8), "x") as trial,
    ):
        raise KeyboardInterrupt
    assert trial.process is not None
    assert trial.process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit on time ends it")
def test_a_trial_ends_with_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMORM_LIMIT_PROBE_SECONDS", "60")
    code = (
        "from smorm.text import probe; "
        f"trial = probe.Probe({{'template': {SLOW!r}, 'part': 'x'}}, b'', 'x'); "
        "print(trial.process.pid, flush=True); trial.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        trial = int(parent.stdout.readline())
        # Once it is bound to its parent it says what it tries; before that it asks for it.
        time.sleep(0.1)
        parent.kill()
    deadline = time.monotonic() + 20
    while is_running(trial) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(trial)


def is_running(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False
