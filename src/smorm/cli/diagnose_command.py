"""`smorm diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption


def run(
    model: Annotated[str, typer.Argument(help="Model folder, or a run's folder.")],
    preference: Annotated[str, typer.Option(help="Held-out pairs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Result, JSON.")] = None,
    rated: Annotated[
        str | None, typer.Option(help="Held-out rated responses: probes, weight, gradients.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: pairs or best-of-N from elsewhere; may be given again."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(help="A gold for the pairs: a model folder, or a file of scores or golds."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="A run's folder for Theorem 2 (Single, Multi, joint); again for each."),
    ] = None,
    suggest: Annotated[
        Path | None, typer.Option(help="Write the suggested view here, JSON for --view.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many records of a file.")] = None,
    overlong: OverlongOption = None,
    skip_bad: SkipBadOption = False,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Measure the method's theory on a trained model, and say what to do about it.

    Which attributes go with preference and which conflict, whether high preference implies high
    attributes in and out of distribution, whether the two losses pull together, which weight and
    view the data suggest. Every number has its n, and an interval that resamples prompts where one
    exists; the advice says only what the intervals settle.
    """
    from smorm.cli.diagnose_tables import print_diagnosis
    from smorm.cli.options import OVERLONG, choice
    from smorm.data.reading import Source
    from smorm.errors import ConfigError, DataError
    from smorm.evaluation.result import write_results
    from smorm.files import write_json
    from smorm.scoring.reward_model import RewardModel
    from smorm.theory.features import Reading
    from smorm.theory.run import DiagnosisInputs, diagnose

    policy = choice("--overlong", overlong, OVERLONG)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: expected at least 1")
    question = DiagnosisInputs(
        preference=Source(preference),
        rated=Source(rated) if rated else None,
        ood=_named(ood or []),
        gold=gold,
        compare=compare or (),
        reading=Reading(policy, "skip" if skip_bad else "stop", limit, max_batch_tokens),
    )
    loaded = RewardModel.load(model, device=device)
    if suggest is not None and not (loaded.attributes and loaded.card.preference_trained):
        raise ConfigError("--suggest: this model has one trained reward only: there is no choice")
    found = diagnose(loaded, question, tell=lambda part: typer.echo(f"{part} ...", err=True))
    if output is not None:
        write_results(output, [found.result])
    print_diagnosis(found)
    if output is not None:
        typer.echo(f"result: {output}")
    if suggest is not None:
        if found.view is None:
            raise DataError("--suggest: no view could be suggested; the notes say why")
        write_json(suggest, found.view.as_dict())
        typer.echo(f"view: {suggest}")


def _named(values: list[str]) -> dict[str, Any]:
    """`NAME=FILE` options as sources."""
    from smorm.data.reading import Source
    from smorm.errors import ConfigError

    found: dict[str, Any] = {}
    for value in values:
        name, _, path = value.partition("=")
        if not name or not path or "/" in name or name in found:
            raise ConfigError(f"--ood {value}: expected NAME=FILE, each name once and without /")
        found[name] = Source(path)
    return found
