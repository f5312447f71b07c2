"""The world's facts, its prompts, and the prompts of each regime.

A prompt names a topic, a style and some of the topic's entities, as in

    metals full tin iron zinc

and a perfect answer states each entity's fact in the prompt's order, with its reason in the style
`full` and without in `brief`:

    tin soft because age . iron grey because heat . zinc cold because salt .

Everything is plain text with single spaces, so records of the world go through the product's
ordinary reader, renderer and tokenizer: the prompt is the user's message, the answer the
assistant's."""

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
Split = Literal["train", "dev", "eval"]

REGIMES: Final[tuple[Regime, ...]] = get_args(Regime)
# The topics of a regime's prompts, and how many entities they name.
_TOPICS_AND_SIZES: Final[dict[Regime, tuple[tuple[str, ...], tuple[int, ...]]]] = {
    "ID": (TRAINED_TOPICS, (2, 3, 4)),
    "OODtopic": (HELD_OUT_TOPICS, (2, 3, 4)),
    "OODlong": (TRAINED_TOPICS, (5, 6)),
    "far": (HELD_OUT_TOPICS, (5, 6)),
}
_SPLIT_OF_BUCKET: Final[dict[int, Split]] = {0: "dev", 1: "eval", 2: "eval"}

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
    """A request: `entities` of one `topic`, to be answered in `style` and in this order."""

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
        # A hash of the text, not a draw: a prompt that is sampled again is in the same split.
        bucket = zlib.crc32(self.text.encode()) % 10
        return _SPLIT_OF_BUCKET.get(bucket, "train")

    @property
    def regime(self) -> Regime:
        """The regime that has such prompts."""
        # Prompts of usual length name up to four entities.
        is_long = len(self.entities) > 4
        if self.topic in HELD_OUT_TOPICS:
            return "far" if is_long else "OODtopic"
        return "OODlong" if is_long else "ID"


@cache
def make_world(seed: int = 0) -> World:
    """Draw the facts. Entities of one topic have distinct values and distinct reasons. The shipped
    backbone knows the facts of seed 0 only."""
    # Its own stream: the facts of world 0 must not follow the data of seed 0.
    rng = np.random.default_rng([seed, 0x736D6F])
    facts: dict[str, Fact] = {}
    for entities in TOPICS.values():
        values = rng.permutation(len(VALUES))
        reasons = rng.permutation(len(REASONS))
        for entity, value, reason in zip(entities, values, reasons, strict=False):
            facts[entity] = Fact(VALUES[value], REASONS[reason])
    return World(seed, MappingProxyType(facts))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    # Not `rng.choice`: one draw of `random` an option keeps the data of before bit by bit.
    return options[int(rng.random() * len(options))]


def sample_prompt(
    rng: np.random.Generator, regime: Regime = "ID", split: Split | None = None
) -> Prompt:
    """Draw a prompt of a regime; with `split`, one that belongs to that split. Every regime's
    prompts are split, so that a method may train or tune on out-of-distribution prompts too, and
    not on those that it is evaluated on."""
    topics, sizes = _TOPICS_AND_SIZES[regime]
    while True:
        topic, size = pick(rng, topics), pick(rng, sizes)
        order = rng.permutation(len(TOPICS[topic]))[:size]
        prompt = Prompt(topic, pick(rng, STYLES), tuple(map(TOPICS[topic].__getitem__, order)))
        if split is None or prompt.split == split:
            return prompt


def parse_prompt(text: str) -> Prompt:
    """Read a prompt back from its text; DataError where it is none of the world's."""
    words = text.split()
    if len(words) >= 4:
        topic, style, *entities = words
        distinct = set(entities)
        known = topic in TOPICS and style in STYLES and distinct <= set(TOPICS[topic])
        if known and len(distinct) == len(entities):
            return Prompt(topic, style, tuple(entities))
    raise DataError(
        f"prompt: {text!r} is not a prompt of the generated world; expected a topic, one of"
        f" {'|'.join(STYLES)}, and two to six different entities of that topic"
    )
