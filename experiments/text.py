"""The comparison on real text from a pretrained backbone, by one command:

    python -m experiments.text --data ../shared/data --output results/text

Pretrains a small Llama on real text, chooses each method's epochs on a validation split, trains
every method on two data sets with several seeds, and measures pairs, ratings and best-of-n, in
distribution and out of it. Finished steps are used again. Without the data it says so and does
nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.command import make_run_parser, one_thread_each, run_command, say
from experiments.runs import in_processes
from experiments.tasks import TASKS, readme_baseline
from experiments.text_backbone import backbone_facts, backbone_folder
from experiments.text_measure import (
    TextSuite,
    cost_of,
    curve_of,
    measure_attributes,
    measure_reward,
    prompts_of,
    read_tests,
    summarise,
)
from experiments.text_page import Page
from experiments.text_rewards import (
    POOLS_FACTS,
    POOLS_FILE,
    SET,
    pools_folder,
    push_longest,
    push_reward,
    read_set,
    rewards_of,
    stress_config,
)
from experiments.text_runs import (
    METHODS,
    REFERENCE,
    Plan,
    ScoredRun,
    TextRun,
    choose_epochs,
    execute,
    files_of_tests,
    final_runs,
    records_of,
    tuning_runs,
)
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.result import Result, parse_result, read_results, write_results
from smorm.files import read_json, write_json, write_text
from smorm.stress.run import paired_by_seed


def run_all(runs: Sequence[TextRun], jobs: int, title: str) -> list[ScoredRun]:
    """Execute, and report each when it is done."""
    finished: list[ScoredRun] = []
    for scored in in_processes(execute, runs, jobs):
        finished.append(scored)
        run = scored.run
        say(
            f"{title} [{len(finished)}/{len(runs)}] {run.task.name} {run.name} seed {run.seed}, "
            f"{scored.epochs:g} epochs: {scored.minutes:.2f} min of training, "
            f"{scored.scoring_minutes:.2f} of scoring"
        )
    return finished


def measure_all(plan: Plan, runs: Sequence[ScoredRun], pools: Path) -> list[Result]:
    """Every result: pairs, ratings, best-of-n, curves and cost."""
    # The length rule reads no model, so it is measured once.
    config = stress_config(pools, plan.sizes, plan.output / "results.json")
    answers, longest = read_set(config), push_longest(config)
    training = {}
    for name in TASKS:
        training[name] = records_of("rated", str(plan.files(name).train_rated), 1, 0)
    results: list[Result] = []
    for task in plan.tasks:
        finished: dict[tuple[str, int], ScoredRun] = {}
        for scored in runs:
            if scored.run.task.name == task:
                finished[scored.run.name, scored.run.seed] = scored
        # Those of any run: all score the same sets.
        sets = finished["Single", 0].text_run.sets
        tests = read_tests(sets, training)
        labels = prompts_of(records_of(*sets[REFERENCE]))
        suite = TextSuite("best-of-n", task, SET)
        set_name = SuiteName.parse(str(suite)).label
        for seed in range(plan.seeds):
            of_seed = [finished[method, seed] for method in METHODS]
            rewards = rewards_of(finished, seed, plan.members, labels)
            for reward in rewards:
                results += [measure_reward(reward, test) for test in tests]
            # In distribution only: the other data set's attributes have other names.
            rated = next(test for test in tests if test.key == f"rated/{task}")
            for scored in of_seed:
                if scored.run.method.predicts_ratings:
                    results.append(measure_attributes(scored, rated))
            results += [push_reward(reward, answers, config, set_name) for reward in rewards]
            results += [*map(curve_of, of_seed), *map(cost_of, rewards)]
        results.append(replace(longest, suite=str(suite)))
    return results


def run_everything(plan: Plan) -> None:
    """Pretrain, tune, train, measure, write."""
    started = time.monotonic()
    text = plan.data / "pretrain_text" / "permissive.jsonl.gz"
    backbone = backbone_folder(text, files_of_tests(plan), plan.work, plan.backbone)
    facts = backbone_facts(backbone)
    say(
        f"backbone: {facts['parameters']:,} parameters, held-out loss {facts['loss']:.3f}, "
        f"{facts['minutes']:.1f} min"
    )
    # Epochs are chosen before any final run, on prompts that no test set has.
    grid: list[TextRun] = []
    for name in plan.tasks:
        grid += tuning_runs(plan, TASKS[name], backbone)
    tried = run_all(grid, plan.jobs, "tuning")
    tuned = choose_epochs(tried)
    pools = pools_folder(plan, backbone)
    final = final_runs(plan, tuned, backbone, pools / POOLS_FILE)
    scored = run_all(final, plan.jobs, "run")
    measured = time.monotonic()
    results = measure_all(plan, scored, pools / POOLS_FILE)
    compared = list(filter(_is_compared, results))
    written = list(map(rounded, results + paired_by_seed(compared)))
    write_results(plan.output / "results.json", written)
    summary = {
        "backbone": facts,
        "tuning": tuned,
        "pools": read_json(pools / POOLS_FACTS),
        "seeds": list(range(plan.seeds)),
        "members": plan.members,
        "prompts": prompt_counts(plan),
        "suites": summarise(results),
        "baselines": {name: readme_baseline(TASKS[name], plan.data) for name in plan.tasks},
        "minutes": _minutes(facts, tried, scored, measured),
    }
    write_json(plan.output / "summary.json", summary)
    rewrite(plan.output)
    say(f"{plan.output}: written after {(time.monotonic() - started) / 60:.1f} min")


def rewrite(output: Path) -> None:
    """README.md, from `summary.json` and `results.json`."""
    results = read_results(output / "results.json")
    write_text(output / "README.md", Page(read_json(output / "summary.json"), results).text())


def prompt_counts(plan: Plan) -> dict[str, int]:
    """How many prompts each test set of pairs has."""
    counts = {}
    for name in TASKS:
        records = records_of("preference", str(plan.files(name).test_pairs), 1, 0)
        counts[name] = len(set(prompts_of(records)))
    return counts


def _is_compared(result: Result) -> bool:
    """Whether the page of results has paired differences of it: of pairs and of best-of-n."""
    return result.kind == "stress" or SuiteName.parse(result.suite).kind == "pairs"


def rounded(result: Result) -> Result:
    """A result with numbers of six digits: further ones are noise, and half the file."""
    return parse_result(_six_digits(result.as_dict()), result.suite)


def _six_digits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _six_digits(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return list(map(_six_digits, value))
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _minutes(
    facts: dict[str, Any], tried: Sequence[ScoredRun], final: Sequence[ScoredRun], measured: float
) -> dict[str, float]:
    """Minutes of one process by part, whenever they were spent."""
    choosing = training = scoring = 0.0
    for run in tried:
        choosing += run.minutes + run.scoring_minutes
    for run in final:
        training += run.minutes
        scoring += run.scoring_minutes
    minutes = {
        "pretraining": float(facts["minutes"]),
        "choosing the epochs": choosing,
        "training": training,
        "scoring": scoring,
        "measuring": (time.monotonic() - measured) / 60,
    }
    return {name: round(value, 1) for name, value in minutes.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    options = make_run_parser("text").parse_args(arguments)
    one_thread_each()
    plan = Plan(options.data, options.output, options.work, options.seeds, jobs=options.jobs)
    return run_command(options.data, lambda: run_everything(plan))


if __name__ == "__main__":
    sys.exit(main())
