"""Heads on the hidden state at a sequence's last token.

`ScoreHead` is the one linear head: row 0 is the preference row (Bradley–Terry), the other K rows
carry attribute names, and any view of the rows folds into one row (`smorm.model.views`). The other
heads are published rivals that do not fold: `MlpHead` has the two layers of the frozen classifier
and of GRM; `GatedHead` is ArmoRM's mixture of attribute rows, whose weights depend on the prompt
(Wang et al., 2024, arXiv 2406.12845). Every head computes in fp32 on the raw hidden state.

Shapes: S sequences, D hidden size, K attributes, H tokens of a header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smorm.errors import ModelError, cause_of, third_party
from smorm.limits import limit, refusal
from smorm.model import foreign
from smorm.model.foreign import Unreadable, UnreadableModelError
from smorm.model.headers import Stored, read_headers, stored_weights
from smorm.printing import get_logger

log = get_logger(__name__)

HeadWeights = Mapping[str, Tensor]
HEAD = "head.safetensors"
WEIGHT, BIAS = "score.weight", "score.bias"
START_STD: dict[str, Callable[[int], float]] = {
    # Stiennon et al., 2020 (arXiv 2009.01325), and InstructGPT (Ouyang et al., 2022): scores of a
    # hidden state with entries of size one begin with a standard deviation of one.
    "random": lambda width: (width + 1) ** -0.5,
    # TRL, whose head is the one of transformers (`initializer_range`).
    "trl": lambda width: 0.02,
    "openrlhf": lambda width: 1 / (width + 1),
    "zero": lambda width: 0.0,
}
"""Standard deviation of the weights of a linear head before training, by the hidden size."""
MLP_WIDTH = 1024
"""Width of the published hidden layer."""


class ScoreHead(nn.Module):
    """`score = Linear(D, 1 + K, bias=False)`."""

    def __init__(self, hidden_size: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size, dtype=torch.float32))
        nn.init.normal_(self.weight, std=START_STD["random"](hidden_size))
        self.unit_rows = False
        # Whether row 0 is that of another reward model (`start_head`).
        self.row_given = False

    @property
    def count(self) -> int:
        """How many rows it gives."""
        return self.weight.shape[0]

    def scale(self, start: str) -> None:
        """Give random rows the size of a start in `START_STD`; all sizes have the same draws."""
        width = self.weight.shape[1]
        if start != "random":
            self.weight.data *= START_STD[start](width) / START_STD["random"](width)

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
    def count(self) -> int:
        """How many rows it gives."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """The hidden size that it reads."""
        raise NotImplementedError

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
        self.hidden_size = hidden_size

    @property
    def count(self) -> int:
        return 1

    @property
    def width(self) -> int:
        return self.hidden_size

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

    @property
    def count(self) -> int:
        return 1 + self.attributes.shape[0]

    @property
    def width(self) -> int:
        return self.attributes.shape[1]

    @classmethod
    def from_weights(cls, weights: HeadWeights) -> GatedHead:
        width, hidden_size = weights["gate.0.weight"].shape
        attributes = weights["attributes"]
        count = len(attributes)
        shapes = {
            "attributes": (count, hidden_size), "verbosity": (hidden_size,),
            "multiples": (count,), "header": (len(weights["header"]),),
        }  # fmt: skip
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} is {list(weights[name].shape)}, expected {list(shape)}")
        # The depth follows from the saved layers, so that a card need not hold it.
        matrices = [key for key in weights if key.startswith("gate.") and key.endswith("weight")]
        depth = len(matrices) - 1
        gate = gate_network(hidden_size, count, width=width, layers=depth, dropout=0.0)
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


def read_nonlinear_head(folder: Path, kind: str, rows: int) -> NonlinearHead:
    """A head of one of the kinds that are not linear; `ModelError` where it has other rows."""
    path = folder / HEAD
    if not path.is_file():
        raise ModelError(f"{folder}: no {HEAD} in it: a head would be random")
    with third_party(path, "damaged"):
        weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.is_complex() or not bool(tensor.float().isfinite().all()):
            raise ModelError(f"{path}: {name} holds what is no finite number")
    try:
        head = NONLINEAR_HEADS[kind].from_weights(weights)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: no {kind} head, or damaged: {cause_of(error)}") from error
    if head.count != rows:
        raise ModelError(f"{path}: its head has {head.count} rows, the card names {rows}")
    return head


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
    stored = _stored_head(folder)
    if WEIGHT not in stored:
        return None
    head = stored[WEIGHT]
    # Before it is read: the rows are bounded, and only their number is large in a hostile file.
    if len(head.shape) != 2 or 0 in head.shape:
        shape = list(head.shape)
        raise ModelError(f"{head.path}: {WEIGHT} is {shape}, expected [rows, hidden size]")
    if head.shape[0] > limit("labels"):
        raise ModelError(f"{head.path}: {WEIGHT}: {refusal('labels', head.shape[0])}")
    weight = _read_tensor(head, WEIGHT)
    refuse_unusable(folder, weight)
    return weight


def refuse_unusable(folder: Path, weight: Tensor) -> None:
    """Refuse a head in fewer than 16 bits, which read as numbers would be other scores, and one
    that is not finite."""
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise UnreadableModelError(folder, Unreadable.QUANTISED, f"{WEIGHT} is {kind}")
    if weight.ndim != 2 or not bool(weight.isfinite().all()):
        problem = f"{WEIGHT} is no matrix of finite numbers, so no score would be one"
        raise ModelError(f"{folder}: {problem}")


def find_bias(folder: Path, rows: int) -> Tensor | None:
    """`score.bias` [rows] of a folder, which transformers itself leaves out; None without one."""
    stored = _stored_head(folder)
    if BIAS not in stored:
        return None
    bias = _read_tensor(stored[BIAS], BIAS)
    check_bias(folder, bias, rows)
    return bias


def check_bias(folder: Path, bias: Tensor, rows: int) -> None:
    """Refuse a bias that is not one finite number for each row."""
    finite = bias.is_floating_point() and bool(bias.isfinite().all())
    if bias.shape != (rows,) or not finite:
        problem = f"{BIAS}: expected one finite number for each of {rows} rows"
        raise ModelError(f"{folder}: {problem}, found {list(bias.shape)}")


def check_width(folder: Path, head: Tensor | NonlinearHead, width: int) -> None:
    """Refuse a head (a linear one's weight [rows, D]) that reads another hidden size."""
    read = head.width if isinstance(head, NonlinearHead) else int(head.shape[1])
    if read != width:
        raise ModelError(f"{folder}: its head reads {read} numbers, its decoder gives {width}")


def _stored_head(folder: Path) -> dict[str, Stored]:
    """The tensors among which a folder's linear head is."""
    if (folder / HEAD).is_file():
        stored = read_headers([folder / HEAD])
        if WEIGHT in stored:
            return stored
    return stored_weights(folder)


def _read_tensor(head: Stored, name: str) -> Tensor:
    # Only the head is read: the rest of a file may be gigabytes.
    with third_party(head.path, "damaged"), safe_open(head.path, framework="pt") as stored:
        tensor: Tensor = stored.get_tensor(name)
        return tensor


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
    if isinstance(head, ScoreHead):
        head.row_given = True
    return True
