"""A Hugging Face model card from a model's folder and result files; nothing is loaded or run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smorm.errors import ConfigError
from smorm.evaluation.result import Result
from smorm.report.card_facts import Facts
from smorm.report.card_metadata import front_matter
from smorm.report.card_text import how_it_was_made, how_to_use, what_it_is
from smorm.report.conclusions import conclusions
from smorm.report.curves import curves_of
from smorm.report.markdown import code, plain, results_table
from smorm.report.names import show, show_interval, style_of
from smorm.report.optimisation import KINDS
from smorm.report.paired import paired_differences, sizes_shown
from smorm.report.rows import Row, method_labels, rows_of
from smorm.report.suites import APART
from smorm.report.tables import metric_names
from smorm.report.training import COST, TRAINING

_MOST_COLUMNS = 6
_SUMS = ("gain", "regret", "gold@first", "gold@peak", "gold@last", "fall", "kl@last")


@dataclass(frozen=True, slots=True)
class CardOptions:
    """What a user adds to a card.

    Attributes:
        name: the model's name in the results; by default found by its hashes.
        license_id: as the hub names it, such as "apache-2.0".
        language: of the data, such as "en".
        place: where readers find the model: a hub id or a folder.
    """

    name: str | None = None
    license_id: str | None = None
    language: str | None = None
    place: str | None = None


def model_card(facts: Facts, results: Sequence[Result], wishes: CardOptions) -> str:
    """The text of `README.md`: front matter for the hub, then what a reader needs to know.

    Raises:
        ConfigError: results are of several models, and neither hashes nor a name say which is it.
        DataError: a result's points are not of the contract.
    """
    names = names_in(results, facts, wishes.name)
    of_method = [one for one in results if one.model in names]
    own = [one for one in of_method if _hashes(one) == facts.hashes] if facts.hashes else []
    title = wishes.place or facts.name
    shown = own or of_method
    rows = _measured(rows_of(shown))
    parts = [
        f"# {plain(title)}",
        what_it_is(facts),
        how_to_use(facts, wishes.place or facts.name),
        how_it_was_made(facts),
        _results(rows, _measured(rows_of(of_method)), exact=bool(own)),
        _pressed(results, of_method),
        _limits(rows, facts),
        _fingerprints(facts, shown),
    ]
    matter = front_matter(facts, title, rows, wishes.license_id, wishes.language)
    return matter + "\n\n".join(part for part in parts if part) + "\n"


def names_in(results: Sequence[Result], facts: Facts, asked: str | None) -> list[str]:
    """What the results call this model: the name that was given, or all with its hashes.

    Raises:
        ConfigError: it cannot be told.
    """
    names = list(dict.fromkeys(one.model for one in results if one.kind not in APART))
    if asked is not None:
        if asked not in names:
            raise ConfigError(f"--name {asked}: no result is of it; there are {', '.join(names)}")
        return [asked]
    same = {one.model for one in results if facts.hashes and _hashes(one) == facts.hashes}
    found = [name for name in names if name in same]
    if not found and len(names) > 1:
        raise ConfigError(
            f"results are of {', '.join(names)}, and none has this model's hashes: "
            "say with --name which is its method"
        )
    return found or names


def _hashes(result: Result) -> object:
    """The model's hashes as `smorm eval` and `smorm stress` record them."""
    marks = result.fingerprint
    return marks.get("hashes") or marks.get("model")


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.kind not in (*APART, TRAINING, COST)]


def _results(rows: Sequence[Row], of_method: Sequence[Row], *, exact: bool) -> str:
    if not rows:
        return "## Results\n\nNo result was given: how good it is, this card cannot say."
    parts = ["## Results", "In brackets: 95 % intervals."]
    several = max(row.seeds for row in of_method)
    if exact:
        parts += _tables(rows)
        if several > 1:
            parts.append(f"### The same method over {several} seeds")
            parts += _tables(of_method)
    else:
        if several > 1:
            parts.append(f"Means over {several} training runs of the method with different seeds.")
        parts += _tables(rows)
    return "\n\n".join(parts)


def _tables(rows: Sequence[Row]) -> list[str]:
    parts = []
    for suite in dict.fromkeys(row.suite for row in rows):
        members = [row for row in rows if row.suite == suite]
        names = [name for name in _columns(members) if any(name in row.metrics for row in members)]
        if names:
            members = [row for row in members if any(name in row.metrics for name in names)]
            parts += [f"**{plain(suite)}**", results_table(members, names)]
    return parts


def _columns(rows: Sequence[Row]) -> list[str]:
    whole, parts = metric_names(rows)
    if rows[0].kind in KINDS:
        sizes = sizes_shown([name for name in whole if name.startswith("gold@")])
        return [*sizes, *(name for name in _SUMS if name in whole)]
    named = [name for name in parts if name.startswith("spearman/")]
    return [*whole[:_MOST_COLUMNS], *named]


def _pressed(results: Sequence[Result], of_method: Sequence[Result]) -> str:
    """What optimisation pressure does to it, beside the other methods of the results."""
    labels = method_labels(results)
    ours = {labels[one.model, one.view] for one in of_method}
    curves = [c for c in curves_of(results) if c.label in ours and c.kind in KINDS]
    rows = [row for row in rows_of(results) if row.label in ours and row.kind in KINDS]
    paired = [p for p in paired_differences(results) if p.label in ours]
    told = conclusions(rows, curves, paired)
    if not told:
        return ""
    first, *rest = (plain(sentence) for sentence in told)
    listed = "\n".join(f"- {sentence}" for sentence in rest)
    return f"## What follows from the numbers\n\n{first}\n\n{listed}"


def _limits(rows: Sequence[Row], facts: Facts) -> str:
    """What is true of every reward model, and what these results leave open."""
    sets = {row.suite.partition("/")[2] for row in rows if row.suite.partition("/")[2] != "ID"}
    lines = [
        "A reward model can be over-optimised: the more an answer is chosen or trained for its "
        "score, the less the score says of quality. Keep an independent measure, and stop early.",
        "Scores of answers to different prompts are not comparable, and their sizes mean nothing "
        "by themselves; attributes are predictions of ratings, with the raters' faults.",
    ]
    if not any(row.kind in KINDS for row in rows):
        lines.append("How it stands optimisation pressure (best-of-n, RL) was not measured here.")
    rated = facts.attributes and not facts.by_length
    if rated and not any("spearman" in row.metrics for row in rows):
        lines.append("How well its attributes predict ratings was not measured here.")
    if not sets:
        lines.append("It was not measured on prompts unlike those of its training.")
    if all(row.seeds == 1 for row in rows):
        lines.append(
            "Intervals are over prompts of one training run: another seed may do otherwise."
        )
    lines += [
        f"On {plain(row.suite)} ({plain(row.label)}), the scores' rank correlation with length is "
        f"{show(row.metrics['length_correlation'].value, style_of('length_correlation'))} "
        f"({show_interval(row.metrics['length_correlation'], style_of('length_correlation'))})."
        for row in rows
        if "length_correlation" in row.metrics
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _fingerprints(facts: Facts, results: Sequence[Result]) -> str:
    own = {**facts.hashes, "renderer": facts.card.get("renderer", "")}
    lines = [f"- {plain(name)}: {code(value)}" for name, value in own.items() if value]
    versions = facts.card.get("versions", {})
    lines += [f"- {plain(name)} {plain(version)}" for name, version in versions.items()]
    data = dict.fromkeys(
        (one.suite, str(one.fingerprint.get("data", "")))
        for one in results
        if one.kind not in APART
    )
    lines += [f"- data of {plain(suite)}: {code(mark)}" for suite, mark in data if mark]
    return "## Fingerprints\n\n" + "\n".join(lines)
