"""A finding of a check, the thresholds that decide its severity, and its text (`wording.toml`)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from typing import Any

MAX_LOCATIONS = 5
WORDING: dict[str, dict[str, str]] = tomllib.loads(
    files("smorm.checks").joinpath("wording.toml").read_text(encoding="utf-8")
)
UNITS = WORDING.pop("units")


class Severity(StrEnum):
    """What a finding asks for; the value is its spelling in files."""

    MUST_FIX = "must fix"
    LOOK = "look"
    FINE = "fine"


# In the order of severity, which is that of the definition.
MUST_FIX, LOOK, FINE = Severity


class FindingKind(StrEnum):
    """Everything that a check can find; the value is its spelling in files."""

    # of the sources and what the readers counted
    NO_USABLE_RECORD = "no_usable_record"
    BAD_RECORDS = "bad_records"
    EMPTY_SIDES = "empty_sides"
    EQUAL_SIDES = "equal_sides"
    UNREAD_CONTENT = "unread_content"
    UNREAD_FIELDS = "unread_fields"
    COUNTED = "counted"
    BENCHMARK_COUNTED = "benchmark_counted"
    # of texts that were meant in another shape
    HH_MARKERS = "hh_markers"
    CHAT_MARKUP = "chat_markup"
    MESSAGES_AS_TEXT = "messages_as_text"
    PROMPT_REPEATED = "prompt_repeated"
    PROMPTS_DIFFER = "prompts_differ"
    # of tokens and the limit
    NO_TOKEN_CHECKS = "no_token_checks"
    OVER_POSITIONS = "over_positions"
    LIMIT_LOWERED = "limit_lowered"
    NOT_RENDERED = "not_rendered"
    NOT_WRITTEN = "not_written"
    CONTROL_TOKENS = "control_tokens"
    OVER_LIMIT = "over_limit"
    EQUAL_TOKENS = "equal_tokens"
    EQUAL_IF_CUT = "equal_if_cut"
    # of copies
    DUPLICATE_RECORDS = "duplicate_records"
    NEAR_DUPLICATE_RECORDS = "near_duplicate_records"
    NEAR_DUPLICATE_PROMPTS = "near_duplicate_prompts"
    PROMPT_LEAKAGE = "prompt_leakage"
    NEAR_PROMPT_LEAKAGE = "near_prompt_leakage"
    PROMPTS_IN_SEVERAL_SOURCES = "prompts_in_several_sources"
    PROMPTS_OF_SEVERAL_KINDS = "prompts_of_several_kinds"
    BENCHMARK_OVERLAP = "benchmark_overlap"
    # of labels
    CONFLICTING_PAIRS = "conflicting_pairs"
    CONFLICTING_RATINGS = "conflicting_ratings"
    UNKNOWN_ATTRIBUTES = "unknown_attributes"
    CONSTANT_ATTRIBUTE = "constant_attribute"
    MISSING_RATINGS = "missing_ratings"
    OUT_OF_RANGE = "out_of_range"
    LENGTH_BIAS = "length_bias"
    ATTRIBUTE_LENGTH = "attribute_length"
    # of the chat template
    TEMPLATE_UNUSABLE = "template_unusable"
    TEMPLATE_REFUSES = "template_refuses"
    TEMPLATE_RANDOM = "template_random"
    TEMPLATE_DATE = "template_date"
    TEMPLATE_DROPS_RESPONSE = "template_drops_response"
    TEMPLATE_DROPS_TURN = "template_drops_turn"
    TEMPLATE_DROPS_SYSTEM = "template_drops_system"
    TEMPLATE_DROPS_ROLE = "template_drops_role"
    TEMPLATE_GENERATION_PROMPT = "template_generation_prompt"
    DOUBLE_BOS = "double_bos"
    DOUBLE_BOS_ELSEWHERE = "double_bos_elsewhere"
    BOS_LEFT_OUT = "bos_left_out"
    NO_END_TOKEN = "no_end_token"
    END_IS_PLAIN = "end_is_plain"
    PAD_IS_EOS = "pad_is_eos"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a finding turns from one severity to the next; shares are of what the finding counts.

    Attributes:
        near: estimated Jaccard similarity of two texts' 5-word shingles that makes them near
            duplicates (Broder, 1997).
        duplicates: share of exact or near duplicates beyond which to look.
        near_leakage: share of held-out prompts with a near twin in training that must be fixed. An
            exact twin must always be.
        conflicts: share of pairs whose opposite is in the data too that must be fixed.
        rating_spread: fraction of an attribute's range by which two ratings of one response differ
            before they are called conflicting.
        rating_conflicts: share of rated responses with conflicting ratings that must be fixed.
        overlap: share of a benchmark's items whose prompt is in the data that must be fixed; fewer,
            or responses alone, are to be looked at.
        length_wins: distance of "the longer side is chosen" from one half beyond which to look
            (where the interval leaves one half out as well).
        length_correlation: size of an attribute's rank correlation with length beyond which to
            look.
        missing: share of missing ratings of an attribute beyond which to look.
        over_limit: share of conversations over the token limit beyond which to look.
        repeated: share of records whose sides repeat their prompt beyond which to look."""

    near: float = 0.8
    duplicates: float = 0.01
    near_leakage: float = 0.01
    conflicts: float = 0.02
    rating_spread: float = 0.25
    rating_conflicts: float = 0.05
    overlap: float = 0.01
    length_wins: float = 0.1
    length_correlation: float = 0.3
    missing: float = 0.5
    over_limit: float = 0.01
    repeated: float = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    kind: FindingKind
    severity: Severity
    count: int = 1  # number of things found, of `total` things of the kind's unit
    total: int | None = None
    # what its sentence names: counts, attributes, tokens, metrics
    numbers: Mapping[str, Any] = field(default_factory=dict)
    case: str = ""  # which of the kind's sentences applies, where it has several
    locations: tuple[str, ...] = ()  # up to five of them, as `file:line`, in the order of reading

    @property
    def of(self) -> str:
        """The total in words ("7,550 pairs"), or "" where there is none."""
        unit = UNITS.get(self.kind, "")
        return unit if self.total is None else f"{self.total:,} {unit}"

    @property
    def share(self) -> float | None:
        """The count as a share of the total, or None."""
        return self.count / self.total if self.total else None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "code": self.kind.value,
            "severity": self.severity.value,
            "count": self.count,
            "meaning": meaning(self),
            "of": self.of,
            "share": self.share,
            "places": list(self.locations),
        }


def above(count: int, total: int, threshold: float, worse: Severity, better: Severity) -> Severity:
    """The worse severity where the count is more than a share, the threshold, of the total."""
    if total and count / total > threshold:
        return worse
    return better


def meaning(finding: Finding) -> str:
    """What a finding means and what to do, in a sentence or two."""
    # Most kinds have one sentence; a case selects among several.
    key = finding.kind.value
    if finding.case:
        key += f"/{finding.case}"
    return " ".join(WORDING[key].values()).format(**finding.numbers)
