"""`smorm score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Argument, Option

from smorm.cli import options
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.section import RewardSection
    from smorm.rewards.shards import JobReport, Shard
    from smorm.scoring.as_rated import AsRated


@options.loads_models
def run(
    rewards: list[str] = Argument(help=f"{options.REWARD_HELP} Several with --combine."),
    input: str = Option(..., "--input", "-i", help="File or data set id."),
    output: Path = Option(..., "--output", "-o", help="Scores, JSON lines."),
    view: options.Texts = Option(
        None,
        help="F, L, M, published weights (helpsteer2-...), JSON, or a JSON file; with --combine "
        "one for all rewards or one for each.",
    ),
    combine: options.CombineOption = None,
    kappa: options.KappaOption = None,
    standardise: options.StandardiseOption = None,
    format: str = Option("auto", help="Shape of the input's rows."),
    columns: options.ColumnsOption = None,
    ignore: options.IgnoreOption = None,
    overlong: options.OverlongOption = None,
    keep: options.Texts = Option(
        None, help="Input fields to pass through: source,meta.lang (a path keeps its name)."
    ),
    skip_bad: bool = Option(
        False, "--skip-bad", help="Give a bad line, or response, an error object, and go on."
    ),
    resume: bool = Option(
        False, "--resume", help="Go on from what an interrupted run left beside the output."
    ),
    shards: str | None = Option(
        None, help="i/n, such as 2/4: score that part alone; smorm join makes one file of all."
    ),
    ray: int | None = Option(
        None, min=1, help="Actors of Ray that score, each with a GPU on --device cuda (extra ray)."
    ),
    as_rated: str | None = Option(
        None, help="Write rated records for smorm train in place of scores: the attribute's name."
    ),
    step: options.StepOption = None,
    token_file: options.TokenFileOption = None,
    max_batch_tokens: options.BatchTokensOption = 8192,
    loading: options.Loading = options.LOADING,
) -> None:
    """Score every line of a file, in its order.

    Each line gives {"id", "preference", "attributes", "view", "tokens", "truncated"}; a line with
    several responses (a pair, best-of-N) gives them as a list under "responses". Several rewards
    with --combine give {"id", "view", "members", "tokens", "truncated"}: all of them as one.
    After Ctrl-C (exit code 130) or a kill, the same command with --resume goes on. Several
    processes or machines share a file by --shards 1/4 to 4/4 (and smorm join). With --as-rated NAME
    each answer with a score gives {"id", "prompt", "response", "scores": {NAME: view}}."""
    from smorm.cli.progress import line_progress
    from smorm.files import refuse_unwritable
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.scores_file import score_file
    from smorm.rewards.shards import Shard
    from smorm.scoring.as_rated import AsRated

    shard = None if shards is None else Shard.parse(shards)
    rated = None
    if as_rated is not None:
        _refuse_for_rated(shard, keep)
        rated = AsRated(as_rated)
    refuse_unwritable(output)
    sections = options.sections_of(rewards, token_file, step)
    if rated is not None and combine is not None and standardise is None:
        standardise = _standardised_over(input, format, columns)
    section, chosen = _section_and_view(sections, view, combine, kappa, standardise)
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    scoring = ScoringOptions(
        max_batch_tokens=max_batch_tokens, overlong=policy, views=(chosen,),
        **loading.options,
    )  # fmt: skip
    on_bad = options.ON_BAD[skip_bad]
    actors = None
    if ray is not None:
        from smorm.rewards.ray_actors import RayActors

        actors = RayActors(section, scoring, ray)
        section, scoring = actors.here()
    reward = options.open_section(section, scoring, on_bad)
    source = Source(
        input, format, columns=options.parse_columns(columns), ignore=options.listed(ignore)
    )
    with line_progress("scored") as progress:
        report = score_file(
            reward, source, output, view=chosen, on_bad_record=on_bad,
            keep=options.listed(keep), resume=resume, progress=progress, shard=shard,
            actors=actors, as_rated=rated,
        )  # fmt: skip
    print_counted(report, by_name=isinstance(reward, Ensemble))
    if isinstance(reward, Ensemble):
        _print_ensemble(reward, report.tokens)
    if rated is not None:
        print_rated(output, rated)
    else:
        print_totals(output if shard is None else shard.file(output), report)


def _refuse_for_rated(shard: Shard | None, keep: options.Texts) -> None:
    """Refuse options that rated records have no place for."""
    if shard is not None:
        raise ConfigError(
            "--as-rated with --shards: score the shards without it, join them (smorm join), and "
            "smorm pick SCORES --as-rated NAME makes the rated records"
        )
    if keep:
        raise ConfigError("--as-rated with --keep: rated records have no other fields")


def _standardised_over(input: str, format: str, columns: options.Texts) -> str:
    """The file that several rewards are standardised over where none is named: the input. Of
    rewards in different units the one that varies most would be the only teacher."""
    if format != "auto" or columns:
        raise ConfigError(
            "--as-rated: several rewards are standardised: name a file for it (--standardise), "
            "of rows that need no --format or --columns"
        )
    echo(f"{input}: each reward is standardised over it (--standardise names another file)")
    return input


def _section_and_view(
    sections: list[RewardSection], view: options.Texts, combine: options.Text,
    kappa: float | None, standardise: options.Text,
) -> tuple[RewardSection, Any]:  # fmt: skip
    """The one reward that all of them are, and the view that is asked of it; None: its own."""
    section = options.combined(sections, view, combine, kappa, standardise)
    if section is not None:
        return section, None
    if len(sections) > 1:
        raise ConfigError("several rewards: say how they become one, --combine mean, min or uwo")
    if len(view or []) > 1:
        raise ConfigError("--view: several views of one reward: score once for each")
    return sections[0], options.view_for(sections[0], view[0]) if view else None


def print_counted(report: JobReport, *, by_name: bool) -> None:
    """What was shortened or not scored, of each reward `by_name`."""
    # Each member of an ensemble counts for itself.
    for name, census in report.counted.items():
        for line in census.lines():
            echo(f"{name}: {line}" if by_name else line, err=True)


def print_totals(output: Path, report: JobReport) -> None:
    """What is in a scores file."""
    errors = ""
    if report.errors:
        errors = f", {report.errors} lines without a score"
    if report.unscored:
        errors += f", {report.unscored} responses without a score beside others"
    echo(f"{output}: {report.responses} responses in {report.lines} lines{errors}")


def print_rated(output: Path, rated: AsRated) -> None:
    """What is in a file of rated records, and what is not."""
    for line in rated.census.lines():
        echo(line, err=True)
    echo(f"{output}: {rated.rated:,} answers rated as {rated.name}")


def _print_ensemble(ensemble: Ensemble, tokens: int) -> None:
    echo(f"combined: {ensemble.rule.name} of")
    for facts in ensemble.facts.values():
        standard = ""
        if ensemble.standardise is not None:
            standard = f", less {facts['centre']:.4g}, over {facts['spread']:.4g}"
        echo(f"  {facts['name']}: view {facts['view']}{standard}")
    echo(f"{ensemble.cost()}, {tokens:,} tokens in all")
