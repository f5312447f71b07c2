"""Checks on tokens: what the template refuses, what the limit does, sides that become the same."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import Enum, auto
from itertools import chain

from smorm.arrays import Tokens
from smorm.checks.findings import (
    FINE,
    LOOK,
    MAX_LOCATIONS,
    MUST_FIX,
    Finding,
    FindingKind,
    Thresholds,
    above,
)
from smorm.checks.table import UNKNOWN, Table, responses_of
from smorm.data.census import DropReason, Reason
from smorm.data.encode import Conversation, Encoder, Outcome
from smorm.data.records import Preference, Record
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.text.limits import Overlong

NO_LIMIT = 1 << 40


class TokenEvent(Enum):
    """What the tokens of a record can show."""

    CONTROL_TOKENS = auto()
    NOT_RENDERED = auto()
    SAME_TOKENS = auto()
    OVER_LIMIT = auto()
    SAME_IF_CUT = auto()
    SHORTENED = auto()
    UNUSABLE_AT_LIMIT = auto()


class Tally:
    """Events counted by kind and detail, each with the first few locations."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[TokenEvent, str]] = Counter()
        self._locations: dict[tuple[TokenEvent, str], list[str]] = defaultdict(list)

    def add(self, event: TokenEvent, where: str, detail: str = "") -> None:
        """Count one more, seen at `where`."""
        self.counts[event, detail] += 1
        # Counts are exact, places only the first few: memory stays bounded.
        if self.counts[event, detail] <= MAX_LOCATIONS:
            self._locations[event, detail].append(where)

    def locations(self, event: TokenEvent, detail: str = "") -> tuple[str, ...]:
        """The first locations of an event."""
        return tuple(self._locations[event, detail])


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """Examines records as a run with this renderer, limit and policy would treat them."""

    tokeniser: Tokeniser  # gives the tokens of whole conversations, uncut
    # max_tokens, overlong: the run's; `overlong` is None where no run was named
    max_tokens: int
    overlong: Overlong | None

    @property
    def renderer(self) -> Renderer:
        """The renderer of all conversations."""
        return self.tokeniser.encoder.renderer

    def examine(self, record: Record, outcome: Outcome, tally: Tally) -> list[int]:
        """Count what the tokens show; returns lengths of the prompt and of each conversation.

        Empty where the record cannot be rendered. The prompt's length is 0 where there is none, and
        -1 where the template takes no prompt without an answer.
        """
        responses = responses_of(record)
        control = self.renderer.control
        messages = chain(record.prompt, *responses)
        if any(control.found_in(message.content) for message in messages):
            tally.add(TokenEvent.CONTROL_TOKENS, record.where)
        if outcome.error is not None:
            # Perhaps only the prompt without its answer was refused: try without it.
            outcome = self.tokeniser.encoder.encode(record.prompt, responses)
        if outcome.error is not None:
            # In one line, numbers replaced: equal faults of records count together.
            reason = re.sub(r"\d+", "N", " ".join(str(outcome.error).split()))[:160]
            tally.add(TokenEvent.NOT_RENDERED, record.where, reason)
            return []
        tokens = outcome.tokens[: len(responses)]
        prompt = outcome.tokens[len(responses) :]
        prompt_length = 0
        if record.prompt:
            prompt_length = len(prompt[0]) if prompt else UNKNOWN
        # Uncut lengths; what the limit does to them is counted below.
        lengths = [len(conversation) for conversation in tokens]
        if max(lengths) > self.max_tokens:
            tokens = self._within_limit(record, tokens, tally)
        if isinstance(record, Preference) and tokens and _equal(*tokens):
            tally.add(TokenEvent.SAME_TOKENS, record.where)
        return [prompt_length, *lengths]

    def _within_limit(self, record: Record, tokens: list[Tokens], tally: Tally) -> list[Tokens]:
        """What the run's policy makes of a record over the limit."""
        tally.add(TokenEvent.OVER_LIMIT, record.where)
        # What other trainers do, smorm does not: cut the end of each side.
        cut = [side[: self.max_tokens] for side in tokens]
        if isinstance(record, Preference) and _equal(*cut):
            tally.add(TokenEvent.SAME_IF_CUT, record.where)
        # Without a run the policy that keeps most is tried, to report what could fit.
        policy: Overlong = self.overlong or "truncate_prompt"
        run = Encoder(self.renderer, self.max_tokens, policy)
        outcome = run.encode(record.prompt, responses_of(record))
        if outcome.counted == Reason(DropReason.SHORTENED):
            tally.add(TokenEvent.SHORTENED, record.where)
        elif not outcome.tokens:
            tally.add(TokenEvent.UNUSABLE_AT_LIMIT, record.where)
        return outcome.tokens


def whole_conversations(record: Record) -> Conversation:
    """A record's conversations, and last its prompt without an answer where it has one."""
    prompt_alone = [()] if record.prompt else []
    return record.prompt, [*responses_of(record), *prompt_alone]


def _equal(first: Tokens, second: Tokens) -> bool:
    return first.tobytes() == second.tobytes()


def render_findings(table: Table, tally: Tally) -> list[Finding]:
    """Records that the template refuses, by reason, and texts with control tokens."""
    findings, total = [], len(table)
    for (event, detail), count in tally.counts.items():
        if event is TokenEvent.NOT_RENDERED:
            kind, locations = FindingKind.NOT_RENDERED, tally.locations(event, detail)
            numbers = {"reason": detail}
            findings.append(
                Finding(kind, MUST_FIX, count, total, "records", numbers, locations=locations)
            )
    if count := tally.counts[TokenEvent.CONTROL_TOKENS, ""]:
        kind, locations = FindingKind.CONTROL_TOKENS, tally.locations(TokenEvent.CONTROL_TOKENS)
        findings.append(Finding(kind, LOOK, count, total, "records", locations=locations))
    return findings


def limit_findings(
    table: Table, tally: Tally, max_tokens: int, overlong: Overlong | None, limits: Thresholds
) -> list[Finding]:
    """Records over the token limit, and sides that are the same tokens within it; `overlong` is the
    run's policy, if a run was named."""
    findings = []
    numbers = {
        "max_tokens": max_tokens,
        "shortened": tally.counts[TokenEvent.SHORTENED, ""],
        "unusable": tally.counts[TokenEvent.UNUSABLE_AT_LIMIT, ""],
    }
    total, count = len(table), tally.counts[TokenEvent.OVER_LIMIT, ""]
    if count:
        # Under `error` one such record stops the run, however few there are.
        severity = above(count / total, limits.over_limit, LOOK, FINE)
        if overlong == "error":
            severity = MUST_FIX
        kind, case = FindingKind.OVER_LIMIT, overlong or ""
        locations = tally.locations(TokenEvent.OVER_LIMIT)
        findings.append(Finding(kind, severity, count, total, "records", numbers, case, locations))
    pairs = len(table.rows("preference", train=True)) + len(table.rows("preference", train=False))
    for event, kind, severity in (
        (TokenEvent.SAME_TOKENS, FindingKind.EQUAL_TOKENS, MUST_FIX),
        (TokenEvent.SAME_IF_CUT, FindingKind.EQUAL_IF_CUT, LOOK),
    ):
        if count := tally.counts[event, ""]:
            locations = tally.locations(event)
            findings.append(
                Finding(kind, severity, count, pairs, "pairs", numbers, locations=locations)
            )
    return findings
