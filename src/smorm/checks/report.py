"""From a plan to a report: one pass over the data, then every check on its columns."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from smorm.checks import duplicates, labels, overlap
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Severity, Thresholds
from smorm.checks.plan import Plan, TokenPlan
from smorm.checks.scan import (
    CheckedSource,
    Scan,
    dropped_findings,
    markup_findings,
    scan,
    unread_findings,
)
from smorm.checks.template import audit_template
from smorm.checks.tokens import NO_LIMIT, TokenCheck
from smorm.data.census import Census
from smorm.data.encode import Encoder
from smorm.data.reading import read_records
from smorm.data.tokeniser import Tokeniser
from smorm.errors import ModelError
from smorm.files import scratch_folder
from smorm.text.chat import Renderer
from smorm.text.tokenizers import ensure_pad_token
from smorm.version import __version__

THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a check."""

    sources: list[dict[str, Any]]  # of each its path, kind, whether it is held out
    records: dict[str, dict[str, int]]  # records by kind, of training and held-out sources
    unit: str  # of lengths: `tokens`, or `words` where no tokenizer was named
    max_tokens: int | None
    # lengths, attributes, benchmarks: the tables, as they are written
    lengths: dict[str, Any]
    bias: labels.Bias
    attributes: dict[str, Any]
    benchmarks: dict[str, dict[str, int]]
    findings: list[Finding]  # the severest first
    thresholds: Thresholds

    @property
    def must_fix(self) -> int:
        """Number of findings that must be fixed."""
        return self.num_findings(MUST_FIX)

    def num_findings(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "kind": "check",
            "must_fix": self.must_fix,
            "sources": self.sources,
            "records": self.records,
            "unit": self.unit,
            "max_tokens": self.max_tokens,
            "findings": [finding.as_dict() for finding in self.findings],
            "lengths": self.lengths,
            "length_bias": self.bias.as_dict(),
            "attributes": self.attributes,
            "benchmarks": self.benchmarks,
            "thresholds": asdict(self.thresholds),
            "version": __version__,
        }


def check(plan: Plan, limits: Thresholds = THRESHOLDS) -> Report:
    """Read and examine everything once.

    Raises:
        DataError: a source or benchmark as a whole cannot be read.
        ConfigError, ModelError: a format, tokenizer or template that cannot be used."""
    with ExitStack() as closing:
        folder = closing.enter_context(scratch_folder("smorm-check"))
        findings, tokens = _token_check(plan.tokens, closing)
        benchmarks = None
        if plan.against:
            census = Census()
            named = []
            for name, sources in plan.against:
                reads = [read_records(source, None, census, "skip") for source in sources]
                named.append((name, chain.from_iterable(reads)))
            benchmarks = overlap.read_benchmarks(named)
            # What a benchmark's reader dropped is no fault of the data, but it was not compared.
            for line in census.lines():
                numbers = {"line": line}
                findings.append(Finding(FindingKind.BENCHMARK_COUNTED, FINE, 0, numbers=numbers))
        scanned = scan(plan.sources, folder, tokens, benchmarks)
        # The sketches are read from the folder, so findings must be made before it is removed.
        return _report(plan, scanned, tokens, benchmarks, findings, limits)


def _token_check(
    tokens: TokenPlan | None, closing: ExitStack
) -> tuple[list[Finding], TokenCheck | None]:
    """The template's faults, and what examines records as tokens where the template can be used."""
    if tokens is None:
        return [Finding(FindingKind.NO_TOKEN_CHECKS, LOOK, 0)], None
    tokenizer, template = tokens.tokenizer, tokens.template
    findings = audit_template(tokenizer, template, pad_is_settled=tokens.pad_is_settled)
    findings += _position_findings(tokens)
    # After the audit, which must see the tokenizer's own pad token.
    ensure_pad_token(tokenizer, template)
    try:
        renderer = Renderer(tokenizer, template, tokens.max_tokens)
    except ModelError as error:
        numbers = {"error": error}
        return [*findings, Finding(FindingKind.TEMPLATE_UNUSABLE, MUST_FIX, numbers=numbers)], None
    # No limit: the uncut lengths are what is reported, and the run's limit is tried afterwards.
    encoder = Encoder(renderer, NO_LIMIT, "error")
    tokeniser = closing.enter_context(Tokeniser(encoder, tokens.workers))
    return findings, TokenCheck(tokeniser, tokens.max_tokens, tokens.overlong)


def _position_findings(tokens: TokenPlan) -> Iterator[Finding]:
    """What the backbone's positions do to the limit."""
    from smorm.training.limit import over_positions

    limit, positions = tokens.max_tokens, tokens.positions
    if tokens.is_lowered:
        yield Finding(FindingKind.LIMIT_LOWERED, FINE, 0, numbers={"max_tokens": limit})
    elif positions is not None and limit > positions:
        numbers = {"reason": over_positions(limit, positions)}
        yield Finding(FindingKind.OVER_POSITIONS, MUST_FIX, 0, numbers=numbers)


def _report(
    plan: Plan,
    scanned: Scan,
    tokens: TokenCheck | None,
    benchmarks: overlap.Benchmarks | None,
    findings: list[Finding],
    limits: Thresholds,
) -> Report:
    table, unit = scanned.table, "words"
    # One known length suffices: records that cannot be rendered have none.
    if (table.responses["tokens"] >= 0).any():
        unit = "tokens"
    bias = labels.measure_bias(table, unit)
    formats = [checked.source.format for checked in scanned.sources]
    # Within one severity findings keep this order: from what stops a run to what only misleads.
    findings += dropped_findings(scanned)
    findings += unread_findings(scanned)
    findings += markup_findings(scanned, limits)
    if tokens is not None:
        findings += tokens.findings(table, scanned.tally, limits)
    findings += duplicates.leakage_findings(scanned, limits)
    findings += labels.opposite_pairs(table, limits)
    findings += labels.conflicting_ratings(table, limits)
    findings += labels.unknown_attributes(table, plan.attributes)
    findings += labels.attribute_findings(table, limits)
    findings += labels.range_findings(table, plan.ranges, formats)
    overlaps = {}
    if benchmarks is not None:
        findings += overlap.overlap_findings(benchmarks, table, limits)
        overlaps = overlap.overlap_table(benchmarks)
    findings += duplicates.duplicate_findings(scanned, limits)
    findings += duplicates.shared_prompt_findings(table)
    findings += labels.bias_findings(bias, limits)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    max_tokens = None
    if plan.tokens is not None:
        max_tokens = plan.tokens.max_tokens
    return Report(
        list(map(_source, scanned.sources)), table.num_records(), unit, max_tokens,
        labels.length_table(table, unit), bias, labels.summarise(table), overlaps, findings, limits,
    )  # fmt: skip


def _source(checked: CheckedSource) -> dict[str, Any]:
    source = checked.source
    values = {"path": str(source.path), "format": source.format, "held_out": checked.held_out}
    if checked.kind is not None:
        values["kind"] = checked.kind
    return values
