"""What a record's tokens show: lengths, what the limit does to it, sides that become the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from smorm.arrays import Tokens
from smorm.checks.columns import UNKNOWN, responses_of
from smorm.checks.findings import Tally
from smorm.data.census import DropReason, Reason
from smorm.data.encode import Conversation, Encoder, Outcome
from smorm.data.records import Messages, Preference, Record
from smorm.data.tokeniser import Tokeniser
from smorm.text.chat import Renderer
from smorm.text.limits import Overlong

NO_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class TokenCheck:
    """Examines records as a run with this renderer, limit and policy would treat them.

    Attributes:
        tokeniser: gives the tokens of whole conversations, uncut.
        max_tokens, overlong: the run's; None where no run says what becomes of long records.
    """

    tokeniser: Tokeniser
    max_tokens: int
    overlong: Overlong | None

    @property
    def renderer(self) -> Renderer:
        """The one that renders all of them."""
        return self.tokeniser.encoder.renderer

    def examine(self, record: Record, outcome: Outcome, tally: Tally) -> list[int]:
        """Tokens of the prompt (0 where there is none), then of each whole conversation.

        Empty where the record cannot be rendered; the prompt's is -1 where the template takes no
        prompt without an answer. What was found is counted.
        """
        responses = responses_of(record)
        texts = [message.content for part in (record.prompt, *responses) for message in part]
        if any(self.renderer.control.found_in(text) for text in texts):
            tally.add("control_tokens", record.where)
        if outcome.error is not None:  # perhaps only a prompt without its answer was refused
            outcome = self.tokeniser.encoder.encode(record.prompt, responses)
        if outcome.error is not None:
            tally.add(f"cannot be rendered: {_reason(outcome)}", record.where)
            return []
        tokens = outcome.tokens[: len(responses)]
        prompt = outcome.tokens[len(responses) :]
        lengths = [len(one) for one in tokens]
        alone = len(prompt[0]) if prompt else UNKNOWN if record.prompt else 0
        if max(lengths) > self.max_tokens:
            tokens = self._limited(record, tokens, tally)
        if isinstance(record, Preference) and tokens and _equal(*tokens):
            tally.add("same_tokens", record.where)
        return [alone, *lengths]

    def _limited(self, record: Record, tokens: list[Tokens], tally: Tally) -> list[Tokens]:
        """What the run's policy leaves of a record over the limit."""
        tally.add("over_limit", record.where)
        cut = [side[: self.max_tokens] for side in tokens]
        if isinstance(record, Preference) and _equal(*cut):
            tally.add("same_if_cut", record.where)
        policy: Overlong = self.overlong or "truncate_prompt"
        run = Encoder(self.renderer, self.max_tokens, policy)
        outcome = run.encode(record.prompt, responses_of(record))
        if outcome.counted == Reason(DropReason.SHORTENED):
            tally.add("shortened", record.where)
        elif not outcome.tokens:
            tally.add("unusable_at_limit", record.where)
        return outcome.tokens


def whole_conversations(record: Record) -> Conversation:
    """A record's conversations, and last its prompt alone where it has one."""
    responses: Sequence[Messages] = responses_of(record)
    return record.prompt, [*responses, ()] if record.prompt else list(responses)


def _equal(one: Tokens, other: Tokens) -> bool:
    return one.tobytes() == other.tobytes()


def _reason(outcome: Outcome) -> str:
    """The error in one line, with numbers left out: they would make each record's its own."""
    return re.sub(r"\d+", "N", " ".join(str(outcome.error).split()))[:160]
