"""The simulated writer: answers of mixed quality.

A writer has an ability a ~ U(0, 1), which drives what makes an answer good. A second latent,
ρ·a + (1 − ρ)·u with u ~ U(0, 1), drives what only looks like quality: fillers, an opener, a closer.
Able writers are thus a little wordier, and length goes along with quality in the data without being
quality, as in human data. The writer never sees gold.

The order of the draws decides the data of a seed: another order would be another data set."""

from dataclasses import dataclass

import numpy as np

from smorm.world import words as vocabulary
from smorm.world.gold import MAX_FILLERS
from smorm.world.world import Prompt, World, pick


@dataclass(frozen=True, slots=True)
class Habits:
    """How often a writer does what: probabilities at ability 0 and at ability 1.
    `wordiness_follows_ability` is ρ of the module's text; the last three follow that latent."""

    right: tuple[float, float] = (0.30, 0.95)
    mentions: tuple[float, float] = (0.60, 0.98)
    in_style: tuple[float, float] = (0.45, 0.97)
    swaps: tuple[float, float] = (0.50, 0.05)
    repeats: tuple[float, float] = (0.25, 0.02)
    digresses: tuple[float, float] = (0.30, 0.02)
    glitches: tuple[float, float] = (0.06, 0.002)
    wordiness_follows_ability: float = 0.5
    filler: tuple[float, float] = (0.02, 0.60)
    opener: tuple[float, float] = (0.05, 0.80)
    closer: tuple[float, float] = (0.05, 0.60)


def perfect_answer(world: World, prompt: Prompt) -> str:
    """The answer whose gold is 1."""
    words: list[str] = []
    for entity in prompt.entities:
        fact = world.facts[entity]
        reason = fact.reason if prompt.style == vocabulary.FULL else None
        words += _clause(entity, fact.value, reason)
    return " ".join(words)


def _clause(entity: str, value: str, reason: str | None) -> tuple[str, ...]:
    if reason is None:
        return (entity, value, vocabulary.STOP)
    return (entity, value, vocabulary.BECAUSE, reason, vocabulary.STOP)


def write_answer(
    world: World,
    prompt: Prompt,
    rng: np.random.Generator,
    *,
    ability: float | None = None,
    habits: Habits = Habits(),
) -> str:
    """Write one answer (never empty) of a writer whose ability, in 0..1, is drawn when None."""
    if ability is None:
        ability = float(rng.random())
    rho = habits.wordiness_follows_ability
    wordiness = rho * ability + (1 - rho) * float(rng.random())
    words: list[str] = []
    filler = _between(habits.filler, wordiness)
    for clause in _Writer(world, prompt, rng, ability, habits).plan():
        count = sum(rng.random() < filler for _ in range(MAX_FILLERS))
        words += [pick(rng, vocabulary.FILLERS) for _ in range(count)]
        words += clause
    if rng.random() < _between(habits.opener, wordiness):
        words.insert(0, pick(rng, vocabulary.OPENERS))
    if rng.random() < _between(habits.closer, wordiness):
        words.append(pick(rng, vocabulary.CLOSERS))
    # A short answer may lose its last word to a glitch; an answer is never empty.
    return " ".join(_glitch(words, rng, _between(habits.glitches, ability)) or words)


def _between(ends: tuple[float, float], level: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * level


def _glitch(words: list[str], rng: np.random.Generator, probability: float) -> list[str]:
    glitched: list[str] = []
    for word in words:
        replacement = [word]
        if rng.random() < probability:
            replacement = pick(rng, ([word, word], [], [word, pick(rng, vocabulary.NOISE)]))
        glitched += replacement
    return glitched


@dataclass(frozen=True, slots=True)
class _Writer:
    world: World
    prompt: Prompt
    rng: np.random.Generator
    ability: float
    habits: Habits

    def plan(self) -> list[tuple[str, ...]]:
        """The clauses to write, in their order."""
        rng, habits = self.rng, self.habits
        entities = [entity for entity in self.prompt.entities if self._does(habits.mentions)]
        if not entities:
            entities = [pick(rng, self.prompt.entities)]
        if len(entities) > 1 and self._does(habits.swaps):
            i = pick(rng, range(len(entities) - 1))
            entities[i], entities[i + 1] = entities[i + 1], entities[i]
        if self._does(habits.digresses):
            entities.insert(pick(rng, range(len(entities) + 1)), self._digression())
        clauses = list(map(self._stated, entities))
        if self._does(habits.repeats):
            clauses.insert(pick(rng, range(len(clauses) + 1)), pick(rng, clauses))
        return clauses

    def _does(self, habit: tuple[float, float]) -> bool:
        return bool(self.rng.random() < _between(habit, self.ability))

    def _digression(self) -> str:
        """An entity that was not requested, of the topic or of another topic of its group."""
        topic, requested = self.prompt.topic, self.prompt.entities
        of_topic = [entity for entity in vocabulary.TOPICS[topic] if entity not in requested]
        if of_topic and self.rng.random() < 0.5:
            return pick(self.rng, of_topic)
        # Inside the group of topics: no held-out word may reach a training file.
        group = vocabulary.TRAINED_TOPICS
        if topic in vocabulary.HELD_OUT_TOPICS:
            group = vocabulary.HELD_OUT_TOPICS
        others = [fellow for fellow in group if fellow != topic]
        return pick(self.rng, vocabulary.TOPICS[pick(self.rng, others)])

    def _stated(self, entity: str) -> tuple[str, ...]:
        fact = self.world.facts[entity]
        value, reason = fact.value, fact.reason
        if not self._does(self.habits.right):
            values = vocabulary.VALUES
            # Half of the wrong values are plausible: those of other entities of the topic.
            if self.rng.random() < 0.5:
                fellows = vocabulary.TOPICS[self.prompt.topic]
                values = tuple(self.world.facts[fellow].value for fellow in fellows)
            value = pick(self.rng, [wrong for wrong in values if wrong != fact.value])
        in_style = self._does(self.habits.in_style)
        if (self.prompt.style == vocabulary.FULL) != in_style:
            return _clause(entity, value, None)
        if not self._does(self.habits.right):
            reasons = [wrong for wrong in vocabulary.REASONS if wrong != fact.reason]
            reason = pick(self.rng, reasons)
        return _clause(entity, value, reason)
