"""Heads that are no single linear layer: published rivals that do not fold into one row.

`MlpHead` is the frozen classifier's (and GRM's) two layers. `GatedHead` is ArmoRM's mixture of
attribute rows, whose weights depend on the prompt (Wang et al., 2024, arXiv 2406.12845). Both
score, evaluate and are pushed like any other head; what needs one linear head is refused by reason.

Shapes: S sequences, D hidden size, K attributes, H tokens of a header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from smorm.errors import ModelError

Weights = Mapping[str, torch.Tensor]
MLP_WIDTH = 1024
"""Width of the published hidden layer."""


class NonlinearHead(nn.Module):
    """What all of them have in common.

    Attributes:
        kind: its name in a model card.
        told: what it is, for the reason of a refusal.
    """

    kind: ClassVar[str]
    told: ClassVar[str]
    unit_rows = False

    @property
    def weight(self) -> torch.Tensor:
        """There is none.

        Raises:
            ModelError: always, with the reason.
        """
        raise self.refusal()

    def refusal(self) -> ModelError:
        """Why what needs one linear head cannot be had."""
        return ModelError(
            f"this model's head is {self.told}, not one linear layer: it cannot be folded into a "
            "row, exported, merged, compared with plain transformers or diagnosed. Score, "
            "evaluate and stress it with smorm."
        )

    def rows(self) -> torch.Tensor:
        """There are none: see `weight`."""
        return self.weight

    def settle(self) -> None:
        """The weights are those that are applied already."""


class MlpHead(NonlinearHead):
    """Linear(D, W), ReLU, Linear(W, 1), in fp32 on the raw hidden state."""

    kind = "mlp"
    told = "a multilayer perceptron"

    def __init__(self, hidden_size: int, width: int = MLP_WIDTH) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, width), nn.ReLU(), nn.Linear(width, 1)
        ).float()

    @classmethod
    def of(cls, weights: Weights) -> MlpHead:
        """The head that was saved."""
        width, hidden_size = weights["layers.0.weight"].shape
        head = cls(hidden_size, width)
        head.load_state_dict(dict(weights))
        return head

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [S, D] in any precision -> scores [S, 1] in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores: torch.Tensor = self.layers(hidden.float())
            return scores


def gate_network(
    hidden_size: int, attributes: int, *, width: int, layers: int, dropout: float
) -> nn.Sequential:
    """The gate's multilayer perceptron: `layers` hidden ones of `width`, then one logit for each
    attribute."""
    parts: list[nn.Module] = []
    for at in range(layers):
        parts += [nn.Linear(width if at else hidden_size, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(width, attributes)).float()


class GatedHead(NonlinearHead):
    """ArmoRM: row 0 is `scale * sum_k share_k(prompt) * (r_k - multiple_k * v)`, rows 1 to K are r.

    r are the attribute rows and v is the verbosity row on the response's end; the shares are the
    softmax of the gate's logits over its temperature, on the end of the prompt: the state at the
    last token of the last `header`, which is what the chat template writes before a response.

    Args:
        attributes: rows of the attributes, [K, D].
        verbosity: the row that rewards are made independent of, [D].
        multiples: how much of it is subtracted from each attribute, [K].
        gate: see `gate_network`.
        header: token ids before a response, [H].
    """

    kind = "gated"
    told = "a gate over attribute rows (ArmoRM)"

    def __init__(
        self,
        attributes: torch.Tensor,
        verbosity: torch.Tensor,
        multiples: torch.Tensor,
        gate: nn.Sequential,
        header: torch.Tensor,
        temperature: float = 10.0,
    ) -> None:
        super().__init__()
        self.attributes = nn.Parameter(attributes.float().clone(), requires_grad=False)
        self.verbosity = nn.Parameter(verbosity.float().clone(), requires_grad=False)
        self.multiples = nn.Parameter(multiples.float().clone(), requires_grad=False)
        self.gate = gate
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("header", header.long())
        self.register_buffer("temperature", torch.tensor([temperature], dtype=torch.float32))
        self.header_tokens = header.cpu().numpy()

    @classmethod
    def of(cls, weights: Weights) -> GatedHead:
        """The head that was saved."""
        names = [name for name in weights if name.startswith("gate.") and name.endswith("weight")]
        width, hidden_size = weights["gate.0.weight"].shape
        attributes = weights["attributes"]
        gate = gate_network(
            hidden_size, len(attributes), width=width, layers=len(names) - 1, dropout=0.0
        )
        head = cls(
            attributes, weights["verbosity"], weights["multiples"], gate, weights["header"],
            float(weights["temperature"]),
        )  # fmt: skip
        head.load_state_dict(dict(weights))
        return head

    def shares(self, prompts: torch.Tensor) -> torch.Tensor:
        """Weights of the attributes [S, K], which sum to 1, for states at prompts' ends [S, D]."""
        return torch.softmax(self.gate(prompts.to(self.scale.dtype)) / self.temperature, dim=1)

    def debiased(self, hidden: torch.Tensor) -> torch.Tensor:
        """Attribute rewards without what goes with verbosity, [S, K]."""
        verbosity = hidden.to(self.verbosity.dtype) @ self.verbosity
        return self.ratings(hidden) - verbosity[:, None] * self.multiples

    def ratings(self, hidden: torch.Tensor) -> torch.Tensor:
        """The attribute rows, [S, K], on the training scale."""
        return nn.functional.linear(hidden.to(self.attributes.dtype), self.attributes)

    def mixed(self, shares: torch.Tensor, debiased: torch.Tensor) -> torch.Tensor:
        """Row 0, [S], of debiased rewards [S, K] and their weights."""
        return self.scale * (shares * debiased).sum(dim=1)

    def forward(self, hidden: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """States at the ends of responses and of their prompts [S, D] -> scores [S, 1 + K]."""
        with torch.autocast(hidden.device.type, enabled=False):
            preference = self.mixed(self.shares(prompts), self.debiased(hidden))
            return torch.cat([preference[:, None], self.ratings(hidden)], dim=1)


KINDS: dict[str, type[MlpHead] | type[GatedHead]] = {one.kind: one for one in (MlpHead, GatedHead)}
"""A model card's `head` to its class; `linear` is not among them."""
