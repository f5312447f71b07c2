"""From a plan to a report: one pass over the data, then every check on what was kept of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smorm.checks.attributes import PUBLISHED, attribute_findings, summarise
from smorm.checks.bias import Bias, bias_findings, measure_bias
from smorm.checks.counted import counted_findings
from smorm.checks.duplicates import (
    duplicate_findings,
    leakage_findings,
    shared_prompt_findings,
)
from smorm.checks.findings import THRESHOLDS, Finding, Thresholds, severest_first
from smorm.checks.labels import label_findings
from smorm.checks.lengths import kinds_of, length_table, limit_findings, unit_of
from smorm.checks.overlap import (
    Benchmarks,
    overlap_findings,
    overlap_table,
    read_benchmarks,
)
from smorm.checks.plan import Plan, Tokens
from smorm.checks.scan import Scan, scan
from smorm.checks.template import audit_template
from smorm.checks.tokens import NO_LIMIT, TokenCheck
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.reading import Source, read_records
from smorm.data.records import Record
from smorm.data.tokeniser import Tokeniser
from smorm.errors import ModelError
from smorm.text.chat import Renderer
from smorm.text.padding import ensure_pad_token
from smorm.version import __version__


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        sources: of each its path, kind, whether it is held out.
        records: records by kind, of training and held-out sources.
        unit: what lengths are in: `tokens`, or `words` where no tokenizer was named.
        lengths, attributes, benchmarks: the tables, as they are written.
        findings: the severest first.
    """

    sources: list[dict[str, Any]]
    records: dict[str, dict[str, int]]
    unit: str
    max_tokens: int | None
    lengths: dict[str, Any]
    bias: Bias
    attributes: dict[str, Any]
    benchmarks: dict[str, dict[str, int]]
    findings: list[Finding]
    thresholds: Thresholds = field(default_factory=lambda: THRESHOLDS)

    @property
    def must_fix(self) -> int:
        """How many findings must be fixed."""
        return sum(finding.severity == "must fix" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        wins = self.bias.longer_wins
        return {
            "kind": "check",
            "must_fix": self.must_fix,
            "sources": self.sources,
            "records": self.records,
            "unit": self.unit,
            "max_tokens": self.max_tokens,
            "findings": [finding.as_dict() for finding in self.findings],
            "lengths": self.lengths,
            "length_bias": {
                "unit": self.bias.unit,
                "longer_wins": None if wins is None else wins.as_dict(),
                "ties": self.bias.ties,
                "attributes": {n: m.as_dict() for n, m in self.bias.correlations.items()},
            },
            "attributes": self.attributes,
            "benchmarks": self.benchmarks,
            "thresholds": asdict(self.thresholds),
            "version": __version__,
        }


def check(plan: Plan, limits: Thresholds = THRESHOLDS) -> Report:
    """Read and examine everything once.

    Raises:
        DataError: a source or benchmark as a whole cannot be read.
        ConfigError, ModelError: a format, tokenizer or template that cannot be used.
    """
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="smorm-check-")))
        template, tokens = _token_check(plan.tokens, closing)
        census = Census()
        benchmarks = _benchmarks(plan, census)
        found = scan(plan.readings, folder, tokens, benchmarks)
        benchmark_findings = [_left_out(line) for line in census.lines()]
        return _report(plan, found, benchmarks, [*template, *benchmark_findings], limits)


def _token_check(
    tokens: Tokens | None, closing: ExitStack
) -> tuple[list[Finding], TokenCheck | None]:
    """The template's faults, and what examines records as tokens where the template can be used."""
    if tokens is None:
        meaning = "no tokenizer was named (--config or --model): lengths are in words, and the "
        meaning += "template, the token limit and control tokens were not checked"
        return [Finding("no_token_checks", "look", 0, meaning)], None
    faults = audit_template(tokens.tokenizer, tokens.template, pad_is_settled=tokens.pad_is_settled)
    findings = [Finding(f.code, f.severity, 1, f.meaning, of="templates") for f in faults]
    ensure_pad_token(tokens.tokenizer, tokens.template)
    try:
        renderer = Renderer(tokens.tokenizer, tokens.template, tokens.max_tokens)
    except ModelError as error:
        meaning = f"lengths are in words, since {error}"
        return [*findings, Finding("template_unusable", "must fix", 1, meaning)], None
    encoder = Encoder(renderer, NO_LIMIT, "error")
    tokeniser = closing.enter_context(Tokeniser(encoder, tokens.workers))
    return findings, TokenCheck(tokeniser, tokens.max_tokens, tokens.overlong)


def _benchmarks(plan: Plan, census: Census) -> Benchmarks | None:
    if not plan.against:
        return None
    return read_benchmarks([(name, _items(sources, census)) for name, sources in plan.against])


def _items(sources: tuple[Source, ...], census: Census) -> Iterator[Record]:
    for source in sources:
        yield from read_records(source, None, census, "skip")


def _left_out(line: str) -> Finding:
    return Finding("benchmark_counted", "fine", 0, f"in a benchmark: {line}")


def _report(
    plan: Plan,
    found: Scan,
    benchmarks: Benchmarks | None,
    before: list[Finding],
    limits: Thresholds,
) -> Report:
    table = found.table
    unit = unit_of(table)
    bias = measure_bias(table, unit)
    tokens = plan.tokens
    published = {
        index: PUBLISHED[reading.source.format]
        for index, reading in enumerate(found.readings)
        if reading.source.format in PUBLISHED
    }
    findings = [*before, *counted_findings(found)]
    if tokens is not None:
        findings += limit_findings(table, found.tally, tokens.max_tokens, tokens.overlong, limits)
    findings += leakage_findings(found, limits)
    findings += label_findings(table, limits)
    findings += attribute_findings(table, plan.ranges, published, limits)
    if benchmarks is not None:
        findings += overlap_findings(benchmarks, table, limits)
    findings += duplicate_findings(found, limits)
    findings += shared_prompt_findings(found)
    findings += bias_findings(bias, limits)
    return Report(
        sources=[_source(reading) for reading in found.readings],
        records=kinds_of(table),
        unit=unit,
        max_tokens=None if tokens is None else tokens.max_tokens,
        lengths=length_table(table, unit),
        bias=bias,
        attributes={one.name: one.as_dict() for one in summarise(table)},
        benchmarks={} if benchmarks is None else overlap_table(benchmarks),
        findings=severest_first(findings),
        thresholds=limits,
    )


def _source(reading: Any) -> dict[str, Any]:
    source = reading.source
    told = {"path": str(source.path), "format": source.format, "held_out": reading.held_out}
    return told if reading.kind is None else {**told, "kind": reading.kind}
