"""Options of the verbs that take several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smorm.errors import ConfigError

if TYPE_CHECKING:
    from smorm.scoring.ensemble import Rule
    from smorm.scoring.ensemble_jobs import MemberSpec, Standardise

CombineOption = Annotated[
    str | None,
    typer.Option("--combine", help="Models as one: mean, min, or uwo (mean - kappa x variance)."),
]
KappaOption = Annotated[
    float | None, typer.Option("--kappa", help="Price of a unit of variance; for uwo, default 0.5.")
]
StandardiseOption = Annotated[
    str | None,
    typer.Option(
        "--standardise",
        help="File of responses: over them each member gets mean 0 and spread 1 first.",
    ),
]


def rule_of(combine: str | None, kappa: float | None, standardise: str | None) -> Rule | None:
    """The rule that was asked for; None without --combine.

    Raises:
        ConfigError: an unknown rule, or an option that nothing would use.
    """
    from smorm.cli.options import choice
    from smorm.scoring.ensemble import COMBINATIONS, KAPPA, Rule

    if combine is None:
        unused = "--kappa" if kappa is not None else "--standardise"
        if kappa is not None or standardise is not None:
            raise ConfigError(f"{unused} is for several models as one: add --combine")
        return None
    how = choice("--combine", combine, COMBINATIONS)
    if kappa is None:
        return Rule(how, KAPPA if how == "uwo" else 0.0)
    if how != "uwo":
        raise ConfigError(f"--kappa is for --combine uwo, not for {how}")
    return Rule(how, kappa)


def members_of(models: Sequence[str], views: Sequence[str] | None) -> list[MemberSpec]:
    """The members: each with its own view, all with one, or each with the one in its place.

    Raises:
        ConfigError: another number of views, or a view that is none.
    """
    from smorm.cli.options import view_of
    from smorm.evaluation.suites import display_names
    from smorm.scoring.ensemble_jobs import MemberSpec

    given = list(views or [])
    if len(given) not in {0, 1, len(models)}:
        raise ConfigError(
            f"--view: {len(given)} given for {len(models)} models; give one for all, or one for "
            "each in the models' order"
        )
    chosen: list[Any] = [view_of(text) for text in given] or [None]
    if len(chosen) < len(models):
        chosen *= len(models)
    parts = zip(display_names(models), models, chosen, strict=True)
    return [MemberSpec(name, path, view) for name, path, view in parts]


def standard_of_file(path: str | None, rule: Rule, **options: Any) -> Standardise | None:
    """What gives each member's standard, from the file of --standardise; None without one."""
    from smorm.data.reading import Source
    from smorm.evaluation.ensembles import standard_from

    return None if path is None else standard_from(Source(path), rule, **options)
