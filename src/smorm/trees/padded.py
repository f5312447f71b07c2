"""The padded batch, one row per sequence: the forest is verified against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from smorm.arrays import Tokens


@dataclass(slots=True)
class Padded:
    """Right-padded sequences: `input_ids` and `attention_mask` [S, L], `last` [S]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    last: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Rows computed, padding included."""
        return int(self.input_ids.numel())

    def to(self, device: torch.device | str) -> Padded:
        """The same batch on a device."""
        ids, mask = self.input_ids.to(device), self.attention_mask.to(device)
        return Padded(ids, mask, self.last.to(device))


def pad(sequences: Sequence[Tokens], pad_id: int) -> Padded:
    """Pad to the longest sequence. There must be one, and none may be empty."""
    lengths = torch.tensor(list(map(len, sequences)))
    if not len(sequences) or int(lengths.min()) == 0:
        raise ValueError("a batch needs at least one sequence, and none may be empty")
    ids = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.long)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype("int64"))
    # The last token by length: the pad token may occur in a text too.
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    return Padded(ids, mask.long(), lengths - 1)
