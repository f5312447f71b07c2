"""The simulated writer: answers of mixed quality.

A writer has an ability a ~ U(0, 1). It drives what makes an answer good: right values, coverage,
order, the style asked, fewer repeats, fewer digressions, fewer glitches. A second latent,
ρ·a + (1 − ρ)·u with u ~ U(0, 1), drives what only looks like quality: fillers, an opener, a closer.
Able writers are thus a little wordier, and length goes along with quality in the data without being
quality, as in human data. The writer never looks at gold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

_PLAUSIBLE: Final = 0.5
"""How often a wrong value is the value of another entity of the topic, not just any value."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a writer does how often; all probabilities, at ability 0 and at ability 1.

    `wordiness_follows_ability` is ρ of the module's text; the last three follow that latent.
    """

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
    """One clause that a writer means to write, with the fillers before it."""

    entity: str
    value: str
    reason: str | None = None
    fillers: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The clause's words."""
        because = () if self.reason is None else (BECAUSE, self.reason)
        return (*self.fillers, self.entity, self.value, *because, STOP)


def perfect_answer(world: World, prompt: Prompt) -> str:
    """The answer whose gold is 1."""
    words: list[str] = []
    for entity in prompt.entities:
        fact = world.facts[entity]
        reason = fact.reason if prompt.style == FULL else None
        words.extend(Statement(entity, fact.value, reason).words)
    return " ".join(words)


def write_answer(
    world: World,
    prompt: Prompt,
    rng: np.random.Generator,
    *,
    ability: float | None = None,
    habits: Habits = Habits(),
) -> str:
    """Write one answer (never empty).

    Args:
        world: Its facts.
        prompt: The question.
        rng: Source of all chance.
        ability: The writer's, in 0..1; drawn uniformly when None.
        habits: How ability shows.
    """
    a = float(rng.random()) if ability is None else ability
    rho = habits.wordiness_follows_ability
    wordy = rho * a + (1 - rho) * float(rng.random())
    statements = _plan(world, prompt, rng, a, habits)
    statements = [_with_fillers(item, rng, _at(habits.filler, wordy)) for item in statements]
    words = [word for statement in statements for word in statement.words]
    if rng.random() < _at(habits.opener, wordy):
        words.insert(0, pick(rng, OPENERS))
    if rng.random() < _at(habits.closer, wordy):
        words.append(pick(rng, CLOSERS))
    return " ".join(_glitch(words, rng, _at(habits.glitches, a)) or words)


def _at(ends: tuple[float, float], level: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * level


def _plan(
    world: World, prompt: Prompt, rng: np.random.Generator, ability: float, habits: Habits
) -> list[Statement]:
    """Which clauses to write, in which order."""
    mentions = _at(habits.mentions, ability)
    chosen = [e for e in prompt.entities if rng.random() < mentions] or [pick(rng, prompt.entities)]
    if len(chosen) > 1 and rng.random() < _at(habits.swaps, ability):
        i = int(rng.random() * (len(chosen) - 1))
        chosen[i], chosen[i + 1] = chosen[i + 1], chosen[i]
    if rng.random() < _at(habits.digresses, ability):
        chosen.insert(int(rng.random() * (len(chosen) + 1)), _digression(prompt, rng))
    plan = [_state(world, prompt, entity, rng, ability, habits) for entity in chosen]
    if rng.random() < _at(habits.repeats, ability):
        plan.insert(int(rng.random() * (len(plan) + 1)), pick(rng, plan))
    return plan


def _digression(prompt: Prompt, rng: np.random.Generator) -> str:
    """An entity that was not asked for, of the same group of topics."""
    own = [entity for entity in TOPICS[prompt.topic] if entity not in prompt.entities]
    if own and rng.random() < 0.5:
        return pick(rng, own)
    others = [topic for topic in fellow_topics(prompt.topic) if topic != prompt.topic]
    return pick(rng, TOPICS[pick(rng, others)])


def _state(
    world: World,
    prompt: Prompt,
    entity: str,
    rng: np.random.Generator,
    ability: float,
    habits: Habits,
) -> Statement:
    """One clause, right or wrong, in the style asked or not."""
    fact = world.facts[entity]
    right = _at(habits.right, ability)
    value = fact.value if rng.random() < right else _wrong_value(world, prompt, entity, rng)
    in_style = rng.random() < _at(habits.in_style, ability)
    if (prompt.style == FULL) != in_style:
        return Statement(entity, value)
    if rng.random() < right:
        return Statement(entity, value, fact.reason)
    return Statement(entity, value, pick(rng, [r for r in REASONS if r != fact.reason]))


def _wrong_value(world: World, prompt: Prompt, entity: str, rng: np.random.Generator) -> str:
    true = world.facts[entity].value
    if rng.random() < _PLAUSIBLE:
        near = [world.facts[other].value for other in TOPICS[prompt.topic]]
        return pick(rng, [value for value in near if value != true])
    return pick(rng, [value for value in VALUES if value != true])


def _with_fillers(statement: Statement, rng: np.random.Generator, chance: float) -> Statement:
    count = sum(rng.random() < chance for _ in range(MAX_FILLERS))
    return replace(statement, fillers=tuple(pick(rng, FILLERS) for _ in range(count)))


def _glitch(words: list[str], rng: np.random.Generator, chance: float) -> list[str]:
    """Now and then a word is doubled, lost, or followed by noise."""
    glitched: list[str] = []
    for word in words:
        if rng.random() >= chance:
            glitched.append(word)
            continue
        glitched.extend(pick(rng, ([word, word], [], [word, pick(rng, NOISE)])))
    return glitched
