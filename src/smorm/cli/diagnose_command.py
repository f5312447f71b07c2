"""`smorm diagnose`: the command, and a table for each section of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer import Argument, Option

from smorm.cli import options
from smorm.cli.options import File, Text, Texts
from smorm.data.reading import Source
from smorm.errors import ConfigError, DataError
from smorm.files import refuse_unwritable, write_json
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.evaluation.metrics import Metric
    from smorm.theory.run import Diagnosis

TITLES = {
    "preference": "Preference on these pairs",
    "spectrum": "Second moment of the pairs' differences, Sigma_S",
    "alpha": "alpha: attribute margins on preference pairs",
    "alpha_accuracy": "Share of pairs whose chosen response has more of it",
    "alpha_total": "Sum of the alphas",
    "c": "Theorem 1: the constant c, four ways",
    "epsilon": "Theorem 1: the inequality with each c",
    "within_prompt": "Preference and mean attribute within a prompt",
    "ood": "Preference and mean attribute out of distribution",
    "probe": "Linear probes of the hidden state, on prompts not fitted on",
    "rows": "The model's attribute rows",
    "probe_minus_rows": "Probe less attribute row",
    "weight": "Regression weight by maximum likelihood",
    "gradient": "Gradients of the two losses on the trunk, over batches",
    "lemma": "Lemma 1 against the gold",
    "theorem_2": "Theorem 2: matched runs",
    "view": "Views on pairs that weights did not see",
}
# Sections printed as a grid, and which segment of a metric's name is the row.
GRIDS = {"epsilon": 1, "ood": 0, "probe": 1, "rows": 1, "probe_minus_rows": 1}


@options.loads_models
def run(
    model: str = Argument(help="Model folder, or a run's folder."),
    preference: str = Option(help="Held-out pairs."),
    output: options.ResultOption = None,
    rated: Text = Option(None, help="Held-out rated responses: probes, weight, gradients."),
    ood: Texts = Option(
        None, help="NAME=FILE: pairs or best-of-N from elsewhere; may be given again."
    ),
    gold: Text = Option(
        None, help="A gold for the pairs: a model folder, or a file of scores or golds."
    ),
    compare: Texts = Option(
        None, help="A run's folder for Theorem 2 (Single, Multi, joint); again for each."
    ),
    suggest: File = Option(None, help="Write the suggested view here, JSON for --view."),
    limit: int | None = Option(None, help="At most so many records of a file."),
    step: options.StepOption = None,
    overlong: options.OverlongOption = None,
    skip_bad: options.SkipBadOption = False,
    max_batch_tokens: options.BatchTokensOption = 8192,
    loading: options.Loading = options.LOADING,
) -> None:
    """Measure the method's theory on a trained model, and say what to do about it.

    Which attributes go with preference and which conflict, whether high preference implies high
    attributes in and out of distribution, whether the two losses pull together, which weight and
    view the data suggest. Every number has its n, and an interval that resamples prompts where one
    exists; the advice says only what the intervals settle."""
    from smorm.evaluation.result import write_results
    from smorm.scoring.reward_model import RewardModel
    from smorm.theory.features import Reading
    from smorm.theory.run import DiagnosisInputs, diagnose

    for path in (output, suggest):
        if path is not None:
            refuse_unwritable(path)
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: expected at least 1")
    reading = Reading(policy, options.ON_BAD[skip_bad], limit, max_batch_tokens)
    inputs = DiagnosisInputs(
        preference=Source(preference), rated=Source(rated) if rated else None,
        ood=_ood_sources(ood or []), gold=gold, compare=compare or (), reading=reading,
    )  # fmt: skip
    loaded = RewardModel.load(options.at_step(model, step), **loading.options)
    # Before minutes of measuring, not after them.
    if suggest is not None and not (loaded.attributes and loaded.card.preference_trained):
        raise ConfigError("--suggest: this model has one trained reward only: there is no choice")
    diagnosis = diagnose(loaded, inputs, progress=lambda section: echo(f"{section} ...", err=True))
    if output is not None:
        write_results(output, [diagnosis.result])
    _print_diagnosis(diagnosis)
    if output is not None:
        echo(f"result: {output}")
    if suggest is not None:
        if diagnosis.view is None:
            raise DataError("--suggest: no view could be suggested; the notes say why")
        write_json(suggest, diagnosis.view.as_dict())
        echo(f"view: {suggest}")


def _ood_sources(values: list[str]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for value in values:
        name, _, path = value.partition("=")
        # The name becomes a segment of metric names, which are split at slashes.
        if not name or not path or "/" in name or name in sources:
            raise ConfigError(f"--ood {value}: expected NAME=FILE, each name once and without /")
        sources[name] = Source(path)
    return sources


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    from smorm.cli import tables

    console = tables.terminal()
    result = diagnosis.result
    sections: dict[str, dict[str, Metric]] = {}
    for name, metric in result.metrics.items():
        section, _, rest = name.partition("/")
        sections.setdefault(section, {})[rest or name] = metric
    for section, metrics in sections.items():
        table = tables.metric_list(TITLES[section], metrics)
        if section in GRIDS:
            table = tables.metric_grid(TITLES[section], metrics, rows=GRIDS[section])
        console.print(table)
    tables.print_alarms(console, result.model, result.alarms)
    # The advice ends the notes of the result; it is printed last, under its own heading.
    tables.print_notes(console, result.notes[: len(result.notes) - len(diagnosis.advice)])
    console.print("\nAdvice", style="bold")
    for line in diagnosis.advice:
        console.print(f"- {line}")
