"""An arm in a process of its own, as its users have it.

Two arms in one process share a heap: after a baseline has freed gigabytes, smorm's tensors lie
scattered over them and out of the caches. That cost it a tenth of its speed, and no user has it. So
each arm is built and run in a child of this process, which waits while the other one works; it
times itself, and answers each round with one line of JSON."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.measure import Arm, RoundOutcome, timed_round

Report = Callable[[], dict[str, Any]]
# Gives an arm, and what it reports once all rounds are done.
Build = Callable[[], tuple[Arm, Report]]


@dataclass(slots=True)
class ForkedArm:
    """A child process that runs one arm.

    Args:
        build: called in the child."""

    name: str
    build: Build
    values: list[Any] = field(default_factory=list)
    _child: int = 0
    _streams: tuple[Any, ...] = ()

    def __enter__(self) -> ForkedArm:
        request_out, request_in = os.pipe()
        answer_out, answer_in = os.pipe()
        # What is buffered would be written twice, by the parent and by the child.
        sys.stdout.flush()
        sys.stderr.flush()
        # A fork is safe: torch has started no thread, since everything runs with one.
        self._child = os.fork()
        if self._child == 0:
            # With these open the child would never see that its parent has closed its end.
            os.close(request_in)
            os.close(answer_out)
            _serve(self.build, os.fdopen(request_out), os.fdopen(answer_in, "w"))
        os.close(request_out)
        os.close(answer_in)
        self._streams = (os.fdopen(request_in, "w"), os.fdopen(answer_out))
        return self

    def arm(self) -> Arm:
        """Rounds of the child; `values` collects what they return, warm-up included."""

        def run(round_: int) -> RoundOutcome:
            outcome = RoundOutcome(**self._request(str(round_)))
            self.values.append(outcome.values)
            return outcome

        return Arm(self.name, run)

    def finish(self) -> dict[str, Any]:
        """End the child; returns its report."""
        return self._request("end")

    def _request(self, line: str) -> dict[str, Any]:
        """Raises RuntimeError, with the child's traceback, where it failed."""
        # A child that has failed reads no more, but its last answer is still in the pipe.
        with suppress(BrokenPipeError):
            self._streams[0].write(line + "\n")
            self._streams[0].flush()
        answer: dict[str, Any] = json.loads(
            self._streams[1].readline() or '{"failed": "the process died"}'
        )
        if "failed" in answer:
            raise RuntimeError(f"{self.name}: {answer['failed']}")
        return answer

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            with suppress(BrokenPipeError):
                stream.close()
        os.waitpid(self._child, 0)


def _serve(build: Build, requests: Any, answers: Any) -> None:
    """The child: build, answer, leave without the parent's clean-up."""
    # Give the parent's freed memory back first. What a child writes into it is copied page by page,
    # which no training process of a user has to do and which cost smorm a third of its speed.
    with suppress(AttributeError, OSError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        arm, report = build()
        for line in requests:
            if line == "end\n":
                _answer(answers, report())
                break
            outcome, cpu, wall = timed_round(arm, int(line))
            _answer(answers, asdict(replace(outcome, cpu=cpu, wall=wall)))
    except BaseException:
        _answer(answers, {"failed": traceback.format_exc()[-2000:]})
    finally:
        # The parent's exit handlers and temporary folders are not the child's to run or remove.
        os._exit(0)


def _answer(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
