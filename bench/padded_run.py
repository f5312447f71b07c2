"""Training in the official code's shape: every sequence padded to `max_length`, three an item.

What its trainer does, described and not copied: an item is a pair and a rated response; their
three sequences are padded to `max_length` (1024 here) with an attention mask and go through
transformers' sequence classifier with 1 + K labels, pairs first, interleaved, then the rated ones,
one item at a time with gradient accumulation (its script's batch size is 1); the loss is the mean
Bradley–Terry loss plus the mean squared error over responses and attributes. As there: bf16.
Kinder than there: weights stay in fp32 under autocast, there is no gradient checkpointing (it would
recompute every forward pass), targets are standardised, and rated text goes through the same chat
template as the pairs (so that both runs train on the same tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from bench.smorm_run import LEARNING_RATE, MAX_TOKENS, Batch, Step
from bench.trl_run import classifier
from smorm.arrays import Tokens
from smorm.training.setup import Prepared


@dataclass(slots=True)
class PaddedRun:
    """A joint run in the official code's shape; `items` are in one forward pass.

    Attributes:
        gradients: of the first step, after clipping, by name."""

    prepared: Prepared
    batches: Sequence[Batch]
    model: Any
    optimizer: torch.optim.Optimizer
    items: int
    done: int = 0
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def step(self) -> Step:
        """Collate, forward, backward, clip, update."""
        pairs, rated = self.batches[self.done]
        # as in smorm's loop: gradients are freed between steps
        self.optimizer.zero_grad(set_to_none=True)
        losses, positions = [], 0
        for first in range(0, len(pairs), self.items):
            chunk = slice(first, first + self.items)
            loss, computed = self._backward((pairs[chunk], rated[chunk]))
            losses.append(loss)
            positions += computed
        # Every chunk's loss is a mean: the step's is the mean of them, and so are its gradients.
        for parameter in self.model.parameters():
            parameter.grad /= len(losses)
        limit = self.prepared.config.training.max_grad_norm
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not self.gradients:
            for name, parameter in self.model.named_parameters():
                self.gradients[name] = parameter.grad.detach().clone()
        self.optimizer.step()
        self.done += 1
        return Step(sum(losses) / len(losses), positions)

    def _backward(self, batch: Batch) -> Step:
        inputs, targets = collate(self.prepared, batch)
        half = self.prepared.config.training.precision == "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            # a cache of keys and values is for generation; it would only cost memory here
            scores = self.model(**inputs, use_cache=False).logits.float()
        loss = official_loss(scores, len(batch[0]), targets)
        loss.backward()
        return Step(float(loss.detach()), int(inputs["input_ids"].numel()))


def start_padded(prepared: Prepared, batches: Sequence[Batch], *, items: int = 1) -> PaddedRun:
    """Start from `prepared`'s weights; `items` are in one forward pass (one, as in its script).

    With every attribute rated, the mean over items is the mean over the step."""
    model = classifier(prepared.network, prepared.network.head.weight.shape[0]).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
    )
    return PaddedRun(prepared, batches, model, optimizer, items)


def collate(
    prepared: Prepared, batch: Batch, length: int = MAX_TOKENS
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """input_ids and attention_mask [3B, length], targets [B, K]."""
    data = prepared.train
    sequences: list[Tokens] = []
    for index in batch[0]:
        pair = data.pairs[int(index)]
        sequences += [pair.chosen, pair.rejected]
    sequences += [data.rated[int(index)].tokens for index in batch[1]]
    # To the full length whatever the batch holds: that is the shape which is compared.
    ids = torch.full((len(sequences), length), prepared.network.pad_id)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        mask[row, : len(tokens)] = 1
    targets = torch.from_numpy(np.asarray(data.targets)[batch[1]]).float()
    return {"input_ids": ids, "attention_mask": mask}, targets


def official_loss(scores: torch.Tensor, pairs: int, targets: torch.Tensor) -> torch.Tensor:
    """scores [2P + R, 1 + K] and targets [R, K] -> mean preference loss + mean squared error."""
    gap = scores[0 : 2 * pairs : 2, 0] - scores[1 : 2 * pairs : 2, 0]
    return -functional.logsigmoid(gap).mean() + functional.mse_loss(
        scores[2 * pairs :, 1:], targets
    )
