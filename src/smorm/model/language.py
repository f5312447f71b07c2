"""The language head, trained beside the score head by GRM.

Shapes: T rows of a batch, S sequences, M distinct response tokens, E tokens of all responses (a
token that two responses share counts twice), D hidden size, V vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smorm.arrays import Ints
from smorm.errors import ModelError
from smorm.model.backbone import fit_embeddings, load_pretrained, missing_weights
from smorm.model.border import check_model
from smorm.model.network import Batch
from smorm.trees.forest import Padded, find_leaves

LOGITS = 1 << 24
"""Logits that are computed at once; more of them are computed in chunks, and again in the backward
pass instead of being kept."""
TOLERANCE = 1e-3
"""Largest difference to the model's own logits, relative to the largest one."""


@dataclass(frozen=True, slots=True)
class ResponseTokens:
    """The response tokens of a batch: the row of `RewardNetwork.states` that predicts each distinct
    token [M] and its id [M]; for each token of each response which of the M it is, and its
    sequence, [E]."""

    rows: Tensor
    tokens: Tensor
    index: Tensor
    sequences: Tensor


class LanguageHead(nn.Module):
    """Linear(D, V), soft-capped where the architecture does that (Gemma 2)."""

    linear: Any

    def __init__(self, linear: nn.Module, softcap: float | None = None) -> None:
        super().__init__()
        self.linear = linear
        self.softcap = softcap

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [M, D] -> logits [M, V] in fp32."""
        logits: Tensor = self.linear(hidden).float()
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of `tokens` [M] at hidden states [M, D], in fp32."""
        size = max(1, LOGITS // int(self.linear.weight.shape[0]))
        if len(tokens) <= size:
            return self._log_probs(hidden, tokens)
        chunks = []
        for h, t in zip(hidden.split(size), tokens.split(size), strict=True):
            chunks.append(checkpoint(self._log_probs, h, t, use_reentrant=False))
        return torch.cat(chunks)

    def _log_probs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        # Without a log-softmax over all V: only one entry of each row is needed.
        logits = self.logits(hidden)
        return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)

    def response_log_probs(self, states: Tensor, responses: ResponseTokens, count: int) -> Tensor:
        """Log-probability of each of `count` sequences' responses, summed over its tokens, [S],
        from the states of all rows [T, D]."""
        log_probs = self(states.index_select(0, responses.rows), responses.tokens)
        total = torch.zeros(count, dtype=log_probs.dtype, device=log_probs.device)
        return total.index_add(0, responses.sequences, log_probs.index_select(0, responses.index))


def response_tokens(batch: Batch, lengths: Sequence[int], starts: Sequence[int]) -> ResponseTokens:
    """The response tokens of a batch on its device. `lengths` are the tokens of each sequence,
    `starts` the first token of its response, [S] each. The very first token of a sequence is
    predicted by nothing and left out."""
    targets, parents, sequences = [], [], []
    for sequence, (path, start) in enumerate(zip(_paths(batch, lengths), starts, strict=True)):
        first = max(1, start)
        targets.append(path[first:])
        parents.append(path[first - 1 : -1])
        sequences.append(np.full(len(path) - first, sequence, dtype=np.int64))
    # A row of a forest is one token however many sequences contain it: each is predicted once.
    all_targets = np.concatenate(targets)
    target, first_use, index = np.unique(all_targets, return_index=True, return_inverse=True)
    rows = np.concatenate(parents)[first_use]
    ids = batch.input_ids.flatten()

    def on_device(values: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(ids.device)

    return ResponseTokens(
        on_device(rows),
        ids.index_select(0, on_device(target)),
        on_device(index),
        on_device(np.concatenate(sequences)),
    )


def _paths(batch: Batch, lengths: Sequence[int]) -> list[Ints]:
    """The row of each token of each sequence, in order."""
    paths = []
    if isinstance(batch, Padded):
        width = batch.input_ids.shape[1]
        for sequence, length in enumerate(lengths):
            paths.append(np.arange(length, dtype=np.int64) + sequence * width)
        return paths
    leaves = find_leaves(batch)
    for ranges in leaves.keys:
        rows = [np.arange(first, past, dtype=np.int64) for first, past in ranges]
        paths.append(np.concatenate(rows))
    return [paths[leaf] for leaf in leaves.inverse.tolist()]


def load_language_model(path: str, vocab_size: int) -> tuple[Any, LanguageHead]:
    """Backbone and language head of a Hugging Face folder or hub id, in fp32; the embedding is
    enlarged to `vocab_size`. `ModelError` where the head does more than multiply and soft-cap."""
    from transformers import AutoModelForCausalLM

    problem = "cannot be loaded as a language model"
    checked = check_model(path)
    model, info = load_pretrained(AutoModelForCausalLM, checked, problem, torch.float32)
    if missing := missing_weights(info):
        raise ModelError(
            f"{path}: {len(missing)} weights of the language model are missing or have another "
            f"shape (first: {missing[0]}): GRM needs a language model, not a reward model"
        )
    fit_embeddings(model, vocab_size)
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    head = LanguageHead(model.get_output_embeddings(), softcap)
    backbone = getattr(model, model.base_model_prefix)
    _refuse_other_logits(path, model, backbone, head)
    return backbone, head


def _refuse_other_logits(path: str, model: Any, backbone: Any, head: LanguageHead) -> None:
    """Some architectures scale their logits: tried on a few tokens, not assumed."""
    # `logits_scaling` and the like are not in the head but in the model's forward.
    probe = torch.arange(8)[None] % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        expected = model.eval()(input_ids=probe, use_cache=False).logits[0].float()
        logits = head.logits(backbone(input_ids=probe, use_cache=False).last_hidden_state[0])
    gap = float((expected - logits).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not gap <= TOLERANCE:
        raise ModelError(
            f"{path}: its logits are not those of a linear head (off by {gap:.1e}): GRM is not "
            f"supported for {model.config.model_type}"
        )
