"""A model folder: a Hugging Face folder that says what its rows mean.

Beside `config.json`, safetensors weights with `score.weight`, and the tokenizer, `smorm.json` holds
the row names, each attribute's scale, the default view, the renderer's fingerprint, the token limit
and where it all came from. A LoRA run holds adapters and `head.safetensors` instead of weights, and
names its base. A folder without its head is an error: a random head scores without a word. A head
that is not linear (`smorm.model.nonlinear`) lies in `head.safetensors` beside its backbone, and
other programs cannot load it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from smorm import files
from smorm.data.scaling import AttributeScale
from smorm.errors import ModelError
from smorm.model import lora
from smorm.model.backbone import (
    fit_embeddings,
    load_backbone,
    load_tokenizer,
    position_limit,
    quiet,
)
from smorm.model.head_file import (
    HEAD,
    WEIGHT,
    read_head,
    read_nonlinear_head,
    read_part,
    save_head,
)
from smorm.model.hub import fetch_model, may_be_hub_id
from smorm.model.network import RewardNetwork
from smorm.model.nonlinear import NonlinearHead
from smorm.model.portable import make_portable
from smorm.model.views import PREFERENCE

CARD = "smorm.json"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What `smorm.json` holds.

    Attributes:
        attributes: names of rows 1 to K.
        scales: one per attribute; the rows hold `(value - offset) / scale`.
        means: each attribute's mean rating in training, on its own scale.
        default_view: a name, or the JSON form of a linear view.
        preference_trained: False for a regression alone: its row 0 is all zeros.
        offset: what an exported view adds to its one row (a bias-free head cannot hold it).
        base: where a LoRA run's backbone lies.
        head: `linear`, or which other kind (`smorm.model.nonlinear`).
    """

    attributes: tuple[str, ...] = ()
    scales: tuple[AttributeScale, ...] = ()
    means: dict[str, float] = field(default_factory=dict)
    default_view: str | dict[str, Any] = "F"
    preference_trained: bool = True
    max_tokens: int = 2048
    overlong: str = "error"
    chat_template: str | None = None
    renderer: str = ""
    offset: float = 0.0
    view: dict[str, Any] | None = None
    base: str | None = None
    head: str = "linear"
    hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows, the preference row first."""
        return (PREFERENCE, *self.attributes)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"format": 1, **asdict(self)}


def parse_card(values: Any, where: Path) -> ModelCard:
    """A card from its JSON form.

    Raises:
        ModelError: it is not one.
    """
    try:
        fields = {k: v for k, v in values.items() if k != "format"}
        fields["scales"] = tuple(AttributeScale(**scale) for scale in fields.get("scales", ()))
        fields["attributes"] = tuple(fields.get("attributes", ()))
        return ModelCard(**fields)
    except (TypeError, AttributeError) as error:
        raise ModelError(f"{where}: not a model card of smorm: {error}") from error


def versions() -> dict[str, str]:
    """The versions that decide a score."""
    import transformers

    from smorm.version import __version__

    return {
        "smorm": __version__,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }


def save_model(folder: Path | str, network: RewardNetwork, tokenizer: Any, card: ModelCard) -> None:
    """Write a model folder, whole or not at all.

    Raises:
        OutputError: the disk is full or another operating system error.
    """
    with files.whole_folder(folder) as scratch, quiet():
        if lora.is_lora(network.backbone):
            lora.save_lora(network.backbone, scratch)
            save_head(network, scratch)
        elif isinstance(network.head, NonlinearHead):
            network.backbone.save_pretrained(scratch)
            save_head(network, scratch)
        else:
            _save_classifier(network, scratch, card.rows)
        tokenizer.save_pretrained(scratch)
        make_portable(scratch)
        files.write_json(scratch / CARD, card.as_dict())


def _save_classifier(network: RewardNetwork, folder: Path, rows: tuple[str, ...]) -> None:
    """As transformers' own `...ForSequenceClassification`, where the architecture has one."""
    from transformers import AutoModelForSequenceClassification

    config = classifier_config(network, rows)
    try:
        with torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config)
    except ValueError:  # no such class for this architecture: the head lies beside the backbone
        network.backbone.save_pretrained(folder)
        save_head(network, folder)
        return
    setattr(shell, shell.base_model_prefix, network.backbone)
    shell.score = torch.nn.Linear(network.head.weight.shape[1], len(rows), bias=False)
    shell.score.weight = network.head.weight
    shell.config.architectures = [type(shell).__name__]
    shell.save_pretrained(folder)


def classifier_config(network: RewardNetwork, rows: tuple[str, ...]) -> Any:
    """The backbone's config with the head's rows named and raw scores asked for."""
    config = copy.deepcopy(network.backbone.config)
    config.num_labels = len(rows)
    config.id2label = dict(enumerate(rows))
    config.label2id = {name: index for index, name in enumerate(rows)}
    # vLLM and others apply a softmax or sigmoid unless this says regression.
    config.problem_type = "regression"
    config.pad_token_id = network.pad_id
    return config


def save_view(
    folder: Path | str,
    network: RewardNetwork,
    tokenizer: Any,
    card: ModelCard,
    row: torch.Tensor,
) -> None:
    """Write a plain one-label folder whose head is `row` [1, D]. LoRA must be merged before.

    Raises:
        ModelError: transformers has no classification class for this architecture.
        OutputError: the folder could not be written.
    """
    folded = RewardNetwork(network.backbone, 1, pad_id=network.pad_id)
    folded.head.weight.data = row.clone()
    with files.whole_folder(folder) as scratch, quiet():
        _save_classifier(folded, scratch, (PREFERENCE,))
        if (scratch / HEAD).exists():
            kind = network.backbone.config.model_type
            raise ModelError(f"transformers has no sequence classification class for {kind}")
        tokenizer.save_pretrained(scratch)
        make_portable(scratch)
        files.write_json(scratch / CARD, card.as_dict())


def load_model(path: Path | str, *, dtype: torch.dtype = torch.float32) -> Any:
    """Network, tokenizer and card of a model folder, ours or any one-label reward model's.

    Returns:
        (RewardNetwork, tokenizer, ModelCard); the head is in fp32, the backbone in `dtype`.

    Raises:
        ModelError: no such folder, no head, other rows than the card names, damaged weights.
    """
    folder = resolve(path)
    if files.is_whole(folder):
        files.verify_folder(folder)
    card, weight, head = _card_and_head(folder)
    if (folder / "adapter_config.json").is_file():
        backbone = load_lora_backbone(folder, card, dtype)
    else:
        backbone = load_backbone(str(folder), dtype=dtype)
    if not (folder / CARD).is_file():
        card = replace(card, max_tokens=position_limit(backbone) or card.max_tokens)
    tokenizer = load_tokenizer(str(folder))
    network = RewardNetwork(backbone, len(card.rows), pad_id=_pad_id(backbone, tokenizer))
    if head is not None:
        network.head = head
    else:
        network.head.weight.data = weight.float()
    return network.eval(), tokenizer, card


def _card_and_head(folder: Path) -> tuple[ModelCard, torch.Tensor, NonlinearHead | None]:
    """What the rows mean; the linear head's weight (else nothing), or the head of another kind."""
    if (folder / CARD).is_file():
        card = parse_card(read_part(folder / CARD), folder / CARD)
        if card.head != "linear":
            return card, torch.empty(0), read_nonlinear_head(folder, card.head)
    weight = read_head(folder)
    card = _card(folder, len(weight))
    if len(weight) != len(card.rows):
        raise ModelError(
            f"{folder}: {WEIGHT} has {len(weight)} rows, {CARD} names {', '.join(card.rows)}"
        )
    return card, weight, None


def resolve(path: Path | str) -> Path:
    """The model folder itself, the `model` folder of a run, or a hub model's folder in the cache.

    Raises:
        ModelError: no such folder, and no hub model of this name can be had.
    """
    folder = Path(path)
    if not folder.is_dir() and not folder.exists() and may_be_hub_id(str(path)):
        folder = fetch_model(str(path))
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file() and (folder / "model").is_dir():
        return folder / "model"
    return folder


def _card(folder: Path, rows: int) -> ModelCard:
    if (folder / CARD).is_file():
        return parse_card(read_part(folder / CARD), folder / CARD)
    # A reward model that we did not train: its first row is taken for the preference row.
    labels = read_part(folder / "config.json").get("id2label", {})
    names = tuple(str(labels.get(str(i), f"row_{i}")) for i in range(1, rows))
    plain = tuple(AttributeScale(name, 0.0, 1.0) for name in names)
    return ModelCard(attributes=names, scales=plain)


def load_lora_backbone(folder: Path, card: ModelCard, dtype: torch.dtype) -> Any:
    """Base model and adapters of a LoRA run.

    Raises:
        ModelError: the card names no base, or it cannot be loaded.
    """
    if card.base is None:
        raise ModelError(f"{folder / CARD}: names no base model for the adapters")
    backbone = load_backbone(card.base, dtype=dtype)
    fit_embeddings(backbone, len(load_tokenizer(str(folder))))
    return lora.load_lora(backbone, folder)


def _pad_id(backbone: Any, tokenizer: Any) -> int:
    for candidate in (backbone.config.get_text_config().pad_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(candidate)
    return 0
