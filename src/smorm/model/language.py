"""The language head, kept beside the score head while GRM trains.

It reads the last layer's hidden states and gives log-probabilities of response tokens. In a forest
each token stands once, so its log-probability is computed once, however many responses contain it.

Shapes: T rows of a batch, S sequences, M distinct response tokens, E tokens of all responses (a
token that two responses share counts twice), D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smorm.errors import ModelError
from smorm.model.backbone import fit_embeddings, quiet, refuse_remote_code
from smorm.model.network import Batch
from smorm.trees.forest import Forest
from smorm.trees.leaves import find_leaves

LOGITS = 1 << 24
"""So many logits are computed at once; where there are more, they are computed again in the
backward pass and not kept."""
TOLERANCE = 1e-3
"""Largest difference to the model's own logits, relative to the largest one."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The response tokens of a batch.

    Attributes:
        rows: row of `RewardNetwork.states` that predicts each distinct token, [M].
        tokens: its id, [M].
        entries: which of the M each token of each response is, [E].
        owners: which sequence's, [E].
    """

    rows: Tensor
    tokens: Tensor
    entries: Tensor
    owners: Tensor


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
            return self._log_probabilities(hidden, tokens)
        parts = [
            checkpoint(self._log_probabilities, h, t, use_reentrant=False)
            for h, t in zip(hidden.split(size), tokens.split(size), strict=True)
        ]
        return torch.cat(parts)

    def _log_probabilities(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = self.logits(hidden)
        return logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)

    def responses(self, states: Tensor, predicted: Predicted, sequences: int) -> Tensor:
        """Log-probability of each sequence's response, summed over its tokens, [S].

        Args:
            states: of all rows, [T, D].
        """
        found = self(states.index_select(0, predicted.rows), predicted.tokens)
        total = torch.zeros(sequences, dtype=found.dtype, device=found.device)
        return total.index_add(0, predicted.owners, found.index_select(0, predicted.entries))


def predicted_tokens(batch: Batch, lengths: Sequence[int], starts: Sequence[int]) -> Predicted:
    """Where a batch's response tokens are predicted.

    Args:
        lengths: tokens of each sequence, [S].
        starts: the first token of each sequence's response, [S]; the very first token of a sequence
            is predicted by nothing and left out.
    """
    targets, parents, owners = [], [], []
    for sequence, (path, start) in enumerate(zip(_paths(batch, lengths), starts, strict=True)):
        first = max(1, start)
        targets.append(path[first:])
        parents.append(path[first - 1 : -1])
        owners.append(np.full(len(path) - first, sequence, dtype=np.int64))
    ids = batch.input_ids.flatten()
    target, index, entries = np.unique(
        np.concatenate(targets), return_index=True, return_inverse=True
    )
    rows = np.concatenate(parents)[index]

    def placed(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(ids.device)

    tokens = ids.index_select(0, placed(target))
    return Predicted(placed(rows), tokens, placed(entries), placed(np.concatenate(owners)))


def _paths(batch: Batch, lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """The row of each token of each sequence, in order."""
    if not isinstance(batch, Forest):
        width = batch.input_ids.shape[1]
        return [np.arange(n, dtype=np.int64) + i * width for i, n in enumerate(lengths)]
    leaves = find_leaves(batch)
    paths = []
    for ranges in leaves.keys:
        rows = [np.arange(first, past, dtype=np.int64) for first, past in ranges]
        paths.append(np.concatenate(rows))
    return [paths[leaf] for leaf in leaves.inverse.tolist()]


def load_language_model(path: str, vocab_size: int) -> tuple[Any, LanguageHead]:
    """Backbone and language head of a Hugging Face folder or hub id, in fp32.

    Args:
        vocab_size: tokens of the tokenizer; the embedding is enlarged where it has fewer.

    Raises:
        ModelError: not found, or has no language head of its own, or one that does more than
            multiply and soft-cap.
    """
    from transformers import AutoModelForCausalLM

    refuse_remote_code(path)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"{path}: cannot be loaded as a language model: {reason}") from error
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} weights of the language model are missing or have another "
            f"shape (first: {missing[0]}): GRM needs a language model, not a reward model"
        )
    fit_embeddings(model, vocab_size)
    head = LanguageHead(
        model.get_output_embeddings(),
        getattr(model.config.get_text_config(), "final_logit_softcapping", None),
    )
    backbone = getattr(model, model.base_model_prefix)
    _refuse_other_logits(path, model, backbone, head)
    return backbone, head


def _refuse_other_logits(path: str, model: Any, backbone: Any, head: LanguageHead) -> None:
    """Some architectures scale their logits; tried on a few tokens, not assumed."""
    probe = torch.arange(8)[None] % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        own = model.eval()(input_ids=probe, use_cache=False).logits[0].float()
        ours = head.logits(backbone(input_ids=probe, use_cache=False).last_hidden_state[0])
    gap = float((own - ours).abs().max() / own.abs().max().clamp_min(1e-6))
    if not gap <= TOLERANCE:
        raise ModelError(
            f"{path}: its logits are not those of a linear head (off by {gap:.1e}): GRM is not "
            f"supported for {model.config.model_type}"
        )
