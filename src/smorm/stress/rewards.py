"""The kinds of rewards: a model, a server, a function, a field of the file, the lab.

Shapes: `N` answers of a pool.
"""

from __future__ import annotations

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from smorm.data.census import Census, DropReason
from smorm.errors import ConfigError, DataError, SmormError
from smorm.evaluation.metrics import Floats
from smorm.model.views import View, apply_view
from smorm.scoring.remote import RemoteReward
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.stress.pools import Given, Pool, text_of
from smorm.text.limits import Overlong, Unscored, UnscoredReason
from smorm.world import gold as lab_gold
from smorm.world import make_world, parse_prompt

_MISSING = object()


class Reward(Protocol):
    """Gives rewards to pools of answers."""

    @property
    def marks(self) -> Mapping[str, Any]:
        """What it is, for a fingerprint."""
        ...

    @property
    def reads_text(self) -> bool:
        """Whether it can judge an answer that no file holds."""
        ...

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """Rewards [N] of each pool, or why it has none; what was shortened is counted."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads: its device, its batches, and what becomes of over-long conversations."""

    device: str = "cpu"
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    overlong: Overlong | None = None


@dataclass(frozen=True, slots=True)
class ModelReward:
    """A view of a reward model; the answers of a pool share their prompt's computation."""

    model: RewardModel
    view: View
    reading: Reading = Reading()
    reads_text: bool = field(default=True, init=False)

    @property
    def marks(self) -> Mapping[str, Any]:
        """The model's hashes and the view."""
        hashes = dict(self.model.card.hashes)
        return {"model": self.model.name, "hashes": hashes, "view": self.view.as_dict()}

    @property
    def joint(self) -> bool:
        """Whether a long answer shortens the prompt of the others in its pool."""
        return (self.reading.overlong or self.model.card.overlong) == "truncate_prompt"

    def rows(self, pools: Sequence[Pool], census: Census) -> list[Scored | Unscored]:
        """All rows of the head for each pool."""
        policy: Any = self.reading.overlong or self.model.card.overlong
        scorer = Scorer(
            self.model.network, self.model.renderer, policy, self.reading.max_batch_tokens
        )
        found = scorer.score([pool.item for pool in pools])
        for pool, one in zip(pools, found, strict=True):
            if isinstance(one, Scored) and one.truncated:
                census.add(DropReason.SHORTENED, pool.item.where)
        return found

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """The view's values."""
        return self.values(self.view, self.rows(pools, census))

    def values(self, view: View, rows: Sequence[Scored | Unscored]) -> list[Floats | Unscored]:
        """Any view's values of rows that were computed."""
        scales = self.model.card.scales
        return [
            one if isinstance(one, Unscored) else apply_view(view, one.rows, scales) for one in rows
        ]


@dataclass(frozen=True, slots=True)
class HttpReward:
    """A running server: ours, vLLM or SGLang."""

    remote: RemoteReward
    view: str | None = None
    reads_text: bool = field(default=True, init=False)
    joint: bool = field(default=False, init=False)

    @property
    def marks(self) -> Mapping[str, Any]:
        """The server's address, and what it says its model is."""
        return {"url": self.remote.url, "model": self.remote.model_id, "view": self.view}

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """The server's scores; a failure of the server stops everything.

        Raises:
            SmormError: no score, or several of each answer.
        """
        conversations = [pool.item.prompt + one for pool in pools for one in pool.item.responses]
        scores = self.remote.score(conversations)
        if scores.ndim != 1:
            raise SmormError(
                f"{self.remote.url}: gives {scores.shape[1]} scores an answer: serve a model with "
                "one row, such as an exported view"
            )
        return _split(scores, pools)


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A Python callable `module:function`, called as TRL calls a reward function:
    `function(prompts=[messages, ...], completions=[messages, ...])`, one number each."""

    name: str
    reads_text: bool = field(default=True, init=False)
    joint: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._function()

    @property
    def marks(self) -> Mapping[str, Any]:
        """Its name; its code is not hashed."""
        return {"function": self.name}

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """What the function returns.

        Raises:
            SmormError: the function raised an error of its own.
            DataError: not one finite number for each answer.
        """
        pairs = [(pool.item.prompt, one) for pool in pools for one in pool.item.responses]
        plain = [[_plain(side) for side in sides] for sides in zip(*pairs, strict=True)] or [[], []]
        function = self._function()
        try:
            found = function(prompts=plain[0], completions=plain[1])
        except Exception as error:  # whatever a user's code may raise
            raise SmormError(f"{self.name}: raised {_said(error)}") from error
        try:
            scores = np.array([float(one) for one in found])
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.name}: returned what is no list of numbers: {error}") from error
        if len(scores) != len(pairs) or not np.isfinite(scores).all():
            raise DataError(
                f"{self.name}: returned {len(scores)} numbers, {int((~np.isfinite(scores)).sum())} "
                f"of them not finite, for {len(pairs)} answers"
            )
        return _split(scores, pools)

    def _function(self) -> Callable[..., Any]:
        module, _, name = self.name.partition(":")
        if "" not in sys.path:  # as under `python -m`: modules of the folder that one stands in
            sys.path.insert(0, "")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise ConfigError(f"function {self.name}: cannot be imported: {error}") from error
        except Exception as error:  # whatever a user's module may raise
            said = f"cannot be imported: {_said(error)}"
            raise ConfigError(f"function {self.name}: {said}") from error
        if not callable(found):
            raise ConfigError(f"function {self.name}: is not callable")
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class FieldReward:
    """A number that the file holds beside each answer; `meta.gold` looks inside `meta`."""

    name: str
    reads_text: bool = field(default=False, init=False)

    @property
    def marks(self) -> Mapping[str, Any]:
        """The field's name."""
        return {"field": self.name}

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """The field's values."""
        return [self._of(pool) for pool in pools]

    def _of(self, pool: Pool) -> Floats | Unscored:
        values = [_look_up(given, self.name) for given in pool.given]
        for at, value in enumerate(values):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                said = "missing" if value is _MISSING else f"{value!r}, expected a finite number"
                has = ", ".join(map(str, pool.given[at])) or "nothing"
                detail = f"answer {at + 1}: {self.name}: {said}; beside the answer stands: {has}"
                return Unscored(UnscoredReason.NO_VALUE, detail)
        return np.array(values, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class LabReward:
    """True quality in the lab's world of a seed."""

    seed: int = 0
    reads_text: bool = field(default=True, init=False)

    @property
    def marks(self) -> Mapping[str, Any]:
        """The world's seed."""
        return {"lab": self.seed}

    def score(self, pools: Sequence[Pool], census: Census) -> list[Floats | Unscored]:
        """True quality, 0..1."""
        return [self._of(pool) for pool in pools]

    def _of(self, pool: Pool) -> Floats | Unscored:
        try:
            prompt = parse_prompt(text_of(pool.item.prompt))
        except DataError as error:
            return Unscored(UnscoredReason.OTHER_WORLD, str(error))
        world = make_world(self.seed)
        return np.array([lab_gold(world, prompt, text) for text in pool.texts])


def _said(error: Exception) -> str:
    """An error's kind, what it says, and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def _split(scores: Floats, pools: Sequence[Pool]) -> list[Floats | Unscored]:
    ends = np.cumsum([len(pool) for pool in pools])
    return list(np.split(scores, ends[:-1])) if len(pools) else []


def _plain(messages: Any) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _look_up(given: Given, name: str) -> Any:
    """A field by its name, or by its path with dots; a mark where there is none."""
    if name in given:
        return given[name]
    value: Any = given
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value
