"""The comparison on real text from a pretrained backbone, by one command:

    python -m experiments.text --data ../shared/data --output results/text

Pretrains a small Llama on real text, chooses each method's epochs on a validation split, trains
every method on two data sets with several seeds, and measures pairs, ratings and best-of-n, in
distribution and out of it. Finished steps are used again. Where the data is absent it says so and
does nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.entry import carried_out, one_thread_each, parser_of_runs, say
from experiments.tasks import TASKS, readme_baseline
from experiments.text_backbone import backbone_facts, backbone_folder
from experiments.text_measure import (
    cost_of,
    curve_of,
    has_ratings,
    measure_attributes,
    measure_reward,
    prompts_of,
    read_tests,
    suite_name,
)
from experiments.text_plan import POOLS, Plan, choose, files_of_tests, final_runs, tuning_runs
from experiments.text_pools import (
    SET,
    push_longest,
    push_reward,
    read_set,
    stress_config,
    write_pools,
)
from experiments.text_readme import readme
from experiments.text_rewards import REFERENCE, Finished, rewards_of
from experiments.text_runs import METHODS, Kept, Run, Sets, execute_all, records_of
from experiments.text_summary import summarise
from smorm.evaluation.result import Result, parse_result, write_results
from smorm.files import fingerprint, read_json, sha256, write_json, write_text
from smorm.stress.run import paired_by_seed


def run_all(runs: Sequence[Run], jobs: int, what: str) -> list[Kept]:
    """Execute, telling each as it is done."""
    found: list[Kept] = []
    for kept in execute_all(runs, jobs):
        found.append(kept)
        run = kept.run
        say(f"{what} [{len(found)}/{len(runs)}] {run.task.name} {run.method} seed {run.seed}, "
             f"{run.epochs:g} epochs: {kept.minutes:.2f} min of training, "
             f"{kept.scoring_minutes:.2f} of scoring")  # fmt: skip
    return found


def measure_all(plan: Plan, kept: Sequence[Kept], pools: Path) -> list[Result]:
    """Every result: pairs, ratings, best-of-n, curves and cost, and the paired differences."""
    config = stress_config(pools, plan.sizes, plan.output / "results.json")
    answers, longest = read_set(config), push_longest(config)
    training = {name: records_of("rated", str(plan.files(name).train_rated), 1, 0)
                for name in TASKS}  # fmt: skip
    results: list[Result] = []
    for name in plan.tasks:
        finished: Finished = {(k.run.method, k.run.seed): k for k in kept
                              if k.run.task.name == name}  # fmt: skip
        sets: Sets = next(iter(finished.values())).run.sets
        tests = read_tests(sets, training)
        labels = prompts_of(records_of(*sets[REFERENCE]))
        suite = suite_name("best-of-n", name, SET)
        for seed in range(plan.seeds):
            own = [finished[method, seed] for method in METHODS]
            rewards = rewards_of(finished, seed, plan.members, labels)
            results += [measure_reward(one, test) for one in rewards for test in tests]
            results += [measure_attributes(one, test) for one in own for test in tests
                        if has_ratings(one) and test.key == f"rated/{name}"]  # fmt: skip
            results += [push_reward(one, answers, config, set_name=suite.partition("/")[2],
                                    pools_key=POOLS) for one in rewards]  # fmt: skip
            results += [curve_of(one) for one in own] + [cost_of(one) for one in rewards]
        results.append(replace(longest, suite=suite))
    return results


def run_everything(plan: Plan) -> None:
    """Pretrain, tune, train, measure, write."""
    started = time.monotonic()
    tests = files_of_tests(plan)
    text = plan.data / "pretrain_text" / "permissive.jsonl.gz"
    backbone = backbone_folder(text, tests, plan.work, plan.backbone)
    facts = backbone_facts(backbone)
    say(f"backbone: {facts['parameters']:,} parameters, held-out loss {facts['loss']:.3f}, "
         f"{facts['minutes']:.1f} min")  # fmt: skip
    grid = [run for name in plan.tasks for run in tuning_runs(plan, TASKS[name], backbone)]
    tried = run_all(grid, plan.jobs, "tuning")
    tuned = choose(tried)
    key = fingerprint([backbone.name, sha256(plan.pools), list(plan.sizes)])[:8]
    pools = plan.work / f"pools-{key}.jsonl"
    if not pools.is_file():
        write_pools(plan.pools, backbone, plan.backbone.width, plan.sizes, pools)
    kept = run_all(final_runs(plan, tuned, backbone, pools), plan.jobs, "run")
    measured = time.monotonic()
    results = measure_all(plan, kept, pools)
    compared = [one for one in results if one.kind == "stress" or one.suite.startswith("pairs/")]
    written = [rounded(one) for one in results + paired_by_seed(compared)]
    write_results(plan.output / "results.json", written)
    summary = {
        "backbone": facts,
        "tuning": tuned,
        "pools": read_json(pools.with_suffix(".json")),
        "seeds": list(range(plan.seeds)),
        "members": plan.members,
        "suites": summarise(results),
        "baselines": {name: readme_baseline(TASKS[name], plan.data) for name in plan.tasks},
        "minutes": _minutes(facts, tried, kept, measured),
    }
    write_json(plan.output / "summary.json", summary)
    write_text(plan.output / "README.md", readme(summary, results))
    say(f"{plan.output}: written after {(time.monotonic() - started) / 60:.1f} min")


def rounded(one: Result) -> Result:
    """A result with numbers of six digits: what more is written is noise, and half the file."""
    plain = _six_digits(one.as_dict())
    return parse_result(plain, one.suite)


def _six_digits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _six_digits(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_six_digits(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _minutes(
    facts: dict[str, Any], tried: Sequence[Kept], kept: Sequence[Kept], measured: float
) -> dict[str, float]:
    """Minutes of one process by part, whenever they were spent."""
    found = {
        "pretraining": float(facts["minutes"]),
        "choosing the epochs": sum(one.minutes + one.scoring_minutes for one in tried),
        "training": sum(one.minutes for one in kept),
        "scoring": sum(one.scoring_minutes for one in kept),
        "measuring": (time.monotonic() - measured) / 60,
    }
    return {name: round(value, 1) for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    asked = parser_of_runs("text").parse_args(arguments)
    one_thread_each()
    plan = Plan(asked.data, asked.output, asked.work, asked.seeds, jobs=asked.jobs)
    return carried_out(asked.data, lambda: run_everything(plan))


if __name__ == "__main__":
    sys.exit(main())
