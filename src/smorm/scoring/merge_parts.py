"""Models to be merged: loaded whole, compared, refused where they have no average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from smorm.data.scaling import AttributeScale
from smorm.errors import ModelError
from smorm.model import lora
from smorm.model.heads import NonlinearHead
from smorm.model.network import RewardNetwork
from smorm.model.store import ModelCard, load_model
from smorm.text.chat import Renderer

NEAR = 1.25
"""Largest ratio of two models' scales of an attribute; their offsets may differ by a quarter of the
scale."""
_COSMETIC = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label",
    "label2id", "num_labels", "problem_type", "pad_token_id", "bos_token_id", "eos_token_id",
    "use_cache",
})  # fmt: skip
"""Fields of a configuration that do not decide what the backbone computes."""


@dataclass(slots=True)
class Part:
    """A model in fp32 without adapters, and its head on the rows' own scales [1 + K, D] in fp64."""

    name: str
    network: RewardNetwork
    tokenizer: Any
    card: ModelCard
    head: torch.Tensor
    renderer: str


def load_part(path: str) -> Part:
    """Load a model folder; adapters are merged into its backbone.

    Raises:
        ModelError: as for `load_model`, or a head that is not linear.
    """
    network, tokenizer, card = load_model(path)
    if isinstance(network.head, NonlinearHead):
        raise ModelError(f"{path}: {network.head.refusal()}")
    if lora.is_lora(network.backbone):
        network.backbone = lora.merge_lora(network.backbone)
    scales = torch.tensor([1.0, *(scale.scale for scale in card.scales)], dtype=torch.float64)
    head = network.head.weight.detach().double() * scales[:, None]
    renderer = Renderer(tokenizer, card.chat_template, card.max_tokens).fingerprint
    return Part(path, network, tokenizer, card, head, renderer)


def refuse_unlike(one: Part, other: Part) -> None:
    """Models that differ in more than their weights have no average.

    Raises:
        ModelError: another architecture, tokenizer, template, set of rows or scale of ratings.
    """
    reason = (
        _unlike_networks(one.network, other.network)
        or _unlike_texts(one, other)
        or _unlike_rows(one.card, other.card)
    )
    if reason is not None:
        raise ModelError(f"merge: {one.name} and {other.name} {reason}")


def _unlike_networks(one: RewardNetwork, other: RewardNetwork) -> str | None:
    mine, theirs = (net.backbone.config.to_dict() for net in (one, other))
    keys = sorted((mine.keys() | theirs.keys()) - _COSMETIC)
    differ = [key for key in keys if mine.get(key) != theirs.get(key)]
    if differ:
        key = "model_type" if "model_type" in differ else differ[0]
        told = f"{key} is {mine.get(key)!r} and {theirs.get(key)!r}"
        return f"are of different architectures: {told}"
    shapes, others = ({n: w.shape for n, w in net.backbone.named_parameters()}
                      for net in (one, other))  # fmt: skip
    unlike = [name for name in shapes | others if shapes.get(name) != others.get(name)]
    return f"have weights of different shapes: {unlike[0]}" if unlike else None


def _unlike_texts(one: Part, other: Part) -> str | None:
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return "have different tokenizers"
    if one.renderer != other.renderer:
        return "render conversations to different tokens (another chat template or tokenizer)"
    return None


def _unlike_rows(one: ModelCard, other: ModelCard) -> str | None:
    if one.rows != other.rows:
        return f"have different rows: {', '.join(one.rows)} and {', '.join(other.rows)}"
    if one.preference_trained != other.preference_trained:
        return "have different rows: one was trained on ratings alone, without a preference row"
    if one.view != other.view:
        return "are exports of different views: merge the models that they were made of"
    for mine, theirs in zip(one.scales, other.scales, strict=True):
        if not _near(mine, theirs):
            return (
                f"hold {mine.name} on different scales (offset {mine.offset:.4g}, scale "
                f"{mine.scale:.4g}; offset {theirs.offset:.4g}, scale {theirs.scale:.4g}): train "
                "them with one scaling, on ratings of one unit"
            )
    return None


def _near(one: AttributeScale, other: AttributeScale) -> bool:
    low, high = sorted((one.scale, other.scale))
    return high <= NEAR * low and abs(one.offset - other.offset) <= (NEAR - 1) * low


def cosine(one: RewardNetwork, other: RewardNetwork) -> float:
    """Cosine of the backbones' matrices, all as one vector."""
    dot = mine = theirs = 0.0
    pairs = zip(one.backbone.parameters(), other.backbone.parameters(), strict=True)
    for a, b in ((a.detach(), b.detach()) for a, b in pairs if a.dim() > 1):
        dot += float((a * b).sum(dtype=torch.float64))
        mine += float((a * a).sum(dtype=torch.float64))
        theirs += float((b * b).sum(dtype=torch.float64))
    return dot / math.sqrt(mine * theirs) if mine and theirs else math.nan
