"""Heads on the hidden state at a sequence's last token.

`ScoreHead` is the one linear head: row 0 is the preference row (Bradley–Terry), the other K rows
carry attribute names, and any view of the rows folds into one row (`smorm.model.views`). The other
heads are published rivals that do not fold: `MlpHead` has the two layers of the frozen classifier
and of GRM; `GatedHead` is ArmoRM's mixture of attribute rows, whose weights depend on the prompt
(Wang et al., 2024, arXiv 2406.12845). Every head computes in fp32 on the raw hidden state.

Shapes: S sequences, D hidden size, K attributes, H tokens of a header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smorm import files
from smorm.errors import ModelError, first_line
from smorm.model import foreign
from smorm.model.foreign import Unreadable, UnreadableModelError
from smorm.printing import get_logger

log = get_logger(__name__)

HeadWeights = Mapping[str, Tensor]
HEAD = "head.safetensors"
WEIGHT, BIAS = "score.weight", "score.bias"
MLP_WIDTH = 1024
"""Width of the published hidden layer."""


class ScoreHead(nn.Module):
    """`score = Linear(D, 1 + K, bias=False)`."""

    def __init__(self, hidden_size: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=torch.float32))
        # Scores of a hidden state with entries of size one begin with a standard deviation of one.
        nn.init.normal_(self.weight, std=1.0 / (hidden_size + 1) ** 0.5)
        self.unit_rows = False

    def rows(self) -> Tensor:
        """The weights that are applied, [1 + K, D] in fp32: under `unit_rows` (ODIN) each row is
        centred and of length one."""
        weight = self.weight.float()
        if not self.unit_rows:
            return weight
        return nn.functional.normalize(weight - weight.mean(dim=1, keepdim=True), dim=1)

    def finalize(self) -> None:
        """Store the rows as they are applied, so that the trained head is a plain linear one."""
        self.weight.data = self.rows().detach()
        self.unit_rows = False

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [S, D] in any precision -> scores [S, 1 + K] in fp32."""
        # Under autocast the product would be in half precision, and ties would appear.
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.rows())


class NonlinearHead(nn.Module):
    """Base of the heads that are not one linear layer."""

    # Its name in a model card, and what it is for the text of a refusal.
    kind: ClassVar[str]
    description: ClassVar[str]
    unit_rows = False

    @property
    def weight(self) -> Tensor:
        """Always a `ModelError`: code that reads a linear head's weight gets the reason."""
        raise self.refusal()

    def refusal(self) -> ModelError:
        """The error of an operation that needs one linear head."""
        return ModelError(
            f"this model's head is {self.description}, not one linear layer: it cannot be folded "
            "into a row, exported, merged, compared with plain transformers or diagnosed. Score, "
            "evaluate and stress it with smorm."
        )

    def rows(self) -> Tensor:
        return self.weight

    def finalize(self) -> None:
        """Nothing to do: the weights are stored as they are applied."""


class MlpHead(NonlinearHead):
    """Linear(D, W), ReLU, Linear(W, 1)."""

    kind = "mlp"
    description = "a multilayer perceptron"

    def __init__(self, hidden_size: int, width: int = MLP_WIDTH) -> None:
        super().__init__()
        first, last = nn.Linear(hidden_size, width), nn.Linear(width, 1)
        self.layers = nn.Sequential(first, nn.ReLU(), last).float()

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> MlpHead:
        width, hidden_size = weights["layers.0.weight"].shape
        head = cls(hidden_size, width)
        head.load_state_dict(dict(weights))
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [S, D] in any precision -> scores [S, 1] in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self.layers(hidden.float())
            return scores


def gate_network(
    hidden_size: int, attributes: int, *, width: int, layers: int, dropout: float
) -> nn.Sequential:
    """The gate: `layers` hidden layers of `width`, one logit per attribute."""
    modules: list[nn.Module] = []
    inputs = hidden_size
    for _ in range(layers):
        modules += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*modules, nn.Linear(inputs, attributes)).float()


class GatedHead(NonlinearHead):
    """ArmoRM: row 0 is `scale * sum_k g_k(prompt) * (r_k - multiple_k * v)`, rows 1 to K are r.

    r are the attribute rows [K, D] and v is the verbosity row [D], both at the response's end. The
    gate weights g are the softmax of the gate's logits (`gate_network`) over its temperature, at
    the prompt's end: the last token of the last `header` [H], which the chat template writes before
    a response."""

    kind = "gated"
    description = "a gate over attribute rows (ArmoRM)"

    def __init__(
        self,
        attributes: Tensor,
        verbosity: Tensor,
        multiples: Tensor,
        gate: nn.Sequential,
        header: Tensor,
        temperature: float = 10.0,
    ) -> None:
        super().__init__()
        # Fitted by ridge regression beforehand: the gate and the scale alone are trained here.
        self.attributes = nn.Parameter(attributes.float().clone(), requires_grad=False)
        self.verbosity = nn.Parameter(verbosity.float().clone(), requires_grad=False)
        self.multiples = nn.Parameter(multiples.float().clone(), requires_grad=False)
        self.gate = gate
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("header", header.long())
        self.register_buffer("temperature", torch.tensor([temperature], dtype=torch.float32))
        # On the host: prompts' ends are looked for in token arrays, not on the device.
        self.header_tokens = header.cpu().numpy()

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> GatedHead:
        width, hidden_size = weights["gate.0.weight"].shape
        attributes = weights["attributes"]
        # The depth follows from the saved layers, so that a card need not hold it.
        matrices = [key for key in weights if key.startswith("gate.") and key.endswith("weight")]
        depth = len(matrices) - 1
        gate = gate_network(hidden_size, len(attributes), width=width, layers=depth, dropout=0.0)
        head = cls(
            attributes, weights["verbosity"], weights["multiples"], gate, weights["header"],
            float(weights["temperature"]),
        )  # fmt: skip
        head.load_state_dict(dict(weights))
        return head

    def gate_weights(self, prompts: Tensor) -> Tensor:
        """Weights of the attributes [S, K], which sum to 1, for states at prompts' ends [S, D]."""
        return torch.softmax(self.gate(prompts.to(self.scale.dtype)) / self.temperature, dim=1)

    def attribute_scores(self, hidden: Tensor) -> Tensor:
        """The attribute rows, [S, K], on the training scale."""
        return nn.functional.linear(hidden.to(self.attributes.dtype), self.attributes)

    def mix(self, gate_weights: Tensor, debiased: Tensor) -> Tensor:
        """Row 0, [S], from gate weights and debiased rewards, both [S, K]."""
        return self.scale * (gate_weights * debiased).sum(dim=1)

    def forward(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """States at the ends of responses and of their prompts [S, D] -> scores [S, 1 + K]."""
        with torch.autocast(hidden.device.type, enabled=False):
            verbosity = hidden.to(self.verbosity.dtype) @ self.verbosity
            attributes = self.attribute_scores(hidden)
            debiased = attributes - verbosity[:, None] * self.multiples
            preference = self.mix(self.gate_weights(prompts), debiased)
            return torch.cat([preference[:, None], attributes], dim=1)


NONLINEAR_HEADS: dict[str, type[MlpHead] | type[GatedHead]] = {"mlp": MlpHead, "gated": GatedHead}
"""By a model card's `head`, which is `linear` for a `ScoreHead`."""


def save_head(head: ScoreHead | NonlinearHead, folder: Path) -> None:
    """Write the head beside the backbone: `score.weight`, or all tensors of a nonlinear one."""
    if isinstance(head, NonlinearHead):
        weights = head.state_dict()
    else:
        weights = {WEIGHT: head.weight.detach()}
    # safetensors refuses tensors that are not contiguous.
    stored = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    save_file(stored, folder / HEAD)


def read_nonlinear_head(folder: Path, kind: str) -> NonlinearHead:
    """A head of one of the kinds that are not linear."""
    if kind not in NONLINEAR_HEADS:
        known = ", ".join(("linear", *NONLINEAR_HEADS))
        raise ModelError(f"{folder}: its head is {kind!r}; this version knows {known}")
    try:
        return NONLINEAR_HEADS[kind].from_weights(load_file(folder / HEAD))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {HEAD} in it: a head would be random") from error
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = f"no {kind} head, or damaged: {first_line(error)}"
        raise ModelError(f"{folder / HEAD}: {reason}") from error


def read_head(folder: Path) -> Tensor:
    """`score.weight` [rows, D] of a folder; `ModelError` where there is none."""
    weight = find_head(folder)
    if weight is not None:
        return weight
    if (folder / HEAD).is_file():
        raise ModelError(
            f"{folder}: the head in its {HEAD} is not one linear layer ({WEIGHT}): only smorm can "
            "score with it"
        )
    foreign.refuse_pickles(folder)
    foreign.refuse_head(folder, foreign.stored_tensors(folder))
    raise AssertionError("a folder without a head is always refused")


def find_head(folder: Path) -> Tensor | None:
    """As `read_head`, or None where the folder has no head."""
    weight = _find_tensor(folder, WEIGHT)
    if weight is not None:
        refuse_quantised(folder, weight)
    return weight


def refuse_quantised(folder: Path, weight: Tensor) -> None:
    """Refuse a head in fewer than 16 bits, which read as numbers would be other scores."""
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise UnreadableModelError(folder, Unreadable.QUANTISED, f"{WEIGHT} is {kind}")


def find_bias(folder: Path) -> Tensor | None:
    """`score.bias` [rows] of a folder, which transformers itself leaves out; None without one."""
    return _find_tensor(folder, BIAS)


def _find_tensor(folder: Path, name: str) -> Tensor | None:
    # Only the head is read: the rest of a file may be gigabytes.
    paths = [path for path in (folder / HEAD, folder / "model.safetensors") if path.is_file()]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = files.read_json(index, ModelError)["weight_map"]
        paths = [folder / file for key, file in mapping.items() if key == name]
    for path in paths:
        try:
            with safe_open(path, framework="pt") as stored:
                if name in stored.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                    tensor: Tensor = stored.get_tensor(name)
                    return tensor
        except FileNotFoundError as error:
            raise ModelError(f"{path}: no such file, but the index names it") from error
        except SafetensorError as error:
            raise ModelError(f"{path}: damaged: {error}") from error
    return None


def start_head(head: ScoreHead | NonlinearHead, folder: Path) -> bool:
    """Let the preference row start from a reward model's own, where `folder` has one."""
    weight = find_head(folder)
    if weight is None:
        return False
    if weight.shape[1] != head.weight.shape[1]:
        raise ModelError(f"{folder}: {WEIGHT} is {weight.shape[1]} wide, the backbone is not")
    names = foreign.row_names(foreign.read_config(folder), len(weight))
    # Adapters with a head of ours have no config.json; their first row is the preference row.
    row = 0 if (folder / HEAD).is_file() else foreign.preference_row(names)
    if row is None:
        log.warning("%s: none of its rows (%s) is a preference row: ours starts anew", folder,
                    ", ".join(names))  # fmt: skip
        return False
    # Attribute rows start anew: they are on the scales of the ratings that they were trained on.
    head.weight.data[0] = weight[row].float()
    return True
