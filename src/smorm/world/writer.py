"""The simulated writer: answers of mixed quality.

A writer has an ability a ~ U(0, 1). It drives what makes an answer good: right values, coverage,
order, the requested style, fewer repeats, fewer digressions, fewer glitches. A second latent,
ρ·a + (1 − ρ)·u with u ~ U(0, 1), drives what only looks like quality: fillers, an opener, a closer.
Able writers are thus a little wordier, and length goes along with quality in the data without being
quality, as in human data. The writer never sees gold.

The order of the draws decides the data of a seed: another order would be another data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from smorm.world.gold import MAX_FILLERS
from smorm.world.words import (
    BECAUSE,
    CLOSERS,
    FILLERS,
    FULL,
    NOISE,
    OPENERS,
    REASONS,
    STOP,
    TOPICS,
    VALUES,
)
from smorm.world.world import Prompt, World, fellow_topics, pick

# How often a wrong value is the value of another entity of the topic, not just any value.
_PLAUSIBLE: Final = 0.5


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


@dataclass(frozen=True, slots=True)
class Statement:
    """One clause that a writer means to write."""

    entity: str
    value: str
    reason: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The clause's words."""
        if self.reason is None:
            return (self.entity, self.value, STOP)
        return (self.entity, self.value, BECAUSE, self.reason, STOP)


def perfect_answer(world: World, prompt: Prompt) -> str:
    """The answer whose gold is 1."""
    words: list[str] = []
    for entity in prompt.entities:
        fact = world.facts[entity]
        statement = Statement(entity, fact.value)
        if prompt.style == FULL:
            statement = Statement(entity, fact.value, fact.reason)
        words.extend(statement.words)
    return " ".join(words)


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
    for statement in _plan(world, prompt, rng, ability, habits):
        count = sum(rng.random() < filler for _ in range(MAX_FILLERS))
        words += [pick(rng, FILLERS) for _ in range(count)]
        words += statement.words
    if rng.random() < _between(habits.opener, wordiness):
        words.insert(0, pick(rng, OPENERS))
    if rng.random() < _between(habits.closer, wordiness):
        words.append(pick(rng, CLOSERS))
    # A short answer may lose its last word to a glitch; an answer is never empty.
    return " ".join(_glitch(words, rng, _between(habits.glitches, ability)) or words)


def _between(ends: tuple[float, float], level: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * level


def _plan(
    world: World, prompt: Prompt, rng: np.random.Generator, ability: float, habits: Habits
) -> list[Statement]:
    """The clauses to write, in their order."""
    mentions = _between(habits.mentions, ability)
    entities = [entity for entity in prompt.entities if rng.random() < mentions]
    if not entities:
        entities = [pick(rng, prompt.entities)]
    if len(entities) > 1 and rng.random() < _between(habits.swaps, ability):
        i = int(rng.random() * (len(entities) - 1))
        entities[i], entities[i + 1] = entities[i + 1], entities[i]
    if rng.random() < _between(habits.digresses, ability):
        entities.insert(int(rng.random() * (len(entities) + 1)), _digression(prompt, rng))
    plan = [_state(world, prompt, entity, rng, ability, habits) for entity in entities]
    if rng.random() < _between(habits.repeats, ability):
        plan.insert(int(rng.random() * (len(plan) + 1)), pick(rng, plan))
    return plan


def _digression(prompt: Prompt, rng: np.random.Generator) -> str:
    """An entity that was not requested, of the topic or of another topic of its group."""
    of_topic = [entity for entity in TOPICS[prompt.topic] if entity not in prompt.entities]
    if of_topic and rng.random() < 0.5:
        return pick(rng, of_topic)
    # Inside the group of topics: no held-out word may reach a training file.
    topics = [topic for topic in fellow_topics(prompt.topic) if topic != prompt.topic]
    return pick(rng, TOPICS[pick(rng, topics)])


def _state(
    world: World,
    prompt: Prompt,
    entity: str,
    rng: np.random.Generator,
    ability: float,
    habits: Habits,
) -> Statement:
    """One clause, right or wrong, in the requested style or not."""
    fact = world.facts[entity]
    right = _between(habits.right, ability)
    value, reason = fact.value, fact.reason
    if rng.random() >= right:
        value = _wrong_value(world, prompt, entity, rng)
    in_style = rng.random() < _between(habits.in_style, ability)
    if (prompt.style == FULL) != in_style:
        return Statement(entity, value)
    if rng.random() >= right:
        reason = pick(rng, [wrong for wrong in REASONS if wrong != fact.reason])
    return Statement(entity, value, reason)


def _wrong_value(world: World, prompt: Prompt, entity: str, rng: np.random.Generator) -> str:
    values: Sequence[str] = VALUES
    if rng.random() < _PLAUSIBLE:
        values = [world.facts[fellow].value for fellow in TOPICS[prompt.topic]]
    return pick(rng, [value for value in values if value != world.facts[entity].value])


def _glitch(words: list[str], rng: np.random.Generator, probability: float) -> list[str]:
    """Now and then a word is doubled, lost, or followed by noise."""
    glitched: list[str] = []
    for word in words:
        replacement = [word]
        if rng.random() < probability:
            replacement = pick(rng, ([word, word], [], [word, pick(rng, NOISE)]))
        glitched += replacement
    return glitched
