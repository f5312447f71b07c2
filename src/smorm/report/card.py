"""A Hugging Face model card from a model's facts and results; nothing is loaded or run."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from smorm.errors import ConfigError
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.printing import printable
from smorm.report.curves import OPTIMISED, curves_of
from smorm.report.facts import ModelFacts, hub_ids
from smorm.report.findings import Findings, findings_of
from smorm.report.paired import leading, paired_differences, representative_sizes
from smorm.report.rows import NOT_COMPARED, SEPARATE, Row, method_labels, metric_names, rows_of
from smorm.report.selection import (
    by_attribute,
    distinct,
    present_in,
    refuse_too_many,
    reject,
    select,
)
from smorm.report.style import style_of
from smorm.report.tables import split_names

_TEMPLATE = Path(__file__).with_name("templates") / "card.md.j2"
_TASK = "text-classification"
_TAGS = ["reward-model", "smorm", "rlhf", "preference-model"]
_MAX_COLUMNS = 6
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")
_SUMMARIES = ("gain", "regret", "gold@first", "gold@peak", "gold@last", "fall", "drop", "kl@last")


def model_card(
    facts: ModelFacts,
    results: Sequence[Result],
    *,
    name: str | None = None,
    license_id: str | None = None,
    language: str | None = None,
    repo: str | None = None,
) -> str:
    """The text of `README.md`: metadata for the hub, then what a reader needs to know.

    `name` is the model's in the results (by default found by its hashes), `repo` where readers find
    it (a hub id or a folder); license and language are as the hub names them. ConfigError: results
    are of several models, and neither hashes nor a name say which is it."""
    from huggingface_hub import ModelCard

    refuse_too_many(results)
    names = _names_in(results, facts, name)
    of_method = select(results, model=names)
    of_run = [result for result in of_method if _is_of(result, facts)]
    # Without a result of this very run the method's results are the best there is.
    used = of_run or of_method
    rows = reject(rows_of(used), kind=NOT_COMPARED)
    method_rows = reject(rows_of(of_method), kind=NOT_COMPARED)
    title = repo or facts.name
    config = without_folders(facts.config)
    card = ModelCard.from_template(
        _metadata(facts, title, rows, license_id, language), template_path=str(_TEMPLATE),
        facts=facts, title=title, view=facts.standard_view,
        config_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        rows=rows, method_rows=method_rows, of_this_run=bool(of_run),
        findings=_findings(results, of_method), limits=_limits(rows, facts),
        fingerprints=_fingerprints(facts, used), **_FUNCTIONS,
    )  # fmt: skip
    return f"{card}\n"


def _names_in(results: Sequence[Result], facts: ModelFacts, requested: str | None) -> list[str]:
    """What the results call this model: the requested name, or all with its hashes."""
    candidates = reject(results, kind=SEPARATE)
    names = distinct(candidates, "model")
    if requested is not None:
        if requested in names:
            return [requested]
        raise ConfigError(f"--name {requested}: no result is of it; there are {', '.join(names)}")
    matching = distinct((result for result in candidates if _is_of(result, facts)), "model")
    if not matching and len(names) > 1:
        problem = f"results are of {', '.join(names)}, and none has this model's hashes"
        raise ConfigError(f"{problem}: say with --name which is its method")
    return matching or names


def _is_of(result: Result, facts: ModelFacts) -> bool:
    # As `smorm eval` and `smorm stress` record them.
    recorded = result.fingerprint.get("hashes") or result.fingerprint.get("model")
    return bool(facts.hashes) and recorded == facts.hashes


def _metadata(
    facts: ModelFacts, title: str, rows: Sequence[Row], license_id: str | None, language: str | None
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    evaluations = []
    for row in rows:
        for name in leading(row.kind, row.metrics):
            # The hub's index holds plain numbers: one that does not exist is left out.
            if not math.isfinite(row.metrics[name].value):
                continue
            label = printable(f"{style_of(name).label}, {row.view or 'all rows'}")
            evaluation = EvalResult(
                task_type=_TASK, task_name="reward modelling", dataset_type=_slug(row.suite),
                dataset_name=printable(row.suite), metric_type=_slug(name), metric_name=label,
                metric_value=round(row.metrics[name].value, 6),
            )  # fmt: skip
            evaluations.append(evaluation)
    return ModelCardData(
        language=language, license=license_id,
        library_name="transformers" if facts.card.head == "linear" else "smorm",
        pipeline_tag=_TASK, base_model=facts.base_model, tags=_TAGS,
        datasets=hub_ids(map(itemgetter(0), facts.sources)) or None,
        # Without results the library writes the name under a key that the hub does not know.
        model_name=printable(title) if evaluations else None, eval_results=evaluations or None,
    )  # fmt: skip


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "results"


def suite_tables(rows: Sequence[Row]) -> dict[str, str]:
    """A Markdown table of each suite that has numbers for it."""
    tables = {}
    for suite, members in by_attribute(rows, "suite").items():
        present = metric_names(members)
        # More columns than these cannot be read on the hub; the page has all of them.
        totals, subsets = split_names(members)
        attributes = [name for name in subsets if MetricName.parse(name).name == "spearman"]
        names = [*totals[:_MAX_COLUMNS], *attributes]
        if members[0].kind in OPTIMISED:
            names = [*representative_sizes(present), *present_in(_SUMMARIES, present)]
        with_numbers = [row for row in members if not row.metrics.keys().isdisjoint(names)]
        if with_numbers:
            tables[suite] = results_table(with_numbers, names)
    return tables


def _findings(results: Sequence[Result], of_method: Sequence[Result]) -> Findings:
    labels = method_labels(results)
    names = {labels[result.model, result.view] for result in of_method}
    curves = select(curves_of(results), label=names, kind=OPTIMISED)
    rows = select(rows_of(results), label=names, kind=OPTIMISED)
    paired = select(paired_differences(results), label=names)
    # Else every card would begin with a number that its tables have anyway.
    if not curves and not paired:
        return Findings()
    return findings_of(rows, curves, paired)


def _limits(rows: Sequence[Row], facts: ModelFacts) -> list[str]:
    kinds = set(distinct(rows, "kind"))
    regimes = {SuiteName.parse(suite).label for suite in distinct(rows, "suite")}
    rated = facts.attributes and not facts.has_length_row
    open_questions = {
        "optimisation": kinds.isdisjoint(OPTIMISED),
        "attributes": rated and "spearman" not in metric_names(rows),
        "prompts": regimes <= {"", "ID"},
        "seeds": set(distinct(rows, "seeds")) <= {1},
    }
    return [key for key, is_open in open_questions.items() if is_open]


def _fingerprints(facts: ModelFacts, results: Sequence[Result]) -> list[tuple[str, str]]:
    entries = [*facts.hashes.items(), ("renderer", facts.card.renderer)]
    entries += facts.card.versions.items()
    for result in reject(results, kind=SEPARATE):
        entries.append((f"data of {result.suite}", str(result.fingerprint.get("data", ""))))
    # Runs with different seeds share their data: it is listed once.
    return [(name, str(value)) for name, value in dict.fromkeys(entries) if value]


def without_folders(value: Any) -> Any:
    """A configuration's value with the folders of this machine left out of its paths."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(without_folders, value))
    # A home folder holds a user's name, which is nobody's business on a hub.
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return f"…/{Path(value).name}"
    return value


def plain(text: object) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    words = " ".join(printable(text).split())
    return _SPECIAL.sub(r"\\\1", words).replace("&", "&amp;")


def code(text: object) -> str:
    """Inline code, whatever it holds."""
    # A bar ends a table's cell even inside code, and cannot be escaped there.
    words = " ".join(printable(text).split()).replace("|", "¦")
    longest = max(map(len, re.findall(r"`+", words)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {words} {fence}" if longest else f"`{words}`"


def fenced(text: str, language: str = "") -> str:
    """A code block that its own text cannot close."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{printable(text).rstrip()}\n{fence}"


def results_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Methods as lines and numbers as columns, with n once for each line."""
    lines = []
    for row in rows:
        # n differs by column where few responses have a rating of an attribute.
        counts = sorted(row.metrics[name].n for name in names if name in row.metrics)
        size = f"{counts[0]}" + (f"–{counts[-1]}" if counts[-1] > counts[0] else "")
        if row.seeds > 1:
            size += f" × {row.seeds} seeds"
        numbers = [number(row.metrics.get(name), name) for name in names]
        lines.append([plain(row.label), plain(row.view), *numbers, size])
    headings = ["model", "view", *(plain(style_of(name).heading) for name in names), "n"]
    rule = ["---", "---", *["---:"] * (len(headings) - 2)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))


def number(metric: Metric | None, name: str) -> str:
    if metric is None:
        return "–"
    style = style_of(name)
    interval = style.interval(metric)
    return style.show(metric.value) + (f" ({interval})" if interval else "")


def _figure(value: Any) -> str:
    if not isinstance(value, int | float):
        return "?"
    return style_of("").show(float(value))


# What the template calls.
_FUNCTIONS: dict[str, Any] = {
    "plain": plain, "code": code, "fenced": fenced, "quote": shlex.quote, "repr": repr,
    "figure": _figure, "number": number, "suite_tables": suite_tables,
    "without_folders": without_folders,
}  # fmt: skip
