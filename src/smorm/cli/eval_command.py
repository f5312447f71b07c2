"""`smorm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from smorm.cli import reward_options
from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption, Texts

if TYPE_CHECKING:
    from smorm.evaluation.result import Result
    from smorm.evaluation.suites import Suite
    from smorm.rewards.section import RewardSection


def run(
    rewards: Annotated[list[str], Argument(help=reward_options.REWARD_HELP)],
    suite: Annotated[
        list[str],
        Option(
            help="NAME=PATH, or NAME alone for a benchmark's own data on the hub. NAME is pairs, "
            "rated or a benchmark (rewardbench, rm-bench, best-of-k, ...; an unknown one is "
            "answered with the list), or one with /LABEL."
        ),
    ],
    output: Annotated[Path, Option("--output", "-o", help="Results, JSON.")],
    view: Annotated[
        Texts,
        Option(
            help="F, L, M, published weights (helpsteer2-...) or a JSON file; repeat it. With "
            "--combine one for all models or one for each."
        ),
    ] = None,
    combine: reward_options.CombineOption = None,
    kappa: reward_options.KappaOption = None,
    standardise: reward_options.StandardiseOption = None,
    overlong: OverlongOption = None,
    skip_bad: SkipBadOption = False,
    sanity: Annotated[
        bool, Option("--sanity", help="Test the model itself first: swaps, ties, padding.")
    ] = False,
    token_file: reward_options.TokenFileOption = None,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Measure rewards on benchmarks, pairs or ratings.

    Every number has its count and a 95 % interval that resamples prompts. Ties are counted, and
    the rule "the longer response wins" stands beside each accuracy. Of several rewards, or views of
    one, the paired differences to the first are given with their intervals. With --combine they are
    also measured as one, which stands first: each member is compared with it.
    """
    from smorm.cli.options import ON_BAD, OVERLONG, choice
    from smorm.cli.tables import print_results
    from smorm.errors import ConfigError
    from smorm.evaluation.result import differences, write_results
    from smorm.evaluation.suites import parse_suite
    from smorm.rewards.protocol import ScoringOptions

    sections = reward_options.sections_of(rewards, token_file)
    together = reward_options.combined(sections, view, combine, kappa, standardise)
    if together is not None:
        if sanity:
            raise ConfigError("--sanity tests one model's own parts: run it without --combine")
        sections, view = [together], None
    options = ScoringOptions(device, max_batch_tokens, choice("--overlong", overlong, OVERLONG))
    suites = [parse_suite(text) for text in suite]
    results: list[Result] = []
    for section in sections:
        common = {"options": options, "on_bad_record": ON_BAD[skip_bad]}
        results += _measure(section, view, suites, sanity, **common)
    results += differences(results)
    write_results(output, results)
    print_results(results)
    typer.echo(f"results: {output}")
    failed = []
    for result in results:
        failed += [f"{result.model}, {result.suite}: {failure}" for failure in result.failures]
    if failed:
        typer.echo("\n".join(["sanity tests failed:", *failed]), err=True)
        raise typer.Exit(1)


def _measure(
    section: RewardSection, view: list[str] | None, suites: list[Suite], sanity: bool, **common: Any
) -> list[Result]:
    """A reward's results by each view; an ensemble's own, then its members'."""
    from dataclasses import replace

    from smorm.errors import ConfigError
    from smorm.evaluation.sanity import check_sanity
    from smorm.evaluation.suites import run_ensemble, run_suite, suite_pairs
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.model import ModelReward

    on_bad_record = common["on_bad_record"]
    views = [reward_options.view_for(section, text) for text in view or [None]]  # type: ignore[list-item]
    options = replace(common["options"], views=tuple(views))
    reward = reward_options.open_section(section, options, on_bad_record)
    if isinstance(reward, Ensemble):
        return run_ensemble(reward, suites, on_bad_record=on_bad_record)
    results: list[Result] = []
    for suite in suites:
        if sanity:
            if not isinstance(reward, ModelReward):
                kind = f"{reward.name} is a {reward.kind}"
                raise ConfigError(f"--sanity tests a model's own parts: {kind}")
            checked = check_sanity(reward.model, suite_pairs(suite, on_bad_record), views[0])
            results.append(replace(checked, suite=suite.name, model=reward.name))
        results += run_suite(reward, suite, views, name=reward.name, on_bad_record=on_bad_record)
    return results
