"""Checks on tokens: what the template refuses, what the limit does, sides that become the same."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from smorm.arrays import Tokens
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Thresholds, above
from smorm.checks.table import UNKNOWN, Table, responses_of
from smorm.data.census import Census, DropReason, Reason
from smorm.data.encode import Conversation, Encoder, Outcome
from smorm.data.records import Preference, Record
from smorm.data.tokeniser import Tokeniser
from smorm.text.changes import Change
from smorm.text.limits import Overlong

NO_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """Examines records as a run with this renderer, limit and policy would treat them."""

    tokeniser: Tokeniser  # gives the tokens of whole conversations, uncut
    # max_tokens, overlong: the run's; `overlong` is None where no run was named
    max_tokens: int
    overlong: Overlong | None
    # The first error of each kind, in the words with which it stops a run.
    errors: dict[Reason, str] = field(default_factory=dict)

    def examine(self, record: Record, outcome: Outcome, tally: Census) -> list[int]:
        """Count what the tokens show; returns lengths of the prompt and of each conversation.

        Empty where the record cannot be rendered. The prompt's length is 0 where there is none, and
        -1 where the template takes no prompt without an answer."""
        responses, encoder = responses_of(record), self.tokeniser.encoder
        control = encoder.renderer.control
        messages = chain(record.prompt, *responses)
        if any(control.found_in(message.content) for message in messages):
            tally.add(FindingKind.CONTROL_TOKENS, record.where)
        if outcome.error is not None:
            # Perhaps only the prompt without its answer was refused: try without it.
            outcome = encoder.encode(record.prompt, responses)
        if outcome.error is not None:
            # In one line, numbers replaced: equal faults of records count together.
            reason = re.sub(r"\d+", "N", " ".join(str(outcome.error).split()))[:160]
            tally.add(FindingKind.NOT_RENDERED, record.where, detail=reason)
            self._remember(Reason(FindingKind.NOT_RENDERED, reason), record, outcome)
            return []
        tokens = outcome.tokens[: len(responses)]
        prompt = outcome.tokens[len(responses) :]
        prompt_length = 0
        if record.prompt:
            prompt_length = len(prompt[0]) if prompt else UNKNOWN
        # Uncut lengths; what the limit does to them is counted below.
        lengths = [len(conversation) for conversation in tokens]
        if max(lengths) > self.max_tokens:
            outcome = self._within_limit(record, tokens, tally)
            tokens = outcome.tokens
        for counted in outcome.counted:
            if isinstance(counted.kind, Change):
                tally.add(counted.kind, record.where)
        if isinstance(record, Preference) and tokens and np.array_equal(tokens[0], tokens[1]):
            tally.add(FindingKind.EQUAL_TOKENS, record.where)
        return [prompt_length, *lengths]

    def _remember(self, reason: Reason, record: Record, outcome: Outcome) -> None:
        text = " ".join(str(outcome.error).split())
        self.errors.setdefault(reason, f"{record.where}: {text}")

    def _within_limit(self, record: Record, tokens: list[Tokens], tally: Census) -> Outcome:
        """What the run's policy makes of a record over the limit."""
        tally.add(FindingKind.OVER_LIMIT, record.where)
        # What other trainers do, smorm does not: cut the end of each side.
        cut = [side[: self.max_tokens] for side in tokens]
        if isinstance(record, Preference) and np.array_equal(cut[0], cut[1]):
            tally.add(FindingKind.EQUAL_IF_CUT, record.where)
        # Without a run the policy that keeps most is tried, to report what could fit.
        policy: Overlong = self.overlong or "truncate_prompt"
        run = Encoder(self.tokeniser.encoder.renderer, self.max_tokens, policy)
        outcome = run.encode(record.prompt, responses_of(record))
        if Reason(DropReason.SHORTENED) in outcome.counted:
            tally.add(DropReason.SHORTENED)
        elif not outcome.tokens:
            tally.add(DropReason.RECORD_LEFT_OUT)
        if outcome.error is not None:
            self._remember(Reason(FindingKind.OVER_LIMIT), record, outcome)
        return outcome

    def findings(self, table: Table, tally: Census, limits: Thresholds) -> Iterator[Finding]:
        """What was counted: texts with control tokens, records that the template refuses (by
        reason) or that are over the limit, and sides that are the same tokens within it."""
        records = len(table)
        pairs = sum(len(table.rows("preference", train=train)) for train in (True, False))
        # Under `error` one such record stops the run, and so do records of which none is left.
        over = above(tally[FindingKind.OVER_LIMIT], records, limits.over_limit, LOOK, FINE)
        if self.overlong == "error" or 0 < records == tally[DropReason.RECORD_LEFT_OUT]:
            over = MUST_FIX
        numbers = {
            "max_tokens": self.max_tokens,
            "shortened": tally[DropReason.SHORTENED],
            "unusable": tally[DropReason.RECORD_LEFT_OUT],
        }
        for kind, severity, total, case in (
            (FindingKind.NOT_RENDERED, MUST_FIX, records, ""),
            (FindingKind.CONTROL_TOKENS, LOOK, records, ""),
            (FindingKind.OVER_LIMIT, over, records, self.overlong or ""),
            (FindingKind.EQUAL_TOKENS, MUST_FIX, pairs, ""),
            (FindingKind.EQUAL_IF_CUT, LOOK, pairs, ""),
        ):
            for reason, count in tally.totals().items():
                if reason.kind is kind:
                    details = {**numbers, "reason": self.errors.get(reason, "")}
                    locations = tuple(tally.examples[reason])
                    yield Finding(kind, severity, count, total, details, case, locations)
        yield from _changes(tally, records)


def _changes(tally: Census, records: int) -> Iterator[Finding]:
    """What the template does not write of the records, or writes in another way."""
    for reason, count in tally.totals().items():
        if isinstance(reason.kind, Change):
            severity, case = LOOK, "removed"
            # Nothing is lost: the text stands there as another role's.
            if reason.kind is Change.DEVELOPER_AS_SYSTEM:
                severity, case = FINE, "renamed"
            numbers, locations = {"reason": str(reason)}, tuple(tally.examples[reason])
            kind = FindingKind.NOT_WRITTEN
            yield Finding(kind, severity, count, records, numbers, case, locations)


def whole_conversations(record: Record) -> Conversation:
    """A record's conversations, and last its prompt without an answer where it has one."""
    prompt_alone = [()] if record.prompt else []
    return record.prompt, [*responses_of(record), *prompt_alone]
