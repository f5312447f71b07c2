"""`smorm stress`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def run(
    config: Annotated[Path, typer.Argument(help="YAML configuration: see docs/stress.md.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="dotted.key=value, e.g. gold=lab")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Results, JSON; else the config's.")
    ] = None,
) -> None:
    """Over-optimise rewards by best-of-n against a gold, and look for symptoms.

    Of pools of answers: gold and proxy as n grows, in closed form over all subsets; peak, fall and
    the law of over-optimisation; what the picks look like; what attack strings gain; paired
    differences to the first reward. Everything has an interval over prompts, or over seeds.
    """
    from smorm.cli.tables import print_results
    from smorm.config import load_section
    from smorm.evaluation.result import write_results
    from smorm.files import refuse_unwritable
    from smorm.stress.config import StressConfig
    from smorm.stress.run import run_stress

    place = [] if output is None else [f"output={json.dumps(str(output))}"]
    asked = load_section(StressConfig, config, [*(overrides or ()), *place])
    refuse_unwritable(asked.output)
    results = run_stress(asked, tell=lambda line: typer.echo(line, err=True))
    write_results(asked.output, results)
    print_results(summary(results))
    typer.echo(f"results: {asked.output}")


def summary(results: list[Any]) -> list[Any]:
    """What a terminal has room for: seeds put together, the curve of gold, and its sums."""
    from smorm.evaluation.result import Result
    from smorm.report.rows import rows_of

    return [
        Result(
            row.kind,
            row.suite,
            row.model,
            row.view,
            _shown(row.metrics, row.seeds),
            notes=row.notes,
        )
        for row in rows_of(results)
    ]


def _shown(metrics: dict[str, Any], seeds: int) -> dict[str, Any]:
    from smorm.evaluation.metrics import Metric

    hidden = ("proxy@", "probe_wins/", "slope/distinct_2", "law/r2", "disagreement_auc@")
    sizes = [name.partition("@")[2] for name in metrics if name.startswith("gold@")]
    kept = {f"proxy@{sizes[-1]}", f"disagreement_auc@{sizes[-1]}"} if sizes else set()
    # Sizes n double: over seeds their mean says little, and Student's t nothing.
    sizes_over_seeds = ("peak", "onset") if seeds > 1 else ()
    return {
        name: Metric(metric.value, metric.n) if name in sizes_over_seeds else metric
        for name, metric in metrics.items()
        if name in kept or not name.startswith(hidden)
    }
