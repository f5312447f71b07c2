"""`smorm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    models: Annotated[list[str], typer.Argument(help="Model folders.")],
    suite: Annotated[
        list[str],
        typer.Option(help="NAME=PATH; NAME is pairs, rated or rm-bench, or one with /LABEL."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Results, JSON.")],
    view: Annotated[
        list[str] | None, typer.Option(help="F, L, M or a JSON file; default: the model's.")
    ] = None,
    overlong: Annotated[
        str | None, typer.Option(help="error, drop or truncate_prompt; default: as in training.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad records out, counted.")
    ] = False,
    max_batch_tokens: Annotated[int, typer.Option(help="Tokens a forward pass.")] = 8192,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure models on pairs, ratings or RM-Bench.

    Every number has its count and a 95 % interval that resamples prompts; ties count half and are
    told; the rule "the longer response wins" stands beside each accuracy.
    """
    from smorm.cli.options import OVERLONG, choice, view_of
    from smorm.cli.tables import print_results
    from smorm.evaluation.result import write_results
    from smorm.evaluation.suites import display_names, parse_suite, run_suite
    from smorm.scoring.reward_model import RewardModel

    policy = choice("--overlong", overlong, OVERLONG)
    views = [view_of(text) for text in view or [None]]  # type: ignore[list-item]
    suites = [parse_suite(text) for text in suite]
    results = []
    for path, name in zip(models, display_names(models), strict=True):
        model = RewardModel.load(path, device=device)
        for one in suites:
            results += run_suite(
                model,
                one,
                views,
                name=name,
                overlong=policy,
                on_bad_record="skip" if skip_bad else "stop",
                max_batch_tokens=max_batch_tokens,
            )
    write_results(output, results)
    print_results(results)
    typer.echo(f"results: {output}")
