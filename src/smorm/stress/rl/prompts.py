"""The prompts of policy optimisation: those that the policy learns on, and sets to evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.data.records import Item, Messages, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.files import fingerprint
from smorm.stress.config import PromptsSection
from smorm.stress.rl.actor import Actor
from smorm.stress.rl.config import RLSection
from smorm.stress.sample import read_prompts
from smorm.text.chat import Message


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, its place in its file, and its tokens as the policy reads them."""

    prompt: Messages
    where: str
    ids: list[int]

    def item(self, texts: Sequence[str]) -> Item:
        """The prompt with these answers."""
        responses = tuple((Message("assistant", text),) for text in texts)
        return Item(self.prompt, responses, self.where)


@dataclass(frozen=True, slots=True)
class AskedSet:
    """A named set of prompts, and what was counted."""

    name: str
    prompts: list[Asked]
    notes: tuple[str, ...]

    @property
    def data(self) -> str:
        """Fingerprint of the prompts."""
        return fingerprint([prompt_key(one.prompt) for one in self.prompts])


def training_prompts(section: RLSection, actor: Actor) -> AskedSet:
    """The prompts to learn on.

    Raises:
        DataError: a row without a prompt, one that the policy's template refuses, or none that is
            short enough.
        ConfigError: fewer prompts than a step asks.
    """
    given = section.prompts
    source = Source(given.path, split=given.split, subset=given.subset, limit=given.limit)
    found = _read("training", source, actor)
    if len(found.prompts) < section.prompts_per_step:
        raise ConfigError(
            f"{given.path}: {len(found.prompts)} different prompts, fewer than "
            f"rl.prompts_per_step ({section.prompts_per_step})"
        )
    return found


def evaluation_set(section: PromptsSection, actor: Actor) -> AskedSet:
    """A set of prompts to evaluate on; answers that stand beside them are passed over.

    Raises:
        DataError: a row without a prompt, one that the policy's template refuses, or none that is
            short enough.
    """
    source = Source(
        section.path, section.format, section.split, section.subset, limit=section.limit
    )
    return _read(section.name, source, actor)


def _read(name: str, source: Source, actor: Actor) -> AskedSet:
    census = Census()
    kept = []
    for where, prompt in read_prompts(source, census):
        ids = actor.prompt_ids(prompt, where)
        if len(ids) > actor.rl.prompt_tokens:
            census.add(DropReason.LONG_PROMPT, where)
        elif actor.room is not None and len(ids) > actor.room:
            census.add(DropReason.NO_ROOM, where)
        else:
            kept.append(Asked(prompt, where, ids))
    if not kept:
        why = "; ".join(census.lines()) or "it holds none"
        raise DataError(f"{source.path}: no usable prompt in it: {why}")
    return AskedSet(name, kept, tuple(f"{name}: {line}" for line in census.lines()))
