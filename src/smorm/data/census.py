"""What was dropped, skipped, cut or repaired: typed reasons, counted by source."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from smorm.errors import DataError
from smorm.printing import PROBLEM, VALUE, cut
from smorm.text.changes import Change

NUM_EXAMPLES = 3


class Defect(StrEnum):
    """What makes a record a bad one."""

    MISSING_FIELD = "missing field"
    WRONG_TYPE = "wrong type"
    WRONG_COUNT = "wrong count"
    BAD_RATING = "bad rating"
    BAD_ATTRIBUTE_NAME = "bad attribute name"
    BAD_ID = "bad id"
    EMPTY_PROMPT = "empty prompt"
    EMPTY_RESPONSE = "empty response"
    NO_ANSWER = "no answer"
    NO_TURNS = "no turns"
    TOO_SHORT = "too short"
    OTHER_PROMPT = "another prompt"
    ROLE_ORDER = "roles do not alternate"
    UNKNOWN_ROLE = "unknown role"
    NOT_TEXT = "not text"
    BAD_LABEL = "bad label"
    UNREAD_TEXT = "unread text"
    UNKNOWN_SHAPE = "unknown shape"
    NOT_JSON = "not valid JSON"
    NOT_UTF8 = "not UTF-8"
    NOT_AN_OBJECT = "not an object"
    LINE_TOO_LONG = "line too long"
    TOO_MANY_VALUES = "too many values"
    TOO_DEEP = "too deep"
    KEY_TWICE = "a key twice"
    NOT_RENDERED = "cannot be rendered"
    OVER_LIMIT = "over the token limit"


class BadRecord(DataError):  # noqa: N818  (also a value that stands for the row)
    """One row that cannot be used, counted under `defect` (most often a `Defect`); the rows after
    it can. `raw` is the text of a row that could not even be parsed."""

    def __init__(
        self, where: str, field: str, defect: StrEnum, problem: str, raw: str | None = None
    ):
        field, problem = cut(field, VALUE), cut(problem, PROBLEM)
        super().__init__(f"{where}: {field}: {problem}")
        self.where, self.field, self.defect, self.problem = where, field, defect, problem
        self.raw = raw
        # The row's id, where the rows of a source are gone through one by one (`read_each`).
        self.id: str | int | float | None = None


class DropReason(StrEnum):
    """Everything that is counted of records; the value is its text, `{}` stands for a detail."""

    BAD_RECORD = "bad record skipped: {}"
    TIE = "tie: chosen equals rejected"
    NO_RATING = "no rating at all"
    STRIDE = "left out by the stride"
    LIMIT = "reading stopped at the limit"
    # of the formats
    EQUAL_RATINGS = "equal ratings"
    JUDGED_TIE = "judged a tie, left out"
    JUDGED_ALIKE = "all responses judged alike, left out"
    EQUAL_RESPONSES = "a good response equals another one"
    EMPTY_RESPONSE = "empty response, scored as it is"
    REPEATED_PROMPT = "prompt repeated at the start of the response, taken once"
    NOT_READ = "not read: {}"
    CONTENT_NOT_READ = "not read, though it holds text, messages, tools or scores: {}"
    RATING_ABSENT = "rating N/A or absent, taken as missing"
    RATING_NOT_AVAILABLE = "rating listed as not available, taken as missing"
    RATING_CONVERTED = "rating given as {}, read as a number"
    SEVERAL_RATERS = "rating by {} raters, taken once with the mean"
    RATING_UNREADABLE = "rating unreadable, taken as missing"
    # of ratings made into pairs
    ONE_RESPONSE = "one response to its prompt: no pair"
    RATED_AGAIN = "response rated again, taken once with the mean"
    NO_COMMON_ATTRIBUTE = "no attribute in common: no pair"
    MEAN_TIE = "tie of mean ratings: no pair"
    IN_NO_PAIR = "rated response in no pair, left out"
    # of extra pairs
    AUGMENTED = "extra pair made: {}"
    NOT_AUGMENTED = "no extra pair could be made: {}"
    # of training data as tokens
    DROPPED = "dropped: {}"
    SAME_TOKENS = "dropped: both sides are the same tokens"
    UNKNOWN_ATTRIBUTES = "dropped: rates none of the model's attributes"
    SHORTENED = "prompt shortened to the limit"
    CONSTANT_ATTRIBUTE = "attribute {} is constant in training"
    # of scoring
    UNSCORED_RECORD = "record without a score, left out"
    UNSCORED_LINE = "line without a score"
    UNSCORED_RESPONSE = "response without a score beside others that have one"
    UNFIT_RECORD = "record that does not fit, left out"
    RECORD_LEFT_OUT = "record left out: {}"
    # of the conversations of a parity check
    CONVERSATIONS_BEYOND = "conversations beyond the first {} of the file, not used"
    CONVERSATION_LEFT_OUT = "conversation left out: {}"
    CONVERSATION_SHORTENED = "conversation with its prompt shortened to the limit"
    # of pools of answers
    NO_ANSWER = "row without an answer"
    JOINED_POOL = "line joined to an earlier one with the same prompt"
    BEYOND_LIMIT = "row of a prompt beyond the limit, left out"
    SMALL_POOL = "left out: a pool of fewer than {} answers"
    LONG_ANSWER = "answer of more than {} words, left out"
    NO_REWARD = "left out: no {}"
    SWAPPED_MARGIN = "margin of a swapped pair taken out"
    NO_DISAGREEMENT = "no disagreement measured: {}"
    # of sampling and reinforcement learning
    REPEATED_SAMPLE = "prompt that stood before, sampled once"
    CUT_PROMPT = "prompt cut at its start to be sampled"
    UNFINISHED = "answer that did not end within max_new_tokens"
    LITTLE_ROOM = "prompt with room for fewer than max_new_tokens in the policy's {} positions"
    SAMPLED = "prompts sampled into {}"
    LONG_PROMPT = "prompt longer than prompt_tokens, left out"
    NO_ROOM = "prompt that with max_new_tokens exceeds the policy's positions, left out"
    UNSCORED_SAMPLE = "sampled answer without a score, not learnt from"
    UNFINISHED_EVALUATION = "evaluated answer that did not end within max_new_tokens"
    UNSCORED_STEP = "prompt left out of a step: no {}"
    # of whatever an outside data shape counts
    NOTE = "{}"


# Fields that one line of the counts names.
_MOST_FIELDS = 40
UNREAD_KINDS = (DropReason.CONTENT_NOT_READ, DropReason.NOT_READ)
_BY_NAME: Mapping[str, StrEnum] = {**DropReason.__members__, **Change.__members__}


@dataclass(frozen=True, slots=True)
class Reason:
    """A kind of event and what it is about (a field's name, a defect); `str` gives its text."""

    kind: StrEnum
    detail: str = ""

    def __hash__(self) -> int:
        # Of the texts alone: an enum's own hash is slow, and reasons are counted row by row.
        return hash((str.__hash__(self.kind), self.detail))

    def __str__(self) -> str:
        # not `format`: the text of another package's enum may hold braces
        return self.kind.value.replace("{}", self.detail)

    def plain(self) -> list[str]:
        """Two texts, from which `from_plain` makes an equal reason; of another enum, a note."""
        if isinstance(self.kind, DropReason | Change):
            return [self.kind.name, self.detail]
        return [DropReason.NOTE.name, str(self)]

    @classmethod
    def from_plain(cls, values: list[str]) -> Reason:
        name, detail = values
        return cls(_BY_NAME[name], detail)


@functools.lru_cache(maxsize=4096)
def _reason(kind: StrEnum, detail: str) -> Reason:
    return Reason(kind, detail)


@dataclass(slots=True)
class Census:
    """Counts by reason and by source, with a few places to look at. What stands before the last
    colon of a `where` (`file:line`) is the source."""

    counts: dict[Reason, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[Reason, list[str]] = field(default_factory=lambda: defaultdict(list))
    most_examples: int = NUM_EXAMPLES  # places of one reason

    def add(self, kind: StrEnum, where: str = "", count: int = 1, detail: str = "") -> None:
        """Count `count` more of `kind`, seen at `where`."""
        # the last colon: Windows paths and data set ids have others
        reason, source = _reason(kind, detail), where.rpartition(":")[0]
        self.counts[reason][source] += count
        if where and len(self.examples[reason]) < self.most_examples:
            self.examples[reason].append(where)

    def merge(self, census: Census) -> None:
        """Add what another census counted."""
        for reason, by_source in census.counts.items():
            self.counts[reason].update(by_source)
            self._remember(reason, census.examples.get(reason, []))

    def count(self, reason: Reason) -> int:
        """How many of exactly this reason, over all sources."""
        return sum(self.counts.get(reason, {}).values())

    def __getitem__(self, kind: StrEnum) -> int:
        """How many of a kind, over all details and sources; 0 when there was none."""
        return sum(self.count(reason) for reason in self.counts if reason.kind is kind)

    @property
    def total(self) -> int:
        """Everything counted."""
        return sum(self.totals().values())

    def totals(self) -> Mapping[Reason, int]:
        """Reason to count, over all sources, in order of first appearance."""
        return {reason: self.count(reason) for reason in self.counts}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a result file: `{text: {count, by_source, examples}}`."""
        plain: dict[str, Any] = {}
        for reason, by_source in self.counts.items():
            examples = list(self.examples.get(reason, []))
            counted = {"count": self.count(reason), "by_source": dict(by_source)}
            plain[str(reason)] = {**counted, "examples": examples}
        return plain

    def plain(self) -> list[Any]:
        """Plain values, from which `from_plain` makes an equal census."""
        rows = self.counts.items()
        return [[reason.plain(), n, self.examples.get(reason, [])] for reason, n in rows]

    @classmethod
    def from_plain(cls, values: list[Any], renamed: Mapping[str, str]) -> Census:
        """What `plain` wrote, with sources under their names of today."""
        census = cls()
        for plain, by_source, examples in values:
            reason = Reason.from_plain(plain)
            for source, count in by_source.items():
                census.counts[reason][renamed.get(source, source)] = int(count)
            for where in examples:
                source, colon, row = where.rpartition(":")
                census._remember(reason, [renamed.get(source, source) + colon + row])
        return census

    def lines(self) -> list[str]:
        """One line a reason for the terminal; no line when nothing was counted."""
        lines = []
        # Fields that were not read share a line.
        for kind in UNREAD_KINDS:
            totals = self.totals().items()
            fields = [f"{reason.detail} ({n:,})" for reason, n in totals if reason.kind is kind]
            if len(fields) > _MOST_FIELDS:
                fields[_MOST_FIELDS:] = [f"and {len(fields) - _MOST_FIELDS:,} other fields"]
            if fields:
                lines.append(str(Reason(kind, ", ".join(fields))))
        for reason, by_source in self.counts.items():
            if reason.kind in UNREAD_KINDS:
                continue
            line = f"{reason}: {self.count(reason):,}"
            details: list[str] = []
            sources = [f"{name} {n:,}" for name, n in by_source.items() if name]
            # of a single source the examples name it
            if len(sources) > 1:
                details.append("in " + ", ".join(sources))
            if examples := self.examples.get(reason):
                details.append("such as " + ", ".join(examples))
            if details:
                line += f" ({'; '.join(details)})"
            lines.append(line)
        return lines

    def _remember(self, reason: Reason, examples: list[str]) -> None:
        remembered = self.examples[reason]
        remembered.extend(examples[: self.most_examples - len(remembered)])
