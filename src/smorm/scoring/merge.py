"""Models averaged in their weights, into one ordinary model of the same cost.

Weight-averaged reward models (WARM; Ramé et al. 2024, arXiv 2401.12187, section 3): models that
were trained from one pretrained backbone, with other seeds, orders or settings, average well. From
different beginnings they do not, which no shape shows: so how alike the weights are is measured.

Attribute rows are averaged on the attributes' own scale. Models whose scales are near each other
(other samples of the same ratings) can be merged so exactly; scales that are far apart mean other
units or another scaling in training, and are refused.

Shapes: M models, K attributes, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError
from smorm.files import fingerprint
from smorm.model.store import ModelCard, save_model, versions
from smorm.scoring.merge_parts import Part, cosine, load_part, refuse_unlike

UNLIKE = 0.5
"""Cosine of two models' matrices below which they cannot come from one beginning: fine-tuning
leaves it near 1, two random beginnings have about 0."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged.

    Attributes:
        shares: the weight of each model, of sum 1.
        cosines: of each model after the first: how alike its matrices are to the mean of those
            before it.
        notes: what a user should know.
    """

    folder: Path
    names: tuple[str, ...]
    shares: tuple[float, ...]
    cosines: tuple[float, ...]
    parameters: int
    notes: tuple[str, ...] = ()


def merge_models(
    paths: Sequence[str | Path],
    output: Path | str,
    weights: Sequence[float] | None = None,
) -> Merged:
    """Average models in their weights and write an ordinary model folder; two of them are in memory
    at a time.

    Args:
        paths: model folders or hub ids; adapters are merged into their backbones first.
        weights: one above 0 for each, in proportion; by default all count alike.

    Raises:
        ConfigError: fewer than two models, or weights that are none.
        ModelError: another architecture, tokenizer, template, set of rows or scale of ratings.
        OutputError: the folder could not be written.
    """
    names = [str(path) for path in paths]
    if len(names) < 2:
        raise ConfigError("merge: expected two models or more")
    shares = _shares(weights, len(names))
    whole = load_part(names[0])
    cards, cosines, total = [whole.card], [], shares[0]
    for name, share in zip(names[1:], shares[1:], strict=True):
        total += share
        other = load_part(name)
        refuse_unlike(whole, other)
        cosines.append(cosine(whole.network, other.network))
        _move(whole, other, share / total)
        cards.append(other.card)
    card = _card(names, cards, shares)
    scales = torch.tensor([1.0, *(scale.scale for scale in card.scales)], dtype=torch.float64)
    network = whole.network
    network.head.weight.data = (whole.head / scales[:, None]).float()
    save_model(output, network, whole.tokenizer, card)
    parameters = sum(weight.numel() for weight in network.parameters())
    notes = _notes(names, cards, cosines)
    return Merged(Path(output), tuple(names), shares, tuple(cosines), parameters, notes)


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise ConfigError(f"merge: {len(given)} weights for {count} models: give one for each")
    if not all(0 < weight < math.inf for weight in given):
        raise ConfigError(f"merge: weights {given}: expected numbers above 0")
    return tuple(weight / sum(given) for weight in given)


@torch.no_grad()
def _move(whole: Part, other: Part, step: float) -> None:
    """Move the mean of the models before towards the next one; equal weights stay as they are."""
    pairs = zip(
        whole.network.backbone.parameters(), other.network.backbone.parameters(), strict=True
    )
    for mine, theirs in pairs:
        mine.lerp_(theirs, step)
    whole.head.lerp_(other.head, step)


def _card(names: Sequence[str], cards: Sequence[ModelCard], shares: Sequence[float]) -> ModelCard:
    """The first model's card with what is averaged, and of what the model is made."""
    first = cards[0]
    configs = [[c.hashes.get("config"), s] for c, s in zip(cards, shares, strict=True)]
    data = [card.hashes.get("data") for card in cards]
    hashes = {"config": fingerprint(configs), "data": fingerprint(data)}
    for at, (name, card, share) in enumerate(zip(names, cards, shares, strict=True), 1):
        told = ", ".join(f"{key} {value}" for key, value in card.hashes.items())
        hashes[f"merged {at}"] = f"{share:.6g} of {name} ({told or 'no hashes'})"
    return replace(
        first,
        scales=tuple(
            AttributeScale(
                scale.name,
                _mean([card.scales[at].offset for card in cards], shares),
                _mean([card.scales[at].scale for card in cards], shares),
            )
            for at, scale in enumerate(first.scales)
        ),
        means={
            name: _mean([card.means[name] for card in cards], shares)
            for name in first.means
            if all(name in card.means for card in cards)
        },
        offset=_mean([card.offset for card in cards], shares),
        max_tokens=min(card.max_tokens for card in cards),
        base=None,
        hashes=hashes,
        versions=versions(),
    )


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    """Weighted mean, exactly the value where all are equal."""
    first = values[0]
    return first + sum(s * (v - first) for v, s in zip(values, shares, strict=True))


def _notes(
    names: Sequence[str], cards: Sequence[ModelCard], cosines: Sequence[float]
) -> tuple[str, ...]:
    notes = [
        f"warning: {name} is unlike the models before it (cosine of the matrices {alike:.3f}): it "
        "was not trained from the same beginning, and an average of such weights is no model."
        for name, alike in zip(names[1:], cosines, strict=True)
        if not alike >= UNLIKE
    ]
    if any(card.default_view != cards[0].default_view for card in cards):
        notes.append(f"The models' default views differ: {cards[0].default_view} is kept.")
    if any(card.max_tokens != cards[0].max_tokens for card in cards):
        notes.append("The models' token limits differ: the smallest is kept.")
    if any(card.overlong != cards[0].overlong for card in cards):
        notes.append(
            f"The models treat prompts over their limit differently: {cards[0].overlong} is kept."
        )
    if any(card.scales != cards[0].scales for card in cards):
        notes.append(
            "The attributes' scales differ a little: rows are averaged on their own scale."
        )
    return tuple(notes)
