"""What is checked: from a command line, or a run's configuration, to sources and a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smorm.checks.labels import Range
from smorm.checks.scan import CheckedSource
from smorm.data.formats import FORMATS
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.text.limits import Overlong

if TYPE_CHECKING:
    from smorm.config import Config

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(rf"(.+)=({_NUMBER})\.\.({_NUMBER})")


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """How conversations become tokens."""

    tokenizer: Any
    template: str | None  # Jinja source, or None for the tokenizer's own
    max_tokens: int
    overlong: Overlong | None  # the run's policy; None where no run was named
    pad_is_settled: bool  # the run chooses a fit pad token by itself
    workers: Any = "auto"
    positions: int | None = None  # of the backbone, where they are known
    is_lowered: bool = False  # the limit is the positions, which are fewer than the default


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a check reads."""

    sources: tuple[CheckedSource, ...]
    # benchmarks as names with their sources
    against: tuple[tuple[str, tuple[Source, ...]], ...] = ()
    ranges: dict[str, Range] = field(default_factory=dict)  # lowest and highest value of attributes
    tokens: TokenPlan | None = None
    attributes: tuple[str, ...] = ()  # that the run trains; () for all that are rated


def parse_against(text: str) -> tuple[str, tuple[Source, ...]]:
    """A benchmark's name and sources: a path, the name of one on the hub, or `NAME=PATH` with the
    name of a suite (`rewardbench`) or a format (`hh_rlhf`)."""
    from smorm.evaluation.benchmarks import BENCHMARKS, benchmark_sources

    name, separator, path = text.partition("=")
    # A file may be called `a=b.jsonl`: what exists is a path.
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
    """`NAME=LOW..HIGH`."""
    match = _RANGE.fullmatch(text)
    # An empty range would make every rating wrong.
    if match is None or float(match[2]) > float(match[3]):
        raise ConfigError(f"--range {text}: expected NAME=LOW..HIGH, e.g. helpfulness=0..4")
    return match[1], (float(match[2]), float(match[3]))


def sources_of_arguments(
    paths: Sequence[str], held_out: Sequence[str], options: dict[str, Any]
) -> tuple[CheckedSource, ...]:
    """Sources named on the command line, held-out ones as PATH or PATH:SPLIT; `options` are those
    of `Source`."""
    sources = [CheckedSource(Source(path, **options)) for path in paths]
    for text in held_out:
        path, split = parse_split(text)
        source = Source(path, **(options | split))
        sources.append(CheckedSource(source, held_out=True))
    return tuple(sources)


def parse_split(text: str) -> tuple[str, dict[str, str]]:
    """`PATH` or `PATH:SPLIT` as a path and the split, where it names one."""
    path, colon, split = text.rpartition(":")
    # A path may hold a colon itself, as those of Windows do.
    if not colon or not path or Path(text).exists() or not re.fullmatch(r"\w[\w.-]*", split):
        return text, {}
    return path, {"split": split}


def sources_of_config(config: Config, limit: int | None = None) -> tuple[CheckedSource, ...]:
    """The sources that a run would read, training first; at most `limit` records of each."""
    from smorm.training.sources import to_source

    objective, data, evaluation = config.objective, config.data, config.evaluation
    # Sets that the objective ignores are not read by the run, and not checked.
    groups: list[tuple[Any, Any, bool, bool]] = [
        (data.preference, "preference", False, objective.method.uses_pairs),
        (data.rated, "rated", False, objective.method.uses_ratings),
        (evaluation.preference, "preference", True, True),
        (evaluation.rated, "rated", True, True),
    ]
    sources = []
    for sections, kind, held_out, used in groups:
        for section in sections if used else ():
            source = to_source(section)
            if limit is not None:
                source = replace(source, limit=min(limit, source.limit or limit))
            sources.append(CheckedSource(source, kind, held_out))
    return tuple(sources)


def attributes_of_config(config: Config) -> tuple[str, ...]:
    """The attributes that a run asks for by name."""
    if not config.objective.method.uses_ratings:
        return ()
    return tuple(config.data.attributes or ())


def tokens_of_config(config: Config, max_tokens: int | None = None) -> TokenPlan:
    """Tokenizer, template and limit of a run. One that is trained on the data is trained here."""
    from smorm.training.limit import positions_of_run
    from smorm.training.sources import run_template, run_tokenizer

    # A bad record is one of the findings, and must not end the check here.
    data = config.data.model_copy(update={"on_bad_record": "skip"})
    sources: dict[Any, list[Source]] = {"preference": [], "rated": []}
    for checked in sources_of_config(config):
        if not checked.held_out:
            sources[checked.kind].append(checked.source)
    skipping = config.model_copy(update={"data": data})
    tokenizer = run_tokenizer(skipping, sources)
    if max_tokens is None and "max_tokens" in data.model_fields_set:
        max_tokens = data.max_tokens
    plan = TokenPlan(
        tokenizer,
        run_template(config, tokenizer),
        data.max_tokens,
        data.overlong,
        True,
        data.workers,
        positions_of_run(config),
    )
    return _with_limit(plan, max_tokens)


def tokens_of_model(path: str, max_tokens: int | None = None) -> TokenPlan:
    """The tokenizer of a model folder or hub id, with the limit that its card names, if any."""
    from smorm.model.backbone import adapted_model, positions_of
    from smorm.model.card import CARD, ModelCard, read_card
    from smorm.model_files import check_files
    from smorm.text.tokenizers import load_tokenizer

    # A run's folder holds its model one level down.
    folder = Path(path)
    if (folder / "model" / CARD).is_file():
        folder = folder / "model"
    if folder.is_dir():
        check_files(folder)
    card, has_card = ModelCard(), (folder / CARD).is_file()
    if has_card:
        card = read_card(folder)
    # Adapters of somebody else may leave the tokenizer with the model that they are for.
    base = adapted_model(folder) or str(folder)
    holder = base
    if list(folder.glob("tokenizer*")) or base == path:
        holder = str(folder)
    tokenizer = load_tokenizer(holder)
    if max_tokens is None and has_card:
        max_tokens = card.max_tokens
    plan = TokenPlan(
        tokenizer, card.chat_template, card.max_tokens, None, False, positions=positions_of(base)
    )
    return _with_limit(plan, max_tokens)


def _with_limit(plan: TokenPlan, chosen: int | None) -> TokenPlan:
    """The plan with the limit that was chosen, else with its default within the positions."""
    if chosen is None and plan.positions is not None and plan.positions < plan.max_tokens:
        return replace(plan, max_tokens=plan.positions, is_lowered=True)
    return replace(plan, max_tokens=chosen or plan.max_tokens)
