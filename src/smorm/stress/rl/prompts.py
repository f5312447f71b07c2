"""The prompts of policy optimisation: those that the policy learns on, and sets to evaluate it."""

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
class TokenisedPrompt:
    """A prompt, its place in its file, and its tokens as the policy reads them."""

    prompt: Messages
    where: str
    ids: list[int]

    def item(self, texts: Sequence[str]) -> Item:
        """The prompt with these answers."""
        responses = tuple((Message("assistant", text),) for text in texts)
        return Item(self.prompt, responses, self.where)


@dataclass(frozen=True, slots=True)
class TokenisedSet:
    """A named set of prompts, and notes on those that were left out."""

    name: str
    prompts: list[TokenisedPrompt]
    notes: tuple[str, ...]

    @property
    def data(self) -> str:
        """Fingerprint of the prompts."""
        return fingerprint([prompt_key(prompt.prompt) for prompt in self.prompts])


def training_prompts(section: RLSection, actor: Actor) -> TokenisedSet:
    """The prompts to learn on."""
    file = section.prompts
    source = Source(file.path, split=file.split, subset=file.subset, limit=file.limit)
    training = _read("training", source, actor)
    if len(training.prompts) < section.prompts_per_step:
        raise ConfigError(
            f"{file.path}: {len(training.prompts)} different prompts, fewer than "
            f"rl.prompts_per_step ({section.prompts_per_step})"
        )
    return training


def evaluation_set(section: PromptsSection, actor: Actor) -> TokenisedSet:
    """A set of prompts to evaluate on; answers that stand beside them are passed over."""
    source = Source(
        section.path, section.format, section.split, section.subset, limit=section.limit
    )
    return _read(section.name, source, actor)


def _read(name: str, source: Source, actor: Actor) -> TokenisedSet:
    census = Census()
    prompts = []
    for where, prompt in read_prompts(source, census):
        ids = actor.prompt_ids(prompt, where)
        # Left out, not cut: a cut prompt is another task, and the policy would learn that one.
        if len(ids) > actor.rl.prompt_tokens:
            census.add(DropReason.LONG_PROMPT, where)
        elif actor.longest_prompt is not None and len(ids) > actor.longest_prompt:
            census.add(DropReason.NO_ROOM, where)
        else:
            prompts.append(TokenisedPrompt(prompt, where, ids))
    if not prompts:
        why = "; ".join(census.lines()) or "it holds none"
        raise DataError(f"{source.path}: no usable prompt in it: {why}")
    return TokenisedSet(name, prompts, tuple(f"{name}: {line}" for line in census.lines()))
