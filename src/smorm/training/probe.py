"""The bytes that a training step needs, measured, and those that are there to be had.

A step needs what is there before it (on a CPU the process with its data; on CUDA the weights),
gradients and AdamW's moments, and then, while one micro-batch is computed, a constant and a share
per token: activations, temporaries, the gradient of one parameter at a time. The two last are found
by running forward and backward at two sizes, on the longest sequences of the training data and with
the network as it will be trained, and counting the bytes that are alive.

On CUDA the allocator counts. On a CPU every tensor that an operator returns is followed to its end;
buffers inside an operator are not seen, and the heap is never quite full, so a share is kept back.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smorm.model.network import RewardNetwork
from smorm.training.memory import KEPT_BACK, MemoryModel, resident_bytes
from smorm.trees.forest import Tokens

PROBE = (512, 1024)
"""Tokens of the two micro-batches that are measured (at least; a sequence is never cut)."""

Unit = Sequence[Tokens]


def measure(network: RewardNetwork, units: Sequence[Unit], *, half: bool) -> MemoryModel:
    """What a training step of this network needs, by running two small ones.

    Gradients are dropped again and the random numbers put back; weights are only read.

    Args:
        units: what stays in one forward pass, as for `RewardNetwork.micro_batches`. Give the
            longest: some attention kernels need more for longer sequences.
        half: under bf16 autocast.
    """
    cuda = network.device.type == "cuda"
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    state = gradients + 2 * gradients  # AdamW's two moments have the parameters' type
    kept = [parameter.grad for parameter in trained]
    batches = [_probe_batch(network, units, tokens) for tokens in PROBE]
    with torch.random.fork_rng(devices=[network.device] if cuda else []):
        _run(network, batches[0], half)  # makes the gradients, and loads what libraries load late
        there = _there(network.device) - gradients
        small, large = (_peak(network, batch, half) for batch in batches)
    for parameter, gradient in zip(trained, kept, strict=True):
        parameter.grad = gradient
    tokens = [batch.num_tokens for batch in batches]
    per_token = (large - small) / (tokens[1] - tokens[0])
    constant = max(0.0, small - per_token * tokens[0])
    spare = KEPT_BACK.get(network.device.type, KEPT_BACK["cuda"])
    return MemoryModel(there, state, constant, max(1.0, per_token), spare)


def _there(device: torch.device) -> int:
    """Bytes in use now; on a CPU those of the whole process, without what its heap only keeps."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return resident_bytes()


def _probe_batch(network: RewardNetwork, units: Sequence[Unit], tokens: int) -> Any:
    """A batch of at least `tokens` rows: the units, over and over, with other first tokens so that
    nothing is shared between them."""
    sequences: list[Tokens] = []
    turn = 0
    vocabulary = int(network.backbone.get_input_embeddings().weight.shape[0])
    batch = None
    while batch is None or batch.num_tokens < tokens:
        for unit in units:
            for sequence in unit:
                changed = sequence.copy()
                changed[0] = turn % vocabulary
                sequences.append(changed)
            turn += 1
            batch = network.arrange(sequences)
            if batch.num_tokens >= tokens:
                break
    return batch


def _run(network: RewardNetwork, batch: Any, half: bool) -> None:
    with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=half):
        scores = network(batch)
    scores.square().mean().backward()


def _peak(network: RewardNetwork, batch: Any, half: bool) -> int:
    """Most bytes alive at once during forward and backward, beyond what was there before."""
    gc.collect()  # earlier garbage must not end within the count
    if network.device.type == "cuda":
        torch.cuda.synchronize(network.device)
        before = torch.cuda.memory_allocated(network.device)
        torch.cuda.reset_peak_memory_stats(network.device)
        _run(network, batch, half)
        torch.cuda.synchronize(network.device)
        return int(torch.cuda.max_memory_allocated(network.device)) - before
    with LiveBytes() as live:
        _run(network, batch, half)
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators made and that are still alive; `peak` is the most.

    A storage counts once, however many tensors look at it, from the operator that made it until it
    is freed. What was there before, and what an operator uses within itself, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and _storage_of(leaf) not in given:
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.live -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storage_of(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
