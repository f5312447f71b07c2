"""The one linear head: `score = Linear(D, 1 + K, bias=False)`.

Row 0 is the preference row (Bradley–Terry), the other K rows carry attribute names. Views on it are
in `smorm.model.views`.
"""

from __future__ import annotations

import torch
from torch import nn


class ScoreHead(nn.Module):
    """Linear(D, 1 + K) without bias, always computed in fp32 on the raw hidden state."""

    def __init__(self, hidden_size: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=torch.float32))
        nn.init.normal_(self.weight, std=1.0 / (hidden_size + 1) ** 0.5)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [S, D] in any precision -> scores [S, 1 + K] in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())
