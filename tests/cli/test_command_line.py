"""The command line as a user meets it: verbs, bad input, exit codes, one clear line each."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from smorm.cli.verbs import VERBS
from tests.processes import Command, Setting, run
from tests.tiny import config_values, trained, world

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def write_config(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def error_of(err: str) -> str:
    """The one line that says what is wrong."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def test_help_takes_less_than_half_a_second():
    best = min(_seconds([sys.executable, "-m", "smorm.cli.main", "--help"]) for _ in range(3))
    assert best < 0.5


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    return time.perf_counter() - start


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_explains_itself(smorm, verb):
    code, out, _ = smorm(verb, "--help")
    assert code == 0
    assert "Usage:" in out
    assert "--output" in out or verb in ("train", "serve")


def test_train_score_eval_export_and_report_follow_each_other(smorm, tmp_path):
    config = write_config(tmp_path / "c.yaml", config_values(tmp_path / "run"))
    assert smorm("train", config, "training.max_steps=3")[0] == 0
    model = tmp_path / "run" / "model"
    pairs = world()["eval-pairs-ID"]
    assert smorm("score", model, "--input", pairs, "--output", tmp_path / "scores.jsonl")[0] == 0
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 60
    code, out, _ = smorm(
        "eval", model, "--suite", f"pairs/ID={pairs}", "--suite",
        f"rated/ID={world()['eval-rated-ID']}", "--view", "F", "--view", "M", "--output",
        tmp_path / "results.json",
    )  # fmt: skip
    assert code == 0
    assert "longest" in out
    kinds = [one["kind"] for one in json.loads((tmp_path / "results.json").read_text())]
    assert kinds == ["eval", "eval", "eval", "difference"]  # M − F
    assert smorm("export", model, "--view", "M", "--output", tmp_path / "plain")[0] == 0
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    code, _, _ = smorm("report", tmp_path / "results.json", "--output", tmp_path / "page.html")
    assert code == 0
    assert "<html" in (tmp_path / "page.html").read_text()
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["training"]["max_steps"] == 3


def test_an_unknown_config_key_names_the_nearest_one(smorm, tmp_path):
    values = config_values(tmp_path / "run")
    values["training"]["learning_rat"] = 1e-3
    code, _, err = smorm("train", write_config(tmp_path / "c.yaml", values))
    assert code == 2
    assert "unknown key training.learning_rat: did you mean training.learning_rate?" in error_of(
        err
    )


def test_a_missing_config_and_a_missing_data_file_are_named(smorm, tmp_path):
    code, _, err = smorm("train", tmp_path / "none.yaml")
    assert (code, "no such config file" in error_of(err)) == (2, True)
    values = config_values(tmp_path / "run", data={"rated": str(tmp_path / "none.jsonl")})
    code, _, err = smorm("train", write_config(tmp_path / "c.yaml", values))
    assert (code, "none.jsonl" in error_of(err)) == (3, True)


GOOD = {"prompt": "p", "response": "r", "scores": {"style": 1.0}}
BAD_RATED = {
    "a broken line": ("{broken", ":7: "),
    "a rating that is text": (json.dumps({**GOOD, "scores": {"style": "high"}}), "style"),
    "NaN": ('{"prompt": "p", "response": "r", "scores": {"style": NaN}}', ":7: "),
    "an empty response": (json.dumps({**GOOD, "response": ""}), "response"),
    "a prompt longer than the limit": (
        json.dumps({**GOOD, "prompt": "word " * 400}),
        "the limit is 256",
    ),
}


@pytest.mark.parametrize("name", list(BAD_RATED))
def test_a_bad_record_stops_with_its_line_and_skip_counts_it(smorm, tmp_path, name):
    bad, said = BAD_RATED[name]
    good = [
        json.dumps({**GOOD, "response": f"answer {i}", "scores": {"style": i}}) for i in range(12)
    ]
    path = tmp_path / "rated.jsonl"
    path.write_text("\n".join([*good[:6], bad, *good[6:]]) + "\n")
    values = config_values(tmp_path / "run", data={"rated": str(path)})
    config = write_config(tmp_path / "c.yaml", values)
    code, _, err = smorm("train", config)
    assert code == 3
    line = error_of(err)
    assert "rated.jsonl:7: " in line
    assert said in line
    assert not (tmp_path / "run" / "model").exists()
    overlong = ["data.overlong=drop"] if "limit" in said else ["data.on_bad_record=skip"]
    assert smorm("train", config, "training.max_steps=2", *overlong)[0] == 0
    counted = json.loads((tmp_path / "run" / "data.json").read_text())
    assert counted["rated"] == 12
    # Beside what is not read of the pairs.
    left_out = {text: kind for text, kind in counted["counted"].items() if "not read" not in text}
    assert sum(kind["count"] for kind in left_out.values()) == 1


def test_a_model_folder_without_its_head_is_refused(smorm, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(trained(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "manifest.json").unlink()
    code, _, err = smorm(
        "score", folder, "--input", world()["eval-pairs-ID"], "--output", tmp_path / "out"
    )
    assert code == 2
    assert "no score head (score.weight)" in error_of(err)
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_file_is_named(smorm, tmp_path):
    folder = shutil.copytree(trained(), tmp_path / "model")
    _flip(folder / "model.safetensors")
    code, _, err = smorm(
        "eval", folder, "--suite", f"pairs={world()['eval-pairs-ID']}", "--output", tmp_path / "o"
    )
    assert code == 2
    assert "model.safetensors: its SHA-256 differs" in error_of(err)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_checkpoint_with_a_flipped_byte_is_passed_over_and_told(smorm, tmp_path, caplog):
    values = config_values(tmp_path / "run", training={"save_every": 2, "keep_checkpoints": 3})
    config = write_config(tmp_path / "c.yaml", values)
    assert smorm("train", config)[0] == 0
    expected = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == 3
    _flip(checkpoints[-1] / "weights.safetensors")
    caplog.set_level(logging.INFO)
    assert smorm("train", config, "--resume")[0] == 0
    assert "it is damaged. Trying the one before it." in caplog.text
    assert "resumed after step 4" in caplog.text
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == expected
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        _flip(checkpoint / "weights.safetensors")
    code, _, err = smorm("train", config, "--resume")
    assert code == 2
    assert "no checkpoint in" in error_of(err)


def test_a_backbone_that_is_not_there_is_named(smorm, tmp_path):
    values = config_values(tmp_path / "run", model={"backbone": str(tmp_path / "none")})
    code, _, err = smorm("train", write_config(tmp_path / "c.yaml", values))
    assert code == 2
    assert error_of(err).endswith(f"{tmp_path / 'none'}: no such folder")


def test_on_a_terminal_a_bar_shows_loss_speed_and_time_left_within_80_columns(tmp_path):
    config = write_config(tmp_path / "c.yaml", config_values(tmp_path / "run"))
    setting = Setting(variables={"TERM": "xterm", "COLUMNS": "80"})
    terminal, inside = pty.openpty()
    with Command("train", config, setting=setting, terminal=inside) as command:
        shown = b""
        with contextlib.suppress(OSError):  # a terminal whose last process left gives EIO
            while part := os.read(terminal, 4096):
                shown += part
        assert command.wait() == 0
    os.close(terminal)
    typed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    last = [line for line in re.split(r"[\r\n]", typed) if "6/6" in line][-1]
    assert len(last) <= 80
    assert re.search(r"6/6 loss \d\.\d+ acc \d\.\d+ mse \d\.\d+ [\d,]+ tok/s 0:00:00", last)


def test_a_run_is_not_overwritten(smorm, tmp_path):
    config = write_config(tmp_path / "c.yaml", config_values(tmp_path / "run"))
    assert smorm("train", config, "training.max_steps=2")[0] == 0
    code, _, err = smorm("train", config, "training.max_steps=2")
    assert code == 2
    assert "--resume" in error_of(err)


SCORE = ["score", "MODEL", "--input", "x.jsonl", "--output", "OUT"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SCORE, "--view", "Q"], "--view Q"),
        (SCORE, "x.jsonl"),
        (["score", "nowhere", "--input", "x.jsonl", "--output", "OUT"], "nowhere"),
        (["eval", "MODEL", "--suite", "what=x", "--output", "OUT"], "suite 'what'"),
        (["export", "MODEL", "--output", "OUT"], "--view or --all-rows"),
        (["report", "x.json", "--output", "OUT"], "x.json"),
        ([*SCORE, "--device", "cuda:99"], "device: 'cuda:99' cannot be used"),
        ([*SCORE, "--device", "nonsense"], "device: 'nonsense' cannot be used"),
    ],
)
def test_nonsense_is_answered_with_one_line(smorm, tmp_path, words, said):
    places = {"MODEL": str(trained()), "OUT": str(tmp_path / "out")}
    code, _, err = smorm(*(places.get(word, word) for word in words))
    assert code in (2, 3)
    assert said in error_of(err)
    assert not (tmp_path / "out").exists()


def test_unknown_verbs_and_options_are_usage_errors(smorm):
    assert smorm("tarin")[0] == 2
    assert smorm("train")[0] == 2
    assert smorm("score", "x", "--no-such-option")[0] == 2
    assert (
        "'--max-batch-tokens': Input should be greater"
        in smorm(*SCORE, "--max-batch-tokens", "0")[2]
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_writes_a_checkpoint_and_exits_130(tmp_path, number):
    values = config_values(tmp_path / "run", training={"max_steps": 2000, "log_every": 1})
    config = write_config(tmp_path / "c.yaml", values)
    with Command("train", config) as command:
        for line in command.stderr:
            if line.startswith("step 3/"):
                break
        command.send_signal(number)
        rest = command.stderr.read()
        assert command.wait() == 130
    assert "go on with --resume" in rest
    assert "Traceback" not in rest
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


@pytest.mark.slow
def test_a_full_disk_during_a_save_is_told_and_loses_nothing(smorm, tmp_path):
    """A real limit of the operating system on the size of files, set in a real process."""
    values = config_values(tmp_path / "run", training={"save_every": 2})
    config = write_config(tmp_path / "c.yaml", values)
    assert smorm("train", config, "training.max_steps=3")[0] == 0
    before = sorted((tmp_path / "run" / "checkpoints").rglob("*"))
    shutil.rmtree(tmp_path / "run" / "model")
    limited = Setting(largest_file=100_000)
    code, err = run("train", config, "training.max_steps=3", "--resume", setting=limited)
    assert code == 1
    line = error_of(err)
    assert "could not be written" in line
    assert str(tmp_path / "run" / "model") in line
    assert "/." not in line
    assert sorted((tmp_path / "run" / "checkpoints").rglob("*")) == before
    assert not (tmp_path / "run" / "model").exists()
    assert smorm("train", config, "training.max_steps=3", "--resume")[0] == 0
