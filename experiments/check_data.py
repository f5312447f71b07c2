"""`smorm check` on every set of the data folder, as a run on that set would see it:

    python -m experiments.check_data --data ../shared/data --output results/check

Training sets are checked with their held-out records, against all evaluation sets, and with a
tokenizer that is trained on them (BPE of 4,000 tokens, limit 2,048); evaluation sets in words. One
JSON file for each set, and README.md with the findings to look at. Without the data it says so and
does nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.command import make_parser, run_command, say
from experiments.tables import interval, number, table
from smorm.checks.findings import FINE, FindingKind, Severity
from smorm.checks.plan import Plan, parse_against, sources_of_config, tokens_of_config
from smorm.checks.report import Report, check
from smorm.checks.scan import CheckedSource
from smorm.checks.table import kind_of
from smorm.config import METHODS, parse_config
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.files import read_json, write_json, write_text

VOCABULARY = 4000
FILES = "*.jsonl.gz"
# The methods of the comparisons: the first that trains on all of a set's records is its objective.
OBJECTIVES = ("joint", "preference", "regression")

PAGE = """\
# Checks of the data sets

Written by `python -m experiments.check_data`; one JSON file a set holds all of it: the findings
with their places, length tables, attributes, overlap. [docs/check.md](../../docs/check.md) says
what each finding means. Lengths of training sets are in tokens of a BPE of {vocabulary:,} trained
on the set.

{sets}

## Not fine

{findings}
"""


def training_sets(data: Path) -> list[str]:
    """Folders that hold a training file."""
    return sorted(folder.name for folder in data.iterdir() if any(folder.glob("train" + FILES)))


def evaluation_files(data: Path) -> list[Path]:
    """Files of sets that are not for training, relative to the folder."""
    paths = [*sorted(data.glob("eval/*/" + FILES)), *sorted(data.glob("*_bon/" + FILES))]
    return [path.relative_to(data) for path in paths]


def plan_of(name: str) -> Plan:
    """The check of one training set, from the data folder; locations are named from there."""
    sources: dict[str, dict[str, list[str]]] = {"train": {}, "dev": {}}
    # A set of both kinds has `train.jsonl.gz` and `train_scores.jsonl.gz`.
    for path in sorted(Path(name).glob(FILES)):
        split = path.name.partition(".")[0].partition("_")[0]
        sources[split].setdefault(_kind(path), []).append(str(path))
    config = parse_config(
        {
            "model": {
                "backbone": {"architecture": "llama"},
                "tokenizer": {"train": "bpe", "vocab_size": VOCABULARY},
            },
            "data": {**sources["train"], "overlong": "truncate_prompt"},
            "evaluation": sources["dev"],
            "objective": {"kind": _objective(set(sources["train"]))},
            "output": {"folder": "unused"},
        }
    )
    against = map(parse_against, map(str, evaluation_files(Path())))
    return Plan(sources_of_config(config), tuple(against), tokens=tokens_of_config(config))


def _objective(kinds: set[str]) -> str:
    """The method that trains on just these kinds of records."""
    for name in OBJECTIVES:
        uses = {"preference": METHODS[name].uses_pairs, "rated": METHODS[name].uses_ratings}
        # Exactly these: a method that uses fewer would leave records unchecked.
        if all(used == (kind in kinds) for kind, used in uses.items()):
            return name
    raise ValueError(f"no method trains on {', '.join(sorted(kinds))}")


def _kind(path: Path) -> str:
    return kind_of(next(iter(read_records(Source(path, limit=1), None, Census(), "skip"))))


def reports(data: Path) -> Iterator[tuple[str, Report]]:
    """Each set's name and report, training sets first."""
    names = training_sets(data)
    # Locations in reports begin at the data folder, wherever that is.
    with contextlib.chdir(data):
        for name in names:
            yield name, check(plan_of(name))
        for path in evaluation_files(Path()):
            report = check(Plan((CheckedSource(Source(path)),)))
            # Evaluation sets have no run, and so no tokenizer to check with.
            findings = [f for f in report.findings if f.kind is not FindingKind.NO_TOKEN_CHECKS]
            yield path.parent.name, replace(report, findings=findings)


def page(reported: Mapping[str, dict[str, Any]]) -> str:
    """A table of the sets, and one of all findings that are not fine; from the sets' JSON."""
    sets, findings = [], []
    for name, report in reported.items():
        severities = [finding["severity"] for finding in report["findings"]]
        counts = [str(severities.count(level.value)) for level in Severity if level is not FINE]
        train, held_out = report["records"]["train"], report["records"]["held_out"]
        records = [_records(train), _records(held_out)]
        sets.append([name, *records, *counts, _longer_wins(report)])
        for finding in report["findings"]:
            # What is fine is in the set's own file: the page is for what someone must look at.
            if finding["severity"] != FINE.value:
                cells = _finding_cells(finding)
                findings.append([name, *cells])
    return PAGE.format(
        vocabulary=VOCABULARY,
        sets=table(["set", "records", "held out", "must fix", "look", "longer side chosen"], sets),
        findings=table(["set", "severity", "finding", "how many", "what it means"], findings),
    )


def _finding_cells(finding: Mapping[str, Any]) -> list[str]:
    count = ""
    if finding["share"] is not None:
        count = f"{finding['count']:,} of {finding['of']} ({finding['share']:.1%})"
    # A bar would end the cell.
    meaning = finding["meaning"].replace("|", "\\|")
    return [finding["severity"], f"`{finding['code']}`", count, meaning]


def _records(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def _longer_wins(report: Mapping[str, Any]) -> str:
    wins = report["length_bias"]["longer_wins"]
    if wins is None:
        return ""
    return f"{number(wins['value'])} {interval(wins['low'], wins['high'])}"


def run(data: Path, output: Path) -> None:
    """Check and write everything."""
    target = output.resolve()
    for name, report in reports(data):
        write_json(target / f"{name}.json", report.as_dict())
        say(f"{name}: {report.must_fix} must fix")
    rewrite(target)


def rewrite(output: Path) -> None:
    """README.md, from the JSON files; sets with held-out records, which are for training, first."""
    reported = {path.stem: read_json(path) for path in sorted(output.glob("*.json"))}
    # Sets without a tokenizer are evaluation sets.
    ordered = sorted(reported.items(), key=lambda item: str(item[1]["unit"]) == "words")
    write_text(output / "README.md", page(dict(ordered)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    options = make_parser("check_data", "results/check").parse_args(arguments)
    return run_command(options.data, lambda: run(options.data, options.output))


if __name__ == "__main__":
    sys.exit(main())
