"""Choosing among rows, curves, differences: by their attributes, in their order."""

from collections.abc import Callable, Collection, Hashable, Iterable
from operator import attrgetter
from typing import Any, TypeVar

from smorm.errors import DataError
from smorm.limits import limit, refusal

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by a key, keys in order of first appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_attribute(items: Iterable[Item], name: str) -> dict[Any, list[Item]]:
    """Items by the value of an attribute."""
    return grouped(items, attrgetter(name))


def distinct(items: Iterable[Any], name: str) -> list[Any]:
    """The values of an attribute, each once, in order of first appearance."""
    return list(dict.fromkeys(map(attrgetter(name), items)))


def select(items: Iterable[Item], **allowed: Collection[Any]) -> list[Item]:
    """Items of which every named attribute has one of the allowed values."""
    chosen = list(items)
    for name, values in allowed.items():
        chosen = [item for item in chosen if getattr(item, name) in values]
    return chosen


def reject(items: Iterable[Item], **refused: Collection[Any]) -> list[Item]:
    """Items of which no named attribute has one of the refused values."""
    chosen = list(items)
    for name, values in refused.items():
        chosen = [item for item in chosen if getattr(item, name) not in values]
    return chosen


def present_in(candidates: Iterable[str], names: Collection[str]) -> list[str]:
    """The candidates that are among the names, in the candidates' order."""
    return [name for name in candidates if name in names]


def refuse_too_many(results: Collection[Any]) -> None:
    """`DataError` for more results, or suites among them, than a page can show: each suite is a
    figure, and in it every result has its bar."""
    suites = distinct(results, "suite")
    for name, count in (("results", len(results)), ("suites", len(suites))):
        if count > limit(name):
            raise DataError(refusal(name, count))
