"""The data of a run: its sources as tokens, with scaled targets.

Shapes: P pairs, R rated responses, K attributes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Floats
from smorm.config import Config, SourceConfig
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source, read_preferences, read_rated
from smorm.data.records import Messages
from smorm.data.scaling import AttributeScale, apply_scales, fit_scales, restore_scales
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.token_store import (
    StoreKind,
    TokenPair,
    TokenRated,
    TokenStore,
    pairs_of,
    prompt_ids,
    rated_of,
    where_of,
)
from smorm.data.tokeniser import Tokeniser
from smorm.errors import ConfigError

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Pairs and rated responses as tokens, read from the stores as they are asked for.

    Attributes:
        targets: scaled ratings [R, K], NaN where not rated.
        pair_prompts, rated_prompts: which prompt each pair [P] and each rating [R] is over: ids
            from 0, in order of first appearance, in one space for both.
        contents: hash of each store's tokens, in order.
    """

    pairs: Sequence[TokenPair]
    rated: Sequence[TokenRated]
    targets: Floats
    pair_prompts: Ids
    rated_prompts: Ids
    contents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stores:
    """The sources of each kind as tokens, in the configuration's order."""

    pairs: tuple[TokenStore, ...]
    rated: tuple[TokenStore, ...]

    def attributes(self) -> list[str]:
        """The union of the attributes' names, in order of appearance."""
        return list(dict.fromkeys(name for store in self.rated for name in store.attributes))

    def ratings(self, names: Sequence[str]) -> Floats:
        """Ratings of all rated records, those that were dropped included, [R', len(names)]."""
        parts = [store.ratings(names) for store in self.rated]
        return np.concatenate(parts) if parts else np.zeros((0, len(names)))


def to_source(source: SourceConfig) -> Source:
    """The reader's source from the configuration's."""
    return Source(**source.model_dump())


def training_texts(
    config: Config, preference: Sequence[Source], rated: Sequence[Source]
) -> Iterator[str]:
    """Every text of the sources, streamed, for training a tokenizer. What is left out is counted
    later, when the records become tokens."""
    options: Any = {"census": Census(), "on_bad_record": config.data.on_bad_record}
    for source in preference:
        for pair in read_preferences(source, **options):
            yield from _contents(pair.prompt, pair.chosen, pair.rejected)
    for source in rated:
        for one in read_rated(source, **options):
            yield from _contents(one.prompt, one.response)


def _contents(*conversations: Messages) -> Iterator[str]:
    return (message.content for message in itertools.chain(*conversations))


def tokenised_sources(
    config: Config,
    preference: Sequence[Source],
    rated: Sequence[Source],
    tokeniser: Tokeniser,
    census: Census,
    *,
    limit: int | None = None,
) -> Stores:
    """Both kinds as tokens, mapped from the cache or made now.

    Args:
        census: gets what the sources dropped, shortened or skipped; bad records stop the run or go
            to `quarantine.jsonl` in the output folder.
        limit: the most records of each kind.
    """

    def stores(sources: Sequence[Source], kind: StoreKind) -> tuple[TokenStore, ...]:
        found: list[TokenStore] = []
        for source in sources:
            if limit is not None:
                left = limit - sum(store.records for store in found)
                if left == 0:
                    break
                source = replace(source, limit=min(left, source.limit or left))
            quarantine = config.output.folder / "quarantine.jsonl"
            wanted = TokenRequest(source, kind, config.data.on_bad_record, quarantine)
            found.append(tokens_of(wanted, tokeniser, config.data.cache))
            census.merge(found[-1].census)
        return tuple(found)

    return Stores(stores(preference, "preference"), stores(rated, "rated"))


def fit_attributes(
    config: Config, stores: Stores, census: Census
) -> tuple[list[str], list[AttributeScale]]:
    """Names of the attributes in use, and their scales from all training ratings.

    Raises:
        ConfigError: `data.attributes` names one that no record rates.
    """
    if not stores.rated:
        return [], []
    present = stores.attributes()
    names = config.data.attributes or present
    unknown = sorted(set(names) - set(present))
    if unknown:
        raise ConfigError(
            f"data.attributes: no record rates {', '.join(unknown)}; rated are {', '.join(present)}"
        )
    scales = fit_scales(names, stores.ratings(names), config.data.scaling, census)
    return list(names), scales


def token_set(stores: Stores, scales: list[AttributeScale], census: Census) -> TokenSet:
    """The stores as one set; a response that rates none of the attributes is dropped, counted."""
    ratings = stores.ratings([scale.name for scale in scales])
    rates_one = ~np.isnan(ratings).all(axis=1)
    fits = np.concatenate([[], *(store.lengths() > 0 for store in stores.rated)]).astype(bool)
    for where in where_of(stores.rated, np.flatnonzero(fits & ~rates_one)):
        census.add(DropReason.UNKNOWN_ATTRIBUTES, where)
    kept = np.flatnonzero(fits & rates_one)
    pair_prompts, rated_prompts = prompt_ids(stores.pairs, stores.rated, kept)
    return TokenSet(
        pairs=pairs_of(stores.pairs, pair_prompts),
        rated=rated_of(stores.rated, kept, rated_prompts),
        targets=apply_scales(scales, ratings[kept]) if len(kept) else ratings[kept],
        pair_prompts=pair_prompts,
        rated_prompts=rated_prompts,
        contents=tuple(store.content for store in (*stores.pairs, *stores.rated)),
    )


def data_fingerprint(train: TokenSet) -> str:
    """Hash of all training tokens, margins, prompts and targets, in their order."""
    digest = hashlib.sha256("|".join(train.contents).encode())
    for array in (train.pair_prompts, train.rated_prompts, train.targets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def attribute_means(scales: list[AttributeScale], train: TokenSet) -> dict[str, float]:
    """Each attribute's mean rating in training, on its own scale."""
    if not scales:
        return {}
    means = np.nanmean(restore_scales(scales, train.targets), axis=0)
    return {scale.name: float(mean) for scale, mean in zip(scales, means, strict=True)}
