"""The data of a run: its sources as tokens, with scaled targets."""

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smorm.arrays import Floats, Ints
from smorm.config import Config, SourceConfig, TrainedTokenizer
from smorm.config.sections import DataSection, EvaluationSection
from smorm.data import token_store
from smorm.data.augment import Augment, Negative
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source, read_records
from smorm.data.scaling import AttributeScale, apply_scales, fit_scales
from smorm.data.token_cache import TokenRequest, tokens_of
from smorm.data.token_store import StoreKind, TokenPair, TokenRated, TokenStore
from smorm.data.tokeniser import Tokeniser
from smorm.errors import ConfigError
from smorm.model.store import resolve
from smorm.text.system import with_system_merged
from smorm.text.tokenizers import load_tokenizer, read_template, train_bpe
from smorm.training.distributed.ranks import current

_HASHED_ROWS = 1 << 16
Sources = Mapping[StoreKind, Sequence[Source]]


@dataclass(frozen=True, slots=True)
class TokenSet:
    """Pairs and rated responses as tokens, read from the stores on access.

    `targets` [rated, attributes] are scaled ratings, NaN where not rated. `pair_prompts` and
    `rated_prompts` are ids of prompts from 0, in order of first appearance, in one space for both.
    `fingerprint` is a hash of all tokens, margins, prompts and targets, in their order."""

    pairs: Sequence[TokenPair]
    rated: Sequence[TokenRated]
    targets: Floats
    pair_prompts: Ints
    rated_prompts: Ints
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Stores:
    """The sources of each kind as tokens, in the configuration's order."""

    pairs: tuple[TokenStore, ...]
    rated: tuple[TokenStore, ...]

    def ratings(self, names: Sequence[str]) -> Floats:
        """Ratings of all rated records, dropped ones too, [records, len(names)]."""
        tables = [np.zeros((0, len(names))), *(store.ratings(names) for store in self.rated)]
        return np.concatenate(tables)


def to_source(source: SourceConfig) -> Source:
    """The reader's source from the configuration's."""
    return Source(**source.model_dump(exclude={"name"}))


def sources_of(section: DataSection | EvaluationSection, *, pairs: bool, rated: bool) -> Sources:
    """The sources of a section. Those of a kind that the run does not use are not even opened."""
    preference = list(map(to_source, section.preference)) * pairs
    return {"preference": preference, "rated": list(map(to_source, section.rated)) * rated}


def training_texts(config: Config, sources: Sources) -> Iterator[str]:
    """Every text of the sources, streamed, for training a tokenizer."""
    for kind, group in sources.items():
        for source in group:
            # In a census that is dropped: the run's census counts each record once.
            for record in read_records(source, kind, Census(), config.data.on_bad_record):
                item = record.item
                for message in itertools.chain(item.prompt, *item.responses):
                    yield message.content


def run_tokenizer(config: Config, sources: Sources) -> Any:
    """The tokenizer of a run, loaded or trained on the texts of these sources."""
    spec = config.model.tokenizer
    if isinstance(spec, TrainedTokenizer):
        return train_bpe(training_texts(config, sources), spec.vocab_size)
    backbone = str(config.model.backbone)
    if spec is None and Path(backbone).is_dir():
        spec = str(resolve(backbone))
    return load_tokenizer(spec or backbone)


def run_template(config: Config, tokenizer: Any) -> str | None:
    """The text of `model.chat_template`, with system messages merged where that is asked for; None
    where the tokenizer's template is used as it is."""
    path = config.model.chat_template
    template = None
    if path is not None:
        template = read_template(path, "model.chat_template")
    if config.model.system == "merge":
        return with_system_merged(tokenizer, template)
    return template


def augment_of(config: Config) -> Augment | None:
    """The extra pairs that a run trains on."""
    section = config.data.augment
    if section is None:
        return None
    return Augment(section.share, tuple(map(Negative, section.kinds)), config.training.seed)


def tokenised_sources(
    config: Config,
    sources: Sources,
    tokeniser: Tokeniser,
    census: Census,
    limit: int | None = None,
    *,
    augment: Augment | None = None,
) -> Stores:
    """Both kinds as tokens, from the cache or made now, at most `limit` records of each, pairs
    with the extra ones of `augment`. Bad records stop the run or go to `quarantine.jsonl` in the
    output folder."""
    quarantine = config.output.folder / "quarantine.jsonl"
    if not current().is_first:  # the first rank writes them down
        quarantine = Path(os.devnull)
    stores: dict[StoreKind, list[TokenStore]] = {"preference": [], "rated": []}
    for kind, group in sources.items():
        room = limit
        for source in group:
            if room == 0:
                break
            # The limit goes to the reader: what is beyond it is never read or tokenised.
            if room is not None:
                source = replace(source, limit=min(room, source.limit or room))
            extra = augment if kind == "preference" else None
            request = TokenRequest(source, kind, config.data.on_bad_record, quarantine, extra)
            store = tokens_of(request, tokeniser, config.data.cache)
            stores[kind].append(store)
            census.merge(store.census)
            if room is not None:
                room -= store.records
    return Stores(tuple(stores["preference"]), tuple(stores["rated"]))


def fit_attributes(config: Config, stores: Stores, census: Census) -> list[AttributeScale]:
    """The attributes in use, with their scales from all training ratings."""
    if not stores.rated:  # the method uses none
        return []
    rated = list(dict.fromkeys(name for store in stores.rated for name in store.attributes))
    names = config.data.attributes or rated
    unknown = sorted(set(names) - set(rated))
    if unknown:
        problem = f"no record rates {', '.join(unknown)}; rated are {', '.join(rated)}"
        raise ConfigError(f"data.attributes: {problem}")
    return fit_scales(names, stores.ratings(names), config.data.scaling, census)


def token_set(stores: Stores, scales: list[AttributeScale], census: Census) -> TokenSet:
    """The stores as one set; a response that rates none of the attributes is dropped, counted."""
    ratings = stores.ratings([scale.name for scale in scales])
    has_rating = ~np.isnan(ratings).all(axis=1)
    # A record that was dropped when it became tokens has no tokens, and was counted then.
    has_tokens = np.concatenate([[], *(store.lengths() > 0 for store in stores.rated)]).astype(bool)
    for where in token_store.where_of(stores.rated, np.flatnonzero(has_tokens & ~has_rating)):
        census.add(DropReason.UNKNOWN_ATTRIBUTES, where)
    usable = np.flatnonzero(has_tokens & has_rating)
    targets = ratings[usable]
    if len(usable):
        targets = apply_scales(scales, targets)
    pair_prompts, rated_prompts = token_store.prompt_ids(stores.pairs, stores.rated, usable)
    pairs = token_store.pairs_of(stores.pairs, pair_prompts)
    rated = token_store.rated_of(stores.rated, usable, rated_prompts)
    # Hashes of the stores, not the tokens again: reading a million pairs takes seconds.
    contents = "|".join(store.content for store in (*stores.pairs, *stores.rated))
    digest = hashlib.sha256(contents.encode())
    for array, dtype in ((pair_prompts, "q"), (rated_prompts, "q"), (targets, "d")):
        # In pieces: ids are held in 4 bytes, and hashed as the 8 that they always were.
        for start in range(0, len(array), _HASHED_ROWS):
            digest.update(array[start : start + _HASHED_ROWS].astype(dtype).tobytes())
    fingerprint = digest.hexdigest()[:16]
    return TokenSet(pairs, rated, targets, pair_prompts, rated_prompts, fingerprint)
