"""The data of a run: records of its sources, and the same as tokens with scaled targets.

Shapes: R rated responses, K attributes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.config import Config, SourceConfig
from smorm.data.census import Census
from smorm.data.encode import Encoder, TokenPair, TokenRated, encode_preferences, encode_rated
from smorm.data.formats import Source, read_preferences, read_rated
from smorm.data.records import Preference, Rated
from smorm.data.scaling import (
    AttributeScale,
    apply_scales,
    attribute_names,
    fit_scales,
    rating_matrix,
    restore_scales,
)
from smorm.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Pairs and rated responses as tokens; `targets` [R, K] scaled, NaN where not rated."""

    pairs: list[TokenPair]
    rated: list[TokenRated]
    targets: Floats


@dataclass(frozen=True, slots=True)
class Records:
    """What the sources hold, before it is tokens."""

    pairs: list[Preference]
    rated: list[Rated]

    def texts(self) -> Iterable[str]:
        """Every text, for training a tokenizer."""
        for pair in self.pairs:
            for message in itertools.chain(pair.prompt, pair.chosen, pair.rejected):
                yield message.content
        for rated in self.rated:
            for message in itertools.chain(rated.prompt, rated.response):
                yield message.content


def to_source(source: SourceConfig) -> Source:
    """The reader's source from the configuration's."""
    return Source(**source.model_dump())


def read_sources(
    config: Config,
    preference: Sequence[SourceConfig],
    rated: Sequence[SourceConfig],
    census: Census,
) -> Records:
    """Records of both kinds; bad ones stop the run or go to `quarantine.jsonl`."""
    options: Any = {
        "census": census,
        "on_bad_record": config.data.on_bad_record,
        "quarantine": config.output.folder / "quarantine.jsonl",
    }
    pairs = [p for s in preference for p in read_preferences(to_source(s), **options)]
    ratings = [r for s in rated for r in read_rated(to_source(s), **options)]
    return Records(pairs, ratings)


def limited(records: Records, config: Config) -> Records:
    """The first `evaluation.limit` records of each kind."""
    limit = config.evaluation.limit
    return records if limit is None else Records(records.pairs[:limit], records.rated[:limit])


def fit_attributes(
    config: Config, rated: list[Rated], census: Census
) -> tuple[list[str], list[AttributeScale]]:
    """Names of the attributes in use, and their scales from the training ratings.

    Raises:
        ConfigError: `data.attributes` names one that no record rates.
    """
    if not rated:
        return [], []
    present = attribute_names(rated)
    names = config.data.attributes or present
    unknown = sorted(set(names) - set(present))
    if unknown:
        raise ConfigError(
            f"data.attributes: no record rates {', '.join(unknown)}; rated are {', '.join(present)}"
        )
    scales = fit_scales(names, rating_matrix(rated, names), config.data.scaling, census)
    return list(names), scales


def encode_records(records: Records, encoder: Encoder, scales: list[AttributeScale]) -> TokenSet:
    """Records as tokens; a response that rates none of the attributes is dropped, counted."""
    pairs = list(encode_preferences(records.pairs, encoder))
    names = [scale.name for scale in scales]
    rated = []
    for one in encode_rated(records.rated, encoder):
        if any(one.record.scores.get(name) is not None for name in names):
            rated.append(one)
        else:
            encoder.census.add("dropped: rates none of the model's attributes", one.record.where)
    targets = np.zeros((len(rated), len(names)))
    if rated:
        targets = apply_scales(scales, rating_matrix([r.record for r in rated], names))
    return TokenSet(pairs, rated, targets)


def data_fingerprint(train: TokenSet) -> str:
    """Hash of all training tokens, margins and targets, in their order."""
    digest = hashlib.sha256()
    for pair in train.pairs:
        for part in (pair.chosen, pair.rejected, np.float64(pair.margin)):
            digest.update(part.tobytes() + b"|")
    for rated in train.rated:
        digest.update(rated.tokens.tobytes() + b"|")
    digest.update(train.targets.tobytes())
    return digest.hexdigest()[:16]


def attribute_means(scales: list[AttributeScale], train: TokenSet) -> dict[str, float]:
    """Each attribute's mean rating in training, on its own scale."""
    if not scales:
        return {}
    means = np.nanmean(restore_scales(scales, train.targets), axis=0)
    return {scale.name: float(mean) for scale, mean in zip(scales, means, strict=True)}
