"""A Python function as a reward, called as TRL calls a reward function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from smorm.data.records import Item, Messages
from smorm.errors import ConfigError, DataError, SmormError
from smorm.rewards.protocol import Advance, Results, Reward, ScoringOptions, scored_of
from smorm.rewards.section import RewardSection


class FunctionReward(Reward):
    """A callable `module:name` or `file.py:name`, called once for all responses:
    `function(prompts=[messages, ...], completions=[messages, ...])`, one number each.

    Raises:
        ConfigError: there is no such function.
    """

    kind = "function"

    def __init__(self, path: str) -> None:
        self.path = self.name = path
        self.function = load_function(path)

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """Import the function."""
        return cls(str(section.function))

    @classmethod
    def find(cls, section: RewardSection) -> None:
        """Import the function."""
        load_function(str(section.function))

    @property
    def provenance(self) -> dict[str, Any]:
        """Its name; its code is not hashed."""
        return {"function": self.path}

    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """What the function returns.

        Raises:
            SmormError: the function raised an error of its own.
            DataError: not one finite number for each response.
        """
        prompts: list[Any] = []
        completions: list[Any] = []
        for item in items:
            prompts += [_plain(item.prompt)] * len(item.responses)
            completions += [_plain(response) for response in item.responses]
        values = self._numbers(prompts, completions)
        results: Results = []
        start = 0
        for item in items:
            end = start + len(item.responses)
            results.append(scored_of(values[start:end], item, self.path))
            start = end
        if advance is not None:
            advance(len(items))
        return results

    def _numbers(self, prompts: list[Any], completions: list[Any]) -> Any:
        try:
            returned = self.function(prompts=prompts, completions=completions)
        except Exception as error:  # whatever a user's code may raise
            raise SmormError(f"{self.path}: raised {_described(error)}") from error
        try:
            values = np.array([float(value) for value in returned])
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: returned what is no list of numbers: {error}") from error
        finite = np.isfinite(values)
        if len(values) != len(completions) or not finite.all():
            raise DataError(
                f"{self.path}: returned {len(values)} numbers, {int((~finite).sum())} of them not "
                f"finite, for {len(completions)} answers"
            )
        return values


def load_function(path: str) -> Callable[..., Any]:
    """The callable that `module:name` or `file.py:name` names.

    Raises:
        ConfigError: it cannot be imported, or called.
    """
    module, _, name = path.rpartition(":")
    if "" not in sys.path:  # as under `python -m`: modules of the current folder
        sys.path.insert(0, "")
    try:
        function = getattr(_import(module), name)
    except (ImportError, AttributeError, SyntaxError, OSError) as error:
        raise ConfigError(f"function {path}: cannot be imported: {error}") from error
    except Exception as error:  # whatever a user's module may raise
        raise ConfigError(f"function {path}: cannot be imported: {_described(error)}") from error
    if not callable(function):
        raise ConfigError(f"function {path}: is not callable")
    return function  # type: ignore[no-any-return]


def _import(module: str) -> ModuleType:
    if not module.endswith(".py"):
        return importlib.import_module(module)
    # The file's own name, so that pickling by name and tracebacks work as in a script.
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} is no Python file")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _described(error: Exception) -> str:
    """An error's kind, its message, and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def _plain(messages: Messages) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
