"""The rewards that are pushed: of a model every view that was asked for, of all else one.

Shapes: `V` views, `N` answers of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.data.census import Census
from smorm.errors import ConfigError
from smorm.evaluation.metrics import Floats
from smorm.evaluation.suites import display_names
from smorm.model.store import resolve
from smorm.model.views import View
from smorm.scoring.reward_model import RewardModel
from smorm.stress.config import ProxySection
from smorm.stress.ensemble import open_ensemble
from smorm.stress.gold import open_reward
from smorm.stress.pools import Pool
from smorm.stress.rewards import FunctionReward, ModelReward, Reading, Reward
from smorm.text.limits import Unscored

ViewOf = Callable[[Any], Any]
Values = list[list[Floats | Unscored]]


@dataclass(frozen=True, slots=True)
class ProxyReward:
    """One entry of `models`, ready to score.

    Attributes:
        name: shown to readers.
        views: a name for each view [V].
        marks: what each view is, for a fingerprint [V].
        seed: tells runs of one name apart.
        reads_text: whether it can judge answers that no file holds.
        heads: whether `score` gives the views F and L besides, after the V that were asked for.
        score: maps pools and a census to the values of each view, pool by pool.
        kind: which of `smorm.stress.config.KINDS` it is.
    """

    name: str
    views: list[str]
    marks: list[Mapping[str, Any]]
    seed: int | None
    reads_text: bool
    heads: bool
    score: Callable[[Sequence[Pool], Census], Values]
    kind: str = "model"


def names_of(sections: Sequence[ProxySection]) -> list[str]:
    """A name for each entry: its own, else its place's.

    Raises:
        ConfigError: two entries cannot be told apart.
    """
    shown = display_names([section.place for section in sections])
    names = [section.name or short for section, short in zip(sections, shown, strict=True)]
    keys = [(name, section.seed) for name, section in zip(names, sections, strict=True)]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"models: {twice[0]} is there twice: give each its own name, or a seed where they are "
            "runs of one method"
        )
    return names


def find_all(sections: Sequence[ProxySection], view_of: ViewOf) -> None:
    """Look for every folder, function and view, before anything that takes long.

    Raises:
        ConfigError: a function or view that is not there.
        ModelError: a folder that is not there.
    """
    for section in sections:
        if section.function is not None:
            FunctionReward(section.function)
        if section.model is not None:
            resolve(section.model)
            for value in section.views or [section.view]:
                view_of(value)
        for member in section.ensemble or ():
            resolve(member.model)
            view_of(member.view)


def open_pusher(section: ProxySection, name: str, reading: Reading, view_of: ViewOf) -> ProxyReward:
    """Load what an entry names.

    Raises:
        ConfigError: a view or function that is not there.
        DataError: an ensemble's reference file that is not usable.
        ModelError: a folder that is not a reward model.
        SmormError: a server that does not answer.
    """
    if section.model is not None:
        return _of_model(section, name, reading, view_of)
    if section.ensemble is not None:
        together = open_ensemble(section, reading, view_of)
        return _of_one(together, together.shown, section, name)
    shown = str(section.view) if section.view is not None else section.kind
    return _of_one(open_reward(section, reading, view_of), shown, section, name)


def _of_one(reward: Reward, shown: str, section: ProxySection, name: str) -> ProxyReward:
    """What gives one value for each answer."""
    return ProxyReward(
        name, [shown], [reward.marks], section.seed, reward.reads_text, False,
        lambda pools, census: [reward.score(pools, census)], section.kind,
    )  # fmt: skip


def _of_model(section: ProxySection, name: str, reading: Reading, view_of: ViewOf) -> ProxyReward:
    model = RewardModel.load(str(section.model), device=reading.device)
    asked = [section.view] if section.views is None else section.views
    views = [model.view(view_of(value)) for value in asked]
    heads = bool(model.attributes) and model.card.preference_trained
    rewards = [ModelReward(model, view, reading) for view in views]

    def score(pools: Sequence[Pool], census: Census) -> Values:
        rows = rewards[0].rows(pools, census)
        also: list[View] = [model.view("F"), model.view("L")] if heads else []
        return [rewards[0].values(view, rows) for view in (*views, *also)]

    marks = [reward.marks for reward in rewards]
    shown = [view.name for view in views]
    return ProxyReward(name, shown, marks, section.seed, True, heads, score)
