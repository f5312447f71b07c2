"""What large models need: weights in parts (FSDP2) on one device, and a server under load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from bench.gpu_measurements import (
    Measured,
    Setting,
    attempt,
    rates,
    release,
    step_gradients,
    timed,
    use_layout,
)
from bench.gpu_models import Shape, build
from bench.serving.load import LoadPlan
from bench.serving.servers import smorm_server
from bench.serving.traffic import mixed_traffic, score_calls
from bench.serving.turns import take_turn
from bench.texts import hh_pairs, texts_of
from smorm import RewardModel
from smorm.model.card import ModelCard
from smorm.model.store import save_model
from smorm.text.tokenizers import train_bpe
from smorm.training.distributed.sharded import clip_gradients, shard

VOCABULARY = 16_000
CONNECTIONS = 64


def sharded_training(setting: Setting, shape: Shape) -> Measured:
    """Optimizer steps of one device in bf16: autocast over whole weights, and weights as FSDP2
    holds them, with and without recomputed activations. Losses are compared."""
    measured: Measured = {}
    with _one_process(setting):
        for sharded in (False, True):
            for checkpointed in (False, True):
                name = ("sharded" if sharded else "whole") + " checkpointed" * checkpointed
                work = partial(_steps, setting, shape, sharded=sharded, checkpointed=checkpointed)
                measured[name] = attempt(work)
                release()
    losses = [arm.get("first_loss") for arm in measured.values()]
    if None not in losses:
        measured["loss_difference"] = max(losses) - min(losses)
    return measured


@contextlib.contextmanager
def _one_process(setting: Setting) -> Iterator[None]:
    backend = "nccl" if setting.cuda else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _steps(setting: Setting, shape: Shape, *, sharded: bool, checkpointed: bool) -> Measured:
    network = build(shape, setting.device, torch.float32)
    use_layout(network, "forest")
    if checkpointed:
        network.checkpoint_activations()
    if sharded:
        shard(network, 1, half=True)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=not sharded)
    units, losses, positions = setting.pairs(shape), [], [0]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, positions[0] = step_gradients(setting, network, units)
        clip_gradients(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss))

    measured = timed(setting, step)
    measured |= rates(setting, shape, measured["seconds"], positions[0], flops=6)
    return measured | {"first_loss": losses[0]}


def server(setting: Setting, shape: Shape) -> Measured:
    """`smorm serve` with bf16 weights: real dialogues of mixed lengths from 64 connections, with
    every score beside that of this process."""
    texts = texts_of(hh_pairs(None).records[:1000])
    tokenizer = train_bpe(texts, min(VOCABULARY, shape.fields["vocab_size"] - 100))
    network = build(shape, setting.device, torch.bfloat16)
    network.head.float()
    device = setting.device.type
    with TemporaryDirectory(prefix="smorm-gpu-") as name:
        folder = Path(name) / "model"
        save_model(folder, network, tokenizer, ModelCard(max_tokens=4096))
        del network
        release()
        model = RewardModel.load(folder, device=device, dtype="bfloat16")
        traffic = mixed_traffic(model, 24 if setting.tiny else 512)
        spread = float(np.std(traffic.scores))
        del model
        release()
        calls, options = score_calls(traffic), ("--device", device, "--dtype", "bfloat16")
        with smorm_server(folder, Path(name) / "server.log", *options) as served:
            take_turn(served, LoadPlan(served.url, calls, CONNECTIONS, len(calls)))
            seconds = 2.0 if setting.tiny else 20.0
            turn = take_turn(served, LoadPlan(served.url, calls, CONNECTIONS, seconds=seconds))
    tokens = float(np.mean(list(map(len, traffic.ids))))
    facts: dict[str, Any] = turn.facts()
    facts["tokens_per_second"] = round(tokens * facts["requests_per_second"], 1)
    return {**facts, "traffic": traffic.facts(), "score_spread": spread}
