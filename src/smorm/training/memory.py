"""`max_batch_tokens: auto`: the largest micro-batch that fits the memory that may be used.

A step needs what is in use before it, gradients and AdamW's moments, and, while one micro-batch is
computed, a constant and a share per token: measured by forward and backward at two sizes, on the
longest training records. On CUDA the allocator counts, on a CPU `LiveBytes`."""

import contextlib
import ctypes
import gc
import heapq
import itertools
import os
import re
import resource
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from smorm.arrays import Tokens
from smorm.config.strict_yaml import read_yaml
from smorm.errors import ConfigError
from smorm.model.network import Batch, RewardNetwork
from smorm.printing import get_logger
from smorm.training.distributed.tensors import own_part
from smorm.training.optim import moment_bytes
from smorm.training.setup import Prepared
from smorm.training.sources import TokenSet

log = get_logger(__name__)

LONGEST = 16
"""So many of the longest records are what is measured."""
PROBE = (512, 1024)
"""Tokens of the two micro-batches that are measured (at least; a sequence is never cut), on CUDA
the first two."""
RESERVE = {"cpu": 0.45, "cuda": 0.1}
"""Share of a micro-batch's bytes that is added for what the count cannot see: buffers inside an
operator, and freed memory in pieces that the next tensor does not fit (glibc's of tensors below
32 MB are up to half as much again)."""
FREE_SHARE = 0.8
"""Without `memory_budget`: this share of what is free when the run starts may be used."""
# On a CPU larger micro-batches are no faster: 2,048 tokens are within a few per cent of best.
CPU_MOST, CUDA_MOST = 4096, 65_536
FEWEST = 64
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
Unit = Sequence[Tokens]  # what stays in one forward pass


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Bytes of a training step: `base` before it, `state` (gradients and moments), and
    `constant + per_token x tokens` while a micro-batch is computed, and a `reserve` share of it."""

    base: int
    state: int
    constant: float
    per_token: float
    reserve: float = RESERVE["cuda"]

    def of(self, tokens: int) -> int:
        """Bytes with micro-batches of so many tokens."""
        batch = (self.constant + self.per_token * tokens) * (1 + self.reserve)
        return int(self.base + self.state + batch)


def resolve_splitting(prepared: Prepared, *, resume: bool) -> Prepared:
    """The same with numbers in place of `max_batch_tokens: auto` and `step_parts: auto`. A resumed
    run takes those of its beginning: others would split the steps in another way and change the
    last bits, and what dropout drops."""
    training, ranks = prepared.config.training, prepared.ranks
    recorded: Mapping[str, Any] = {}
    if resume:
        with contextlib.suppress(OSError, ConfigError, KeyError, TypeError):
            recorded = read_yaml(prepared.config.output.folder / "config.yaml")["training"]
    # Read by all before the first rank writes it again.
    ranks.gather()
    changes: dict[str, Any] = {}
    if training.step_parts == "auto":
        # It is not written where it is 1.
        changes["step_parts"] = recorded.get("step_parts", 1) if recorded else ranks.world
    if training.max_batch_tokens == "auto":
        tokens = recorded.get("max_batch_tokens")
        if isinstance(tokens, int):
            log.info("max_batch_tokens: auto is %d, as when this run began", tokens)
        else:
            tokens = _choose(prepared)
        changes["max_batch_tokens"] = tokens
    training = training.model_copy(update=changes)
    return replace(prepared, config=prepared.config.model_copy(update={"training": training}))


def _choose(prepared: Prepared) -> int:
    network, training = prepared.network, prepared.config.training
    units = longest_units(prepared.train)
    half = training.precision == "bf16"
    ranks = prepared.ranks

    def measure_at(sizes: tuple[int, int]) -> MemoryModel | None:
        model = None
        try:
            model = measure(network, units, half=half, optimizer=training.optimizer, sizes=sizes)
        except torch.OutOfMemoryError:
            # Sharded ranks are in the middle of an exchange: none of them can go on.
            if sizes == PROBE or ranks.sharded:
                raise
        return model if all(ranks.gather(model is not None)) else None

    model = measure_at(PROBE)
    assert model is not None
    if training.memory_budget is not None:
        budget = parse_bytes(training.memory_budget)
    else:
        free = free_bytes(network.device)
        if network.device.type == "cpu":  # the ranks of a machine share its memory
            free //= prepared.ranks.local_world
        budget = model.base + int(FREE_SHARE * free)
    # The ranks may have devices of different sizes, and measure together.
    tokens, model = settle(
        model, budget, network.device, measure_at, lambda tokens: min(ranks.gather(tokens))
    )
    log.info(
        "max_batch_tokens: auto is %d: a step takes about %s of %s (%s before it, %s gradients and "
        "moments, %.0f kB a token)",
        tokens, in_words(model.of(tokens)), in_words(budget), in_words(model.base),
        in_words(model.state), model.per_token * (1 + model.reserve) / 1e3,
    )  # fmt: skip
    # A pair is never split, whatever the budget.
    longest = max(network.arrange(unit).num_tokens for unit in units)
    if longest > tokens:
        log.warning(
            "the longest record has %d tokens, more than max_batch_tokens: it is a batch by itself "
            "and takes about %s", longest, in_words(model.of(longest)),
        )  # fmt: skip
    return tokens


def settle(
    model: MemoryModel,
    budget: int,
    device: torch.device,
    measure_at: Callable[[tuple[int, int]], MemoryModel | None],
    agree: Callable[[int], int],
) -> tuple[int, MemoryModel]:
    """The largest micro-batch by the model of `PROBE`, and by models of larger sizes on CUDA.

    The peak of a micro-batch is the largest of several moments, each a constant and a share per
    token. So a line through two sizes is never below it between them, but may be beyond. On CUDA
    sizes grow until what fits lies between two. `measure_at` gives the model of two sizes, None
    where the larger one did not fit."""
    largest = PROBE[1]
    tokens = agree(largest_batch(model, budget, device))
    # On a CPU a micro-batch is at most four times what was measured, and measuring takes seconds.
    while device.type == "cuda" and tokens > largest:
        larger = min(tokens, 2 * largest)
        grown = measure_at((largest, larger))
        if grown is None:
            return largest, model
        model, largest = grown, larger
        tokens = agree(largest_batch(model, budget, device))
    return tokens, model


def longest_units(data: TokenSet) -> list[list[Tokens]]:
    """The longest training records, each as what stays in one forward pass, longest first."""
    pairs = ([pair.chosen, pair.rejected] for pair in data.pairs)
    units = itertools.chain(pairs, ([response.tokens] for response in data.rated))
    return heapq.nlargest(LONGEST, units, key=lambda unit: max(map(len, unit)))


def largest_batch(model: MemoryModel, budget: int, device: torch.device) -> int:
    """Tokens that fit, at most what is of use, rounded down by up to an eighth to be steady."""
    for_batch = (budget - model.base - model.state) / (1 + model.reserve) - model.constant
    fit = int(for_batch // model.per_token)
    if fit < FEWEST:
        raise ConfigError(
            f"training.memory_budget: {in_words(budget)} do not hold a micro-batch of {FEWEST} "
            f"tokens, which needs {in_words(model.of(FEWEST))}: give more, or use "
            "gradient_checkpointing, LoRA, or a smaller backbone"
        )
    # A power of two of at most an eighth of it.
    step = max(8, 1 << (fit.bit_length() - 4))
    most = CPU_MOST if device.type == "cpu" else CUDA_MOST
    return min(fit // step * step, most)


def parse_bytes(text: str) -> int:
    """`8GB`, `8 GiB`, `500MB` or plain bytes as a number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS or float(match[1]) <= 0:
        raise ConfigError(f"training.memory_budget: {text!r}: expected e.g. 8GB, 7.5GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def in_words(count: float) -> str:
    """Bytes for the log: `1.25 GB`."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def measure(
    network: RewardNetwork,
    units: Sequence[Unit],
    *,
    half: bool,
    optimizer: str = "adamw",
    sizes: tuple[int, int] = PROBE,
) -> MemoryModel:
    """Measure what a training step of this network needs, by two small ones (`half`: in bf16). Give
    the longest units: some attention kernels need more for longer sequences."""
    device = network.device
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # Weights that are offloaded have their gradients and moments beside them, on the host.
    tensors = (own_part(parameter) for parameter in trained)
    held = [tensor for tensor in tensors if tensor.device.type == device.type]
    gradients = sum(tensor.nbytes for tensor in held)
    # The network is measured between preparing and training: its gradients must be as before.
    before = [parameter.grad for parameter in trained]
    small, large = (probe_batch(network, units, tokens) for tokens in sizes)
    # Of long records one alone may be more than both sizes.
    if large.num_tokens == small.num_tokens:
        large = probe_batch(network, units, small.num_tokens + 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # The first run makes the gradients, and loads what libraries load late.
        _run(network, small, half)
        base = _bytes_in_use(device) - gradients
        small_peak, large_peak = _peak(network, small, half), _peak(network, large, half)
    for parameter, gradient in zip(trained, before, strict=True):
        parameter.grad = gradient
    per_token = (large_peak - small_peak) / (large.num_tokens - small.num_tokens)
    # A line through two points; noise may give it a negative constant.
    constant = max(0.0, small_peak - per_token * small.num_tokens)
    reserve = RESERVE.get(device.type, RESERVE["cuda"])
    state = gradients + moment_bytes(held, optimizer)
    return MemoryModel(base, state, constant, max(1.0, per_token), reserve)


def probe_batch(network: RewardNetwork, units: Sequence[Unit], tokens: int) -> Batch:
    vocabulary = int(network.backbone.get_input_embeddings().weight.shape[0])
    sequences: list[Tokens] = []
    for turn, unit in enumerate(itertools.cycle(units)):
        for sequence in unit:
            # The first token decides whether a prefix is shared at all.
            changed = sequence.copy()
            changed[0] = turn % vocabulary
            sequences.append(changed)
        batch = network.arrange(sequences)
        if batch.num_tokens >= tokens:
            return batch
    raise AssertionError("no records")


def _run(network: RewardNetwork, batch: Batch, half: bool) -> None:
    with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=half):
        scores = network(batch)
    scores.square().mean().backward()


def _peak(network: RewardNetwork, batch: Batch, half: bool) -> int:
    """Most bytes alive at once during forward and backward, beyond what was alive before."""
    gc.collect()  # earlier garbage must not end within the count
    device = network.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _run(network, batch, half)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with LiveBytes() as live:
        _run(network, batch, half)
    return int(live.peak)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators made and that are still alive; `peak` is the most.
    A storage counts once; what was alive before, or is used within an operator, does not."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        new = [storage for storage in _storages(out) if storage._cdata not in self._alive]
        if new:
            inputs = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in new:
                if storage._cdata not in inputs and storage._cdata not in self._alive:
                    self._follow(storage)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def freed(_: Any) -> None:
            self.live -= size
            self._alive.pop(key, None)

        # A weak reference dies with the storage, not with one of the tensors that are views of it.
        self._alive[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Of the tensors among an operator's arguments or results, which may be in lists. Every
    operator of a step comes here: torch's own walk through any tree takes several times as long."""
    if isinstance(tree, torch.Tensor):
        return [tree.untyped_storage()]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [storage for entry in tree for storage in _storages(entry)]


def _bytes_in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    # The heap returns what it can, so that free memory in it is not counted as used (glibc only).
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    return resident_bytes()


def resident_bytes() -> int:
    """What this process holds in memory (RSS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # not Linux: the most that it ever held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: torch.device) -> int:
    """What may still be allocated: on CUDA of the device, else of the machine or its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    # Where it is not known (not Linux), half of the machine's memory is assumed to be in use.
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError):
        text = Path("/proc/meminfo").read_text("ascii")
        if match := re.search(r"MemAvailable:\s+(\d+) kB", text):
            free = int(match[1]) * 1024
    groups = Path("/sys/fs/cgroup")
    for limit, usage in (
        (groups / "memory.max", groups / "memory.current"),  # version 2 of control groups, then 1
        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes"),
    ):
        # A limit may be the word `max`: there is none.
        with contextlib.suppress(OSError, ValueError):
            room = int(limit.read_text("ascii")) - int(usage.read_text("ascii"))
            free = min(free, max(0, room))
    return free
