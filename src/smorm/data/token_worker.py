"""A process that tokenises: `python -m smorm.data.token_worker`, and its end in the main process.

Messages are frames of a length (8 bytes) and so many bytes. The first one is JSON and says which
tokenizer, template and limits to use; the answer proves that both processes have the same. Then
each chunk of conversations (JSON) is answered by what became of each (JSON) and all ids (int32).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from smorm import errors
from smorm.data.census import Reason
from smorm.data.encode import Encoder, Outcome
from smorm.data.records import Messages
from smorm.errors import DataError, ModelError, SmormError
from smorm.text.chat import Message, Renderer


class WorkerRefused(Exception):  # noqa: N818  (a state: the work is done in one process instead)
    """A process could not build the same tokenizer from its saved files."""


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of all that a tokenizer is: its serialized form, or the files that it saves."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest.update(backend.to_str().encode())
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def hand_over(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Save the tokenizer to a folder; returns what a worker is told first."""
    encoder.renderer.tokenizer.save_pretrained(folder)
    return {
        "tokenizer": str(folder),
        "template": encoder.renderer.chat_template,
        "max_tokens": encoder.max_tokens,
        "overlong": encoder.overlong,
        "proof": _proof(encoder.renderer),
    }


def _proof(renderer: Renderer) -> list[str]:
    return [renderer.fingerprint, tokenizer_digest(renderer.tokenizer)]


class Worker:
    """One process. It ends when `close` is called, or when this process ends in any way."""

    def __init__(self, hello: dict[str, Any]) -> None:
        search = [entry for entry in sys.path if entry]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(search),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "smorm.data.token_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C goes to this process alone, which ends the other.
            process_group=0 if os.name == "posix" else -1,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._out: Any = self._process.stdin
        self._in: Any = self._process.stdout
        self._hello = hello

    def greet(self) -> None:
        """Wait until the process is ready.

        Raises:
            WorkerRefused: its tokenizer is another one.
        """
        answer = json.loads(self._ask(json.dumps(self._hello).encode()))
        if answer["proof"] != self._hello["proof"]:
            reason = answer["reason"] or "the saved tokenizer is not the same as this one"
            raise WorkerRefused(f"a tokenising process cannot be used: {reason}")

    def encode(self, chunk: Sequence[tuple[Messages, Sequence[Messages]]]) -> list[Outcome]:
        """Outcomes of a chunk, in its order.

        Raises:
            SmormError: the process has ended.
        """
        plain = [[_plain(prompt), [_plain(one) for one in rest]] for prompt, rest in chunk]
        told = json.loads(self._ask(json.dumps(plain).encode()))
        ids = np.frombuffer(self._receive(), dtype=np.int32)
        outcomes, start = [], 0
        for counted, failure, sizes in told:
            error = None if failure is None else getattr(errors, failure[0])(failure[1])
            ends = [start, *(start + np.cumsum(sizes, dtype=np.int64)).tolist()]
            tokens = [ids[a:b] for a, b in pairwise(ends)]
            reason = None if counted is None else Reason.from_plain(counted)
            outcomes.append(Outcome(tokens, reason, error))
            start = ends[-1]
        return outcomes

    def close(self) -> None:
        """End the process at once: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        for stream in (self._out, self._in):
            with contextlib.suppress(OSError):  # what it did not read is not flushed any more
                stream.close()

    def _ask(self, content: bytes) -> bytes:
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells it better
            send(self._out, content)
        return self._receive()

    def _receive(self) -> bytes:
        content = receive(self._in)
        if content is None:
            raise SmormError(
                f"a tokenising process ended in the middle (exit code {self._process.wait()}; "
                "-9 is most often a lack of memory): lower data.workers"
            )
        return content


def send(stream: BinaryIO, content: bytes) -> None:
    """Write one frame."""
    stream.write(struct.pack("<Q", len(content)))
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one frame; None where the other side has ended."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    content = stream.read(size)
    return content if len(content) == size else None


def _plain(messages: Messages) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _messages(plain: list[list[str]]) -> Messages:
    return tuple(Message(role, content) for role, content in plain)


def _load(folder: str) -> Any:
    """The tokenizer by the class that was written down, as `load_tokenizer` does."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    values = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    complete = values.get("tokenizer_class") == "TokenizersBackend"
    return (PreTrainedTokenizerFast if complete else AutoTokenizer).from_pretrained(folder)


def _outcome(outcome: Outcome) -> list[Any]:
    error = outcome.error
    failure = None if error is None else [type(error).__name__, str(error)]
    counted = None if outcome.counted is None else outcome.counted.plain()
    return [counted, failure, [len(one) for one in outcome.tokens]]


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer frames until there are none."""
    first = receive(source)
    if first is None:
        return
    hello = json.loads(first)
    try:
        renderer = Renderer(_load(hello["tokenizer"]), hello["template"], hello["max_tokens"])
        answer: dict[str, Any] = {"proof": _proof(renderer), "reason": ""}
    except (OSError, ValueError, KeyError, TypeError, DataError, ModelError) as error:
        answer = {"proof": None, "reason": " ".join(str(error).split())}
    send(target, json.dumps(answer).encode())
    if answer["proof"] != hello["proof"]:
        return
    encoder = Encoder(renderer, hello["max_tokens"], hello["overlong"])
    while (asked := receive(source)) is not None:
        found = [
            encoder.encode(_messages(prompt), [_messages(one) for one in rest])
            for prompt, rest in json.loads(asked)
        ]
        send(target, json.dumps([_outcome(one) for one in found]).encode())
        send(target, b"".join(tokens.tobytes() for one in found for tokens in one.tokens))


def main() -> None:
    """Serve over the pipes. Ctrl-C is the main process's to answer: it ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not end up between two frames.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, target)


if __name__ == "__main__":
    main()
