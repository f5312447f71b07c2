"""What is checked: from the words of a command line, or a run's configuration, to sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smorm.checks.attributes import Range
from smorm.checks.scan import Reading
from smorm.data.formats import FORMATS
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.text.limits import Overlong

if TYPE_CHECKING:
    from smorm.config import Config

DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Tokens:
    """How conversations become tokens.

    Attributes:
        template: Jinja source, or None for the tokenizer's own.
        overlong: the run's policy; None where no run was named.
        pad_is_settled: the run chooses a fit pad token by itself.
    """

    tokenizer: Any
    template: str | None
    max_tokens: int
    overlong: Overlong | None
    pad_is_settled: bool
    workers: Any = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a check reads.

    Attributes:
        against: benchmarks as names with their sources.
        ranges: lowest and highest value of attributes.
    """

    readings: tuple[Reading, ...]
    against: tuple[tuple[str, tuple[Source, ...]], ...] = ()
    ranges: dict[str, Range] = field(default_factory=dict)
    tokens: Tokens | None = None


def parse_against(text: str) -> tuple[str, tuple[Source, ...]]:
    """A benchmark's name and sources: a path, `NAME=PATH`, or the name of one on the hub.

    In `NAME=PATH` the name is a suite's (`rewardbench`) or a format's (`hh_rlhf`).

    Raises:
        ConfigError: an unknown name.
    """
    from smorm.evaluation.benchmarks import BENCHMARKS, benchmark_sources

    name, separator, path = text.partition("=")
    if separator and not Path(text).exists():
        if name in BENCHMARKS:
            return name, tuple(benchmark_sources(name, path))
        if name in FORMATS:
            return path, (Source(path, format=name),)
        known = ", ".join([*BENCHMARKS, *FORMATS])
        raise ConfigError(f"--against {text}: expected NAME=PATH with NAME one of {known}")
    if text in BENCHMARKS and not Path(text).exists():
        return text, tuple(benchmark_sources(text))
    return text, (Source(text),)


def parse_range(text: str) -> tuple[str, Range]:
    """`NAME=LOW..HIGH`.

    Raises:
        ConfigError: another form, or LOW above HIGH.
    """
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)"
    found = re.fullmatch(rf"(.+)=({number})\.\.({number})", text)
    if found is None or float(found[2]) > float(found[3]):
        raise ConfigError(f"--range {text}: expected NAME=LOW..HIGH, e.g. helpfulness=0..4")
    return found[1], (float(found[2]), float(found[3]))


def readings_of_config(config: Config, limit: int | None = None) -> tuple[Reading, ...]:
    """The sources that a run would read, training first; at most `limit` records of each."""
    from smorm.training.sources import to_source

    objective, data, held_out = config.objective, config.data, config.evaluation
    found = [
        *(Reading(to_source(s), "preference") for s in data.preference if objective.uses_pairs),
        *(Reading(to_source(s), "rated") for s in data.rated if objective.uses_ratings),
        *(Reading(to_source(s), "preference", held_out=True) for s in held_out.preference),
        *(Reading(to_source(s), "rated", held_out=True) for s in held_out.rated),
    ]
    if limit is None:
        return tuple(found)
    return tuple(replace(one, source=_at_most(one.source, limit)) for one in found)


def _at_most(source: Source, limit: int) -> Source:
    return replace(source, limit=min(limit, source.limit or limit))


def tokens_of_config(config: Config, max_tokens: int | None = None) -> Tokens:
    """The tokenizer, template and limit of a run. One that is trained on the data is trained here.

    Raises:
        ModelError, ConfigError: the tokenizer or the template cannot be had.
    """
    from smorm.config import TrainedTokenizer
    from smorm.model.backbone import load_tokenizer

    spec, path = config.model.tokenizer, config.model.chat_template
    if isinstance(spec, TrainedTokenizer):
        tokenizer = _trained(config, spec.vocab_size)
    else:
        tokenizer = load_tokenizer(spec if spec is not None else str(config.model.backbone))
    template = None
    if path is not None:
        try:
            template = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"model.chat_template: {path}: {error.strerror}") from error
    data = config.data
    limit = max_tokens or data.max_tokens
    return Tokens(tokenizer, template, limit, data.overlong, True, data.workers)


def _trained(config: Config, vocab_size: int) -> Any:
    from smorm.text.bpe import train_bpe
    from smorm.training.sources import training_texts

    # A bad record is one of the findings, and must not end the check here.
    skipping = config.data.model_copy(update={"on_bad_record": "skip"})
    readings = [reading for reading in readings_of_config(config) if not reading.held_out]
    pairs, rated = (
        [reading.source for reading in readings if reading.kind == kind]
        for kind in ("preference", "rated")
    )
    whole = config.model_copy(update={"data": skipping})
    return train_bpe(training_texts(whole, pairs, rated), vocab_size)


def tokens_of_model(path: str, max_tokens: int | None = None) -> Tokens:
    """The tokenizer of a model folder or hub id, with the limit it was trained under if it says so.

    Raises:
        ModelError: there is none.
    """
    from smorm.model.backbone import load_tokenizer
    from smorm.model.store import CARD, read_card

    folder = Path(path) / "model" if (Path(path) / "model" / CARD).is_file() else Path(path)
    if not (folder / CARD).is_file():
        limit = max_tokens or DEFAULT_MAX_TOKENS
        return Tokens(load_tokenizer(str(folder)), None, limit, None, False)
    card = read_card(folder)
    tokenizer = load_tokenizer(str(folder))
    return Tokens(tokenizer, card.chat_template, max_tokens or card.max_tokens, None, False)


def readings_of(
    paths: Sequence[str], held_out: Sequence[str], options: dict[str, Any]
) -> tuple[Reading, ...]:
    """Sources named on the command line; `options` are those of `Source`."""
    return (
        *(Reading(Source(path, **options)) for path in paths),
        *(Reading(Source(path, **options), held_out=True) for path in held_out),
    )
