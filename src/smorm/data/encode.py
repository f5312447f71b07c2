"""A record becomes token ids here, in this process or in a program of its own that is started as
`python -m smorm.data.encode`: nothing of the main process is copied by a fork, no script is
imported again, nothing is unpickled."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from smorm import errors, files
from smorm.arrays import Tokens
from smorm.data.census import Census, Defect, DropReason, Reason
from smorm.data.records import Messages
from smorm.errors import DataError, ModelError, OverLimitError, SmormError
from smorm.stopping import blocked
from smorm.terminal import run_clean
from smorm.text.chat import Message, Renderer
from smorm.text.limits import Overlong, fit
from smorm.text.tokenizers import load_tokenizer

Conversation = tuple[Messages, Sequence[Messages]]
"""A prompt and its responses."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record: the tokens of each response (none when it was dropped), why it was
    dropped or shortened and what the template does not write of it (`counted`), and what stopped it
    (`error`)."""

    tokens: list[Tokens]
    counted: tuple[Reason, ...] = ()
    error: SmormError | None = None

    def resolve(
        self, where: str, census: Census, on_bad_record: Literal["stop", "skip"]
    ) -> list[Tokens]:
        """The tokens, if any; what happened to the record at `where` is counted. An error is
        raised, but for a `DataError` with `on_bad_record="skip"`."""
        if isinstance(self.error, DataError):
            if on_bad_record == "stop":
                raise DataError(f"{where}: {self.error}".removeprefix(": ")) from self.error
            defect = Defect.NOT_RENDERED
            if isinstance(self.error, OverLimitError):
                defect = Defect.OVER_LIMIT
            census.add(DropReason.BAD_RECORD, where, detail=defect)
        elif self.error is not None:
            raise self.error
        for reason in self.counted:
            census.add(reason.kind, where, detail=reason.detail)
        return self.tokens


@dataclass(frozen=True, slots=True)
class Encoder:
    """Renders records, each conversation within `max_tokens`; `overlong` says what becomes of a
    longer one. A pure function: which process calls it makes no difference."""

    renderer: Renderer
    max_tokens: int
    overlong: Overlong

    def encode(self, prompt: Messages, responses: Sequence[Messages]) -> Outcome:
        """Tokens of each `prompt + response`."""
        # The error is a value: in another process it could not be raised where the record stands.
        try:
            fitted = fit(self.renderer, prompt, responses, self.max_tokens, self.overlong)
        except (DataError, ModelError) as error:
            return Outcome([], error=error)
        if fitted.tokens is None:
            return Outcome([], (Reason(DropReason.DROPPED, str(fitted.dropped)),))
        tokens = [np.asarray(ids, dtype=np.int32) for ids in fitted.tokens]
        counted = tuple(map(Reason, fitted.changes))
        if fitted.truncated:
            counted += (Reason(DropReason.SHORTENED),)
        return Outcome(tokens, counted)


class WorkerRefused(Exception):  # noqa: N818  (a state: the work is done in one process instead)
    """A process could not build the same tokenizer from its saved files."""


class Worker:
    """One other process. It ends when `close` is called, or when this process ends in any way."""

    def __init__(self, hello: dict[str, Any]) -> None:
        environment = {
            **os.environ,
            # the same modules as here; `-P` keeps the current folder out
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # one core each: the processes are the parallelism
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        # Signals are the main process's to answer, also while this one still imports: it ends with
        # its pipes.
        with blocked():
            self._process: Any = subprocess.Popen(
                [sys.executable, "-P", "-m", "smorm.data.encode"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        self._hello = hello

    def greet(self) -> None:
        """Wait until the process is ready; `WorkerRefused` where its tokenizer is another one."""
        answer = json.loads(self._exchange(json.dumps(self._hello).encode()))
        # a tokenizer with code of its own may not survive saving and loading
        if answer["proof"] != self._hello["proof"]:
            reason = answer["reason"] or "the saved tokenizer is not the same as this one"
            raise WorkerRefused(f"a tokenising process cannot be used: {reason}")

    def encode(self, chunk: Sequence[Conversation]) -> list[Outcome]:
        """Outcomes of a chunk, in its order; `SmormError` where the process has ended."""
        # json, not orjson: a text may hold lone surrogates, which only its escapes carry
        facts = json.loads(self._exchange(json.dumps(chunk, default=_message_values).encode()))
        # the ids in one piece: as JSON they would cost more than the tokenising
        ids = np.frombuffer(self._receive(), dtype=np.int32)
        outcomes = []
        for counted, failure, sizes in facts:
            tokens = []
            for size in sizes:
                tokens.append(ids[:size])
                ids = ids[size:]
            error = None
            if failure is not None:
                name, message = failure
                error = getattr(errors, name)(message)
            outcomes.append(Outcome(tokens, tuple(map(Reason.from_plain, counted)), error))
        return outcomes

    def close(self) -> None:
        """End the process at once: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it did not read cannot be flushed any more
                stream.close()

    def _exchange(self, content: bytes) -> bytes:
        # the missing answer gives the better error
        with contextlib.suppress(BrokenPipeError):
            _write_frame(self._process.stdin, content)
        return self._receive()

    def _receive(self) -> bytes:
        content = _read_frame(self._process.stdout)
        if content is None:
            code = f"exit code {self._process.wait()}; -9 is most often a lack of memory"
            problem = f"a tokenising process ended in the middle ({code})"
            raise SmormError(f"{problem}: lower data.workers")
        return content


_message_values = attrgetter(*(field.name for field in dataclasses.fields(Message)))


# Both sides talk over pipes in frames, each a length (8 bytes) and as many bytes. The first is JSON
# and names the tokenizer, the template and the limits; its answer proves that both sides have the
# same. After that each chunk of conversations (JSON) is answered by what became of each (JSON) and
# all ids (int32).


def _write_frame(stream: BinaryIO, content: bytes) -> None:
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def _read_frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    content = stream.read(size)
    if len(head) < 8 or len(content) < size:
        return None
    return content


def hello_of(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """The first message to a worker; its tokenizer is saved to the folder."""
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


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of all that a tokenizer is: its serialised form, or the files that it saves."""
    # saved files of one tokenizer can differ in order and in versions that they name
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    digest = hashlib.sha256()
    with files.scratch_folder("smorm-tokenizer") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """The work of the other process: answer frames until there are none."""

    # the main process may have ended before it sent anything
    first = _read_frame(source)
    if first is None:
        return
    hello = json.loads(first)
    answer: dict[str, Any] = {"proof": None, "reason": ""}
    # Whatever goes wrong is sent back: the main process then does the work itself.
    try:
        # The main process has saved it, and has had it tried when it was loaded there.
        tokenizer = load_tokenizer(hello["tokenizer"], tried=True)
        renderer = Renderer(tokenizer, hello["template"], hello["max_tokens"])
        answer["proof"] = _proof(renderer)
    except (OSError, ValueError, KeyError, TypeError, DataError, ModelError) as error:
        answer["reason"] = " ".join(str(error).split())
    _write_frame(target, json.dumps(answer).encode())
    if answer["proof"] != hello["proof"]:
        return
    encoder = Encoder(renderer, hello["max_tokens"], hello["overlong"])
    while (chunk := _read_frame(source)) is not None:
        # ids are joined as bytes while the chunk is encoded: no list of arrays is copied at the end
        facts: list[Any] = []
        ids = bytearray()
        for prompt, responses in json.loads(chunk):
            outcome = encoder.encode(_messages(prompt), list(map(_messages, responses)))
            # all of an outcome but its ids: what is counted, the error, and how many ids each has
            counted = [reason.plain() for reason in outcome.counted]
            failure = None
            if outcome.error is not None:
                failure = [type(outcome.error).__name__, str(outcome.error)]
            facts.append([counted, failure, list(map(len, outcome.tokens))])
            for tokens in outcome.tokens:
                ids += tokens.tobytes()
        _write_frame(target, json.dumps(facts).encode())
        _write_frame(target, bytes(ids))


def _messages(values: list[list[Any]]) -> Messages:
    return tuple(Message(*fields) for fields in values)


def main() -> None:
    """Serve over the pipes."""
    # Whatever a library prints must not end up between two frames: the pipe gets another number,
    # and number 1 goes where errors go.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def work() -> int:
        serve(sys.stdin.buffer, target)
        return 0

    with contextlib.suppress(BrokenPipeError):
        run_clean(work)


if __name__ == "__main__":
    main()
