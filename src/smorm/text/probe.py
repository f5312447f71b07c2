"""What an untrusted folder brings is tried before it is used, where it can do no harm: in a process
of its own, under limits on processor time and memory (`smorm.text.probed` is its program).

A chat template, a regular expression or a normalizer is somebody else's program, and a single line
of it can take hours or all memory. It is tried once: what has passed is known by its content for as
long as this process lives. The first measure is processor time, so that a busy machine refuses
nothing. `smorm.text.sandbox` bounds templates where they run, for texts that no trial thinks of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from smorm import limits
from smorm.errors import ConfigError, UnboundedError
from smorm.model_files import refuse_irregular
from smorm.text import probed

_TOKENIZER_FILES = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "tokenizer.model", *probed.CONFIG_FILES,
)  # fmt: skip
_LIMITS = (
    "added_tokens", "conversation_bytes", "probe_bytes", "probe_seconds", "template_bytes",
    "token_characters", "token_growth",
)  # fmt: skip
# Times the limit on processor time: how long a probe may take in all.
_PATIENCE = 30
_passed: set[str] = set()


class Probe:
    """A trial under way. `wait` gives its verdict; leaving the context ends the trial.

    It runs beside this process, so it is started before what takes time anyway: importing
    transformers takes longer. A bare interpreter (a tenth of a second of a core) and no fork of
    this process: threads (of torch, of a server) do not survive a fork, and CUDA neither.
    """

    def __init__(self, request: dict[str, Any], content: bytes, named: str) -> None:
        """`content` decides the verdict; `named` begins an error."""
        self.named = named
        self.process: subprocess.Popen[bytes] | None = None
        bounds = {name: limits.limit(name) for name in _LIMITS}
        self._seconds = bounds["probe_seconds"]
        decisive = json.dumps(bounds).encode() + content
        self._key = hashlib.sha256(decisive).hexdigest()
        if self._key in _passed:
            return
        environment = {
            **os.environ,
            # The same modules as here.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TOKENIZERS_PARALLELISM": "false",
            "RAYON_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            # `-S`: what is installed is found by the path; `-P` keeps the current folder out.
            [sys.executable, "-S", "-P", "-m", probed.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            # Ctrl-C goes to this process alone, which ends that one.
            process_group=0 if os.name == "posix" else -1,
        )
        assert self.process.stdin is not None
        request = {**request, "limits": bounds, "parent": os.getpid()}
        # What ended it at once is told by `wait`.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode())
            self.process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        # `communicate` would flush it.
        self.process.stdin = None

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self.process
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def wait(self) -> None:
        """Return once all is tried; `UnboundedError`, which names the part, where one takes too
        much."""
        if self.process is None:
            return
        patience = _PATIENCE * self._seconds
        try:
            output, _ = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        component, answer = _last(output)
        if answer is not None and answer.get("done"):
            _passed.add(self._key)
            return
        reason = _reason(answer, self.process.returncode, patience)
        raise UnboundedError(f"{self.named}: {component}: {reason}".replace(": : ", ": "))


def _last(output: bytes) -> tuple[str, dict[str, Any] | None]:
    """The part that was tried last, and the answer at the end, where there is one."""
    component, answer = "", None
    # A last line that was cut off says nothing.
    for line in output.split(b"\n")[:-1]:
        said = json.loads(line)
        if "part" in said:
            component = said["part"]
        else:
            answer = said
    return component, answer


def _reason(answer: dict[str, Any] | None, code: int, patience: int) -> str:
    """What is wrong, of the last answer of a trial or the way it ended."""
    if answer is not None and "failure" in answer:
        return f"fails on a text: {answer['failure']}"
    if answer is not None:
        name, amount = answer["limit"], answer["amount"]
        if name == "probe_bytes":
            return f"takes too much memory: {limits.refusal(name)}"
        if name == "conversation_bytes":
            return f"makes too much text of a short conversation: {limits.refusal(name)}"
        return limits.refusal(name, amount)
    if code == -signal.SIGXCPU:
        return f"takes too long: {limits.refusal('probe_seconds')}"
    if code == -signal.SIGABRT:
        return f"takes too much memory: {limits.refusal('probe_bytes')}"
    if code == -signal.SIGKILL:
        return f"gave no answer within {patience} seconds, or was killed for its memory"
    return f"cannot be tried: the process that tries it ended with code {code}"


def start_folder(folder: Path) -> Probe:
    """Begin to try a folder's tokenizer and chat templates. `UnboundedError`: a file is larger than
    its limit; `ModelError`: it is no regular file."""
    digest = hashlib.sha256()
    for file in _files(folder):
        digest.update(f"{file.name}\0".encode() + _read(file))
    return Probe({"folder": str(folder)}, digest.digest(), str(folder))


def refuse_template(source: str, named: str) -> None:
    """`ConfigError`, which begins with what `named` it, for a template that takes too much."""
    request = {"template": source, "part": "chat template"}
    try:
        with Probe(request, source.encode("utf-8", "replace"), named) as probe:
            probe.wait()
    except UnboundedError as error:
        raise ConfigError(str(error)) from error


def refuse_patterns(file: Path, patterns: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """`UnboundedError` where matching the names of modules with one of the patterns (regular
    expressions, each after the key that holds it) takes too long."""
    if not patterns:
        return
    request = {"patterns": list(patterns), "names": list(names)}
    with Probe(request, json.dumps(request).encode(), str(file)) as probe:
        probe.wait()


def _files(folder: Path) -> Iterator[Path]:
    """The files of a tokenizer and its templates that a folder has."""
    for name in (*_TOKENIZER_FILES, *probed.TEMPLATE_FILES):
        # A broken link is not there for the loader either.
        if (folder / name).exists():
            yield folder / name
    yield from sorted((folder / probed.MORE_TEMPLATES).glob("*.jinja"))


def _read(file: Path) -> bytes:
    """The content of a file that is not over its limit."""
    refuse_irregular(file)
    name = "template_bytes" if file.suffix == ".jinja" else "tokenizer_bytes"
    return limits.read_limited(file, name, UnboundedError)
