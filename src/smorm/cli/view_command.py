"""`smorm view`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption

if TYPE_CHECKING:
    from smorm.evaluation.scored import ScoredSet
    from smorm.scoring.held_out import Fit, HeldOut
    from smorm.scoring.reward_model import RewardModel

KINDS = ("learned", "calibrated", "min", "mean-minus-spread")


def run(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    data: Annotated[
        str, typer.Option("--data", help="Held-out pairs; for other kinds any responses.")
    ],
    kind: Annotated[str, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The view, JSON.")],
    rows: Annotated[
        list[str] | None,
        typer.Option(help="A row to use; repeat it. Default: all; calibrated: all attributes."),
    ] = None,
    free_sign: Annotated[
        list[str] | None,
        typer.Option(help="A row whose learned weight may be negative; repeat it."),
    ] = None,
    kappa: Annotated[
        float | None,
        typer.Option(
            help="Price of disagreement for mean-minus-spread. Default: 1 / sqrt(rows - 1), the "
            "largest at which a better row never lowers the view."
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Shape of the data's rows.")] = "auto",
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
    from smorm.cli.options import OVERLONG, choice
    from smorm.cli.view_tables import print_fit
    from smorm.data.formats import Source
    from smorm.files import write_json
    from smorm.scoring.reward_model import RewardModel

    choice("--kind", kind, KINDS)
    policy = choice("--overlong", overlong, OVERLONG)
    source = Source(data, format=format)
    loaded = RewardModel.load(model, device=device)
    options = _options(loaded, kind, rows, free_sign or [], kappa)
    found = _score(loaded, source, kind, policy, "skip" if skip_bad else "stop", max_batch_tokens)
    scored = _held_out(loaded, found)
    fit, chosen = _fit(scored, kind, {**options, "name": _name(output, kind)})
    view = fit(scored, scored.everything)
    loaded.view(view)
    fitted = {
        "kind": kind,
        "model": loaded.name,
        "hashes": dict(loaded.card.hashes),
        "data": found.data,
        "responses": len(scored.rows),
        "prompts": scored.num_prompts,
        **chosen,
    }
    write_json(output, {**view.as_dict(), "fitted": fitted})
    print_fit(loaded, scored, view, fit, kind, found.notes)
    typer.echo(f"view: {output}")


def _name(output: Path, kind: str) -> str:
    """A view is called as its file is, so that a table tells two of them apart."""
    from smorm.model.views import NAMED_VIEWS

    return kind if output.stem in NAMED_VIEWS else output.stem


def _options(
    model: RewardModel, kind: str, rows: list[str] | None, free: list[str], kappa: float | None
) -> dict[str, Any]:
    """What the fit of a kind is told.

    Raises:
        ConfigError: an option of another kind, an unknown row, or one that cannot be used.
    """
    from smorm.errors import ConfigError
    from smorm.model.views import PREFERENCE, largest_monotone_kappa

    trained = model.card.rows if model.card.preference_trained else model.attributes
    usable = model.attributes if kind == "calibrated" else trained
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
    if kind == "calibrated" and (PREFERENCE not in trained or not chosen):
        raise ConfigError("calibrated needs a trained preference row and attribute rows")
    if kind == "learned":
        unused = [name for name in free if name not in chosen]
        if unused:
            raise ConfigError(f"--free-sign {unused[0]}: is not among --rows")
        return {"rows": chosen, "free_sign": free}
    if kind == "calibrated":
        return {"rows": chosen}
    if len(chosen) < 2:
        raise ConfigError(f"--kind {kind}: needs at least two rows, got {', '.join(chosen)}")
    if kind == "min":
        return {"rows": chosen, "kind": "min"}
    price = largest_monotone_kappa(len(chosen)) if kappa is None else kappa
    if not 0 <= price < float("inf"):
        raise ConfigError(f"--kappa {price}: expected 0 or more")
    return {"rows": chosen, "kind": "mean_minus_spread", "kappa": price}


def _score(
    model: RewardModel, source: Any, kind: str, policy: Any, on_bad: Any, budget: int
) -> ScoredSet:
    from smorm.data.census import Census
    from smorm.data.formats import read_records
    from smorm.evaluation.scored import score_records
    from smorm.scoring.scorer import Scorer

    census = Census()
    wanted: Any = "preference" if kind == "learned" else None
    records = list(read_records(source, wanted, census, on_bad))
    scorer = Scorer(model.network, model.renderer, policy or model.card.overlong, budget)  # type: ignore[arg-type]
    return score_records(scorer, records, census, on_bad)


def _held_out(model: RewardModel, found: ScoredSet) -> HeldOut:
    """Scores on the rows' own scales, each response with its prompt's label."""
    import numpy as np

    from smorm.data.records import Preference
    from smorm.data.scaling import restore_scales
    from smorm.scoring.held_out import held_out

    rows = np.concatenate([one.rows for one in found.scored]).astype(np.float64)
    rows[:, 1:] = restore_scales(model.card.scales, rows[:, 1:])
    pairs = zip(found.prompts, found.scored, strict=True)
    prompts = [prompt for prompt, one in pairs for _ in one.rows]
    paired = all(isinstance(record, Preference) for record in found.records)
    return held_out(rows, model.card.rows, prompts, paired=paired)


def _fit(data: HeldOut, kind: str, options: dict[str, Any]) -> tuple[Fit, dict[str, Any]]:
    """The fit, and what it chose by itself or was told, for the file."""
    from smorm.scoring.fit_views import fit_calibrated, fit_learned, fit_pessimistic

    if kind == "learned":
        return partial(fit_learned, **options), {"free_sign": options["free_sign"]}
    if kind == "calibrated":
        return partial(fit_calibrated, **options), {"spread": "prompt" if data.within else "all"}
    return partial(fit_pessimistic, **options), {"spread": "all"}
