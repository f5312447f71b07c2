"""What failed in a sanity or parity result, as a type that exit codes and tables read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class CauseKind(StrEnum):
    """The usual causes of wrong scores; the value is how files and texts name the cause."""

    ACTIVATION = "activation"
    BATCHING = "batching"
    HEAD = "head"
    NO_SCORES = "no scores"
    OFFSET = "offset"
    ORDER = "order"
    PADDING = "padding"
    PADDING_OR_PRECISION = "padding or precision"
    PAD_TOKEN = "pad token"
    POOLING = "pooling"
    PRECISION = "precision"
    TEMPLATE = "template"
    TOKENIZER = "tokenizer"
    TOKEN_COUNTS = "token counts differ"
    TOKEN_IDS = "token ids differ"
    TRUNCATION = "truncation"
    UNKNOWN = "unknown"
    WEIGHTS = "weights"
    WEIGHTS_OR_PRECISION = "weights or precision"


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause, and what was seen of it."""

    kind: CauseKind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed test of a model; its string is the sentence for a reader."""

    test: str  # its name: a metric of the sanity tests, or the paths of a parity check
    cause: CauseKind  # the kind of its likely cause
    text: str  # the full sentence for a reader

    def __str__(self) -> str:
        return self.text

    def as_dict(self) -> dict[str, str]:
        """As in a result file."""
        return {"test": self.test, "cause": self.cause.value, "text": self.text}


_OLD_PREFIX = "failed: "


def failure_of(value: Mapping[str, str]) -> Failure:
    """A failure as a result file has it; a cause that this version does not know is `UNKNOWN`."""
    try:
        kind = CauseKind(value["cause"])
    except ValueError:
        # Written by a later version: the failure counts all the same.
        kind = CauseKind.UNKNOWN
    return Failure(str(value["test"]), kind, str(value["text"]))


def split_old_notes(notes: tuple[str, ...]) -> tuple[tuple[Failure, ...], tuple[str, ...]]:
    """Failures and notes of a result file from before failures had a key: they are notes then,
    "failed: TEST: what failed"."""
    # The only branch on a sentence's wording: old files hold nothing else.
    failures, reported = [], []
    for note in notes:
        if note.startswith(_OLD_PREFIX):
            text = note.removeprefix(_OLD_PREFIX)
            failures.append(Failure(text.partition(": ")[0], CauseKind.UNKNOWN, text))
        else:
            reported.append(note)
    return tuple(failures), tuple(reported)
