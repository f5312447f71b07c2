"""Named objects of one kind: built in, from installed packages, or registered by a decorator.

A built-in object is named by where it stands and imported when it is first used, so that a registry
may live in a room below the objects that it lists, and reading the names imports nothing."""

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from smorm.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects of one kind: `what` is what the names stand for, as an error
    says it; `group` the entry-point group by which an installed package adds objects; `builtins`
    the `module:attribute` of each built-in object, in the order of `names`."""

    def __init__(self, what: str, group: str, builtins: Mapping[str, str]) -> None:
        self.what, self.group = what, group
        self._builtins = dict(builtins)
        self._objects: dict[str, T] = {}
        self._installed: dict[str, EntryPoint] | None = None

    def register(self, name: str, value: T) -> T:
        """Add an object, and return it; `ConfigError` where something has that name already."""
        if name in self:
            raise ConfigError(f"{self.what} {name!r} is registered already")
        self._objects[name] = value
        return value

    def add(self, name: str) -> Callable[[T], T]:
        """As `register`, as a decorator of a function or class."""
        return lambda value: self.register(name, value)

    def remove(self, name: str) -> None:
        """Take back what `register` added."""
        self._objects.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """All names: the built-in ones first, then of installed packages, then registered ones."""
        return tuple(dict.fromkeys([*self._builtins, *self._entry_points(), *self._objects]))

    def importable(self) -> dict[str, T]:
        """All objects but those that cannot be imported, of which a hint need not speak."""
        objects = {}
        for name in self:
            with contextlib.suppress(ConfigError):
                objects[name] = self[name]
        return objects

    def __contains__(self, name: object) -> bool:
        return name in self._builtins or name in self._objects or name in self._entry_points()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> T:
        """The object of that name; `ConfigError` where there is none or its package fails."""
        if name not in self._objects:
            self._objects[name] = self._load(name)
        return self._objects[name]

    def _load(self, name: str) -> T:
        if name in self._builtins:
            module, _, attribute = self._builtins[name].partition(":")
            built_in: T = getattr(importlib.import_module(module), attribute)
            return built_in
        entry_point = self._entry_points().get(name)
        if entry_point is None:
            nearest = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            known = ", ".join(self.names())
            raise ConfigError(f"{self.what} {name!r}: expected one of {known}{hint}")
        try:
            installed: T = entry_point.load()
        except Exception as error:  # other people's code: whatever it raises becomes one line
            raise ConfigError(
                f"{self.what} {name!r}: {entry_point.value} cannot be loaded: {error}"
            ) from error
        return installed

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:
            self._installed = {point.name: point for point in entry_points(group=self.group)}
        return self._installed
