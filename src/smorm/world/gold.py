"""True quality of any string of words: a fixed function that no method is told.

A *clause* is `entity value .` or `entity value because reason .`. Everything is read from the
clauses that an answer contains and from the words around them, so every string has a quality,
degenerate ones too. All attributes lie in 0..1:

- correctness: of the values and reasons stated, the share that is right (0 with no clause);
- coverage: of the requested entities, the share with a clause, right or wrong;
- coherence: the share of words in clauses, leaving out a first opener, a last closer and up to two
  fillers before a clause, times an order factor (1 when the requested entities come in the order
  asked, down to 0.6 when every neighbouring pair is the wrong way round);
- conciseness: the share of words in the first clause of a requested entity (0 for an empty answer);
- style: of the clauses, the share with a reason (`full`) or without (`brief`).

`helpful`, which nobody rates, is the mean over the requested entities of what its first clause is
worth: 1 with all right, 1/2 with a right value and a wrong reason, 0 otherwise.

    gold = 0.5 helpful + 0.20 coherence + 0.15 conciseness + 0.15 style
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from smorm.world.words import BECAUSE, CLOSERS, FILLERS, FULL, OPENERS, REASONS, STOP, VALUES
from smorm.world.world import Prompt, World

ATTRIBUTES: Final = ("correctness", "coverage", "coherence", "conciseness", "style")
MAX_FILLERS: Final = 2
"""How many fillers in a row, directly before a clause, do no harm to coherence."""

_WEIGHTS: Final = {"helpful": 0.5, "coherence": 0.20, "conciseness": 0.15, "style": 0.15}
_WORST_ORDER: Final = 0.6
_VALUES: Final = frozenset(VALUES)
_REASONS: Final = frozenset(REASONS)
_FILLERS: Final = frozenset(FILLERS)


@dataclass(frozen=True, slots=True)
class Quality:
    """The five true attributes that can be rated, and `helpful`; each in 0..1."""

    correctness: float
    coverage: float
    coherence: float
    conciseness: float
    style: float
    helpful: float

    @property
    def gold(self) -> float:
        """The true quality, in 0..1."""
        return sum(weight * float(getattr(self, name)) for name, weight in _WEIGHTS.items())

    @property
    def attributes(self) -> dict[str, float]:
        """The five attributes by name, in the order of `ATTRIBUTES`."""
        return {name: float(getattr(self, name)) for name in ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause found in an answer: where it begins, how many words it has and what it states."""

    start: int
    size: int
    entity: str
    value: str
    reason: str | None


def gold(world: World, prompt: Prompt, answer: str) -> float:
    """True quality of any answer, in 0..1."""
    return judge(world, prompt, answer).gold


def judge(world: World, prompt: Prompt, answer: str) -> Quality:
    """True attributes of any answer: words separated by white space, of this world or not."""
    words = answer.split()
    clauses = find_clauses(world, words)
    first: dict[str, Clause] = {}
    for clause in clauses:
        if clause.entity in prompt.entities:
            first.setdefault(clause.entity, clause)
    requested = len(prompt.entities)
    wanted = prompt.style == FULL
    return Quality(
        correctness=_correctness(world, clauses),
        coverage=_share(len(first), requested),
        coherence=_well_formed(words, clauses) * _order(prompt, tuple(first)),
        conciseness=_share(sum(clause.size for clause in first.values()), len(words)),
        style=_share(sum((c.reason is not None) == wanted for c in clauses), len(clauses)),
        helpful=_share(sum(_worth(world, clause) for clause in first.values()), requested),
    )


def find_clauses(world: World, words: Sequence[str]) -> list[Clause]:
    """All clauses of an answer, from left to right, without overlap."""
    found: list[Clause] = []
    at = 0
    while at < len(words):
        clause = _clause_at(world, words, at)
        if clause is not None:
            found.append(clause)
        at += 1 if clause is None else clause.size
    return found


def _clause_at(world: World, words: Sequence[str], at: int) -> Clause | None:
    if words[at] not in world.facts or len(words) < at + 3 or words[at + 1] not in _VALUES:
        return None
    if words[at + 2] == STOP:
        return Clause(at, 3, words[at], words[at + 1], None)
    tail = words[at + 2 : at + 5]
    if len(tail) == 3 and tail[0] == BECAUSE and tail[1] in _REASONS and tail[2] == STOP:
        return Clause(at, 5, words[at], words[at + 1], tail[1])
    return None


def _well_formed(words: Sequence[str], clauses: Sequence[Clause]) -> float:
    """The share of clause words once an opener, a closer and fillers in place are left out.

    They are left out, not counted as good, so that adding one never makes an answer better.
    """
    if not words:
        return 0.0
    neutral = int(words[0] in OPENERS) + int(len(words) > 1 and words[-1] in CLOSERS)
    for clause in clauses:
        before = clause.start - 1
        while before >= max(0, clause.start - MAX_FILLERS) and words[before] in _FILLERS:
            neutral += 1
            before -= 1
    return _share(sum(clause.size for clause in clauses), len(words) - neutral)


def _order(prompt: Prompt, mentioned: Sequence[str]) -> float:
    """1 when the requested entities come in the order asked, 0.6 when every step goes back."""
    places = [prompt.entities.index(entity) for entity in mentioned]
    steps = list(pairwise(places))
    if not steps:
        return 1.0
    forward = sum(a < b for a, b in steps) / len(steps)
    return _WORST_ORDER + (1 - _WORST_ORDER) * forward


def _correctness(world: World, clauses: Sequence[Clause]) -> float:
    stated = right = 0
    for clause in clauses:
        fact = world.facts[clause.entity]
        stated += 1 + (clause.reason is not None)
        right += (clause.value == fact.value) + (clause.reason == fact.reason)
    return _share(right, stated)


def _worth(world: World, clause: Clause) -> float:
    fact = world.facts[clause.entity]
    if clause.value != fact.value:
        return 0.0
    return 1.0 if clause.reason in (None, fact.reason) else 0.5


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
