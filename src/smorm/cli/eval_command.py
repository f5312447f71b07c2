"""`smorm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smorm.cli.ensemble_options import CombineOption, KappaOption, StandardiseOption
from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption

if TYPE_CHECKING:
    from smorm.evaluation.result import Result
    from smorm.evaluation.suite import Suite
    from smorm.scoring.ensemble import Rule


def run(
    models: Annotated[list[str], typer.Argument(help="Model folders or hub ids, ours or any.")],
    suite: Annotated[
        list[str],
        typer.Option(
            help="NAME=PATH, or NAME alone for a benchmark's own data on the hub. NAME is pairs, "
            "rated, rewardbench, rewardbench-2, prior-sets, rm-bench, judgebench, ppe, "
            "ppe-correctness, rmb, hhh, llmbar, mt-bench or best-of-k, or one with /LABEL."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Results, JSON.")],
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="F, L, M, published weights (helpsteer2-...) or a JSON file; repeat it. With "
            "--combine one for all models or one for each."
        ),
    ] = None,
    combine: CombineOption = None,
    kappa: KappaOption = None,
    standardise: StandardiseOption = None,
    overlong: OverlongOption = None,
    skip_bad: SkipBadOption = False,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Test the model itself first: swaps, ties, padding.")
    ] = False,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Measure models on benchmarks, pairs or ratings.

    Every number has its count and a 95 % interval that resamples prompts; ties are told; the rule
    "the longer response wins" stands beside each accuracy. Of several models, or views of one, the
    paired differences to the first are given with their intervals. With --combine the models are
    also measured as one, which stands first: each member is compared with it.
    """
    from smorm.cli.ensemble_options import rule_of
    from smorm.cli.options import OVERLONG, choice
    from smorm.cli.tables import print_results
    from smorm.errors import ConfigError
    from smorm.evaluation.compare import differences
    from smorm.evaluation.result import write_results
    from smorm.evaluation.suite import parse_suite

    rule = rule_of(combine, kappa, standardise)
    options: dict[str, Any] = {
        "overlong": choice("--overlong", overlong, OVERLONG),
        "on_bad_record": "skip" if skip_bad else "stop",
        "max_batch_tokens": max_batch_tokens,
    }
    suites = [parse_suite(text) for text in suite]
    if rule is None:
        results = _apart(models, view, suites, sanity, device, options)
    elif sanity:
        raise ConfigError("--sanity tests one model's own parts: run it without --combine")
    else:
        results = _together(models, view, rule, standardise, suites, device, options)
    results += differences(results)
    write_results(output, results)
    print_results(results)
    typer.echo(f"results: {output}")
    failed = [f"{one.model}, {one.suite}: {failure}" for one in results for failure in one.failures]
    if failed:
        typer.echo("\n".join(["sanity tests failed:", *failed]), err=True)
        raise typer.Exit(1)


def _apart(
    paths: list[str],
    view: list[str] | None,
    suites: list[Suite],
    sanity: bool,
    device: str,
    options: dict[str, Any],
) -> list[Result]:
    """Each model's results by each view."""
    from smorm.cli.options import view_of
    from smorm.evaluation.suites import display_names, run_suite
    from smorm.scoring.reward_model import RewardModel

    views = [view_of(text) for text in view or [None]]  # type: ignore[list-item]
    results: list[Result] = []
    for path, name in zip(paths, display_names(paths), strict=True):
        model = RewardModel.load(path, device=device)
        for one in suites:
            if sanity:
                results.append(_sanity(model, one, views[0], name, options["on_bad_record"]))
            results += run_suite(model, one, views, name=name, **options)
    return results


def _together(
    paths: list[str],
    view: list[str] | None,
    rule: Rule,
    standardise: str | None,
    suites: list[Suite],
    device: str,
    options: dict[str, Any],
) -> list[Result]:
    """The results of the models as one, then each one's by its own view."""
    from smorm.cli.ensemble_options import members_of, standard_of_file
    from smorm.evaluation.ensembles import run_ensemble

    standard = standard_of_file(standardise, rule, **options)
    specs = members_of(paths, view)
    return run_ensemble(specs, rule, suites, device=device, standardise=standard, **options)


def _sanity(model: Any, suite: Suite, view: Any, name: str, on_bad_record: Any) -> Result:
    """The sanity tests on a suite's comparisons."""
    from dataclasses import replace

    from smorm.evaluation.sanity import check_sanity
    from smorm.evaluation.suites import suite_pairs

    items = suite_pairs(suite, on_bad_record)
    return replace(check_sanity(model, items, view), suite=suite.name, model=name)
