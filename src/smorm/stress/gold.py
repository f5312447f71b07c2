"""Rewards of answers, whoever gives them: a model, several as one, a server, a function, a file,
or the lab.

A gold and a proxy are the same thing here; only their part in a test differs. An answer without a
reward is an error that says why, never a default.

Shapes: `N` answers of a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smorm.data.census import Census, DropReason
from smorm.data.records import prompt_key
from smorm.errors import ConfigError, DataError
from smorm.evaluation.metrics import Floats
from smorm.files import fingerprint
from smorm.model.backbone import load_tokenizer
from smorm.model.store import resolve
from smorm.scoring.remote import RemoteReward
from smorm.scoring.reward_model import RewardModel
from smorm.stress.config import RewardSection
from smorm.stress.ensemble import EnsembleReward, open_ensemble
from smorm.stress.pools import Pool
from smorm.stress.rewards import (
    FieldReward,
    FunctionReward,
    HttpReward,
    LabReward,
    ModelReward,
    Reading,
    Reward,
)
from smorm.text.chat import Renderer
from smorm.text.limits import Unscored

AS_TRAINED = Reading()


def open_reward(
    section: RewardSection,
    reading: Reading = AS_TRAINED,
    view_of: Callable[[Any], Any] = lambda value: value,
) -> Reward:
    """The reward that a section names; those that cost something remember what they have scored.

    Args:
        view_of: reads a view as the configuration states it.

    Raises:
        ConfigError: a function or view that is not there, or an address that is none.
        ModelError: the folder is not a reward model, or has no tokenizer.
        SmormError: the server does not answer.
    """
    if section.model is not None:
        model = RewardModel.load(section.model, device=reading.device)
        return Remembering(ModelReward(model, model.view(view_of(section.view)), reading))
    if section.ensemble is not None:
        return Remembering(open_ensemble(section, reading, view_of))
    if section.url is not None:
        return Remembering(_open_server(section))
    if section.function is not None:
        return Remembering(FunctionReward(section.function))
    if section.field is not None:
        return FieldReward(section.field)
    return LabReward(section.lab or 0)


def _open_server(section: RewardSection) -> HttpReward:
    token = None if section.token_file is None else read_token(section.token_file)
    view = None if section.view is None else str(section.view)
    renderer = None if section.tokenizer is None else _renderer(section.tokenizer)
    remote = RemoteReward(
        str(section.url), section.protocol, token, section.timeout, view=view, renderer=renderer
    )
    for key, needs in (("view", "smorm"), ("tokenizer", "sglang")):
        if getattr(section, key) is not None and remote.protocol != needs:
            raise ConfigError(
                f"{key}: {section.url} is a server of {remote.protocol}, which has no use for it: "
                "leave it out"
            )
    return HttpReward(remote, view)


def _renderer(folder: str) -> Renderer:
    """The renderer of a folder's tokenizer, with the template that stands in it."""
    return Renderer(load_tokenizer(str(resolve(folder))))


def read_token(path: Path) -> str:
    """A bearer token from its file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token_file {path}: cannot be read: {error}") from error


@dataclass(slots=True)
class Remembering:
    """A reward that asks about no answer twice: equal answers to equal prompts are one.

    Of a reward that may shorten a pool's prompt for its longest answer only equal pools are one.

    Attributes:
        asked: how many answers were asked about.
        reused: how many were known.
    """

    inner: ModelReward | EnsembleReward | HttpReward | FunctionReward
    asked: int = 0
    reused: int = 0
    reads_text: bool = field(default=True, init=False)
    _known: dict[str, float] = field(default_factory=dict)

    @property
    def marks(self) -> Mapping[str, Any]:
        """Those of the reward inside."""
        return self.inner.marks

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """As the reward inside."""
        keys = [_keys(pool, joint=self.inner.joint) for pool in pools]
        taken: set[str] = set()
        asking: list[tuple[Pool, list[str]]] = []
        for pool, own in zip(pools, keys, strict=True):
            new = {k: at for at, k in enumerate(own) if k not in self._known and k not in taken}
            if new:
                taken.update(new)
                asking.append(
                    (pool.of([pool.item.responses[at] for at in new.values()]), list(new))
                )
        failed = self._ask(asking, census)
        asked = sum(len(new) for _, new in asking)
        self.asked += asked
        self.reused += sum(map(len, keys)) - asked
        return [self._of(own, failed) for own in keys]

    def _ask(self, asking: Sequence[tuple[Pool, list[str]]], census: Census) -> dict[str, Unscored]:
        """Learn the rewards of pools with the keys of their answers; why some have none, by key.

        The answers of a pool without rewards are asked about one by one: one that is not to blame
        may stand in other pools too.
        """
        failed: dict[str, Unscored] = {}
        alone: list[tuple[Pool, list[str]]] = []
        found = self.inner.score([pool for pool, _ in asking], census) if asking else []
        for (pool, wanted), scores in zip(asking, found, strict=True):
            if not isinstance(scores, Unscored):
                self._known |= dict(zip(wanted, map(float, scores), strict=True))
            elif len(wanted) == 1 or self.inner.joint:
                failed |= dict.fromkeys(wanted, scores)
            else:
                pairs = zip(pool.item.responses, wanted, strict=True)
                alone += [(pool.of([response]), [key]) for response, key in pairs]
        return failed | self._ask(alone, census) if alone else failed

    def _of(self, keys: Sequence[str], failed: Mapping[str, Unscored]) -> Floats | Unscored:
        reason = next((failed[key] for key in keys if key in failed), None)
        return reason or np.array([self._known[key] for key in keys])


def scored_pools(
    reward: Reward, pools: Sequence[Pool], census: Census, what: str, *, skip: bool
) -> list[Floats | None]:
    """Rewards of pools; one that has none stops it, or with `skip` is None and counted.

    Raises:
        DataError: a pool without rewards.
    """
    found: list[Floats | None] = []
    for pool, scores in zip(pools, reward.score(pools, census), strict=True):
        if isinstance(scores, Unscored):
            if not skip:
                raise DataError(
                    f"{pool.item.where}: no {what}: {scores}. Skipping bad records leaves it out, "
                    "counted."
                )
            census.add(DropReason.NO_REWARD, pool.item.where, detail=what)
        found.append(None if isinstance(scores, Unscored) else scores)
    return found


def _keys(pool: Pool, *, joint: bool) -> list[str]:
    responses = [prompt_key(response) for response in pool.item.responses]
    shared = [prompt_key(pool.item.prompt), *(sorted(set(responses)) if joint else ())]
    return [fingerprint([*shared, response]) for response in responses]
