"""The processes that train one model together: who they are, and how they agree.

All that is said among them goes through one kind of message, `Ranks.gather`: before tensors are
summed, every rank says that it is well. So one that failed, or was asked to stop, is heard by all
others at the next message, whatever they are about to do, and no rank waits for one that left."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import orjson
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from smorm.config import Config
from smorm.errors import ConfigError, Interrupted, OtherRankError, SmormError, first_line
from smorm.model.device import pick_device
from smorm.printing import get_logger
from smorm.stopping import defer, handled

log = get_logger(__name__)

# A dead process closes its connections, which is seen at once; rank 0 may tokenise for hours.
TIMEOUT = timedelta(hours=12)
_MEETING_SECONDS, _POLL_SECONDS = 1800.0, 0.02
_ROUND = "smorm-round"  # a key of the store
_MESSAGE = 4096  # bytes of a message; a longer one is sent in a second round
_LENGTH = 8  # bytes of its length
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Abandoned(Exception):  # noqa: N818  (a state, not an error)
    """A stop was requested in the middle of a step; nothing of the step was applied."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a training: its `rank` of `world`, and among those on its machine
    `local_rank` of `local_world`. `sharded`: each holds a part of the weights, and all compute in
    step, so that none may leave in the middle of one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the log and the folder."""
        return self.rank == 0

    def gather(self, value: Any = None) -> list[Any]:
        """JSON-like values of all ranks, by rank. Raises what another rank is told to have become
        of it: `OtherRankError`, or `Abandoned`; `OtherRankError` too where one is gone."""
        if self.world == 1:
            return [value]
        return self._exchange({"value": value})

    def abandon(self) -> None:
        """Say that this rank abandons the step, and raise `Abandoned` here as on all others."""
        if self.world > 1:
            self._exchange({"abandoned": True})
        raise Abandoned

    def tell(self, error: BaseException) -> None:
        """Let the others know, at their next message, that this rank failed."""
        # In the middle of passes that all compute together, the others see the connection close.
        if self.world == 1 or getattr(error, "between_messages", False):
            return
        report = {"text": str(error) or type(error).__name__, "code": _exit_code(error)}
        with handled():
            defer()
            try:
                self._exchange({"failed": report})
            except OtherRankError as answer:
                if answer.lost:
                    return
            except Abandoned:
                pass
        # The first rank has heard of it, and says it.
        if isinstance(error, SmormError):
            error.said_elsewhere = not self.is_first

    def sum(self, tensor: torch.Tensor) -> None:
        """Add up a tensor over all ranks, in place; `gather` comes before it."""
        if self.world > 1:
            with _lost_ranks():
                dist.all_reduce(tensor)

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """Around what sharded ranks compute together: an error in it cannot be told."""
        try:
            yield
        except Exception as error:
            if self.sharded:
                error.between_messages = True  # type: ignore[attr-defined]
            raise

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Let one process of each machine do this block before the others do."""
        if self.local_rank > 0:
            self.gather()
        yield
        if self.local_rank == 0:
            self.gather()

    def _exchange(self, message: Mapping[str, Any]) -> list[Any]:
        with _lost_ranks():
            answers = [
                orjson.loads(text) for text in _all_gather(orjson.dumps(message), self.world)
            ]
        for rank, answer in enumerate(answers):
            if "failed" in answer and rank != self.rank:
                failed = answer["failed"]
                raise OtherRankError(
                    f"rank {rank}: {failed['text']}", failed["code"], said=not self.is_first
                )
        if any("abandoned" in answer for answer in answers):
            raise Abandoned
        return [answer.get("value") for answer in answers]


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks that this process belongs to, within `joined`; else it is alone."""
    return _current


def world_size() -> int:
    """How many processes torchrun started, or a group that exists already has."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE") or 1)


def was_restarted() -> bool:
    """Whether torchrun starts these processes again, after one of them ended."""
    return world_size() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Ranks]:
    """Meet the other processes of this training, if there are any, until the end of the block. An
    error here is told to them. Other ranks than 0 log nothing but errors."""
    global _current
    if world_size() == 1 and config.training.parallel != "sharded":
        yield ALONE
        return
    ours = not dist.is_initialized()
    ranks = _join(config) if ours else _as_joined(config)
    before, logger = _current, logging.getLogger("smorm")
    level = logger.level
    _current = ranks
    if not ranks.is_first:
        logger.setLevel(logging.ERROR)
    log.info("rank 0 of %d, %s", ranks.world, "sharded" if ranks.sharded else "replicated")
    try:
        yield ranks
    except OtherRankError:
        raise
    except Interrupted as state:
        state.said_elsewhere = not ranks.is_first
        raise
    except BaseException as error:
        # Sharded ranks exchange tensors in the middle of passes too.
        if shows_lost_rank(error):
            raise _lost_rank() from error
        ranks.tell(error)
        raise
    finally:
        _current = before
        logger.setLevel(level)
        if ours:
            dist.destroy_process_group()


def _join(config: Config) -> Ranks:
    """Start the process group from torchrun's environment."""
    world, sharded = world_size(), config.training.parallel == "sharded"
    device = pick_device(config.training.device, "training.device")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if world == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        return Ranks(sharded=sharded)
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {world}, and {', '.join(missing)} not set: start it with torchrun"
        )
    ranks = _ranks_of_environment(sharded=sharded)
    if device.type == "cuda":
        _take_device(device, ranks)
    try:
        store, rank, _ = next(rendezvous("env://"))
        store = fresh_part(store, rank, world)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the {world} processes do not meet: {first_line(error)}") from error
    return ranks


def fresh_part(store: Store, rank: int, world: int) -> Store:
    """A part of the store in which nothing is left of processes that torchrun has started anew.

    torchrun keeps one store for all attempts, and gloo would read the addresses of dead processes
    there. The first rank draws a name for the round; every other one answers with its word, and
    goes in once the first one has repeated it, which that of an earlier attempt cannot."""
    word = secrets.token_hex(8)
    if rank == 0:
        store.set(_ROUND, word)
        answers = [f"{_ROUND}/{word}/{number}" for number in range(1, world)]
        _wait_until(lambda: not answers or store.check(answers))
        words = [store.get(answer).decode() for answer in answers]
        store.set(f"{_ROUND}/{word}", " ".join(["", *words]))
        return PrefixStore(word, store)
    name = ""

    def is_in() -> bool:
        nonlocal name
        if not store.check([_ROUND]):
            return False
        latest = store.get(_ROUND).decode()
        if latest != name:
            name = latest
            store.set(f"{_ROUND}/{name}/{rank}", word)
        if not store.check([f"{_ROUND}/{name}"]):
            return False
        return word in store.get(f"{_ROUND}/{name}").decode().split()

    _wait_until(is_in)
    return PrefixStore(name, store)


def _wait_until(condition: Callable[[], bool]) -> None:
    # In Python, and not in the store: a stop signal ends it.
    deadline = time.monotonic() + _MEETING_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("one of them has not come")
        time.sleep(_POLL_SECONDS)


def _as_joined(config: Config) -> Ranks:
    """Of a process group that whoever called `train` has started."""
    ranks = _ranks_of_environment(sharded=config.training.parallel == "sharded")
    return replace(ranks, rank=dist.get_rank(), world=dist.get_world_size())


def _ranks_of_environment(*, sharded: bool) -> Ranks:
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, world, local_rank, local_world = (
        int(os.environ.get(name, default)) for name, default in defaults.items()
    )
    return Ranks(rank, world, local_rank, local_world, sharded)


def _take_device(device: torch.device, ranks: Ranks) -> None:
    """One device for each rank of a machine."""
    count = torch.cuda.device_count()
    if ":" in str(device):
        raise ConfigError(f"training.device: {device}: each rank takes its own: name cuda or auto")
    if ranks.local_world > count:
        problem = f"{ranks.local_world} ranks on a machine with {count} devices"
        raise ConfigError(f"{problem}: torchrun --nproc-per-node {count}, or training.device=cpu")
    torch.cuda.set_device(ranks.local_rank)


def _all_gather(message: bytes, world: int) -> list[bytes]:
    """A message of every rank, by rank. Of fixed size, so that ranks with different things to say
    still meet in one operation."""
    head = len(message).to_bytes(_LENGTH, "little") + message[: _MESSAGE - _LENGTH]
    heads = _all_gather_bytes(head, _MESSAGE, world)
    lengths = [int.from_bytes(answer[:_LENGTH], "little") for answer in heads]
    longest = max(lengths)
    if longest > _MESSAGE - _LENGTH:
        texts = _all_gather_bytes(message, longest, world)
        return [answer[:length] for answer, length in zip(texts, lengths, strict=True)]
    return [answer[_LENGTH : _LENGTH + n] for answer, n in zip(heads, lengths, strict=True)]


def _all_gather_bytes(content: bytes, size: int, world: int) -> list[bytes]:
    message = torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
    answers = [torch.empty(size, dtype=torch.uint8) for _ in range(world)]
    dist.all_gather(answers, message)
    return [answer.numpy().tobytes() for answer in answers]


@contextlib.contextmanager
def _lost_ranks() -> Iterator[None]:
    """What the process group raises where a rank is gone, as one line."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors too
        raise _lost_rank() from error


def _lost_rank() -> OtherRankError:
    return OtherRankError(
        "another rank ended without a word (killed, or out of memory): --resume goes on from the "
        "newest checkpoint, as torchrun --max-restarts does by itself",
        lost=True,
    )


def shows_lost_rank(error: BaseException) -> bool:
    """Whether an error says that another process of the training is gone."""
    if isinstance(error, OtherRankError):
        return error.lost
    # gloo's errors have no type of their own; they begin with the place in its source.
    from_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)[:200]
    return from_gloo or isinstance(error, dist.DistError)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    return error.exit_code if isinstance(error, SmormError) else 1
