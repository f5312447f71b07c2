"""A Python function as a reward, called as TRL calls a reward function."""

import importlib
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smorm.client.wires import chat
from smorm.data.records import Item
from smorm.errors import ConfigError, DataError, SmormError
from smorm.rewards.protocol import Results, Reward, split_rows
from smorm.rewards.section import RewardSection


class FunctionReward(Reward):
    """A callable `module:name` or `file.py:name`, called once for all responses:
    `function(prompts=[messages, ...], completions=[messages, ...])`, one number each."""

    kind = "function"

    def __init__(self, path: str) -> None:
        self.path = self.name = path
        self.function = load_function(path)

    @classmethod
    def find(cls, section: RewardSection) -> None:
        load_function(section.argument)

    @property
    def provenance(self) -> dict[str, Any]:
        # Its code is not hashed.
        return {"function": self.path}

    def score(self, items: Sequence[Item]) -> Results:
        """What the function returns; SmormError where it raised an error of its own, DataError
        where it gave not one finite number for each response."""
        prompts: list[Any] = []
        completions: list[Any] = []
        for item in items:
            prompts += [chat(item.prompt)] * len(item)
            completions += map(chat, item.responses)
        try:
            returned = self.function(prompts=prompts, completions=completions)
        except Exception as error:  # whatever a user's code may raise
            raise SmormError(f"{self.path}: raised {_described(error)}") from error
        # Apart from the call: a wrong type is the data's fault, an exception the function's.
        try:
            values = np.array(list(map(float, returned)))
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: returned what is no list of numbers: {error}") from error
        finite = np.isfinite(values)
        if len(values) != len(completions) or not finite.all():
            raise DataError(
                f"{self.path}: returned {len(values)} numbers, {int((~finite).sum())} of them not "
                f"finite, for {len(completions)} answers"
            )
        return split_rows(values[:, None], [None] * len(values), items)


def load_function(path: str) -> Callable[..., Any]:
    """The callable that `module:name` or `file.py:name` names."""
    module, _, name = path.rpartition(":")
    # As under `python -m`: modules of the current folder, which a console script does not see.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        # A file runs under a name of its own: it must not shadow an installed module.
        if module.endswith(".py"):
            function = runpy.run_path(module)[name]
        else:
            function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, KeyError, SyntaxError, OSError) as error:
        raise ConfigError(f"function {path}: cannot be imported: {error}") from error
    except Exception as error:  # whatever a user's module may raise
        raise ConfigError(f"function {path}: cannot be imported: {_described(error)}") from error
    if not callable(function):
        raise ConfigError(f"function {path}: is not callable")
    return function  # type: ignore[no-any-return]


def _described(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
