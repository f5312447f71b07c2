"""`smorm stress`."""

import json
from pathlib import Path
from typing import Any

from typer import Argument, Option

from smorm.cli import options
from smorm.cli.options import File, Texts
from smorm.errors import ConfigError
from smorm.terminal import echo


@options.loads_models
def run(
    config: Path = Argument(help="YAML configuration: see docs/stress.md."),
    overrides: Texts = Argument(None, help="dotted.key=value, e.g. gold=lab"),
    output: File = Option(None, "--output", "-o", help="Results, JSON; else the config's."),
    loading: options.Loading = options.LOADING,
) -> None:
    """Over-optimise rewards by best-of-n, read a gold, and look for symptoms.

    Of pools of answers: gold and proxy as n grows, in closed form over all subsets; peak, fall and
    the law of over-optimisation; what the picks look like; what attack strings gain; paired
    differences to the first reward. Everything has an interval over prompts, or over seeds."""
    from smorm.cli.tables import print_results
    from smorm.config import load_section
    from smorm.evaluation.result import write_results
    from smorm.files import is_stream, refuse_unwritable
    from smorm.stress.config import StressConfig
    from smorm.stress.run import run_stress

    changes = [*(overrides or ()), *loading.overrides]
    if output is not None:
        # As JSON, which is YAML too: a path may hold what YAML would read as something else.
        changes.append(f"output={json.dumps(str(output))}")
    section = load_section(StressConfig, config, changes)
    refuse_unwritable(section.output)
    # Sampled pools, and the results of finished runs, are written beside it.
    writes_more = section.rl is not None or any(prompts.sample for prompts in section.prompts)
    if writes_more and is_stream(section.output):
        raise ConfigError(f"output: {section.output}: no other file can be beside it; name a file")
    results = run_stress(section, tell=lambda line: echo(line, err=True))
    write_results(section.output, results)
    print_results(summary(results))
    echo(f"results: {section.output}")


def summary(results: list[Any]) -> list[Any]:
    """What a terminal has room for: seeds put together, the curve of gold, and its sums."""
    from smorm.evaluation.metrics import Metric
    from smorm.evaluation.result import Result
    from smorm.report.rows import rows_of

    hidden = ("proxy@", "probe_wins/", "slope/distinct_2", "law/r2", "disagreement_auc@")
    summaries = []
    for row in rows_of(results):
        sizes = [name.partition("@")[2] for name in row.metrics if name.startswith("gold@")]
        visible: tuple[str, ...] = ()
        # Of what is hidden at every n the largest is shown.
        if sizes:
            visible = (f"proxy@{sizes[-1]}", f"disagreement_auc@{sizes[-1]}")
        metrics = {}
        for name, metric in row.metrics.items():
            if name.startswith(hidden) and name not in visible:
                continue
            # Sizes n double: over seeds their mean says little, and Student's t nothing.
            if row.seeds > 1 and name in ("peak", "onset", "trough"):
                metric = Metric(metric.value, metric.n)
            metrics[name] = metric
        names = (row.kind, row.suite, row.model, row.view)
        summaries.append(Result(*names, metrics, notes=row.notes, alarms=row.alarms))
    return summaries
