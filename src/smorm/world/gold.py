"""True quality of any string of words: a fixed function that no method sees.

A *clause* is `entity value .` or `entity value because reason .`. Quality is read from the clauses
of an answer and the words around them, so every string has one, degenerate strings too. All
attributes lie in 0..1:

- correctness: of the values and reasons stated, the share that is right (0 with no clause);
- coverage: of the requested entities, the share with a clause, right or wrong;
- coherence: the share of words in clauses, leaving out a first opener, a last closer and up to two
  fillers before a clause, times an order factor (1 when the requested entities come in the order of
  the prompt, down to 0.6 when every neighbouring pair is the wrong way round);
- conciseness: the share of words in the first clause of a requested entity (0 for an empty answer);
- style: of the clauses, the share with a reason (`full`) or without (`brief`).

`helpful`, which nobody rates, is the mean over the requested entities of what its first clause is
worth: 1 with all right, 1/2 with a right value and a wrong reason, 0 otherwise.

    gold = 0.5 helpful + 0.20 coherence + 0.15 conciseness + 0.15 style"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from smorm.world.words import BECAUSE, CLOSERS, FILLERS, FULL, OPENERS, REASONS, STOP, VALUES
from smorm.world.world import Prompt, World

ATTRIBUTES: Final = ("correctness", "coverage", "coherence", "conciseness", "style")
# How many fillers in a row, directly before a clause, do no harm to coherence.
MAX_FILLERS: Final = 2

_WEIGHTS: Final = {"helpful": 0.5, "coherence": 0.20, "conciseness": 0.15, "style": 0.15}
_WORST_ORDER: Final = 0.6


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
    """A clause of an answer: its first word's index, its number of words and what it states."""

    start: int
    size: int
    entity: str
    value: str
    reason: str | None


def gold(world: World, prompt: Prompt, answer: str) -> float:
    """True quality of any answer, in 0..1."""
    return measure_quality(world, prompt, answer).gold


def measure_quality(world: World, prompt: Prompt, answer: str) -> Quality:
    """True attributes of any answer: words separated by white space, of this world or not."""
    words = answer.split()
    clauses = find_clauses(world, words)
    requested: dict[str, Clause] = {}
    stated = right = in_style = size = 0
    worth = 0.0
    for clause in clauses:
        fact, has_reason = world.facts[clause.entity], clause.reason is not None
        stated += 1 + has_reason
        right += (clause.value == fact.value) + (clause.reason == fact.reason)
        in_style += has_reason == (prompt.style == FULL)
        # Of a requested entity the first clause counts: repeating it with another value is no gain.
        if clause.entity in prompt.entities and clause.entity not in requested:
            requested[clause.entity] = clause
            size += clause.size
            if clause.value == fact.value:
                worth += 1.0 if clause.reason in (None, fact.reason) else 0.5
    return Quality(
        correctness=_share(right, stated),
        coverage=_share(len(requested), len(prompt.entities)),
        coherence=_well_formed(words, clauses) * _order(prompt, requested),
        conciseness=_share(size, len(words)),
        style=_share(in_style, len(clauses)),
        helpful=_share(worth, len(prompt.entities)),
    )


def find_clauses(world: World, words: Sequence[str]) -> list[Clause]:
    """All clauses of an answer, from left to right, without overlap."""
    clauses: list[Clause] = []
    start = 0
    while start < len(words):
        clause = _clause_at(world, words, start)
        # Word by word, not clause by clause: behind a broken clause the next one still counts.
        if clause is None:
            start += 1
        else:
            clauses.append(clause)
            start += clause.size
    return clauses


def _clause_at(world: World, words: Sequence[str], start: int) -> Clause | None:
    entity, value, *rest = (*words[start : start + 5], "", "")  # so that there are always two
    if entity not in world.facts or value not in VALUES:
        return None
    if rest[0] == STOP:
        return Clause(start, 3, entity, value, None)
    if rest[:3:2] == [BECAUSE, STOP] and rest[1] in REASONS:
        return Clause(start, 5, entity, value, rest[1])
    return None


def _well_formed(words: Sequence[str], clauses: Sequence[Clause]) -> float:
    if not words:
        return 0.0
    # Left out, not counted as good: adding one must never make an answer better.
    neutral = int(words[0] in OPENERS) + int(len(words) > 1 and words[-1] in CLOSERS)
    in_clauses = 0
    for clause in clauses:
        in_clauses += clause.size
        before = clause.start - 1
        while before >= max(0, clause.start - MAX_FILLERS) and words[before] in FILLERS:
            neutral += 1
            before -= 1
    return _share(in_clauses, len(words) - neutral)


def _order(prompt: Prompt, mentioned: Iterable[str]) -> float:
    steps = list(pairwise(map(prompt.entities.index, mentioned)))
    if not steps:
        return 1.0
    forward = sum(before < after for before, after in steps) / len(steps)
    return _WORST_ORDER + (1 - _WORST_ORDER) * forward


def _share(count: float, total: int) -> float:
    return count / total if total else 0.0
