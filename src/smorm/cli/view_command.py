"""`smorm view`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Argument, Option

from smorm.cli import options
from smorm.data.reading import Source, read_records
from smorm.errors import ConfigError
from smorm.files import refuse_unwritable, write_json
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.evaluation.fitted_views import FitReport
    from smorm.evaluation.suites import ScoredSet
    from smorm.model.views import View
    from smorm.rewards.protocol import ScoringOptions
    from smorm.scoring.fit_views import Fit, HeldOut
    from smorm.scoring.reward_model import RewardModel

KINDS = ("learned", "calibrated", "min", "mean-minus-spread")
_MIXED = (
    "Only {prompts} prompts have several responses: standard deviations are over all responses, "
    "which mixes in differences between prompts."
)
_ONE_HEAD = "Mean 0 and standard deviation 1 over all responses of the data, as one reward."


@options.loads_models
def run(
    model: str = Argument(help="Model folder."),
    data: str = Option(help="Held-out pairs; for other kinds any responses."),
    kind: str = Option(help=f"One of {', '.join(KINDS)}."),
    output: Path = Option(..., "--output", "-o", help="The view, JSON."),
    rows: options.Texts = Option(
        None, help="A row to use; repeat it. Default: all; calibrated: all attributes."
    ),
    free_sign: options.Texts = Option(
        None, help="A row whose learned weight may be negative; repeat it."
    ),
    kappa: float | None = Option(
        None,
        help="Price of disagreement for mean-minus-spread. Default: 1 / sqrt(rows - 1), the "
        "largest at which a better row never lowers the view.",
    ),
    format: str = Option("auto", help="Shape of the data's rows."),
    step: options.StepOption = None,
    overlong: options.OverlongOption = None,
    skip_bad: options.SkipBadOption = False,
    max_batch_tokens: options.BatchTokensOption = 8192,
    loading: options.Loading = options.LOADING,
) -> None:
    """Fit a view on held-out data: weights, calibration, pessimism.

    learned weighs rows to predict preference; calibrated standardises preference and mean attribute
    before averaging them, and gives a model with one of the two mean 0 and standard deviation 1
    over the data; min and mean-minus-spread are pessimistic over standardised rows. Use data that
    the model was not trained on. Accuracies are of folds of prompts that the fit has not seen;
    intervals resample prompts."""
    from smorm.evaluation.fitted_views import measure_fit
    from smorm.model.views import NAMED_VIEWS
    from smorm.rewards.protocol import ScoringOptions
    from smorm.scoring.reward_model import RewardModel

    options.choice("--kind", kind, KINDS)
    refuse_unwritable(output)
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    scoring = ScoringOptions(overlong=policy, max_batch_tokens=max_batch_tokens)
    loaded = RewardModel.load(options.at_step(model, step), **loading.options)
    # A view is called as its file is, so that a table distinguishes two of them.
    name = kind if output.stem in NAMED_VIEWS else output.stem
    fit = _fit(loaded, kind, rows, free_sign or [], kappa, name)
    source, on_bad = Source(data, format=format), options.ON_BAD[skip_bad]
    scored, held_out = _score(loaded, source, kind, scoring, on_bad)
    view = fit(held_out, held_out.everything)
    # Refused here, before anything is written, where the model cannot use the view.
    loaded.view(view)
    report = measure_fit(held_out, view, fit, list(map(loaded.view, _baselines(loaded))))
    notes = [*scored.notes, *report.notes]
    # What the fit used: signs that were free, or deviations within prompts or over all.
    provenance: dict[str, Any] = {"spread": "all"}
    if kind == "learned":
        provenance = {"free_sign": free_sign or []}
    elif kind == "calibrated" and not loaded.has_both_heads:
        notes.append(_ONE_HEAD)
    elif kind == "calibrated" and held_out.within:
        provenance = {"spread": "prompt"}
    elif kind == "calibrated":
        notes.append(_MIXED.format(prompts=held_out.num_repeated))
    fitted = {
        "kind": kind, "model": loaded.name, "hashes": dict(loaded.card.hashes),
        "data": scored.data, "responses": len(held_out.rows), "prompts": held_out.num_prompts,
        **provenance, **report.as_dict(), "notes": notes,
    }  # fmt: skip
    write_json(output, {**view.as_dict(), "fitted": fitted})
    _print_fit(view, report, notes, within=held_out.within)
    echo(f"view: {output}")


def _baselines(model: RewardModel) -> list[Any]:
    # The views that need no fit.
    if model.card.foreign:
        return [{row: 1.0} for row in model.attributes]
    if model.has_both_heads:
        return ["F", "L", "M"]
    return ["L"] if model.attributes else ["F"]


def _fit(
    model: RewardModel,
    kind: str,
    rows: options.Texts,
    free: list[str],
    kappa: float | None,
    name: str,
) -> Fit:
    from smorm.model.views import largest_monotone_kappa
    from smorm.scoring.fit_views import (
        fit_calibrated,
        fit_learned,
        fit_pessimistic,
        fit_standardised,
    )

    # A preference row that nothing trained is noise: no view may read it. Beside attributes
    # calibrated takes it always, so that only they can be chosen.
    usable = model.attributes
    if model.card.preference_trained and (kind != "calibrated" or not model.attributes):
        usable = model.card.rows
    chosen = list(dict.fromkeys(rows or usable))
    for option, names in (("--rows", rows or []), ("--free-sign", free)):
        for row in names:
            if row not in usable:
                known = ", ".join(usable) or "none: the model has no attributes"
                raise ConfigError(f"{option} {row}: {kind} can use {known} (repeat {option})")
    if free and kind != "learned":
        raise ConfigError(f"--free-sign is for learned weights, not for {kind}")
    if kappa is not None and kind != "mean-minus-spread":
        raise ConfigError(f"--kappa is for mean-minus-spread, not for {kind}")
    if kind == "learned":
        for row in free:
            if row not in chosen:
                raise ConfigError(f"--free-sign {row}: is not among --rows")
        return partial(fit_learned, rows=chosen, free_sign=free, name=name)
    if kind == "calibrated":
        # M is a mean of two rewards; one alone has a scale, and nothing to be balanced with.
        if model.has_both_heads:
            return partial(fit_calibrated, rows=chosen, name=name)
        return partial(fit_standardised, rows=chosen, name=name)
    # One standardised row is its own minimum and has no disagreement.
    if len(chosen) < 2:
        raise ConfigError(f"--kind {kind}: needs at least two rows, got {', '.join(chosen)}")
    if kind == "min":
        return partial(fit_pessimistic, rows=chosen, kind="min", name=name)
    if kappa is None:
        kappa = largest_monotone_kappa(len(chosen))
    if not 0 <= kappa < math.inf:
        raise ConfigError(f"--kappa {kappa}: expected 0 or more")
    return partial(fit_pessimistic, rows=chosen, kind="mean_minus_spread", kappa=kappa, name=name)


def _score(
    model: RewardModel, source: Source, kind: str, scoring: ScoringOptions, on_bad: options.OnBad
) -> tuple[ScoredSet, HeldOut]:
    """The scored data; and its scores on the rows' own scales, each with its prompt's label."""
    import numpy as np

    from smorm.data.census import Census
    from smorm.data.records import Preference
    from smorm.data.scaling import restore_scales
    from smorm.evaluation.suites import score_records
    from smorm.rewards.model import ModelReward
    from smorm.scoring.fit_views import held_out

    census = Census()
    # Only learned weights need labels; the other kinds take responses of any record.
    record_kind: Any = "preference" if kind == "learned" else None
    records = list(read_records(source, record_kind, census, on_bad))
    data = score_records(ModelReward(model, options=scoring), records, census, on_bad)
    rows = np.concatenate([scored.rows for scored in data.scored]).astype(np.float64)
    # The network's attribute rows are on the training scale; a view's weights are not.
    rows[:, 1:] = restore_scales(model.card.scales, rows[:, 1:])
    rows[:, 0] += model.card.offset
    prompts: list[str] = []
    for prompt, scored in zip(data.prompts, data.scored, strict=True):
        prompts += [prompt] * len(scored.rows)
    paired = all(isinstance(record, Preference) for record in data.records)
    return data, held_out(rows, model.card.rows, prompts, paired=paired)


def _print_fit(view: View, report: FitReport, notes: list[str], *, within: bool) -> None:
    from smorm.cli import tables
    from smorm.model.views import PessimisticView

    console = tables.terminal()
    by_row, accuracies = {}, {}
    for name, metric in report.metrics.items():
        section = name.partition("/")[0]
        if section in ("weight", "share", "centre", "spread"):
            by_row[name] = metric
        elif section in ("accuracy", "gain"):
            accuracies[name.replace("gain/", f"{view.name} minus it/")] = metric
    std = "std within a prompt" if within else "std over all responses"
    title = f"{view.name}: weights over rows on their own scales; share of weight × {std}"
    if isinstance(view, PessimisticView):
        kappa = f", kappa {view.kappa:.3g}" if view.kind != "min" else ""
        title = f"{view.name}: {view.kind}{kappa} over standardised rows"
    console.print(tables.metric_grid(title, by_row, rows=1))
    if accuracies:
        console.print(tables.metric_grid("accuracy on held-out folds", accuracies, rows=1))
    tables.print_notes(console, notes)
