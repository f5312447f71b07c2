"""`smorm view`."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption, Texts

if TYPE_CHECKING:
    from smorm.evaluation.fitted_views import FitReport
    from smorm.evaluation.suites import ScoredSet
    from smorm.model.views import View
    from smorm.scoring.fit_views import Fit, HeldOut
    from smorm.scoring.reward_model import RewardModel

KINDS = ("learned", "calibrated", "min", "mean-minus-spread")
_MIXED = (
    "Only {prompts} prompts have several responses: standard deviations are over all responses, "
    "which mixes in differences between prompts."
)


def run(
    model: Annotated[str, Argument(help="Model folder.")],
    data: Annotated[str, Option(help="Held-out pairs; for other kinds any responses.")],
    kind: Annotated[str, Option(help=f"One of {', '.join(KINDS)}.")],
    output: Annotated[Path, Option("--output", "-o", help="The view, JSON.")],
    rows: Annotated[
        Texts, Option(help="A row to use; repeat it. Default: all; calibrated: all attributes.")
    ] = None,
    free_sign: Annotated[
        Texts, Option(help="A row whose learned weight may be negative; repeat it.")
    ] = None,
    kappa: Annotated[
        float | None,
        Option(
            help="Price of disagreement for mean-minus-spread. Default: 1 / sqrt(rows - 1), the "
            "largest at which a better row never lowers the view."
        ),
    ] = None,
    format: Annotated[str, Option(help="Shape of the data's rows.")] = "auto",
    overlong: OverlongOption = None,
    skip_bad: SkipBadOption = False,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Fit a view on held-out data: weights, calibration, pessimism.

    learned weighs rows to predict preference; calibrated standardises preference and mean attribute
    before averaging them; min and mean-minus-spread are pessimistic over standardised rows. Use
    data that the model was not trained on. Accuracies are of folds of prompts that the fit has not
    seen; intervals resample prompts.
    """
    from smorm.cli.options import ON_BAD, OVERLONG, choice
    from smorm.data.reading import Source
    from smorm.evaluation.fitted_views import measure_fit
    from smorm.files import write_json
    from smorm.model.views import NAMED_VIEWS
    from smorm.scoring.reward_model import RewardModel

    choice("--kind", kind, KINDS)
    policy = choice("--overlong", overlong, OVERLONG)
    source = Source(data, format=format)
    loaded = RewardModel.load(model, device=device)
    # A view is called as its file is, so that a table distinguishes two of them.
    name = kind if output.stem in NAMED_VIEWS else output.stem
    fit = _fit(loaded, kind, rows, free_sign or [], kappa, name)
    scored = _score(loaded, source, kind, policy, ON_BAD[skip_bad], max_batch_tokens)
    held_out = _held_out(loaded, scored)
    view = fit(held_out, held_out.everything)
    # Refused here, before anything is written, where the model cannot use the view.
    loaded.view(view)
    # The views that need no fit.
    baselines = ["F", "L", "M"]
    if not loaded.attributes:
        baselines = ["F"]
    elif not loaded.card.preference_trained:
        baselines = ["L"]
    report = measure_fit(held_out, view, fit, list(map(loaded.view, baselines)))
    notes = [*scored.notes, *report.notes]
    if kind == "calibrated" and not held_out.within:
        notes.append(_MIXED.format(prompts=held_out.num_repeated))
    # What the fit used: signs that were free, or deviations within prompts or over all.
    provenance: dict[str, Any] = {"spread": "all"}
    if kind == "learned":
        provenance = {"free_sign": free_sign or []}
    elif kind == "calibrated" and held_out.within:
        provenance = {"spread": "prompt"}
    fitted = {
        "kind": kind,
        "model": loaded.name,
        "hashes": dict(loaded.card.hashes),
        "data": scored.data,
        "responses": len(held_out.rows),
        "prompts": held_out.num_prompts,
        **provenance,
        **report.as_dict(),
        "notes": notes,
    }
    write_json(output, {**view.as_dict(), "fitted": fitted})
    _print_fit(view, report, notes, within=held_out.within)
    typer.echo(f"view: {output}")


def _fit(
    model: RewardModel, kind: str, rows: Texts, free: list[str], kappa: float | None, name: str
) -> Fit:
    from smorm.errors import ConfigError
    from smorm.model.views import PREFERENCE, largest_monotone_kappa
    from smorm.scoring.fit_views import fit_calibrated, fit_learned, fit_pessimistic

    # A preference row that nothing trained is noise: no view may read it.
    trained = model.attributes
    if model.card.preference_trained:
        trained = model.card.rows
    # Calibrated takes the preference row always, so only attributes can be chosen.
    usable = trained
    if kind == "calibrated":
        usable = model.attributes
    for option, names in (("--rows", rows or []), ("--free-sign", free)):
        for name in names:
            if name not in usable:
                known = ", ".join(usable) or "none: the model has no attributes"
                raise ConfigError(f"{option} {name}: {kind} can use {known} (repeat {option})")
    if free and kind != "learned":
        raise ConfigError(f"--free-sign is for learned weights, not for {kind}")
    if kappa is not None and kind != "mean-minus-spread":
        raise ConfigError(f"--kappa is for mean-minus-spread, not for {kind}")
    chosen = list(dict.fromkeys(rows or usable))
    if kind == "learned":
        for name in free:
            if name not in chosen:
                raise ConfigError(f"--free-sign {name}: is not among --rows")
        return partial(fit_learned, rows=chosen, free_sign=free, name=name)
    if kind == "calibrated":
        # M is a mean of two rewards; without one of them there is nothing to calibrate.
        if PREFERENCE not in trained or not chosen:
            raise ConfigError("calibrated needs a trained preference row and attribute rows")
        return partial(fit_calibrated, rows=chosen, name=name)
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
    model: RewardModel, source: Any, kind: str, policy: Any, on_bad: Any, batch_tokens: int
) -> ScoredSet:
    from smorm.data.census import Census
    from smorm.data.reading import read_records
    from smorm.evaluation.suites import score_records
    from smorm.rewards.model import ModelReward
    from smorm.rewards.protocol import ScoringOptions

    census = Census()
    # Only learned weights need labels; the other kinds take responses of any record.
    record_kind: Any = "preference" if kind == "learned" else None
    records = list(read_records(source, record_kind, census, on_bad))
    options = ScoringOptions(overlong=policy, max_batch_tokens=batch_tokens)
    return score_records(ModelReward(model, options=options), records, census, on_bad)


def _held_out(model: RewardModel, scored_set: ScoredSet) -> HeldOut:
    """Scores on the rows' own scales, each response with its prompt's label."""
    import numpy as np

    from smorm.data.records import Preference
    from smorm.data.scaling import restore_scales
    from smorm.scoring.fit_views import held_out

    rows = np.concatenate([scored.rows for scored in scored_set.scored]).astype(np.float64)
    # The network's attribute rows are on the training scale; a view's weights are not.
    rows[:, 1:] = restore_scales(model.card.scales, rows[:, 1:])
    prompts: list[str] = []
    for prompt, scored in zip(scored_set.prompts, scored_set.scored, strict=True):
        prompts += [prompt] * len(scored.rows)
    paired = all(isinstance(record, Preference) for record in scored_set.records)
    return held_out(rows, model.card.rows, prompts, paired=paired)


def _print_fit(view: View, report: FitReport, notes: list[str], *, within: bool) -> None:
    """The view's numbers by row, its accuracies beside those of F, L and M, and the notes."""
    from rich.console import Console

    from smorm.cli.tables import metric_grid
    from smorm.model.views import PessimisticView

    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    by_row, accuracies = {}, {}
    for name, metric in report.metrics.items():
        section = name.partition("/")[0]
        if section in ("weight", "share", "centre", "spread"):
            by_row[name] = metric
        elif section in ("accuracy", "gain"):
            accuracies[name.replace("gain/", f"{view.name} minus it/")] = metric
    if isinstance(view, PessimisticView):
        kind: str = view.kind
        if kind != "min":
            kind += f", kappa {view.kappa:.3g}"
        title = f"{view.name}: {kind} over standardised rows"
    else:
        std = "std within a prompt" if within else "std over all responses"
        title = f"{view.name}: weights over rows on their own scales; share of weight × {std}"
    console.print(metric_grid(title, by_row, rows=1))
    if accuracies:
        console.print(metric_grid("accuracy on held-out folds", accuracies, rows=1))
    for note in notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
