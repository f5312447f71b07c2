"""Models averaged in their weights, into one ordinary model of the same cost.

Weight-averaged reward models (WARM; Ramé et al. 2024, arXiv 2401.12187, section 3): models that
were trained from one pretrained backbone, with other seeds, orders or settings, average well. From
different beginnings they do not, which no shape shows: so how alike the weights are is measured.

Attribute rows are averaged on the attributes' own scale, exactly where scales are near each other
(other samples of the same ratings). Scales far apart mean other units or scalings: refused."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, ModelError
from smorm.files import fingerprint, refuse_unwritable_folder
from smorm.model.backbone import merge_lora
from smorm.model.card import ModelCard
from smorm.model.heads import NonlinearHead
from smorm.model.network import RewardNetwork
from smorm.model.run_folder import stored_size
from smorm.model.store import load_model, save_model, versions
from smorm.text.chat import Renderer

# Cosine of two models' matrices below which they cannot come from one beginning: fine-tuning leaves
# it near 1, two random beginnings have about 0.
UNLIKE = 0.5
# Largest ratio of two models' scales of an attribute; their offsets may differ by a quarter of the
# scale.
NEAR = 1.25
# Fields of a configuration that do not decide what the backbone computes.
_COSMETIC = frozenset({
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label",
    "label2id", "num_labels", "problem_type", "pad_token_id", "bos_token_id", "eos_token_id",
    "use_cache",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged."""

    folder: Path
    names: tuple[str, ...]
    shares: tuple[float, ...]  # the weight of each model, of sum 1
    # Of each model after the first: how alike its matrices are to the mean of those before it.
    cosines: tuple[float, ...]
    parameters: int
    notes: tuple[str, ...] = ()  # what a user should know


@dataclass(slots=True)
class LoadedModel:
    """A model in fp32 without adapters, and its head on the rows' own scales [1 + K, D] in fp64."""

    network: RewardNetwork
    tokenizer: Any
    card: ModelCard
    head: torch.Tensor
    renderer: str


def merge_models(
    paths: Sequence[str | Path], output: Path | str, weights: Sequence[float] | None = None
) -> Merged:
    """Average models in their weights and write an ordinary model folder; two of them are in memory
    at a time. Adapters are merged into their backbones first. `weights`, one for each, are above 0;
    by default all models count alike.

    Raises:
        ConfigError: fewer than two models, or weights that are none.
        ModelError: another architecture, tokenizer, template, set of rows or scale of ratings.
        OutputError: the folder could not be written."""
    names, count = list(map(str, paths)), len(paths)
    if count < 2:
        raise ConfigError("merge: expected two models or more")
    values = np.array([1.0] * count if weights is None else weights, dtype=np.float64)
    if len(values) != count:
        raise ConfigError(f"merge: {len(values)} weights for {count} models: give one for each")
    if not ((values > 0) & np.isfinite(values)).all():
        raise ConfigError(f"merge: weights {values.tolist()}: expected numbers above 0")
    shares = tuple((values / values.sum()).tolist())
    # Before the models are loaded.
    refuse_unwritable_folder(Path(output), stored_size(names[0]))
    # The mean moves from model to model, so that only it and the next one are in memory.
    mean = load_linear(names[0])
    cards, cosines, total = [mean.card], [], shares[0]
    for name, share in zip(names[1:], shares[1:], strict=True):
        total += share
        # Compared with the mean so far, which has the first model's shapes, rows and tokenizer.
        added = load_linear(name)
        for difference in _differences(mean, added):
            raise ModelError(f"merge: {names[0]} and {name} {difference}")
        cosines.append(_move(mean, added, share / total))
        cards.append(added.card)
    card = _card(names, cards, shares)
    network = mean.network
    # Rows were averaged on their own scale in fp64, and go back to the training scale.
    network.head.weight.data = (mean.head / _row_scales(card)).float()
    save_model(output, network, mean.tokenizer, card)
    parameters = sum(weight.numel() for weight in network.parameters())
    notes = _notes(names, cards, cosines)
    return Merged(Path(output), tuple(names), shares, tuple(cosines), parameters, notes)


def _row_scales(card: ModelCard) -> torch.Tensor:
    """By what each row is multiplied to be on its own scale [1 + K, 1]; preference has none."""
    scales = [1.0, *(scale.scale for scale in card.scales)]
    return torch.tensor(scales, dtype=torch.float64)[:, None]


@torch.no_grad()
def _move(mean: LoadedModel, added: LoadedModel, step: float) -> float:
    """Move the mean of the models before towards the next one. Returns the cosine of the backbones'
    matrices, all as one vector, as they were before."""
    dot = square_mean = square_added = torch.zeros((), dtype=torch.float64)
    weights = mean.network.backbone.parameters()
    for weight, target in zip(weights, added.network.backbone.parameters(), strict=True):
        # Norms' weights are left out: they are near 1 in every model.
        if weight.dim() > 1:
            dot = dot + (weight * target).sum(dtype=torch.float64)
            square_mean = square_mean + (weight * weight).sum(dtype=torch.float64)
            square_added = square_added + (target * target).sum(dtype=torch.float64)
        # Unlike a sum of weighted weights, this leaves equal weights as they are, bit for bit.
        weight.lerp_(target, step)
    mean.head.lerp_(added.head, step)
    length = math.sqrt(float(square_mean) * float(square_added))
    return float(dot) / length if length else math.nan


def _card(names: Sequence[str], cards: Sequence[ModelCard], shares: Sequence[float]) -> ModelCard:
    first = cards[0]
    configs, data = [], []
    for card, share in zip(cards, shares, strict=True):
        configs.append([card.hashes.get("config"), share])
        data.append(card.hashes.get("data"))
    hashes = {"config": fingerprint(configs), "data": fingerprint(data)}
    for number, (name, card, share) in enumerate(zip(names, cards, shares, strict=True), 1):
        source = ", ".join(f"{key} {value}" for key, value in card.hashes.items()) or "no hashes"
        hashes[f"merged {number}"] = f"{share:.6g} of {name} ({source})"
    # Attribute by attribute: the same one of every model.
    scales = []
    for same in zip(*map(attrgetter("scales"), cards), strict=True):
        offset = _mean(same, attrgetter("offset"), shares)
        width = _mean(same, attrgetter("scale"), shares)
        scales.append(AttributeScale(same[0].name, offset, width))
    means, of_cards = {}, list(map(attrgetter("means"), cards))
    for name in first.means:
        if all(name in means_of_card for means_of_card in of_cards):
            means[name] = _mean(of_cards, itemgetter(name), shares)
    return replace(
        first, scales=tuple(scales), means=means, base=None, base_dtype="fp32",
        hashes=hashes, versions=versions(),
        offset=_mean(cards, attrgetter("offset"), shares),
        max_tokens=min(map(attrgetter("max_tokens"), cards)),
    )  # fmt: skip


def _mean(items: Sequence[Any], value: Callable[[Any], float], shares: Sequence[float]) -> float:
    first, moved = value(items[0]), 0.0
    for item, share in zip(items, shares, strict=True):
        moved += share * (value(item) - first)
    return first + moved


def _notes(
    names: Sequence[str], cards: Sequence[ModelCard], cosines: Sequence[float]
) -> tuple[str, ...]:
    notes = []
    for name, alike in zip(names[1:], cosines, strict=True):
        if not alike >= UNLIKE:  # NaN is unlike too
            notes.append(
                f"warning: {name} is unlike the models before it (cosine of the matrices "
                f"{alike:.3f}): it was not trained from the same beginning, and an average of such "
                "weights is no model."
            )
    view, overlong = cards[0].default_view, cards[0].overlong
    texts = {
        "default_view": f"The models' default views differ: {view} is kept.",
        "max_tokens": "The models' token limits differ: the smallest is kept.",
        "overlong": f"The models treat prompts over their limit differently: {overlong} is kept.",
        "scales": "The attributes' scales differ a little: rows are averaged on their own scale.",
    }
    for key, text in texts.items():
        if any(getattr(card, key) != getattr(cards[0], key) for card in cards):
            notes.append(text)
    return tuple(notes)


def load_linear(path: str) -> LoadedModel:
    """Load a model folder whose head is linear; adapters are merged into its backbone."""
    network, tokenizer, card = load_model(path)
    if isinstance(network.head, NonlinearHead):
        raise ModelError(f"{path}: {network.head.refusal()}")
    # Adapters of two models may be over different backbones: only whole weights can be averaged.
    network.backbone = merge_lora(network.backbone)
    head = network.head.weight.detach().double() * _row_scales(card)
    renderer = Renderer(tokenizer, card.chat_template, card.max_tokens).fingerprint
    return LoadedModel(network, tokenizer, card, head, renderer)


def _differences(first: LoadedModel, second: LoadedModel) -> Iterator[str]:
    a, b = first.network.backbone.config.to_dict(), second.network.backbone.config.to_dict()
    # Every field counts but the cosmetic ones: a new one may decide what a backbone computes.
    differ = [key for key in sorted((a.keys() | b.keys()) - _COSMETIC) if a.get(key) != b.get(key)]
    # Another model type brings many other fields along: it alone says enough.
    for key in sorted(differ, key=lambda key: key != "model_type"):
        yield f"are of different architectures: {key} is {a.get(key)!r} and {b.get(key)!r}"
    shapes: set[tuple[str, torch.Size]] = set()
    for model in (first, second):
        for name, weight in model.network.backbone.named_parameters():
            shapes ^= {(name, weight.shape)}
    for name, _ in sorted(shapes):
        yield f"have weights of different shapes: {name}"
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        yield "have different tokenizers"
    if first.renderer != second.renderer:
        yield "render conversations to different tokens (another chat template or tokenizer)"
    yield from _different_rows(first.card, second.card)


def _different_rows(first: ModelCard, second: ModelCard) -> Iterator[str]:
    if first.rows != second.rows:
        yield f"have different rows: {', '.join(first.rows)} and {', '.join(second.rows)}"
    if first.preference_trained != second.preference_trained:
        yield "have different rows: one was trained on ratings alone, without a preference row"
    if first.view != second.view:
        yield "are exports of different views: merge the models that they were made of"
    for a, b in zip(first.scales, second.scales, strict=True):
        low, high = sorted((a.scale, b.scale))
        if high > NEAR * low or abs(a.offset - b.offset) > (NEAR - 1) * low:
            yield (
                f"hold {a.name} on different scales (offset {a.offset:.4g}, scale {a.scale:.4g}; "
                f"offset {b.offset:.4g}, scale {b.scale:.4g}): train them with one scaling, on "
                "ratings of one unit"
            )
