"""A worker: the process that holds the weights of one device, and our end of its pipe.

The pipe carries JSON, so nothing is unpickled. A worker answers one request at a time; it may fail,
stall, or end at any moment, which is an error of its own for each, and can be started again."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from smorm.arrays import Floats
from smorm.errors import ConfigError, NonFiniteScoreError, SmormError, first_line
from smorm.printing import get_logger
from smorm.processes import end_with_parent, worker_context
from smorm.serving.settings import ServeOptions

if TYPE_CHECKING:
    from smorm.rewards.protocol import Reward

log = get_logger(__name__)

START_SECONDS = 600.0
# What a worker imports: on Linux without CUDA once, in the process that all are forks of. Without
# the modules that loading any model imports, a worker that is started again would take 5 seconds.
_PRELOADED = (
    "smorm.serving.worker",
    "smorm.rewards.model",
    "smorm.rewards.function",
    "smorm.text.sandbox",
    "transformers.quantizers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
)
_END_SECONDS = 5.0


class WorkerError(Exception):
    """A batch got no scores."""

    # Whether it lies in a batch's own content, so that parts of it may have scores.
    divisible = True


class BatchError(WorkerError):
    """The worker refused the batch, and goes on."""


class NonFiniteError(WorkerError):
    """A score is NaN or infinite."""


class WorkerEndedError(WorkerError):
    """The process ended, as it does where memory is short."""


class WorkerStalledError(WorkerError):
    """The process did not answer in time, and was ended."""

    divisible = False  # each part might take as long again


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Rows [N, C] of each unit; the tokens of all sequences, and how many of them were computed:
    the others are shared. Both are 0 for a reward without token ids."""

    rows: list[Floats]
    tokens: int = 0
    computed: int = 0


class Worker:
    """Our end of a worker's pipe. Its methods block: they are called from threads."""

    def __init__(self, options: ServeOptions, device: str) -> None:
        self.options, self.device = options, device
        self.facts: dict[str, dict[str, Any]] = {}
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False
        # `close` may come from another thread while one is in `start`.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process, and wait for its rewards; SmormError where they do not load, and after
        `close`."""
        context = worker_context(*_PRELOADED)
        with self._lock:
            if self._closed:
                raise SmormError(f"the worker of {self.device} is not started any more")
            self._end()
            ours, theirs = context.Pipe()
            values = orjson.dumps(asdict(self.options))
            process = context.Process(
                target=serve_rewards, args=(theirs, values, self.device), daemon=True
            )
            process.start()
            theirs.close()
            _limit_waits(ours, self.options.limits.batch_seconds)
            self._process, self._pipe = process, ours
        try:
            answer = self._answer(START_SECONDS)
        except WorkerError as error:
            raise SmormError(f"the worker of {self.device} did not start: {error}") from error
        if "error" in answer:
            raise SmormError(answer["error"])
        self.facts = answer["ready"]

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def score(self, name: str, batch: Sequence[Any], seconds: float) -> ScoredBatch:
        """Score each unit of a batch: token ids, or items as JSON; `WorkerError`."""
        if self._pipe is None:
            raise WorkerEndedError("the worker is not running")
        request = {"name": name, "batch": batch}
        try:
            self._pipe.send_bytes(orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY))
        except BlockingIOError:
            raise self._stalled(seconds) from None
        except OSError as error:
            raise WorkerEndedError("the worker has ended") from error
        answer = self._answer(seconds)
        if "error" in answer:
            kind = NonFiniteError if answer["kind"] == "non_finite" else BatchError
            raise kind(answer["error"])
        rows = [np.array(values, dtype=np.float64) for values in answer["rows"]]
        # JSON has no NaN: it arrives as null, which NumPy reads as NaN.
        if not all(np.isfinite(values).all() for values in rows):
            raise NonFiniteError("a score is not finite")
        if len(rows) != len(batch):
            raise BatchError(f"{len(rows)} results for {len(batch)} units")
        return ScoredBatch(rows, answer["tokens"], answer["computed"])

    def stop(self) -> None:
        """End the process, whatever it does, and all that it started."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """As `stop`, and for good."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is not None:
            # Before its group exists there is nothing in it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join(_END_SECONDS)
        # Last: a thread that waits for an answer must read its end, not another file's content.
        if pipe is not None:
            pipe.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        pipe = self._pipe
        if pipe is None:
            raise WorkerEndedError("the worker was ended")
        until = time.monotonic() + seconds
        try:
            while not pipe.poll(min(1.0, max(0.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    raise self._stalled(seconds)
                if not self.alive:
                    raise WorkerEndedError("the worker has ended")
            answer: dict[str, Any] = orjson.loads(pipe.recv_bytes())
        except BlockingIOError:
            raise self._stalled(seconds) from None
        except (EOFError, OSError) as error:
            raise WorkerEndedError("the worker has ended") from error
        return answer

    def _stalled(self, seconds: float) -> WorkerStalledError:
        self.stop()
        return WorkerStalledError(f"no answer within {seconds:g} s")


def _limit_waits(pipe: Connection, seconds: float) -> None:
    """Let no read or write of a pipe take longer (BlockingIOError): a process that was stopped
    reads nothing, and the half of a message may be all that it wrote."""
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(pipe.fileno())) as our_end:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            our_end.setsockopt(socket.SOL_SOCKET, option, limit)


def serve_rewards(pipe: Connection, values: bytes, device: str) -> None:
    """The process's whole life: load the rewards, then answer batches until the pipe is closed."""
    end_with_parent()
    # A group of its own: what a function has started is ended with it.
    os.setpgid(0, 0)
    # A terminal sends Ctrl-C to every process of the group; the server decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    options = orjson.loads(values)
    try:
        rewards = _load(options, device)
        ready = {name: _facts(reward, options["dtype"]) for name, reward in rewards.items()}
    except Exception as error:
        pipe.send_bytes(orjson.dumps({"error": first_line(error)}))
        return
    pipe.send_bytes(orjson.dumps({"ready": ready}, option=orjson.OPT_SERIALIZE_NUMPY))
    budget = int(options["max_batch_tokens"])
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = orjson.loads(pipe.recv_bytes())
            answer = _score(rewards[request["name"]], request["batch"], budget)
            pipe.send_bytes(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


def _load(options: Mapping[str, Any], device: str) -> dict[str, Reward]:
    from smorm.config import parse_section
    from smorm.rewards.protocol import ScoringOptions, open_reward
    from smorm.rewards.section import RewardSection

    scoring = ScoringOptions(
        device=device,
        max_batch_tokens=options["max_batch_tokens"],
        dtype=options["dtype"],
        max_tokens=options["max_tokens"],
        chat_template=options["chat_template"],
    )
    rewards = {}
    for name, values in options["sections"].items():
        reward = open_reward(parse_section(RewardSection, values, name), scoring)
        if not reward.reads_text:
            raise ConfigError(f"{name}: reads scores from files: it has none for a new answer")
        rewards[name] = reward
    return rewards


def _facts(reward: Reward, dtype: str) -> dict[str, Any]:
    """What the server must know of a reward, as JSON."""
    from smorm.rewards.model import ModelReward

    facts: dict[str, Any] = {"kind": reward.kind, "provenance": reward.provenance}
    if isinstance(reward, ModelReward):
        model = reward.model
        facts |= {
            "card": model.card.as_dict(),
            "tokenizer": str(model.tokenizer.name_or_path),
            "renderer": model.renderer.fingerprint,
            "layout": str(model.network.layout),
            "dtype": dtype,
            "view": reward.default_view,
        }
    return facts


def _score(reward: Reward, batch: list[Any], budget: int) -> dict[str, Any]:
    try:
        return _rows(reward, batch, budget)
    except NonFiniteScoreError as error:
        return {"error": first_line(error), "kind": "non_finite"}
    except Exception as error:  # whatever a model or a user's function raises
        return {"error": first_line(error), "kind": type(error).__name__}


def _rows(reward: Reward, batch: list[Any], budget: int) -> dict[str, Any]:
    from smorm.model.inference import score_units
    from smorm.rewards.model import ModelReward
    from smorm.rewards.protocol import score_each
    from smorm.serving.served import item_of
    from smorm.trees.forest import forest_rows

    if isinstance(reward, ModelReward):
        units = [[np.asarray(ids, dtype=np.int32) for ids in unit] for unit in batch]
        network = reward.model.network
        rows = list(score_units(network, units, budget))
        sequences = list(itertools.chain.from_iterable(units))
        tokens = sum(map(len, sequences))
        computed = forest_rows(sequences) if network.layout == "forest" else tokens
        return {"rows": rows, "tokens": tokens, "computed": computed}
    read = reward.view().read
    results = score_each(reward, [item_of(values) for values in batch])
    rows = [read(result.rows)[:, None] for result in results]
    return {"rows": rows, "tokens": 0, "computed": 0}
