"""A Hugging Face model card from a model's folder and result files; nothing is loaded or run."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smorm.errors import ConfigError
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.result import Result
from smorm.report.curves import OPTIMISED, curves_of
from smorm.report.findings import Findings, findings_of
from smorm.report.markdown import code, fenced, plain, results_table, table
from smorm.report.model_facts import ModelFacts
from smorm.report.paired import leading, paired_differences, representative_sizes
from smorm.report.rows import SEPARATE, Row, method_labels, metric_names, rows_of
from smorm.report.style import clean, show, show_interval, style_of
from smorm.report.tables import split_names

_TEMPLATE = Path(__file__).with_name("templates") / "card.md.j2"
_TASK = "text-classification"
_TAGS = ["reward-model", "smorm", "rlhf", "preference-model"]
_MAX_COLUMNS = 6
_SUMMARIES = ("gain", "regret", "gold@first", "gold@peak", "gold@last", "fall", "kl@last")
_PREFERENCE = (
    "Bradley–Terry reward; differences between responses to one prompt have a meaning, its zero "
    "has none"
)
_RATING = "prediction of its rating, on the ratings' scale"
_LENGTH = "ODIN's length row: the part of the preference that goes along with length; no rating"
_HEADS = {
    "mlp": "an MLP as its head",
    "gated": "a gated head (a row for each attribute, mixed by a gate that reads the prompt)",
}
_OVERLONG = {
    "error": "longer ones are refused",
    "drop": "longer ones are left out and counted",
    "truncate_prompt": "the prompt of longer ones is cut from the left",
}
_SETTINGS = {
    "objective": ("kind", "weighting", "weight", "label_smoothing"),
    "training": ("seed", "epochs", "max_steps", "batch_size", "learning_rate", "precision"),
}
_LOAD = """\
from smorm import RewardModel

model = RewardModel.load({source!r})
scores = model.score([("What is 2 + 2?", "4."), ("What is 2 + 2?", "Five, I think.")])
"""
_LENGTH_LIMIT = (
    "On {suite} ({label}), the scores' rank correlation with length is {value} ({interval})."
)


@dataclass(frozen=True, slots=True)
class CardOptions:
    """What a user adds to a card.

    Attributes:
        name: the model's name in the results; by default found by its hashes.
        license_id: as the hub names it, such as "apache-2.0".
        language: of the data, such as "en".
        repo: where readers find the model: a hub id or a folder.
    """

    name: str | None = None
    license_id: str | None = None
    language: str | None = None
    repo: str | None = None


def model_card(facts: ModelFacts, results: Sequence[Result], options: CardOptions) -> str:
    """The text of `README.md`: metadata for the hub, then what a reader needs to know.

    Raises:
        ConfigError: results are of several models, and neither hashes nor a name say which is it.
        DataError: a result's points are not of the contract.
    """
    from huggingface_hub import ModelCard

    names = names_in(results, facts, options.name)
    of_method = [result for result in results if result.model in names]
    of_run = [result for result in of_method if facts.hashes and _hashes(result) == facts.hashes]
    used = of_run or of_method
    rows, method_rows = _measured(rows_of(used)), _measured(rows_of(of_method))
    title = options.repo or facts.name
    card = ModelCard.from_template(
        _metadata(facts, title, rows, options),
        template_path=str(_TEMPLATE),
        facts=facts,
        title=title,
        **_description(facts),
        **_usage(facts, title),
        **_training(facts),
        result_groups=_result_groups(rows, method_rows, of_this_run=bool(of_run)),
        findings=_findings(results, of_method),
        limits=_limits(rows, facts),
        fingerprints=_fingerprints(facts, used),
        plain=plain,
        code=code,
        fenced=fenced,
        table=table,
        without_folders=without_folders,
    )
    return f"{card}\n"


def names_in(results: Sequence[Result], facts: ModelFacts, requested: str | None) -> list[str]:
    """What the results call this model: the requested name, or all with its hashes.

    Raises:
        ConfigError: neither says which it is.
    """
    names: dict[str, bool] = {}  # whether a result of the name has this model's hashes
    for result in results:
        if result.kind not in SEPARATE:
            same = bool(facts.hashes) and _hashes(result) == facts.hashes
            names[result.model] = names.get(result.model, False) or same
    if requested is not None:
        if requested not in names:
            raise ConfigError(
                f"--name {requested}: no result is of it; there are {', '.join(names)}"
            )
        return [requested]
    matching = [name for name, same in names.items() if same]
    if not matching and len(names) > 1:
        raise ConfigError(
            f"results are of {', '.join(names)}, and none has this model's hashes: "
            "say with --name which is its method"
        )
    return matching or list(names)


def _hashes(result: Result) -> object:
    """The model's hashes as `smorm eval` and `smorm stress` record them."""
    return result.fingerprint.get("hashes") or result.fingerprint.get("model")


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.kind not in (*SEPARATE, "training", "cost")]


def _metadata(facts: ModelFacts, title: str, rows: Sequence[Row], options: CardOptions) -> Any:
    """What the hub reads; the leading numbers become its model index."""
    from huggingface_hub import EvalResult, ModelCardData

    evaluations = []
    for row in rows:
        for name in leading(row.kind, row.metrics):
            if not math.isfinite(row.metrics[name].value):
                continue
            evaluation = EvalResult(
                task_type=_TASK,
                task_name="reward modelling",
                dataset_type=_slug(row.suite),
                dataset_name=clean(row.suite),
                metric_type=_slug(name),
                metric_name=clean(f"{style_of(name).label}, {row.view or 'all rows'}"),
                metric_value=round(row.metrics[name].value, 6),
            )
            evaluations.append(evaluation)
    return ModelCardData(
        language=options.language,
        license=options.license_id,
        library_name="transformers" if facts.head == "linear" else "smorm",
        pipeline_tag=_TASK,
        base_model=facts.base_model,
        datasets=facts.datasets or None,
        tags=_TAGS,
        model_name=clean(title) if evaluations else None,
        eval_results=evaluations or None,
    )


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "results"


def _description(facts: ModelFacts) -> dict[str, Any]:
    """Rows of the head, and what goes in."""
    rows = len(facts.attributes) + 1
    limit = facts.card.get("max_tokens")
    return {
        "head": _HEADS.get(facts.head, f"one linear head of {rows} row{'s' * (rows > 1)}"),
        "objective": facts.config.get("objective", {}).get("kind"),
        "row_lines": _row_lines(facts),
        "length": f"up to {limit:,} tokens" if isinstance(limit, int) else "of any length",
        "overlong": _OVERLONG.get(str(facts.card.get("overlong")), ""),
    }


def _row_lines(facts: ModelFacts) -> list[list[str]]:
    means = facts.card.get("means", {})
    scales = {str(scale.get("name")): scale for scale in facts.card.get("scales", [])}
    trained = facts.card.get("preference_trained", True)
    lines = [["`preference`", _PREFERENCE if trained else "not trained: all zeros", "–", "–"]]
    for name in facts.attributes:
        scale = scales.get(name, {})
        stored = f"(value − {_figure(scale, 'offset')}) / {_figure(scale, 'scale')}"
        meaning = [_LENGTH, "–"] if facts.has_length_row else [_RATING, stored]
        mean = _figure(means, name) if name in means else "–"
        lines.append([code(name), *meaning, mean])
    return lines


def _figure(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return show(float(value), style_of("")) if isinstance(value, int | float) else "?"


def _usage(facts: ModelFacts, source: str) -> dict[str, str]:
    """Code that loads and scores, and the command that exports."""
    view = "F" if facts.is_export else facts.default_view
    named = view in ("F", "L", "M")
    rewards = f"rewards = scores.view({view!r})" * named
    file = view if named else "VIEW.json"
    return {
        "load_code": _LOAD.format(source=source) + rewards,
        "export_command": f"smorm export {shlex.quote(source)} --view {file} --output exported",
    }


def _training(facts: ModelFacts) -> dict[str, Any]:
    """Data, settings and cost."""
    data_counts, counted, setting_lines = [], [], []
    for key, noun in (("pairs", "preference pairs"), ("rated", "rated responses")):
        if isinstance(facts.data.get(key), int):
            data_counts.append(f"{facts.data[key]:,} {noun}")
    for reason, entry in facts.data.get("counted", {}).items():
        if isinstance(entry, Mapping):
            counted.append((reason, entry.get("count", "?")))
    for section, keys in _SETTINGS.items():
        values = facts.config.get(section, {})
        present = [key for key in keys if values.get(key) is not None]
        setting_lines += [[f"`{section}.{key}`", plain(values[key])] for key in present]
    config = without_folders(facts.config)
    return {
        "data_counts": data_counts,
        "counted": counted,
        "setting_lines": setting_lines,
        "cost_lines": _cost_lines(facts.cost),
        "config_text": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _cost_lines(cost: Mapping[str, Any]) -> list[list[str]]:
    parameters, tokens = cost.get("parameters", {}), cost.get("tokens", {})
    numbers = {
        "parameters": parameters.get("model"),
        "of these trained": parameters.get("trained"),
        "forward passes for a score": cost.get("passes_per_score"),
        "optimizer steps": cost.get("steps"),
        "training tokens (as computed)": tokens.get("trained"),
    }
    return [[name, f"{value:,}"] for name, value in numbers.items() if isinstance(value, int)]


def without_folders(value: Any) -> Any:
    """A configuration's value with the folders of this machine left out of its paths."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(without_folders, value))
    if isinstance(value, str) and value.startswith(("/", "~", "../")):
        return f"…/{Path(value).name}"
    return value


def _result_groups(
    rows: Sequence[Row], method_rows: Sequence[Row], *, of_this_run: bool
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with the tables below them, each with its suite."""
    if not rows:
        return []
    seeds = max(row.seeds for row in method_rows)
    if not of_this_run:
        heading = f"Means over {seeds} training runs of the method with different seeds."
        return [(heading * (seeds > 1), _result_tables(rows))]
    groups = [("", _result_tables(rows))]
    if seeds > 1:
        heading = f"### The same method over {seeds} seeds"
        groups.append((heading, _result_tables(method_rows)))
    return groups


def _result_tables(rows: Sequence[Row]) -> list[tuple[str, str]]:
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        by_suite.setdefault(row.suite, []).append(row)
    tables = []
    for suite, members in by_suite.items():
        names = _columns(members)
        with_numbers = [row for row in members if not row.metrics.keys().isdisjoint(names)]
        if with_numbers:
            tables.append((suite, results_table(with_numbers, names)))
    return tables


def _columns(rows: Sequence[Row]) -> list[str]:
    present = metric_names(rows)
    if rows[0].kind in OPTIMISED:
        summaries = [name for name in _SUMMARIES if name in present]
        return [*representative_sizes(present), *summaries]
    totals, subsets = split_names(rows)
    attributes = [name for name in subsets if MetricName.parse(name).name == "spearman"]
    return [*totals[:_MAX_COLUMNS], *attributes]


def _findings(results: Sequence[Result], of_method: Sequence[Result]) -> Findings:
    """What optimisation pressure does to it, beside the other methods of the results."""
    labels = method_labels(results)
    own = {labels[result.model, result.view] for result in of_method}
    curves = [c for c in curves_of(results) if c.label in own and c.kind in OPTIMISED]
    rows = [row for row in rows_of(results) if row.label in own and row.kind in OPTIMISED]
    paired = [pair for pair in paired_differences(results) if pair.label in own]
    if not curves and not paired:
        return Findings("", "", (), ())
    return findings_of(rows, curves, paired)


def _limits(rows: Sequence[Row], facts: ModelFacts) -> list[str]:
    """What these results leave open."""
    kinds = {row.kind for row in rows}
    regimes = {SuiteName.parse(row.suite).label for row in rows}
    limits = []
    if kinds.isdisjoint(OPTIMISED):
        limits.append("Over-optimisation (best-of-n, RL) was not measured here.")
    rated = facts.attributes and not facts.has_length_row
    if rated and "spearman" not in metric_names(rows):
        limits.append("How well its attributes predict ratings was not measured here.")
    if regimes <= {"ID"}:
        limits.append("It was not measured on prompts unlike those of its training.")
    if all(row.seeds == 1 for row in rows):
        limits.append(
            "Intervals are over prompts of one training run: another seed may do otherwise."
        )
    style = style_of("length_correlation")
    for row in rows:
        metric = row.metrics.get("length_correlation")
        if metric is not None:
            text = _LENGTH_LIMIT.format(
                suite=plain(row.suite), label=plain(row.label), value=show(metric.value, style),
                interval=show_interval(metric, style),
            )  # fmt: skip
            limits.append(text)
    return limits


def _fingerprints(facts: ModelFacts, results: Sequence[Result]) -> list[tuple[str, str]]:
    entries = [*facts.hashes.items(), ("renderer", facts.card.get("renderer"))]
    entries += facts.card.get("versions", {}).items()
    for result in results:
        if result.kind not in SEPARATE:
            entries.append((f"data of {result.suite}", str(result.fingerprint.get("data", ""))))
    return [(name, str(value)) for name, value in dict.fromkeys(entries) if value]
