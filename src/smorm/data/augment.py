"""Extra pairs whose rejected side is bad by its making: an answer to another prompt (RRM: Liu et
al. 2024, arXiv 2409.13156), or what is left of an answer that was damaged.

Which pairs there are is a function of the seed and the source's records in their order, and of
nothing else: with the order of a step, which knows only seed and step, so are the batches."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from smorm.data.census import Census, DropReason
from smorm.data.records import Messages, Preference, Record, prompt_key

# Earlier pairs of the source from which an answer to another prompt is drawn.
_REMEMBERED = 256
_START = 3  # words


class Negative(StrEnum):
    """What stands on the rejected side of an extra pair."""

    CROSS_PROMPT = "cross_prompt"
    FIRST_WORDS = "first_words"
    SHUFFLED_WORDS = "shuffled_words"
    REPEATED_START = "repeated_start"


@dataclass(frozen=True, slots=True)
class Augment:
    """How many extra pairs there are for each pair (`share`), of which kinds, in equal parts."""

    share: float
    kinds: tuple[Negative, ...]
    seed: int


def augmented(records: Iterable[Record], augment: Augment, census: Census) -> Iterator[Record]:
    """Every record, and after a pair the extra pairs that it gives, counted by kind: its chosen
    answer against the chosen answer to another prompt, or against that answer damaged."""
    earlier: deque[Preference] = deque(maxlen=_REMEMBERED)
    for index, record in enumerate(records):
        yield record
        if not isinstance(record, Preference):
            continue
        # By its number: what is drawn for a pair does not depend on the draws before it.
        draw = random.Random(f"{augment.seed} {index}")
        for _ in range(int(augment.share + draw.random())):
            kind = draw.choice(augment.kinds)
            rejected = _rejected(record, kind, earlier, draw)
            if rejected is None:
                census.add(DropReason.NOT_AUGMENTED, record.where, detail=kind)
            else:
                census.add(DropReason.AUGMENTED, record.where, detail=kind)
                # The strength of the pair's own label says nothing of this one.
                yield replace(record, rejected=rejected, margin=None, fields=())
        # Without a prompt there is no other prompt that an answer could be to.
        if record.prompt:
            earlier.append(record)


def _rejected(
    pair: Preference, kind: Negative, earlier: Sequence[Preference], draw: random.Random
) -> Messages | None:
    """A rejected answer of a kind; None where the pair has none."""
    if kind is Negative.CROSS_PROMPT:
        prompt = prompt_key(pair.prompt)
        answers = [each.chosen for each in earlier if prompt_key(each.prompt) != prompt]
        rejected = draw.choice(answers) if answers and pair.prompt else None
    else:
        rejected = _damaged(pair.chosen, _DAMAGES[kind], draw) if pair.prompt else None
    return None if rejected == pair.chosen else rejected


_Damage = Callable[[list[str], random.Random], list[str]]


def _damaged(answer: Messages, damage: _Damage, draw: random.Random) -> Messages | None:
    """The answer with the words of its last message changed; None where it is too short."""
    last = answer[-1]
    words = last.content.split()
    # Of so few words the start is the answer.
    if len(words) <= _START:
        return None
    return (*answer[:-1], replace(last, content=" ".join(damage(words, draw))))


def _first(words: list[str], _: random.Random) -> list[str]:
    return words[:_START]


def _shuffled(words: list[str], draw: random.Random) -> list[str]:
    return draw.sample(words, len(words))


def _repeated(words: list[str], _: random.Random) -> list[str]:
    start = words[:_START]
    return (start * (len(words) // _START + 1))[: len(words)]


_DAMAGES: Mapping[Negative, _Damage] = MappingProxyType(
    {
        Negative.FIRST_WORDS: _first,
        Negative.SHUFFLED_WORDS: _shuffled,
        Negative.REPEATED_START: _repeated,
    }
)
