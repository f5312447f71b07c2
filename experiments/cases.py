"""What each verb says of other people's files: `python -m experiments.cases --cases FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.cases_applied import applied_page
from experiments.command import run_command
from smorm import files
from smorm.checks.findings import FINE, meaning
from smorm.checks.plan import Plan
from smorm.checks.report import check
from smorm.checks.scan import CheckedSource
from smorm.data.census import UNREAD_KINDS, BadRecord, Census
from smorm.data.reading import Source, read_each, read_records
from smorm.data.records import Kind
from smorm.errors import SmormError

MOST_FINDINGS, MOST_CHARACTERS = 4, 480
# Findings about what was not asked for here.
_ASIDE = ("no_token_checks", "length_bias", "duplicate_records", "attribute_length",
          "missing_ratings", "constant_attribute", "near_duplicate_prompts")  # fmt: skip
_MAPPED = {"prompt": "question", "chosen": "response_chosen", "rejected": "response_rejected",
           "history": "history", "system": "system"}  # fmt: skip
_OUTPUT = {"columns": {"prompt": "instruction", "response": "output"}}


@dataclass(frozen=True, slots=True)
class Asked:
    """How a file is read where the file alone does not say it: the keys of its source."""

    keys: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "preference"


ASKED = {
    "ab_safety/d.jsonl": Asked({"format": "pku_saferlhf"}),
    "ab_scores/d.jsonl": Asked({"format": "shp"}),
    "ab_signed/d.jsonl": Asked({"format": "helpsteer3"}),
    "alpaca_pairs/d.jsonl": Asked({"format": "alpaca_preference"}),
    "orca_pairs/d.jsonl": Asked({"format": "orca_dpo"}),
    "hh_text/d.jsonl": Asked({"format": "hh_rlhf"}),
    "columns_mapping/d.jsonl": Asked({"columns": _MAPPED}),
    "pointwise/d.jsonl": Asked({"columns": {"prompt": "query", "scores": "feedback"}}, "rated"),
    "raw_text_score/d.jsonl": Asked({"columns": {"text": "text", "scores": "score"}}, "rated"),
    "kto/d.jsonl": Asked({"format": "kto"}, "rated"),
    "ranked/d.jsonl": Asked({"format": "nectar"}),
    "two_scores/d.jsonl": Asked({"columns": {"margin": "chosen-rating - rejected-rating"}}),
    "string_scores/d.jsonl": Asked({"na": ["N/A"], "numbers_in_text": True}, "rated"),
    "other_eval_files/alpaca_eval.json": Asked(_OUTPUT, "candidates"),
    "other_eval_files/openrlhf_bon.jsonl": Asked(
        {"columns": {"prompt": "input", "response": "output"}}, "candidates"
    ),
    "other_eval_files/arena33k.jsonl": Asked({"format": "lmarena"}),
    "other_eval_files/arena55k.csv": Asked({"format": "lmarena_55k"}),
    "score_lines/in.jsonl": Asked(kind="candidates"),
    "thinking/in.jsonl": Asked(kind="candidates"),
    "promptless_best_of_k/in.jsonl": Asked({"format": "best_of_k"}, "candidates"),
}


def page(folder: Path) -> str:
    """The page of a folder of inputs."""
    lines = [
        "# Other people's files",
        "",
        "Made by `python -m experiments.cases --cases ../shared/cases --output results/cases`. "
        "Each file is read as it is, and where that is refused, as its source has to say it. "
        "`check` lists what is to be fixed or looked at (no tokenizer is named), `train`, "
        "`score` and `eval` what their readers say. Templates are tried at the end, each by a tiny "
        "model that is trained for one step with it.",
    ]
    for path in sorted(folder.glob("*/*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix != ".jinja":
            asked = ASKED.get(name, Asked())
            lines += ["", f"## {name}", "", *_table(path, folder, asked)]
    lines += applied_page(folder, _short)
    return "\n".join(lines) + "\n"


def _table(path: Path, folder: Path, asked: Asked) -> Iterator[str]:
    yield "| source | check | train | score, eval |"
    yield "|---|---|---|---|"
    for keys in [{}, asked.keys] if asked.keys else [{}]:
        source = Source(path, **keys)
        named = ", ".join(f"{key}: {value}" for key, value in keys.items()) or "the file"
        cells = [named, _checked(source), _trained(source, asked.kind), _scored(source)]
        # The page is the same wherever the files lie.
        texts = [cell.replace(f"{folder}/", "").replace("|", "\\|") for cell in cells]
        yield f"| {' | '.join(texts)} |"


def _checked(source: Source) -> str:
    try:
        report = check(Plan((CheckedSource(source),)))
    except SmormError as error:
        return _short(str(error))
    told = [
        f"{finding.severity}: {_short(meaning(finding))}"
        for finding in report.findings
        if finding.severity is not FINE and finding.kind not in _ASIDE
    ]
    return "<br>".join(told[:MOST_FINDINGS]) or "nothing to fix"


def _trained(source: Source, kind: Kind) -> str:
    census = Census()
    if kind == "candidates":
        return "not a file to train on"
    try:
        count = sum(1 for _ in read_records(source, kind, census))
    except SmormError as error:
        return _short(str(error))
    return f"{count} {kind} records{_counted(census)}"


def _scored(source: Source) -> str:
    """What is read of each row, as `smorm score` and `smorm eval` read it."""
    census, read, problems = Census(), 0, []
    try:
        for _, _, records in read_each(replace(source, every_response=True), census):
            if isinstance(records, BadRecord):
                problems.append(_short(str(records)))
            else:
                read += sum(len(record.item) for record in records)
    except SmormError as error:
        return _short(str(error))
    told = f"{read} answers{_counted(census)}"
    if problems:
        told += f"<br>{len(problems)} rows refused: {problems[0]}"
    return told


def _counted(census: Census) -> str:
    texts = [_short(line.partition(" (such as")[0]) for line in census.lines()]
    if any(census[kind] for kind in UNREAD_KINDS):
        texts = texts[:MOST_FINDINGS]
    return "".join(f"<br>{text}" for text in texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} …"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.cases")
    parser.add_argument("--cases", type=Path, default=Path("../shared/cases"))
    parser.add_argument("--output", type=Path, default=Path("results/cases"))
    options = parser.parse_args(arguments)

    def work() -> None:
        files.write_text(options.output / "README.md", page(options.cases))

    return run_command(options.cases, work)


if __name__ == "__main__":
    sys.exit(main())
