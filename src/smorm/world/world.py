"""The world: which facts hold, what a prompt is, and which prompts a regime asks.

A prompt names a topic, a style and some of the topic's entities, as in

    metals full tin iron zinc

and a perfect answer states each entity's fact in the order asked, with its reason in the style
`full` and without in `brief`:

    tin soft because age . iron grey because heat . zinc cold because salt .

Everything is plain text with single spaces, so records of the world go through the product's
ordinary reader, renderer and tokenizer: the prompt is the user's message, the answer the
assistant's.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final, Literal, TypeVar, get_args

import numpy as np

from smorm.errors import DataError
from smorm.world.words import HELD_OUT_TOPICS, REASONS, STYLES, TOPICS, TRAINED_TOPICS, VALUES

Regime = Literal["ID", "OODtopic", "OODlong", "far"]
"""ID: trained topics, 2–4 entities; OODtopic: held-out topics; OODlong: 5–6 entities; far: both."""

Split = Literal["train", "dev", "eval"]

REGIMES: Final[tuple[Regime, ...]] = get_args(Regime)
_TOPICS_OF: Final[dict[Regime, tuple[str, ...]]] = {
    "ID": TRAINED_TOPICS,
    "OODtopic": HELD_OUT_TOPICS,
    "OODlong": TRAINED_TOPICS,
    "far": HELD_OUT_TOPICS,
}
_SIZES_OF: Final[dict[Regime, tuple[int, ...]]] = {
    "ID": (2, 3, 4),
    "OODtopic": (2, 3, 4),
    "OODlong": (5, 6),
    "far": (5, 6),
}
_TOPIC_OF: Final = {entity: topic for topic, entities in TOPICS.items() for entity in entities}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of one entity: its value and its reason."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class World:
    """The facts of all 72 entities. `make_world` makes it from a seed."""

    seed: int
    facts: Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question: `entities` of one `topic`, to be answered in `style` and in this order."""

    topic: str
    style: str
    entities: tuple[str, ...]

    @property
    def text(self) -> str:
        """The user's message."""
        return " ".join((self.topic, self.style, *self.entities))

    @property
    def split(self) -> Split:
        """The split that the prompt belongs to, a fixed function of its text: 70/10/20 %."""
        bucket = zlib.crc32(self.text.encode()) % 10
        return "dev" if bucket == 0 else "eval" if bucket <= 2 else "train"

    @property
    def regime(self) -> Regime:
        """The regime that asks such prompts."""
        long = len(self.entities) > max(_SIZES_OF["ID"])
        if self.topic in HELD_OUT_TOPICS:
            return "far" if long else "OODtopic"
        return "OODlong" if long else "ID"


@cache
def make_world(seed: int = 0) -> World:
    """Draw the facts. Entities of one topic have distinct values and distinct reasons.

    The shipped backbone knows the facts of seed 0 only.
    """
    rng = np.random.default_rng([seed, 0x736D6F])
    facts: dict[str, Fact] = {}
    for entities in TOPICS.values():
        values = rng.permutation(len(VALUES))
        reasons = rng.permutation(len(REASONS))
        for entity, value, reason in zip(entities, values, reasons, strict=False):
            facts[entity] = Fact(VALUES[value], REASONS[reason])
    return World(seed, MappingProxyType(facts))


def topic_of(entity: str) -> str:
    """The topic that an entity belongs to; KeyError for a word that is no entity."""
    return _TOPIC_OF[entity]


def fellow_topics(topic: str) -> tuple[str, ...]:
    """The topics of the same group (trained or held out), `topic` among them.

    Digressions stay inside a group, so that no held-out word reaches a training file.
    """
    return HELD_OUT_TOPICS if topic in HELD_OUT_TOPICS else TRAINED_TOPICS


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[int(rng.random() * len(options))]


def sample_prompt(
    rng: np.random.Generator, regime: Regime = "ID", split: Split | None = None
) -> Prompt:
    """Draw a prompt of a regime; with `split`, one that belongs to that split.

    Every regime's prompts are split, so that a method may also train or tune on out-of-distribution
    prompts without meeting the ones that it is evaluated on.
    """
    while True:
        topic = pick(rng, _TOPICS_OF[regime])
        size = pick(rng, _SIZES_OF[regime])
        order = rng.permutation(len(TOPICS[topic]))[:size]
        prompt = Prompt(topic, pick(rng, STYLES), tuple(TOPICS[topic][i] for i in order))
        if split is None or prompt.split == split:
            return prompt


def parse_prompt(text: str) -> Prompt:
    """Read a prompt back from its text.

    Raises:
        DataError: the text is not a prompt of the world.
    """
    words = text.split()
    topic, style, entities = "".join(words[:1]), "".join(words[1:2]), tuple(words[2:])
    known = topic in TOPICS and style in STYLES and set(entities) <= set(TOPICS[topic])
    if not known or len(entities) < 2 or len(set(entities)) < len(entities):
        raise DataError(
            f"prompt: {text!r} is not a prompt of the lab; expected a topic, one of"
            f" {'|'.join(STYLES)}, and two to six different entities of that topic"
        )
    return Prompt(topic, style, entities)
