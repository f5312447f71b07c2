"""`smorm check` on every set of the data folder, as a run on that set would see it:

    python -m experiments.check_data --data ../shared/data --output results/check

Training sets are checked with their held-out records, against all evaluation sets, and with a
tokenizer that is trained on them (BPE of 4,000 tokens, limit 2,048); evaluation sets in words. One
JSON file for each set, and README.md with what is to be looked at. Where the data is absent it says
so and does nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.entry import carried_out, parser_of, say
from smorm.checks.findings import meaning as meaning_of
from smorm.checks.plan import Plan, parse_against, sources_of_config, tokens_of_config
from smorm.checks.report import Report, check
from smorm.checks.scan import CheckedSource
from smorm.checks.table import kind_of
from smorm.config import parse_config
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.files import write_json, write_text

VOCABULARY = 4000
FILES = "*.jsonl.gz"

INTRO = """\
# Checks of the data sets

Written by `python -m experiments.check_data`; one JSON file a set holds all of it: the findings
with their places, length tables, attributes, overlap. [docs/check.md](../../docs/check.md) says
what each finding means. Lengths of training sets are in tokens of a BPE of {vocabulary:,} trained
on the set.
"""


def training_sets(data: Path) -> list[str]:
    """Folders that hold a training file."""
    return sorted(folder.name for folder in data.iterdir() if any(folder.glob("train" + FILES)))


def evaluation_files(data: Path) -> list[Path]:
    """Files of sets that nothing is trained on, relative to the folder."""
    found = [*sorted(data.glob("eval/*/" + FILES)), *sorted(data.glob("*_bon/" + FILES))]
    return [path.relative_to(data) for path in found]


def plan_of(name: str) -> Plan:
    """The check of one training set, from the data folder; places are named from there."""
    sources: dict[str, dict[str, list[str]]] = {"train": {}, "dev": {}}
    for path in sorted(Path(name).glob(FILES)):
        split = path.name.partition(".")[0].partition("_")[0]
        sources[split].setdefault(_kind(path), []).append(str(path))
    train = sources["train"]
    only = {"preference": "preference", "rated": "regression"}
    objective = "joint" if len(train) == 2 else only[next(iter(train))]
    config = parse_config(
        {
            "model": {
                "backbone": {"architecture": "llama"},
                "tokenizer": {"train": "bpe", "vocab_size": VOCABULARY},
            },
            "data": {**train, "overlong": "truncate_prompt"},
            "evaluation": sources["dev"],
            "objective": {"kind": objective},
            "output": {"folder": "unused"},
        }
    )
    against = [parse_against(str(path)) for path in evaluation_files(Path())]
    return Plan(sources_of_config(config), tuple(against), tokens=tokens_of_config(config))


def _kind(path: Path) -> str:
    return kind_of(next(iter(read_records(Source(path, limit=1), None, Census(), "skip"))))


def reports(data: Path) -> Iterator[tuple[str, Report]]:
    """Each set's name and report, training sets first."""
    names = training_sets(data)
    with contextlib.chdir(data):
        for name in names:
            yield name, check(plan_of(name))
        for path in evaluation_files(Path()):
            report = check(Plan((CheckedSource(Source(path)),)))
            told = [one for one in report.findings if one.kind != "no_token_checks"]
            yield path.parent.name, replace(report, findings=told)


def readme(found: Sequence[tuple[str, Report]]) -> str:
    """A table of the sets, and one of all that is not fine."""
    lines = [
        INTRO.format(vocabulary=VOCABULARY),
        "| set | records | held out | must fix | look | longer side chosen |",
        "|---|---|---|---|---|---|",
    ]
    for name, report in found:
        counts = [
            str(sum(one.severity == severity for one in report.findings))
            for severity in ("must fix", "look")
        ]
        cells = [name, _records(report, "train"), _records(report, "held_out"), *counts]
        lines.append(f"| {' | '.join(cells)} | {_wins(report)} |")
    lines += ["", "## Not fine", "", "| set | severity | finding | how many | what it means |",
              "|---|---|---|---|---|"]  # fmt: skip
    for name, report in found:
        for one in report.findings:
            if one.severity != "fine":
                many = "" if one.share is None else f"{one.count:,} of {one.of} ({one.share:.1%})"
                meaning = meaning_of(one).replace("|", "\\|")
                lines.append(f"| {name} | {one.severity} | `{one.kind}` | {many} | {meaning} |")
    return "\n".join([*lines, ""])


def _records(report: Report, which: str) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in report.records[which].items())


def _wins(report: Report) -> str:
    metric = report.bias.longer_wins
    if metric is None:
        return ""
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def run(data: Path, output: Path) -> None:
    """Check and write everything."""
    target = output.resolve()
    found = []
    for name, report in reports(data):
        values: dict[str, Any] = report.as_dict()
        write_json(target / f"{name}.json", values)
        found.append((name, report))
        say(f"{name}: {report.must_fix} must fix")
    write_text(target / "README.md", readme(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    parser = parser_of("check_data")
    parser.set_defaults(output=Path("results/check"))
    asked = parser.parse_args(arguments)
    return carried_out(asked.data, lambda: run(asked.data, asked.output))


if __name__ == "__main__":
    sys.exit(main())
