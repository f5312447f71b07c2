"""`smorm eval`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import Argument, Option

from smorm.cli import options
from smorm.errors import ConfigError
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.evaluation.result import Result
    from smorm.evaluation.suites import Suite
    from smorm.rewards.model import ModelReward
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.section import RewardSection


@options.loads_models
def run(
    rewards: list[str] = Argument(help=options.REWARD_HELP),
    suite: list[str] = Option(
        help="NAME=PATH, or NAME alone for a benchmark's own data on the hub. NAME is pairs, "
        "rated or a benchmark (rewardbench, rm-bench, best-of-k, ...; an unknown one is "
        "answered with the list), or one with /LABEL.",
    ),
    output: Path = Option(..., "--output", "-o", help="Results, JSON."),
    view: options.Texts = Option(
        None,
        help="F, L, M, published weights (helpsteer2-...), JSON, or a JSON file; repeat it. With "
        "--combine one for all models or one for each.",
    ),
    combine: options.CombineOption = None,
    kappa: options.KappaOption = None,
    standardise: options.StandardiseOption = None,
    format: str = Option("auto", help="Shape of the rows of pairs and rated suites."),
    columns: options.ColumnsOption = None,
    ignore: options.IgnoreOption = None,
    overlong: options.OverlongOption = None,
    skip_bad: options.SkipBadOption = False,
    sanity: bool = Option(
        False, "--sanity", help="Test the model itself first: swaps, ties, padding."
    ),
    step: options.StepOption = None,
    token_file: options.TokenFileOption = None,
    max_batch_tokens: options.BatchTokensOption = 8192,
    loading: options.Loading = options.LOADING,
) -> None:
    """Measure rewards on benchmarks, pairs or ratings.

    Every number has its count and a 95 % interval that resamples prompts. Ties are counted, and
    the rule "the longer response wins" stands beside each accuracy. Of several rewards, or views of
    one, the paired differences to the first are given with their intervals. With --combine they are
    also measured as one, which stands first: each member is compared with it."""
    from smorm.cli.tables import print_results
    from smorm.evaluation.result import differences, write_results
    from smorm.evaluation.suites import parse_suite
    from smorm.files import refuse_unwritable
    from smorm.rewards.protocol import ScoringOptions

    # Before hours of measuring, not after them; so it is in every verb that writes.
    refuse_unwritable(output)
    sections = options.sections_of(rewards, token_file, step)
    together = options.combined(sections, view, combine, kappa, standardise)
    if together is not None:
        if sanity:
            raise ConfigError("--sanity tests one model's own parts: run it without --combine")
        sections, view = [together], None
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    scoring = ScoringOptions(
        max_batch_tokens=max_batch_tokens, overlong=policy,
        **loading.options,
    )  # fmt: skip
    reading = {
        "format": format,
        "columns": options.parse_columns(columns),
        "ignore": options.listed(ignore),
    }
    suites = [parse_suite(text, **reading) for text in suite]
    results: list[Result] = []
    for section in sections:
        results += _measure(section, view, suites, sanity, scoring, options.ON_BAD[skip_bad])
    results += differences(results)
    write_results(output, results)
    print_results(results)
    echo(f"results: {output}")
    failed = ["sanity tests failed:"]
    for result in results:
        failed += [f"{result.model}, {result.suite}: {failure}" for failure in result.failures]
    if len(failed) > 1:
        echo("\n".join(failed), err=True)
        raise typer.Exit(1)


def _measure(
    section: RewardSection,
    texts: options.Texts,
    suites: list[Suite],
    sanity: bool,
    scoring: ScoringOptions,
    on_bad: options.OnBad,
) -> list[Result]:
    # Of an ensemble its own results come first, then its members'.
    from smorm.evaluation.suites import run_ensemble, run_suite
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.model import ModelReward

    views: list[Any] = [None]
    if texts:
        views = [options.view_for(section, text) for text in texts]
    reward = options.open_section(section, replace(scoring, views=tuple(views)), on_bad)
    if isinstance(reward, Ensemble):
        return run_ensemble(reward, suites, on_bad_record=on_bad)
    results: list[Result] = []
    if sanity:
        if not isinstance(reward, ModelReward):
            kind = f"{reward.name} is a {reward.kind}"
            raise ConfigError(f"--sanity tests a model's own parts: {kind}")
        results.append(_sanity(reward, suites, views[0], on_bad))
    for suite in suites:
        results += run_suite(reward, suite, views, name=reward.name, on_bad_record=on_bad)
    return results


def _sanity(reward: ModelReward, suites: list[Suite], view: Any, on_bad: options.OnBad) -> Result:
    """A model's sanity tests, once, on pairs of all suites that compare responses."""
    from smorm.evaluation.sanity import check_sanity
    from smorm.evaluation.suites import suite_pairs

    comparing = [suite for suite in suites if suite.kind != "rated"]
    pairs = []
    # Where none compares, the first one's error says so.
    for suite in comparing or suites[:1]:
        pairs += suite_pairs(suite, on_bad)
    checked = check_sanity(reward.model, pairs, view)
    name = comparing[0].name if len(comparing) == 1 else "sanity"
    return replace(checked, suite=name, model=reward.name)
