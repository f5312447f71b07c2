"""What a user sees when names, keys, records or a server's answer hold escapes and secrets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.model.foreign_folders import classifier
from tests.payloads import EVERYTHING, HOSTILE, assert_harmless
from tests.report.made_up import rising, runs
from tests.rewards.reward_servers import Asked, Reply, RewardServer, counting
from tests.tiny import config_values, trained, world

# A file's name has at most 255 bytes.
NAME = "".join(text for name, text in HOSTILE.items() if name != "long").replace("/", "")
TOKEN = "q7Zt-x9wL_42aPb"


@pytest.fixture
def pairs(tmp_path):
    """A file of one pair."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "four", "rejected": "six"}) + "\n")
    return path


@pytest.fixture
def run(smorm, caplog):
    """A command line whose output and log must be harmless; gives the code and all of it."""

    def checked(*words: object) -> tuple[int, str]:
        caplog.clear()
        code, out, err = smorm(*words)
        for text in (out, err, *caplog.messages):
            assert_harmless(text, longest=4_500)
        assert "Traceback" not in err
        return code, "\n".join([out, err, *caplog.messages])

    return checked


def reward_server(status: int, content: object) -> RewardServer:
    """Our own server, which refuses to score with this answer."""

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/v1/info"):
            return Reply(content={"model": "m"})
        return Reply(status, content)

    return RewardServer(reply)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404])
def test_a_servers_answer_is_quoted_without_its_escapes_and_the_token(run, tmp_path, pairs, status):
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    answer = f"no {TOKEN}, Bearer {TOKEN}, {EVERYTHING}".encode()
    with reward_server(status, answer) as server:
        code, shown = run(
            "eval", f"{server.url}?api_key=qk-1234-5678", "--suite", f"pairs={pairs}",
            "--token-file", token_file, "-o", tmp_path / "out.json",
        )  # fmt: skip
        asked = server.posts()[0]
    assert code == 1
    assert str(status) in shown or status == 301 or "not JSON" in shown
    assert TOKEN not in shown
    assert "qk-1234" not in shown
    # Both reach the server.
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.path == "/v1/score?api_key=qk-1234-5678"


def test_neither_results_nor_pages_hold_the_key_of_an_address(run, tmp_path, pairs):
    def reply(asked: Asked) -> Reply:
        return Reply(content={"model": "m"}) if asked.method == "GET" else counting(asked)

    results, page, scores = tmp_path / "r.json", tmp_path / "page.html", tmp_path / "s.jsonl"
    with RewardServer(reply) as server:
        reward = f"{server.url}?api_key=qk-1234-5678"
        code, shown = run("eval", reward, "--suite", f"pairs={pairs}", "-o", results)
        assert code == 0, shown
        code, more = run("score", reward, "--input", pairs, "--output", scores)
        assert code == 0, more
    assert run("report", results, "-o", page, "--no-figures")[0] == 0
    for text in (shown, more, results.read_text(), page.read_text(), scores.read_text()):
        assert "qk-1234" not in text
    result = json.loads(results.read_text())
    assert result["fingerprint"]["url"] == server.url
    assert result["model"] == server.url.removeprefix("http://")


@pytest.mark.parametrize(
    "reward",
    ["http://me:pa55word@localhost:1", "ftp://me:pa55word@host", "http://me:pa55word@[::1"],
)
def test_a_password_in_an_address_is_not_repeated(run, tmp_path, pairs, reward):
    code, shown = run("eval", reward, "--suite", f"pairs={pairs}", "-o", tmp_path / "out.json")
    assert code == 2
    assert "pa55word" not in shown


def test_records_keys_and_attributes_are_named_without_their_escapes(run, tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", EVERYTHING: "more text"},
        {"prompt": "p", "response": "a", "scores": {EVERYTHING: 1.0, "fine": 2.0}},
        {"prompt": "p", "messages": [{"role": EVERYTHING, "content": "x"}]},
        {"prompt": "p", "chosen": EVERYTHING, "rejected": EVERYTHING, "margin": EVERYTHING},
    ]
    for index, row in enumerate(rows):
        path = tmp_path / f"{index}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        run("check", path, "-o", tmp_path / "found.json")
        run("score", trained(), "--input", path, "--output", tmp_path / "s.jsonl", "--skip-bad")
        run("eval", trained(), "--suite", f"pairs={path}", "-o", tmp_path / "r.json", "--skip-bad")


def test_files_are_named_without_the_escapes_of_their_names(run, tmp_path, pairs):
    hostile = shutil.copy(pairs, tmp_path / f"{NAME}.jsonl")
    assert run("check", hostile)[0] == 0
    missing = tmp_path / f"{NAME}.yaml"
    assert run("train", missing)[0] == 2
    assert run("eval", missing, "--suite", f"pairs={missing}", "-o", f"{missing}.json")[0] != 0
    assert run("card", missing, "-o", missing)[0] == 2
    run("eval", trained(), "--suite", f"pairs={hostile}", "-o", tmp_path / f"{NAME}.json")


def test_keys_and_values_of_a_configuration_are_quoted_short(run, tmp_path):
    for values in (
        config_values(tmp_path / "run") | {EVERYTHING: 1},
        config_values(tmp_path / "run", training={"seed": EVERYTHING}),
        config_values(tmp_path / "run", model={"backbone": EVERYTHING}),
        config_values(tmp_path / "run", data={"preference": EVERYTHING}),
        config_values(tmp_path / "run", objective={"kind": EVERYTHING}),
    ):
        config = tmp_path / "c.yaml"
        config.write_text(yaml.safe_dump(values))
        assert run("train", config)[0] in (1, 2, 3)
    assert run("train", config, f"{EVERYTHING}={EVERYTHING}")[0] == 2
    config.write_text("url: http://me:pa55word@h\x1b]0;x\x07")
    assert "pa55word" not in run("lab", config)[1]


def test_names_on_the_command_line_are_quoted_without_their_escapes(run, tmp_path, pairs):
    output = ("-o", tmp_path / "o.json")
    for words in (
        ("eval", trained(), "--suite", f"{EVERYTHING}={pairs}", *output),
        ("eval", trained(), "--suite", f"pairs/{EVERYTHING}={pairs}", *output),
        ("eval", f"owner/{NAME}", "--suite", f"pairs={pairs}", *output),
        ("eval", trained(), "--suite", f"pairs={pairs}", "--view", EVERYTHING, *output),
        ("check", pairs, "--format", EVERYTHING),
        ("check", pairs, f"--{NAME}"),
        ("check", pairs, "--limit", EVERYTHING),
        (EVERYTHING,),
    ):
        run(*words)


def test_labels_of_other_peoples_models_are_shown_without_their_escapes(run, tmp_path, pairs):
    folder = classifier(tmp_path / "judge", labels=(f"bad{NAME}", f"good{NAME}"))
    score = ("score", folder, "--input", pairs, "--output", tmp_path / "s.jsonl")
    assert run(*score)[0] == 2
    run(*score, "--view", json.dumps({f"good{NAME}": 1}))
    run(*score, "--view", '{"fine": 1}')


@pytest.mark.slow
def test_a_card_and_a_page_hold_no_escapes_of_names(run, tmp_path):
    folder = shutil.copytree(trained(), tmp_path / "model")
    card = json.loads((folder / "smorm.json").read_text())
    card["attributes"] = [f"{name}{EVERYTHING}" for name in card["attributes"]]
    card["hashes"] = {"data": f"{EVERYTHING} http://me:pa55word@h"}
    (folder / "smorm.json").write_text(json.dumps(card))
    measured = runs({(EVERYTHING, "M"): {EVERYTHING: rising(0.8)}}, range(2))
    results = tmp_path / "results.json"
    results.write_text(json.dumps([result.as_dict() for result in measured]))
    readme, page = tmp_path / "README.md", tmp_path / "page.html"
    assert run("card", folder, results, "-o", readme, "--name", EVERYTHING)[0] in (0, 2)
    assert run("report", results, "-o", page, "--title", EVERYTHING)[0] == 0
    written = [page.read_text()]
    if readme.exists():
        written.append(readme.read_text())
    for text in written:
        assert_harmless(text, longest=1_000_000)
        assert "pa55word" not in text


def command_line(*words: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smorm.cli.main", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("variables", {})}
    return subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, encoding="latin-1", check=False, **options
    )


def test_a_full_disk_behind_standard_output_loses_no_result(tmp_path):
    rated = world()["eval-rated-ID"]
    with open("/dev/full", "w") as full:
        done = command_line("check", rated, "-o", tmp_path / "found.json", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: standard output could not be written: No space left on device\n"
    assert json.loads((tmp_path / "found.json").read_text())["findings"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf_8_ends_nothing(tmp_path, pairs, encoding):
    path = shutil.copy(pairs, tmp_path / "päirs 中.jsonl")
    done = command_line(
        "check", path, stdout=subprocess.PIPE, variables={"PYTHONIOENCODING": encoding}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u4e2d" in done.stdout


def test_a_wrong_option_is_told_cleanly_on_any_terminal():
    done = command_line(
        "check", f"--{NAME}中", stdout=subprocess.PIPE, variables={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 2
    assert_harmless(done.stderr)
    assert "No such option" in done.stderr
