"""`smorm serve` told what it must not do: one line, the right exit code, and nothing served."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chaos.served.process import rewards_file
from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, verb
from chaos.values import OSC

_NOBODY = 65_534
"""A user who may read little: the user of the tests may be root."""
_LENGTH = rewards_file("reward")
_SECRET = "tok-81c2d4e6"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Arguments of `smorm serve`, the word that its one line must hold, and its exit codes."""

    word: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = (2,)
    prepare: Callable[[Stage, Path], object] = lambda stage, folder: None
    reward: str = _LENGTH


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Each refusal in turn."""
    listener = socket.create_server(("127.0.0.1", 0))
    refusals = [*_refusals(listener.getsockname()[1])]
    Random(f"served-safety-{seed}").shuffle(refusals)
    for index in range(count):
        refusal = refusals[index % len(refusals)]
        name = f"served_safety/{'-'.join(refusal.arguments) or refusal.word}/{index}"
        # A worker may have to start before it is known: its imports take a while.
        yield Trial(name, [Command(_act(stage, refusal))], _judge(refusal), seconds=300.0)
    listener.close()


def _act(stage: Stage, refusal: Refusal) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        refusal.prepare(stage, folder)
        arguments = list(refusal.arguments)
        if refusal.reward:
            arguments.insert(0, refusal.reward)
        if "--port" not in arguments:
            arguments += ["--port", "0"]
        verb("serve", *arguments)(folder)

    return act


def _judge(refusal: Refusal) -> Callable[[Path, Ended], Iterator[tuple[Fault, str]]]:
    def judge(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
        if ended.code not in refusal.codes:
            yield Fault.WRONG, f"exit code {ended.code}, not {refusal.codes}: {ended.output[-300:]}"
        if refusal.word.lower() not in ended.output.lower():
            yield Fault.WRONG, f"does not say {refusal.word}: {ended.output[-300:]}"
        if "serving" in ended.output and " at http" in ended.output:
            yield Fault.WRONG, "it served"
        if _SECRET in ended.output:
            yield Fault.EXECUTION, f"a token was printed: {ended.output[-300:]}"

    return judge


def _token_file(content: bytes) -> Callable[[Stage, Path], object]:
    return lambda stage, folder: (folder / "tokens").write_bytes(content)


def _unreadable(stage: Stage, folder: Path) -> None:
    (folder / "tokens").write_text(_SECRET)
    (folder / "tokens").chmod(0)
    os.chmod(folder, 0o777)
    if os.getuid() == 0:
        os.setuid(_NOBODY)


def _folder(change: Callable[[Path], object]) -> Callable[[Stage, Path], None]:
    """A copy of the model in which something is changed."""

    def prepare(stage: Stage, folder: Path) -> None:
        shutil.copytree(stage.model, folder / "model")
        change(folder / "model")

    return prepare


def _cut_weights(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def _be_a_file(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("x")


def _be_empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def _be_closed(model: Path) -> None:
    model.chmod(0)
    if os.getuid() == 0:
        os.setuid(_NOBODY)


def _refusals(taken: int) -> Iterator[Refusal]:
    tokens = ("--token-file", "tokens")
    contents = (b"", b"\n \n\t\n", b"\xff\xfe\x00", f"{_SECRET} x\n".encode(), "tökén\n".encode(),
                f"{_SECRET}\x00\n".encode(), f"{_SECRET}\x1b[2J".encode(), b"\x00" * 100,
                f"{_SECRET}\n".encode() * 300_000)  # fmt: skip
    for content in contents:
        yield Refusal("tokens", tokens, prepare=_token_file(content))
    yield Refusal("tokens", tokens)
    yield Refusal("tokens", tokens, prepare=lambda stage, folder: (folder / "tokens").mkdir())
    yield Refusal("tokens", tokens, prepare=_unreadable)
    for device in ("/dev/zero", "/dev/null", "/dev/urandom"):
        yield Refusal(device, ("--token-file", device))
    for host in ("0.0.0.0", "::", "", "192.168.0.1", "example.com"):
        yield Refusal("--token-file", ("--host", host))
    for host in ("203.0.113.7", "no-such-host.invalid", "999.1.1.1", "a" * 300, "a..b", "x y", OSC,
                 "http://localhost", "2001:db8::7", "\udcff"):  # fmt: skip
        yield Refusal("--host", ("--host", host, "--insecure"))
    yield Refusal("--port", ("--port", str(taken)))
    for port in ("-1", "65536", "abc", "1e3", ""):
        yield Refusal("--port", ("--port", port))
    for flag in ("--max-waiting", "--max-items", "--max-batch-tokens"):
        for value in ("0", "-1", "abc", "1.5", "nan"):
            yield Refusal(flag, (flag, value))
    for value in ("-1", "nan", "inf", "abc"):
        yield Refusal("--drain-seconds", ("--drain-seconds", value))
    for value in ("0", "-1", "nan", "inf", "abc"):
        yield Refusal("--batch-seconds", ("--batch-seconds", value))
    for device in ("", "bogus", "cpu,", "cpu,bogus", "cuda:99", ",,"):
        yield Refusal(
            "device", ("--device", device), (1, 2), _folder(lambda path: None), reward="model"
        )
    for flag, value in (("--dtype", "float13"), ("--max-tokens", "0"), ("--step", "7"),
                        ("--chat-template", "missing.jinja"), ("--view", "Q")):  # fmt: skip
        yield Refusal("", (flag, value), (1, 2, 3), _folder(lambda path: None), reward="model")
    yield Refusal("NAME=REWARD", (f"a={_LENGTH}", f"a={_LENGTH}"), reward="")
    yield Refusal("NAME=REWARD", (_LENGTH,))
    yield Refusal("REWARDS", (), reward="")
    for reward in ("missing", "a=missing", "function:missing.py:reward", "field:score",
                   "file:missing.jsonl", "http://127.0.0.1:9/", "=x",
                   f"a=b={_LENGTH}"):  # fmt: skip
        yield Refusal("", (), (1, 2, 3), reward=reward)
    changes: list[Callable[[Path], object]] = [_cut_weights, _be_a_file, _be_empty, _be_closed]
    changes += [
        lambda path: (path / "config.json").unlink(),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "tokenizer.json").unlink(),
        lambda path: (path / "config.json").write_text("{"),
        lambda path: (path / "smorm.json").write_text(json.dumps({"attributes": 3})),
    ]
    for change in changes:
        yield Refusal("model", (), (1, 2, 3), _folder(change), reward="model")
